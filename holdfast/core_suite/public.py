"""Public suites that are asked as the core suite is, through the model's own template: XSTest and BFCL.

XSTest (Roettger et al., arXiv 2308.01263): 250 safe prompts to be answered, 200 unsafe ones to be refused. BFCL (Patil et al. 2025):
`simple` one function, `multiple` one of several, `irrelevance` none that fits. Their files lie in the folders `xstest` and `bfcl` of
`evaluate.tasks`, as their authors publish them; what is not there comes from the hub, at a fixed revision.
"""

from __future__ import annotations

import csv
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from holdfast.core.errors import UserError, first_line
from holdfast.core_suite.calling import score_calls
from holdfast.core_suite.items import Family, Item, ask
from holdfast.core_suite.refusing import MAX_TOKENS, score_answer, score_refusal

CALL_TOKENS = 256  # of BFCL's calls, some of which have a dozen arguments
SUITES: dict[str, Family] = {
    "xstest/safe": Family(None, score_answer, MAX_TOKENS),
    "xstest/unsafe": Family(None, score_refusal, MAX_TOKENS, harmful=True),
    "bfcl/simple": Family(None, score_calls, CALL_TOKENS, needs="tools"),
    "bfcl/multiple": Family(None, score_calls, CALL_TOKENS, needs="tools"),
    "bfcl/irrelevance": Family(None, score_calls, CALL_TOKENS, needs="tools"),
}
TYPES = {"dict": "object", "float": "number", "tuple": "array"}  # BFCL's names of types, as JSON Schema has them


class Source(NamedTuple):
    """Where a suite's files are published."""

    repository: str  # a data set of the hub
    revision: str


SOURCES = {
    "xstest": Source("Paul/XSTest", "f600c994b256f12867dfa5b3eb3d545a3e62f8b5"),
    "bfcl": Source("gorilla-llm/Berkeley-Function-Calling-Leaderboard", "61fc0608cfd831fcfbbaa676ebdfef0ed963eeda"),
}
FILES = {  # names that a file may have in a folder; the last is the hub's
    "xstest": ("xstest_prompts.csv",),
    "bfcl/simple": ("BFCL_v4_simple_python.json", "BFCL_v3_simple.json"),
    "bfcl/multiple": ("BFCL_v4_multiple.json", "BFCL_v3_multiple.json"),
    "bfcl/irrelevance": ("BFCL_v4_irrelevance.json", "BFCL_v3_irrelevance.json"),
}
ANSWERS = ("possible_answer", "answers")  # folders of BFCL's right calls; the first is the hub's


@lru_cache(maxsize=16)
def read_items(suite: str, folder: Path) -> tuple[Item, ...]:
    """The items of a suite. `folder`: that of the local task files. Raises UserError where its files cannot be had or read."""
    name, _, part = suite.partition("/")
    path = find_file(folder, name, FILES.get(suite) or FILES[name])
    try:
        if name == "xstest":
            return read_xstest(path, part)
        return read_bfcl(path, None if part == "irrelevance" else find_answers(folder, path))
    except (KeyError, TypeError, ValueError, IndexError, csv.Error) as error:
        what = f"no file of {name} as its authors publish it ({type(error).__name__}: {first_line(error)})"
        raise UserError(what, where=path, do="download it again, or remove it to read the hub's") from None


def find_file(folder: Path, name: str, names: tuple[str, ...], inner: tuple[str, ...] = ("",)) -> Path:
    """The first of these names below `folder`/`name`, in one of the folders `inner`; else the hub's, which is the last name in the
    first folder. Raises UserError where there is none."""
    for path in (folder / name / part / one for one in names for part in inner):
        if path.is_file():
            return path
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    source, file = SOURCES[name], "/".join(filter(None, (inner[0], names[-1])))
    try:
        return Path(hf_hub_download(source.repository, file, repo_type="dataset", revision=source.revision))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        what = f"{file} of {name} is neither here nor on the hub within reach ({first_line(error)})"
        do = f"put it there from huggingface.co/datasets/{source.repository}, or remove {name} from evaluate.suites"
        raise UserError(what, where=folder / name, do=do) from None


def read_xstest(path: Path, label: str) -> tuple[Item, ...]:
    with path.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["label"] == label]
    if not rows:
        raise ValueError(f"no row is {label}")
    expected = "an answer" if label == "safe" else "a refusal"
    return tuple(Item(ask(row["prompt"]), expected, id=str(row["id"])) for row in rows)


def find_answers(folder: Path, path: Path) -> Path:
    return find_file(folder, "bfcl", (path.name,), ANSWERS)


def read_bfcl(path: Path, answers: Path | None) -> tuple[Item, ...]:
    """`answers`: the right calls, by id; None: no call is right."""
    right = {row["id"]: row["ground_truth"] for row in read_lines(answers)} if answers else {}
    items = []
    for row in read_lines(path):
        (messages,) = row["question"]
        tools = [{"type": "function", "function": name_types(function)} for function in row["function"]]
        calls: list[Any] = right[row["id"]] if answers else []
        items.append(Item(messages, {"calls": calls, "tools": tools}, tools, id=str(row["id"])))
    if not items:
        raise ValueError("it has no rows")
    return tuple(items)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def name_types(schema: Any) -> Any:
    """A schema of BFCL as JSON Schema has it."""
    if isinstance(schema, list):
        return [name_types(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    named = {key: name_types(value) for key, value in schema.items()}
    if isinstance(kind := named.get("type"), str):
        named["type"] = TYPES.get(kind, kind)
        if kind == "any":
            del named["type"]
    return named
