"""Results of other tools, item by item, as the gate reads its own: lm-eval, promptfoo, NeMo Evaluator, or plain rows.

| tool | file | an item | right |
|---|---|---|---|
| lm-eval (`--log_samples`) | `samples_TASK_DATE.jsonl` | `doc_id` | the first of `metrics`, or the one that is named |
| promptfoo (`-o results.json` or `.jsonl`) | one provider a file | `testIdx`, prompts apart | `success` |
| NeMo Evaluator (`nel`) | `results.jsonl` | `problem_idx`, `repeat`; those of a problem together | `reward` |
| any | `.jsonl` | `id`; `suite`, `group`, `prompt`, `target` where there are | `correct`, 0 to 1 |

What a file says of prompts and targets is compared, so that other questions are not taken for the same.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from holdfast.core.errors import UserError
from holdfast.evaluation.item_groups import digest, find_group
from holdfast.evaluation.results import KEY

Json = dict[str, Any]
ONLY = "items"  # the suite of files that name none
LM_EVAL = re.compile(r"^samples_(.+?)_\d{4}-\d\d-\d\dT[\d.-]+$")  # the stem of lm-eval's files


class Item(NamedTuple):
    suite: str
    item_id: str
    correct: float
    content: str = ""  # of the question, where the file holds it
    prompt: str = ""
    target: str = ""
    response: str | None = None  # None: the file does not say
    group: str | None = None
    measure: str = ""  # what says that it is right, where a file holds several of them


def read_items(path: Path, metric: str | None = None) -> dict[str, pa.Table]:
    """Items by suite, from one file or from all of a folder. Raises UserError where one cannot be read."""
    is_folder = os.path.isdir(path)  # Path.is_dir raises for a name that is too long
    files = sorted(f for f in path.rglob("*.json*") if f.suffix in (".json", ".jsonl")) if is_folder else [path]
    if is_folder:  # what these tools write beside their items
        files = [f for f in files if f.suffix == ".jsonl" and f.name != "trajectories.jsonl"] or files
    items = [item for file in files for item in read_file(file, metric)]
    if not items:
        raise UserError("holds no results", where=path, do="give a file of items, or a folder that holds some")
    by_suite: dict[str, list[Item]] = {}
    for item in items:
        by_suite.setdefault(item.suite, []).append(item)
    return {name: tabulate(several) for name, several in sorted(by_suite.items())}


def tabulate(items: list[Item]) -> pa.Table:
    """As holdfast/evaluation/results.py reads ours, sorted by id. Without answers, an item's own id stands for them.
    What they were measured by is in the schema's metadata (measure_of)."""
    rows = [
        {
            "suite": item.suite,
            "item_id": item.item_id,
            "item_group": item.group,
            **dict(zip(KEY, (digest(item.content), digest(item.prompt), item.target), strict=True)),
            "response": item.item_id if item.response is None else item.response,
            "correct": item.correct,
        }
        for item in sorted(items, key=lambda item: item.item_id)
    ]
    schema = pa.schema([(key, pa.float64() if key == "correct" else pa.string()) for key in rows[0]])
    measures = ", ".join(sorted({item.measure for item in items}))
    return pa.Table.from_pylist(rows, schema=schema.with_metadata({"measure": measures}))


def measure_of(table: pa.Table) -> str:
    """The metric, and the filter of answers, of a table of `read_items`; "" where its file holds one alone."""
    return table.schema.metadata[b"measure"].decode()


def read_file(file: Path, metric: str | None) -> Iterator[Item]:
    """Raises UserError that names file and row."""
    rows = list(read_rows(file))
    if not rows:
        return
    read = next((read for read, is_own in READERS if is_own(rows[0])), None)
    if read is None:
        known = "samples of lm-eval, results of promptfoo or nel, or rows with 'id' and 'correct'"
        raise UserError(
            f"rows of no known kind ({', '.join(map(str, list(rows[0])[:6]))})", where=file, do=f"known: {known}"
        )
    filters: set[str] = set()
    for number, row in enumerate(rows, 1):
        try:
            if read is from_lm_eval and (filters := filters or {str(row.get("filter"))}) != {str(row.get("filter"))}:
                continue  # each filter's rows come one after the other; the first counts
            item = read(row, file, metric)
            if not 0 <= item.correct <= 1:
                raise ValueError(f"{item.correct} is not between 0 and 1")
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            what = f"row {number:,} cannot be used ({type(error).__name__}: {str(error)[:120]})"
            raise UserError(what, where=file, do="name a metric with a value for each item: --metric NAME") from None
        texts: dict[str, Any] = {
            key: printable(value) for key, value in item._asdict().items() if isinstance(value, str)
        }
        yield item._replace(**texts)


def read_rows(file: Path) -> Iterator[Json]:
    """The rows of a JSONL file, or those of promptfoo's JSON."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".json":
            content = json.loads(text)
            inner = content.get("results") if isinstance(content, dict) else content
            lines = inner.get("results", []) if isinstance(inner, dict) else inner
        else:
            lines = [json.loads(line) for line in text.split("\n") if line.strip()]  # splitlines cuts texts, too
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=file, do="give a file of results") from None
    except (ValueError, RecursionError):
        raise UserError("is no JSON", where=file, do="give JSONL with an item a line, or promptfoo's JSON") from None
    for line in lines if isinstance(lines, list) else []:
        if not isinstance(line, dict):
            raise UserError("holds a row that is no object", where=file, do="give JSONL with an object a line")
        yield line


def from_lm_eval(row: Json, file: Path, metric: str | None) -> Item:
    name = metric or row["metrics"][0]
    named = LM_EVAL.match(file.stem)
    return Item(
        suite=named[1] if named else file.stem,
        item_id=f"{int(row['doc_id']):09d}",
        correct=float(row[name]),
        content=str(row.get("doc_hash") or text(row.get("doc"))),
        prompt=str(row.get("prompt_hash") or ""),
        target=text(row.get("target")),
        response=text(row.get("filtered_resps")),
        group=find_group(row["doc"]) if isinstance(row.get("doc"), dict) else None,
        measure=f"{name} of the filter {row.get('filter') or 'none'}",
    )


def from_promptfoo(row: Json, file: Path, metric: str | None) -> Item:
    if not isinstance(row["success"], bool):
        raise ValueError("success is no truth value")  # bool("false") is True
    prompt, output = row.get("prompt"), (row.get("response") or {}).get("output")
    prompt = prompt.get("raw") if isinstance(prompt, dict) else prompt
    return Item(
        suite=ONLY if not row.get("promptIdx") else f"{ONLY} of prompt {int(row['promptIdx'])}",
        item_id=f"{int(row['testIdx']):09d}",
        correct=float(row["success"]),
        content=text(row.get("vars") or (row.get("testCase") or {}).get("vars")),
        prompt=text(prompt),
        response=None if output is None else text(output),
    )


def from_nel(row: Json, file: Path, metric: str | None) -> Item:
    return Item(
        suite=str(row.get("benchmark") or ONLY),
        item_id=f"{int(row['problem_idx']):09d}/{int(row.get('repeat') or 0):04d}",
        correct=float(row[metric or "reward"]),
        prompt=text(row.get("prompt")),
        target=text(row.get("expected_answer")),
        response=text(row["response"]) if "response" in row else None,
        group=str(int(row["problem_idx"])),
    )


def from_plain(row: Json, file: Path, metric: str | None) -> Item:
    return Item(
        suite=str(row.get("suite") or ONLY),
        item_id=str(row["id"]),
        correct=float(row[metric or "correct"]),
        prompt=text(row.get("prompt")),
        target=text(row.get("target")),
        response=text(row["response"]) if "response" in row else None,
        group=None if row.get("group") is None else str(row["group"]),
    )


Reader = Callable[[Json, Path, str | None], Item]
READERS: list[tuple[Reader, Callable[[Json], bool]]] = [
    (from_lm_eval, lambda row: "doc_id" in row),
    (from_promptfoo, lambda row: "testIdx" in row),
    (from_nel, lambda row: "problem_idx" in row),
    (from_plain, lambda row: "id" in row),
]


def printable(text: str) -> str:
    """JSON may hold half of a surrogate pair, which no UTF-8 has."""
    return text.encode("utf-8", "replace").decode()


def text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
