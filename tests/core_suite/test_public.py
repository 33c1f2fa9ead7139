"""XSTest and BFCL as suites: their files read, their items posed, right answers accepted, and what is said where they are missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import SHARED, instruction, raw

from holdfast.chat import encoding
from holdfast.chat.calls import Call
from holdfast.core import records
from holdfast.core.errors import UserError
from holdfast.core_suite import families, public
from holdfast.core_suite.items import Answer
from holdfast.data import overlap, screening
from holdfast.evaluation import suites
from holdfast.params.curate import Curate
from holdfast.params.evaluate import PUBLIC_SUITES, Evaluate
from holdfast.params.gate import Gate
from holdfast.verdict import gate

DATA = SHARED / "data"
SUITES = {"xstest": {"role": "general"}, "bfcl": {"role": "general"}}


def make_params(folder: Path, **more: Any) -> Evaluate:
    return Evaluate.model_validate({"tasks": str(folder), "suites": SUITES, "self_suite": {"rows": 0}, **more})


def test_the_params_name_the_parts_that_there_are():
    assert {f"{name}/{part}" for name, parts in PUBLIC_SUITES.items() for part in parts} == set(public.SUITES)
    params = make_params(Path("none"))
    assert set(params.all_suites()) == set(public.SUITES) and not params.tasks_asked()
    assert sum(params.own_suites().values()) == 450 + 840
    gate.check_suite_margins(Gate(suite_margins={"xstest/unsafe": 0.02}), {})
    with pytest.raises(ValueError, match="'bfcl' takes no more"):
        make_params(Path("none"), suites={"bfcl": {"role": "general", "chance": 0.2}})


def test_the_published_files_are_read_and_every_item_has_an_answer_that_is_right():
    if not (DATA / "xstest").is_dir():
        pytest.skip("XSTest and BFCL are not here")
    params = make_params(DATA)
    assert list(suites.prompts(params, Path("none"))) == list(params.own_suites())
    for suite, number in params.own_suites().items():
        items, score = families.list_items(suite, params), families.find_family(suite).score
        assert len({item.id for item in items}) == number, suite
        for item in items:
            refused, answered = Answer("I'm sorry, but I can't help with that."), Answer("It takes a little patience.")
            right, wrong = (answered, refused) if suite == "xstest/safe" else (refused, answered)
            if suite in ("bfcl/simple", "bfcl/multiple"):
                wrong, right = refused, Answer(write_call(item.expected["calls"][0]))
            elif suite == "bfcl/irrelevance":
                name = item.tools[0]["function"]["name"] if item.tools else ""
                right, wrong = answered, Answer(json.dumps({"name": name, "arguments": {}}))
            assert (score(item.expected, right), score(item.expected, wrong)) == (1, 0), (suite, item.id)
    assert len(families.list_items("bfcl/simple", make_params(DATA, limit=7))) == 7


@pytest.mark.parametrize("names", [("core",), ("xstest", "bfcl")])
def test_no_item_gets_into_the_replay_set(names: tuple[str, ...]):
    """As it is, after other words, or as an earlier turn: `curate` rejects every third text of every suite."""
    if "core" not in names and not (DATA / "xstest").is_dir():
        pytest.skip("XSTest and BFCL are not here")
    params = make_params(DATA, suites={name: {"role": "general"} for name in names})
    items = suites.prompts(params, Path("none"))
    assert set(items) == set(params.own_suites()) and all(items.values())
    texts = [text for several in items.values() for text in several[::3]]
    forms: list[tuple[str, list[dict[str, str]]]] = [
        *((text, []) for text in texts),
        *((f"Please answer this. {text.upper()}", []) for text in texts),
        *((f"Thanks, number {n}.", encoding.turns(text)) for n, text in enumerate(texts)),
        ("Which tool do I need to hang a door?", encoding.turns("How tall is a door?")),
    ]
    raws = [raw(instruction(str(n), text) | {"context": context}) for n, (text, context) in enumerate(forms)]
    rows = screening.ScreenedRows(records.to_table("instructions_raw", raws))
    screening.reject_copies_and_overlap(rows, items, Curate())
    screening.reject_near_duplicates(rows, items, Curate())
    *others, plain = rows.kept_rows()
    assert plain == len(forms) - 1 and {fault.reason for fault in rows.faults.values()} == {"evaluation_overlap"}
    assert all(len(texts) <= row < 2 * len(texts) for row in others)
    assert [
        text for row in others if len(overlap.words(text := texts[row - len(texts)])) >= overlap.MIN_ITEM_WORDS
    ] == []


def write_call(expected: dict[str, Any]) -> str:
    """A right call, where nested values list theirs, too."""

    def choose(right: Any) -> Any:
        if isinstance(right, dict):
            return {key: choose(values[0]) for key, values in right.items() if "" not in values}
        return [choose(one) for one in right] if isinstance(right, list) else right

    ((name, arguments),) = expected.items()
    call = Call(name, {key: choose(values[0]) for key, values in arguments.items() if values[0] != ""})
    return f"<tool_call>\n{json.dumps(call._asdict())}\n</tool_call>"


def test_types_of_bfcl_become_those_of_json_schema():
    schema = {
        "type": "dict",
        "properties": {"type": {"type": "float"}, "of": {"type": "array", "items": {"type": "any"}}},
    }
    named = {"type": "object", "properties": {"type": {"type": "number"}, "of": {"type": "array", "items": {}}}}
    assert public.name_types(schema) == named


def test_a_file_that_is_neither_here_nor_within_reach_is_said_before_a_model_is_loaded(tmp_path: Path):
    """The tests run offline; `doctor` says it of each part."""
    with pytest.raises(UserError, match="within reach") as error:
        suites.load_tasks(make_params(tmp_path), Path("none"))
    assert "huggingface.co/datasets/Paul/XSTest" in error.value.do and error.value.where == str(tmp_path / "xstest")
    assert set(suites.find_problems(make_params(tmp_path))) == set(public.SUITES)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("xstest/xstest_prompts.csv", "id,prompt\n1,Hello?\n"),
        ("xstest/xstest_prompts.csv", ""),
        ("bfcl/BFCL_v4_irrelevance.json", "[1, 2]\n"),
        ("bfcl/BFCL_v4_irrelevance.json", '{"id": "a", "question": [], "function": []}\n'),
        ("bfcl/BFCL_v4_irrelevance.json", "no JSON\n"),
    ],
)
def test_another_file_of_that_name_is_an_error_that_names_it(tmp_path: Path, file: str, content: str):
    path = tmp_path / file
    path.parent.mkdir()
    path.write_text(content, encoding="utf-8")
    suite = "xstest/safe" if file.startswith("xstest") else "bfcl/irrelevance"
    with pytest.raises(UserError, match="as its authors publish it") as error:
        families.list_items(suite, make_params(tmp_path))
    assert error.value.where == str(path)
