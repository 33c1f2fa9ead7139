"""`holdfast compare`: items of lm-eval, promptfoo, NeMo Evaluator and plain rows; what does not fit is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.commands import compare
from holdfast.core.errors import UserError
from holdfast.params.gate import Gate
from holdfast.verdict import item_files

PARAMS = Gate(min_domain_gain=-1.0, resamples=500)
ITEMS = 300
Json = dict[str, Any]


def lm_eval(number: int, right: bool) -> Json:
    hashes = {"doc_hash": f"d{number}", "prompt_hash": f"p{number}", "target_hash": f"t{number}"}
    row = {
        "doc_id": number,
        "doc": {"question": f"q{number}"},
        "target": f"{number}",
        "arguments": [],
        "resps": [["x"]],
    }
    row |= {"filtered_resps": [f"{number if right else 'wrong'}"], "filter": "strict", "metrics": ["exact_match"]}
    return row | hashes | {"exact_match": float(right)}


def promptfoo(number: int, right: bool) -> Json:
    row = {"promptIdx": 0, "testIdx": number, "vars": {"q": f"q{number}"}, "prompt": {"raw": f"Answer q{number}"}}
    return row | {"success": right, "score": float(right), "response": {"output": f"{number} {right}"}}


def nel(number: int, right: bool) -> Json:
    row = {"problem_idx": number // 2, "repeat": number % 2, "prompt": f"q{number // 2}", "expected_answer": "5"}
    return row | {"response": f"so it is {number}", "reward": float(right)}


def plain(number: int, right: bool) -> Json:
    return {"id": f"item {number}", "correct": right, "prompt": f"q{number}"}


def write(file: Path, row: Callable[[int, bool], Json], wrong: set[int]) -> Path:
    rows = [row(number, number not in wrong and number % 10 != 0) for number in range(ITEMS)]
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".json":
        file.write_text(json.dumps({"evalId": "e", "results": {"version": 3, "results": rows}}), encoding="utf-8")
    else:
        file.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return file


KINDS = {
    "lm-eval": (lm_eval, "samples_gsm8k_2026-01-05T10-00-00.123456.jsonl", "gsm8k"),
    "promptfoo": (promptfoo, "results.json", "items"),
    "promptfoo's JSONL": (promptfoo, "results.jsonl", "items"),
    "nel": (nel, "results.jsonl", "items"),
    "plain rows": (plain, "mine.jsonl", "items"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_held_passes_and_one_that_lost_a_fifth_fails(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    row, name, suite = KINDS[kind]
    base = write(tmp_path / "base" / name, row, set())
    same = write(tmp_path / "same" / name, row, {7})
    worse = write(tmp_path / "worse" / name, row, set(range(1, 60)))
    assert compare.main(base, same, PARAMS, {}, None, False) == 0
    assert compare.main(base.parent, worse.parent, PARAMS, {}, None, False) == 1, "folders, too"
    shown = capsys.readouterr().out
    assert f"\n{suite} " in shown and "verdict: fail" in shown
    entry = compare.compare(base, worse, PARAMS, {}, None)["arms"]["tuned"]["suites"][suite]
    assert (entry["items"], entry["before"], entry["lost"], entry["gained"]) == (ITEMS, 0.9, 54, 0)
    assert entry["group_size"] == (2.0 if kind == "nel" else None), "repeats of a problem belong together"


def test_other_questions_and_missing_ones_cannot_be_compared(tmp_path: Path) -> None:
    base = write(tmp_path / "a" / "samples_x_2026-01-05T10-00-00.jsonl", lm_eval, set())

    def other_prompt(number: int, right: bool) -> Json:
        return lm_eval(number, right) | {"prompt_hash": "another"}

    other = write(tmp_path / "b" / "samples_x_2026-01-06T10-00-00.jsonl", other_prompt, set())
    assert compare.main(base, other, PARAMS, {}, None, False) == 2
    lines = base.read_text(encoding="utf-8").splitlines()
    other.write_text("\n".join(lines[:200]), encoding="utf-8")
    assert compare.main(base, other, PARAMS, {}, None, False) == 2
    other.write_text("\n".join([*lines, lines[0]]), encoding="utf-8")
    assert compare.main(base, other, PARAMS, {}, None, False) == 2
    other.write_text("\n".join(lines), encoding="utf-8")
    write(tmp_path / "b" / "samples_y_2026-01-06T10-00-00.jsonl", lm_eval, set())
    assert compare.main(base.parent, other.parent, PARAMS, {}, None, False) == 2, "a suite of one alone"


def test_chance_and_a_metric_that_is_named(tmp_path: Path) -> None:
    def graded(number: int, right: bool) -> Json:
        return lm_eval(number, right) | {"metrics": ["perplexity", "acc"], "perplexity": 7.5, "acc": float(right)}

    file = write(tmp_path / "samples_mmlu_2026-01-05T10-00-00.jsonl", graded, set())
    with pytest.raises(UserError, match="row 1 cannot be used") as caught:
        item_files.read_items(file)
    assert "--metric" in caught.value.do
    suite = compare.compare(file, file, PARAMS, {"mmlu": 0.25}, "acc")["arms"]["tuned"]["suites"]["mmlu"]
    assert suite["before_adjusted"] == pytest.approx((0.9 - 0.25) / 0.75, rel=1e-5)


@pytest.mark.parametrize("other", [{"filter": "flexible"}, {"metrics": ["acc"], "acc": 1.0}])
def test_another_metric_or_filter_cannot_be_compared(tmp_path: Path, other: Json) -> None:
    def measured_otherwise(number: int, right: bool) -> Json:
        return lm_eval(number, right) | other

    name = "samples_x_2026-01-05T10-00-00.jsonl"
    base = write(tmp_path / "a" / name, lm_eval, set())
    tuned = write(tmp_path / "b" / name, measured_otherwise, set())
    content = compare.compare(base, tuned, PARAMS, {}, None)
    assert content["verdict"] == "cannot-compare"
    assert "x: one was measured by exact_match of the filter strict" in content["arms"]["tuned"]["problems"][0]


def test_a_text_with_a_line_separator_is_one_row_and_a_byte_order_mark_is_none(tmp_path: Path) -> None:
    rows = [plain(number, number % 4 != 0) | {"response": "a\u2028b\x85c\x0cd"} for number in range(ITEMS)]
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8-sig")
    assert len(item_files.read_items(file)["items"]) == ITEMS


def test_a_chance_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="is no suite and its chance"):
        compare.parse_options(0.03, 0.1, 0.95, ["items=0.9999999"])


def test_of_several_filters_the_first_counts(tmp_path: Path) -> None:
    rows = [lm_eval(n, n > 3) for n in range(20)] + [lm_eval(n, True) | {"filter": "flexible"} for n in range(20)]
    file = tmp_path / "samples_gsm8k_2026-01-05T10-00-00.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    table = item_files.read_items(file)["gsm8k"]
    assert len(table) == 20 and sum(table["correct"].to_pylist()) == 16


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no results"),
        ("{", "is no JSON"),
        ("[1]", "a row that is no object"),
        ('{"score": 1}', "rows of no known kind"),
        ('{"id": 1}', "row 1 cannot be used"),
        ('{"id": 1, "correct": NaN}', "not between 0 and 1"),
        ('{"id": 1, "correct": 2}', "not between 0 and 1"),
        ('{"id": 1, "correct": "often"}', "row 1 cannot be used"),
        ('{"doc_id": 1, "metrics": []}', "row 1 cannot be used"),
        ('{"testIdx": 1, "success": true, "response": "x"}', "row 1 cannot be used"),
        ('{"testIdx": 1, "success": "false"}', "success is no truth value"),
        ('{"testIdx": Infinity, "success": true}', "row 1 cannot be used"),
        ('{"doc_id": 1e999, "metrics": ["acc"], "acc": 1}', "row 1 cannot be used"),
        (f'{{"id": 1, "correct": 1{"0" * 400}}}', "row 1 cannot be used"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "file.jsonl"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        item_files.read_items(file)
    assert words in str(caught.value) and "file.jsonl" in str(caught.value)


def test_half_a_surrogate_pair_and_control_characters_do_no_harm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def hostile(number: int, right: bool) -> Json:
        return plain(number, right) | {
            "suite": "\ud800\x1b[2J",
            "prompt": "\udfff",
            "target": "\ud800",
            "response": f"\ud800{number}",
        }

    file = write(tmp_path / "mine.jsonl", hostile, set())
    assert compare.main(file, file, PARAMS, {}, None, False) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_options_that_are_none() -> None:
    for option in ("gsm8k", "gsm8k=often", "gsm8k=1", "=0.5"):
        with pytest.raises(UserError, match="no suite and its chance"):
            compare.parse_options(0.03, 0.1, 0.95, [option])
    assert compare.parse_options(0.03, 0.1, 0.95, ["a=b=0.25"])[1] == {"a=b": 0.25}
    with pytest.raises(UserError):
        compare.parse_options(0.0, 0.1, 0.95, [])
