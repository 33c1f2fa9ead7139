"""The verdict: what passes, what fails, what must never pass."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers import run_stage, set_params

from holdfast.core import records, storage
from holdfast.core.errors import UserError
from holdfast.params.gate import Gate
from holdfast.params.whole import Params
from holdfast.verdict import decision, fields, gate, gate_file, simulation, stats, summary

ROOT = Path(__file__).parents[2]
ENGINE = {"engine": "hf", "dtype": "float32", "seed": 1}
CHANCES = {"facts": 0.0, "sorting": 0.0, "judging": 0.5, "choice": 0.25}
GENERAL = list(CHANCES)
ITEMS = 240
REPEAT = "base-repeat"


def suites(names: list[str] = GENERAL, items: int = ITEMS, domain: bool = True) -> dict[str, Any]:
    found = {
        n: {"role": "general", "chance": CHANCES.get(n, 0.0), "items": items, "metric": "exact_match"} for n in names
    }
    if domain:
        found["pharmacy"] = {"role": "domain", "chance": 0.0, "items": items, "metric": "exact_match"}
    return found


def scores(lost: int = 0, gained: int = 0, right: int = 0, items: int = ITEMS) -> tuple[list[float], list[float]]:
    """Before and after: first the lost items, then the gained, then those right both times."""
    before = [1.0] * lost + [0.0] * gained + [1.0] * right
    after = [0.0] * lost + [1.0] * gained + [1.0] * right
    rest = [0.0] * (items - len(before))
    return before + rest, after + rest


def rows(outcomes: dict[str, list[float]]) -> list[dict[str, Any]]:
    found = []
    for suite, correct in outcomes.items():
        for number, score in enumerate(correct):
            item = f"{suite}-{number:06d}"
            response = f"answer {number}" if score > 0.5 else f"wrong {number}"
            texts = {"prompt": f"question {number}", "target": f"answer {number}", "response": response}
            hashes = {"item_hash": "i" + item, "prompt_hash": "p" + item}
            identity = {"id": records.text_id(suite, item), "suite": suite, "item_id": item}
            found.append(identity | hashes | texts | {"correct": float(score)})
    return found


def write(
    folder: Path, items: list[dict[str, Any]], described: dict[str, Any], engine: dict[str, Any] = ENGINE
) -> None:
    records.write("items", folder / "items.parquet", items)
    storage.write_json(
        folder / "settings.json",
        {"schema": 1, "model": folder.name, "suites": described, "engine": engine, "weights": folder.name * 4},
    )


def harness(root: Path, arms: dict[str, dict[str, tuple[int, int, int]]], items: int = ITEMS) -> Path:
    """Writes an evaluation per arm from (lost, gained, right) by suite; all arms share the base, so these must fit."""
    for arm, by_suite in arms.items():
        pairs = {suite: scores(*numbers, items=items) for suite, numbers in by_suite.items()}
        described = suites([s for s in by_suite if s != "pharmacy"], items, "pharmacy" in by_suite)
        write(root / "eval" / "base", rows({s: p[0] for s, p in pairs.items()}), described)
        write(root / "eval" / arm, rows({s: p[1] for s, p in pairs.items()}), described)
    return root / "eval"


def good() -> dict[str, tuple[int, int, int]]:
    return {name: (4, 4, 200) for name in GENERAL} | {"pharmacy": (0, 120, 0)}


def run(root: Path, **knobs: Any) -> dict[str, Any]:
    names = sorted({f.name for f in (root / "eval").glob("*")} - {"base", REPEAT})
    return decide(root, names, **({"resamples": 2000, "min_domain_gain": 0.2, "seed": 1} | knobs))


def decide(root: Path, names: list[str], **knobs: Any) -> dict[str, Any]:
    """Runs the stage on the evaluations in root/eval; its files land in `root`. Returns gate.json."""
    section = {"resamples": 2000, "seed": 1} | knobs
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        Path("params.yaml").write_text(json.dumps({"arms": names, "gate": section}), encoding="utf-8")
        Path("reports").mkdir()
        Path("stages").symlink_to(ROOT / "stages")
        Path("reports/eval").symlink_to(root / "eval")
        run_stage("gate")
        for file in ("gate.json", "metrics.json"):
            shutil.copyfile(Path("reports") / file, root / file)
    return json.loads((root / "gate.json").read_text())


def change_items(folder: Path, edit: Any) -> None:
    items = records.read("items", folder / "items.parquet")
    records.write("items", folder / "items.parquet", edit(items))


def test_an_arm_that_keeps_and_learns_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    harness(tmp_path, {"holdfast": good()})
    found = run(tmp_path)
    arm = found["arms"]["holdfast"]
    assert (found["verdict"], arm["verdict"], arm["reasons"]) == ("pass", "pass", [])
    assert arm["general"]["before"] == arm["general"]["after"]
    assert (arm["general"]["lost"], arm["general"]["gained"], arm["general"]["items"]) == (16, 16, 960)
    assert arm["general"]["retention"] == 1
    assert arm["domain"]["change"] == 0.5
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1] == "verdict: pass"
    assert "100.0%" in shown and "0.0 -> 50.0" in shown and "16/16" in shown


def test_numbers_by_hand(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": {"facts": (24, 12, 168), "judging": (12, 0, 168), "pharmacy": (0, 48, 0)}})
    arm = run(tmp_path, suite_margin=0.5)["arms"]["arm"]
    facts, judging = arm["suites"]["facts"], arm["suites"]["judging"]
    assert (facts["before"], facts["after"], facts["change"]) == (0.8, 0.75, pytest.approx(-0.05))
    assert (facts["lost"], facts["gained"], facts["margin"]) == (24, 12, 0.5)
    # judging: 0.75 -> 0.70 raw, twice that above a chance of one half
    assert (judging["before_adjusted"], judging["after_adjusted"]) == (0.5, 0.4)
    assert judging["mcnemar_p"] == pytest.approx(2 / 2**12, rel=1e-5)
    assert arm["general"]["before"] == pytest.approx(0.65)
    assert arm["general"]["change"] == pytest.approx(-0.075)
    assert arm["general"]["retention"] == pytest.approx(0.575 / 0.65, rel=1e-5)
    assert arm["general"]["low"] < arm["general"]["bound"] < -0.075 < arm["general"]["high"]
    assert arm["suites"]["pharmacy"]["margin"] is None
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics == {
        "base": {"general": 0.65, "domain": 0.0},
        "arm": {"general": 0.575, "retention": 0.884615, "lost": 36, "gained": 12}
        | {"domain": 0.2, "domain_gain": 0.2, "verdict": "fail"},
    }


def test_the_contract_of_gate_json(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": good()})
    found = run(tmp_path)
    assert set(found) == {
        "methods",
        "schema",
        "verdict",
        "control",
        "arms",
        "noise",
        "multiplicity",
        "provenance",
        "domain_measured",
    } | {
        "margin",
        "suite_margin",
        "self_margin",
        "only_choices",
        "confidence",
        "min_domain_gain",
        "resamples",
    }
    arm = found["arms"]["arm"]
    assert set(arm) == {"comparable", "verdict", "reasons", "problems", "general", "self", "domain", "suites"}
    assert set(arm["domain"]) == {"before", "after", "change", "low", "high", "bound", "items", "lost", "gained"}
    assert set(arm["general"]) == set(arm["domain"]) | {
        *("retention", "retention_low", "retention_high", "detectable", "margin")
    }
    assert set(arm["suites"]["facts"]) == {*fields.MEASURED_SUITE, *fields.DERIVED_SUITE}
    assert set(found["provenance"]) == {"gate", "code", "evaluations"}


def test_a_drop_past_the_margin_fails(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": {n: (20, 5, 180) for n in GENERAL} | {"pharmacy": (0, 120, 0)}})
    arm = run(tmp_path, suite_margin=0.9)["arms"]["arm"]
    assert arm["verdict"] == "fail"
    assert len(arm["reasons"]) == 1 and "past the margin of 3.0" in arm["reasons"][0]


def test_a_drop_inside_the_margin_with_its_bound_outside_fails(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": {n: (12, 2, 180) for n in GENERAL}})
    arm = run(tmp_path, min_domain_gain=0, margin=0.07)["arms"]["arm"]
    assert arm["general"]["change"] > -0.07 > arm["general"]["bound"] and arm["general"]["high"] < 0
    assert arm["verdict"] == "fail" and "past the margin of 7.0" in arm["reasons"][0]


def test_what_shows_neither_drop_nor_hold_cannot_be_compared(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": {n: (12, 7, 180) for n in ("facts", "sorting")}})
    arm = run(tmp_path, min_domain_gain=0)["arms"]["arm"]
    assert arm["general"]["change"] > -0.03 and arm["general"]["bound"] < -0.03 and arm["general"]["high"] > 0
    assert arm["verdict"] == "cannot-compare" and "480 items show no drop either" in arm["reasons"][0]


def test_one_suite_that_dropped_for_sure_fails_though_the_mean_shows_nothing(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": {"facts": (70, 0, 150), "sorting": (0, 60, 150)}})
    arm = run(tmp_path, min_domain_gain=0)["arms"]["arm"]
    assert arm["general"]["bound"] < -0.03 and arm["general"]["high"] > 0
    assert arm["verdict"] == "fail" and "facts by 29.2" in arm["reasons"][0]


def test_one_suite_past_its_margin_fails_though_the_mean_holds(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": good() | {"facts": (40, 10, 180), "sorting": (0, 40, 180)}})
    found = run(tmp_path)["arms"]["arm"]
    assert found["general"]["bound"] > -0.03
    assert found["verdict"] == "fail" and found["suites"]["facts"]["verdict"] == "fail"
    assert (
        "suites that dropped past their margin, in points: facts by 12.5 (margin 10.0, p = 2.4e-05)"
        in found["reasons"][0]
    )
    assert run(tmp_path, suite_margins={"facts": 0.2})["verdict"] == "pass"
    assert run(tmp_path, suite_margins={"facts": 0.125})["verdict"] == "pass"  # exactly the margin is inside it


def test_a_drop_within_the_noise_of_its_items_is_noted_and_does_not_fail(tmp_path: Path) -> None:
    """Chance alone drops one of many small suites past its margin."""
    arm = {f"suite{n:02d}": (2, 2, 30) for n in range(40)} | {"suite07": (6, 1, 30)}
    harness(tmp_path, {"arm": arm}, items=40)
    found = run(tmp_path, min_domain_gain=0)["arms"]["arm"]
    assert found["suites"]["suite07"]["change"] == -0.125
    assert found["verdict"] == found["suites"]["suite07"]["verdict"] == "pass"
    assert len(found["reasons"]) == 1 and "suite07 dropped by 12.5 points" in found["reasons"][0]
    harness(tmp_path, {"arm": arm | {"suite07": (20, 0, 20)}}, items=40)  # no chance does this
    assert run(tmp_path, min_domain_gain=0)["arms"]["arm"]["suites"]["suite07"]["verdict"] == "fail"


def test_a_margin_can_be_put_on_a_domain_suite(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": good() | {"pharmacy": (60, 10, 60)}})
    arm = run(tmp_path, min_domain_gain=-1, suite_margins={"pharmacy": 0.1})["arms"]["arm"]
    assert arm["suites"]["pharmacy"]["verdict"] == arm["verdict"] == "fail"


def test_too_little_domain_gain_fails(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": good() | {"pharmacy": (0, 50, 0)}})  # 0.208: the estimate alone would do
    arm = run(tmp_path)["arms"]["arm"]
    assert arm["verdict"] == "fail" and "short of the 20.0 asked" in arm["reasons"][0]


def test_the_control_does_not_bind_unless_it_is_alone(tmp_path: Path) -> None:
    forgot = {n: (150, 0, 54) for n in GENERAL} | {"pharmacy": (0, 120, 0)}
    kept = {n: (0, 0, 204) for n in GENERAL} | {"pharmacy": (0, 120, 0)}
    harness(tmp_path, {"domain-only": forgot, "holdfast": kept})
    found = run(tmp_path, control="domain-only")
    assert (found["verdict"], found["arms"]["domain-only"]["verdict"], found["control"]) == (
        "pass",
        "fail",
        "domain-only",
    )
    assert run(tmp_path)["verdict"] == "fail"
    shutil.rmtree(tmp_path / "eval" / "holdfast")
    assert run(tmp_path, control="domain-only")["verdict"] == "fail"


def drop_suite(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for item in items if item["suite"] != "facts"]


def drop_items(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for item in items if item["item_id"] != "facts-000007"]


def other_prompts(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item | {"prompt_hash": "x" + item["prompt_hash"]} for item in items]


def other_items(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item | {"item_hash": "x"} if item["item_id"] == "facts-000007" else item for item in items]


def shuffled_ids(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ids = [item["item_id"] for item in items]
    return [item | {"item_id": i} for item, i in zip(items, np.random.default_rng(0).permutation(ids), strict=True)]


def dead_endpoint(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item | {"response": " error: 503\n", "correct": 0.0} for item in items]


def silent(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item | {"response": ""} for item in items]


def constant_suite(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item | {"response": "yes"} if item["suite"] == "judging" else item for item in items]


def not_a_score(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item | {"correct": float("nan")} if item["item_id"] == "facts-000007" else item for item in items]


def percentages(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item | {"correct": 100 * item["correct"]} for item in items]


def nothing(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return []


BREAKS = [drop_suite, drop_items, other_prompts, other_items, shuffled_ids, dead_endpoint, silent, constant_suite]
BREAKS += [not_a_score, percentages, nothing]


@pytest.mark.parametrize("whose", ["arm", "base"])
@pytest.mark.parametrize("damage", BREAKS)
def test_no_broken_evaluation_passes(tmp_path: Path, damage: Any, whose: str) -> None:
    harness(tmp_path, {"arm": good()})
    change_items(tmp_path / "eval" / whose, damage)
    arm = run(tmp_path)["arms"]["arm"]
    assert arm["verdict"] == "cannot-compare"
    assert arm["reasons"]
    assert "NaN" not in (tmp_path / "gate.json").read_text() + (tmp_path / "metrics.json").read_text()


def test_what_can_be_measured_beside_a_broken_suite_is(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": good()})
    change_items(tmp_path / "eval" / "arm", drop_suite)
    arm = run(tmp_path)["arms"]["arm"]
    assert arm["reasons"] == ["facts: 240 of 240 items are missing in the tuned evaluation"]
    assert arm["suites"]["facts"]["change"] is None and arm["suites"]["sorting"]["change"] == 0
    assert arm["general"]["change"] is None and arm["domain"]["change"] == 0.5


def test_a_dead_endpoint_is_no_model_that_forgot(tmp_path: Path) -> None:
    """Every suite dropped past its margin, and yet: one text for everything is no evaluation."""
    harness(tmp_path, {"arm": {name: (4, 4, 200) for name in GENERAL}})
    change_items(tmp_path / "eval" / "arm", dead_endpoint)
    arm = run(tmp_path, min_domain_gain=0)["arms"]["arm"]
    assert arm["verdict"] == "cannot-compare" and "dead endpoint" in arm["reasons"][0]


def test_items_that_both_evaluations_lack_are_missed(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": good()})
    for folder in ("base", "arm"):
        change_items(tmp_path / "eval" / folder, drop_items)
    arm = run(tmp_path)["arms"]["arm"]
    assert arm["verdict"] == "cannot-compare"
    assert arm["reasons"] == ["facts: 239 items, where the settings say 240"]


def test_other_engine_settings_cannot_be_compared(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": good()})
    write(
        tmp_path / "eval" / "arm",
        records.read("items", tmp_path / "eval/arm/items.parquet"),
        suites(),
        ENGINE | {"dtype": "bf16"},
    )
    arm = run(tmp_path)["arms"]["arm"]
    assert arm["verdict"] == "cannot-compare"
    assert arm["reasons"] == ["evaluated with other settings than the base model: engine (dtype)"]


def test_another_metric_cannot_be_compared(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": good()})
    described = suites()
    described["facts"]["metric"] = "contains"
    write(tmp_path / "eval" / "arm", records.read("items", tmp_path / "eval/arm/items.parquet"), described)
    assert run(tmp_path)["arms"]["arm"]["verdict"] == "cannot-compare"


@pytest.mark.parametrize("damage", ["missing", "garbage", "no settings", "empty settings"])
def test_an_unreadable_arm_cannot_be_compared_and_the_others_can(tmp_path: Path, damage: str) -> None:
    harness(tmp_path, {"arm": good(), "broken": good()})
    folder = tmp_path / "eval" / "broken"
    if damage == "missing":
        (folder / "items.parquet").unlink()
    elif damage == "garbage":
        (folder / "items.parquet").write_bytes(b"PAR1 no PAR1")
    elif damage == "no settings":
        (folder / "settings.json").unlink()
    else:
        (folder / "settings.json").write_text("{}")
    found = run(tmp_path)
    assert found["verdict"] == found["arms"]["broken"]["verdict"] == "cannot-compare"
    assert found["arms"]["arm"]["verdict"] == "pass"
    assert found["arms"]["broken"]["general"]["change"] is None
    assert str(tmp_path) not in (tmp_path / "gate.json").read_text()


def test_a_suite_in_which_the_base_is_at_chance_is_set_aside_with_a_note(tmp_path: Path) -> None:
    """Right half the time, with two answers to choose from: whatever the arm does there says nothing."""
    harness(tmp_path, {"arm": good() | {"judging": (40, 4, 80)}})
    arm = run(tmp_path)["arms"]["arm"]
    said = "judging is set aside: the base model has less than the 10.0 points above chance that min_base asks for"
    assert (arm["verdict"], arm["suites"]["judging"]["verdict"]) == ("pass", "set aside")
    assert len(arm["reasons"]) == 1 and arm["reasons"][0].startswith(said)
    assert arm["general"]["items"] == 3 * ITEMS and arm["general"]["before"] == pytest.approx((0.85 * 2 + 0.8) / 3, 0.1)


def test_a_suite_in_which_the_base_may_be_guessing_is_set_aside(tmp_path: Path) -> None:
    """134 of 240 with two answers to choose from is 12 points above chance, and luck in one of 24 cases."""
    harness(tmp_path, {"arm": good() | {"judging": (4, 4, 130)}})
    arm = run(tmp_path)["arms"]["arm"]
    said = "judging is set aside: 240 items do not show that the base model does better than guessing"
    assert (arm["verdict"], arm["reasons"]) == ("pass", [said])
    harness(tmp_path, {"arm": good() | {"judging": (4, 4, 156)}})
    assert run(tmp_path)["arms"]["arm"]["reasons"] == []


def test_where_most_suites_are_set_aside_too_little_is_measured(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": good() | {name: (4, 4, 10) for name in ("judging", "facts", "choice")}})
    arm = run(tmp_path)["arms"]["arm"]
    assert arm["verdict"] == "cannot-compare"
    assert "1 of 4 general suites can show forgetting: too little is measured" in arm["reasons"]


def test_all_of_a_weak_suite_lost_inside_its_margin_is_no_pass(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": good() | {"facts": (24, 0, 0)}})  # 10 % right before, nothing after; the margin is 10
    arm = run(tmp_path, margin=0.05)["arms"]["arm"]
    assert arm["verdict"] == arm["suites"]["facts"]["verdict"] == "cannot-compare"
    assert arm["reasons"] == ["facts: 240 items do not show that the tuned model does better than guessing"]


def test_a_domain_at_zero_is_normal(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": good()})
    change_items(
        tmp_path / "eval" / "base",
        lambda items: [i | {"response": "I do not know"} if i["suite"] == "pharmacy" else i for i in items],
    )
    assert run(tmp_path)["verdict"] == "pass"


def test_a_model_that_collapsed_in_one_suite_fails_on_its_numbers(tmp_path: Path) -> None:
    """One answer to all of one suite is what real forgetting can look like: it fails, and is not excused as broken."""
    harness(tmp_path, {"arm": good() | {"facts": (200, 0, 0)}})
    change_items(
        tmp_path / "eval" / "arm", lambda items: [i | {"response": "5"} if i["suite"] == "facts" else i for i in items]
    )
    arm = run(tmp_path)["arms"]["arm"]
    assert arm["verdict"] == "fail"
    assert any("one and the same answer" in reason for reason in arm["reasons"])


def test_one_right_answer_to_all_is_no_collapse(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": {"facts": (4, 4, 200), "sorting": (0, 40, 200)}})
    for folder in ("base", "arm"):
        change_items(
            tmp_path / "eval" / folder,
            lambda items: [
                i | {"target": "yes", "response": "yes" if i["correct"] else "no"} if i["suite"] == "sorting" else i
                for i in items
            ],
        )
    assert run(tmp_path, min_domain_gain=0)["verdict"] == "pass"


def test_too_few_items_cannot_be_compared(tmp_path: Path) -> None:
    unchanged = {n: (0, 0, 9) for n in ("facts", "sorting")}
    harness(tmp_path, {"arm": unchanged}, items=10)  # not one item changed, and still: ten items say little
    arm = run(tmp_path, min_domain_gain=0)["arms"]["arm"]
    assert arm["verdict"] == "cannot-compare" and "too few items" in arm["reasons"][0]


def test_a_suite_too_small_to_prove_its_collapse_is_no_pass(tmp_path: Path) -> None:
    """Ten items, all of them lost, in one of sixty suites: not certain enough for a fail, and no pass either."""
    arm = {f"suite{n:02d}": (0, 0, 9) for n in range(60)}
    harness(tmp_path, {"arm": arm | {"suite07": (9, 0, 0)}}, items=10)
    found = run(tmp_path, min_domain_gain=0, margin=0.05)["arms"]["arm"]
    assert found["general"]["bound"] > -0.05
    assert found["verdict"] == found["suites"]["suite07"]["verdict"] == "cannot-compare"
    assert (
        len(found["reasons"]) == 1 and "suite07 dropped by 90.0 points, past its margin of 10.0" in found["reasons"][0]
    )
    harness(tmp_path, {"arm": arm}, items=10)
    assert run(tmp_path, min_domain_gain=0, margin=0.05)["verdict"] == "pass"


def test_a_handful_of_lost_items_is_not_taken_for_all_there_is(tmp_path: Path) -> None:
    """Three of 240 items lost: the bootstrap alone says that the drop is below the margin of three points."""
    harness(tmp_path, {"arm": {"facts": (3, 0, 200)}})
    arm = run(tmp_path, min_domain_gain=0)["arms"]["arm"]
    assert -0.03 < arm["general"]["bound"] < arm["general"]["change"] == pytest.approx(-0.0125)
    assert arm["verdict"] == "cannot-compare"
    assert "with 95% confidence the drop may be 3.1, past the margin of 3.0, yet 240 items" in arm["reasons"][0]


def test_three_items_do_not_prove_a_domain_gain(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": {"facts": (0, 0, 3), "pharmacy": (0, 3, 0)}}, items=3)
    arm = run(tmp_path, min_domain_gain=0.5)["arms"]["arm"]
    assert arm["domain"]["bound"] == 1
    assert arm["verdict"] == "fail" and "short of the 50.0 asked" in arm["reasons"][0]


def test_a_clear_drop_among_few_items_is_a_fail(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": {n: (8, 0, 2) for n in ("facts", "sorting")}}, items=10)
    assert run(tmp_path, min_domain_gain=0)["arms"]["arm"]["verdict"] == "fail"


def test_without_general_suites_nothing_can_be_compared(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": {"pharmacy": (0, 120, 0)}})
    arm = run(tmp_path)["arms"]["arm"]
    assert arm["verdict"] == "cannot-compare" and "no general suite" in arm["reasons"][0]


def test_a_gain_asked_for_needs_a_domain_suite(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": {n: (4, 4, 200) for n in GENERAL}})
    assert run(tmp_path)["arms"]["arm"]["verdict"] == "cannot-compare"
    found = run(tmp_path, min_domain_gain=0)
    assert found["verdict"] == "pass" and found["arms"]["arm"]["domain"] is None


def test_an_unknown_suite_in_the_margins_is_a_user_error(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": good()})
    with pytest.raises(UserError, match="'fakts', which is no suite"):
        run(tmp_path, suite_margins={"fakts": 0.2})
    assert not (tmp_path / "gate.json").exists()


def test_no_base_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        decide(tmp_path, ["arm"])


def test_a_former_arm_is_not_judged_and_a_missing_one_cannot_be_compared(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": good(), "former": good()})
    verdicts = {n: a["verdict"] for n, a in decide(tmp_path, ["arm", "gone"])["arms"].items()}
    assert verdicts.keys() == {"arm", "gone"}
    assert verdicts["gone"] == "cannot-compare"


def test_a_rerun_gives_the_same_bytes_and_another_suite_moves_nothing(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": good()})
    first = run(tmp_path)
    digest = hashlib.sha256((tmp_path / "gate.json").read_bytes()).hexdigest()
    run(tmp_path)
    assert hashlib.sha256((tmp_path / "gate.json").read_bytes()).hexdigest() == digest
    harness(tmp_path, {"arm": good() | {"another": (4, 4, 200)}})
    alone, beside = (found["arms"]["arm"]["suites"]["facts"] for found in (first, run(tmp_path)))
    assert beside.pop("detectable") > alone.pop("detectable")  # the risk of a false alarm is shared with one suite more
    assert beside == alone
    assert run(tmp_path)["arms"]["arm"]["general"] != run(tmp_path, seed=2)["arms"]["arm"]["general"]


@pytest.mark.parametrize(
    "text", [None, "no json", "[]", "{}", '{"schema": 2, "verdict": "fine", "arms": {}, "confidence": 0.95}']
)
def test_something_else_than_a_verdict_is_a_user_error(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "gate.json").write_text(text)
    with pytest.raises(UserError):
        gate_file.read_gate(tmp_path / "gate.json")


def repeat(root: Path, edit: Any, engine: dict[str, Any] = ENGINE) -> None:
    """The base evaluated once more, with other outcomes."""
    again = [edit(item) for item in records.read("items", root / "eval" / "base" / "items.parquet")]
    described = json.loads((root / "eval" / "base" / "settings.json").read_text())["suites"]
    write(root / "eval" / REPEAT, again, described, engine)


def test_a_repeated_evaluation_of_the_base_is_the_noise_floor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harness(tmp_path, {"arm": good()})
    flipped = {"facts-000100": 0.0, "facts-000239": 1.0, "judging-000101": 0.0}
    repeat(tmp_path, lambda i: i | {"correct": flipped.get(i["item_id"], i["correct"])}, ENGINE | {"batch": 7})
    found = run(tmp_path)
    assert (found["verdict"], set(found["arms"])) == ("pass", {"arm"})
    noise = found["noise"]
    assert (noise["items"], noise["changed"], noise["lost"], noise["gained"]) == (5 * ITEMS, 3, 2, 1)
    assert noise["change"] == pytest.approx(-1 / ITEMS / 0.5 / 4, rel=1e-5)  # one of judging, where chance is one half
    assert "noise floor: 3 of 1,200 outcomes differ" in capsys.readouterr().out


def test_a_base_that_differs_from_itself_by_the_margin_allows_no_verdict(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": good()})
    forty = {f"facts-{number:06d}" for number in range(40)}  # 36 of them were right
    repeat(tmp_path, lambda i: i | {"correct": i["correct"] * (i["item_id"] not in forty)})
    arm = run(tmp_path)["arms"]["arm"]
    assert arm["verdict"] == "cannot-compare" and "differ by 3.8 points, no less than the margin" in arm["reasons"][0]


def test_a_repeat_that_asks_something_else_is_a_user_error(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": good()})
    repeat(tmp_path, lambda i: i | {"prompt_hash": "x"})
    with pytest.raises(UserError, match="is no second evaluation of the base"):
        run(tmp_path)


SELF = ("self_likelihood", "self_chat", "self_agreement", "self_overlap")


def with_self_suite(root: Path, arm: str, drops: dict[str, float], items: int = ITEMS) -> None:
    """Adds the self suite to base and arm: the base's scores are 0.9, the arm's lower by `drops`."""
    for name, lower in (("base", {}), (arm, drops)):
        folder = root / "eval" / name
        settings = json.loads((folder / "settings.json").read_text())
        described = settings["suites"] | {s: {"role": "self", "chance": 0.0, "items": items} for s in SELF}
        graded = []
        for suite in SELF:
            for row in rows({suite: [1.0] * items}):
                texts = {"response": f"{name} {row['item_id']}"}
                graded.append(row | texts | {"correct": 0.9 - lower.get(suite, 0.0)})
        write(folder, records.read("items", folder / "items.parquet") + graded, described)


@pytest.mark.parametrize(
    ("drops", "verdict", "reason"),
    [
        ({"self_likelihood": 0.03}, "pass", None),
        ({"self_agreement": 0.8, "self_overlap": 0.8}, "pass", None),  # the same in other words
        ({"self_chat": 0.25}, "fail", "the self score fell by 12.5 points (from 90.0 to 77.5)"),
        ({"self_likelihood": 0.12}, "fail", "self_likelihood by 12.0 (margin 10.0"),
    ],
)
def test_the_self_score_has_a_margin_of_its_own(
    tmp_path: Path, drops: dict[str, float], verdict: str, reason: str | None
) -> None:
    harness(tmp_path, {"arm": good()})
    with_self_suite(tmp_path, "arm", drops)
    found = run(tmp_path)
    arm = found["arms"]["arm"]
    assert arm["verdict"] == verdict
    assert any(reason in text for text in arm["reasons"]) if reason else arm["reasons"] == []
    assert arm["general"]["change"] == 0 and arm["general"]["items"] == 960  # it is no general suite
    assert arm["self"]["items"] == 2 * ITEMS
    assert found["self_margin"] == 0.05
    assert json.loads((tmp_path / "metrics.json").read_text())["base"]["self"] == pytest.approx(0.9)


def test_few_answers_of_the_self_suite_pass_nothing(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": good()})
    with_self_suite(tmp_path, "arm", {"self_likelihood": 0.03}, items=10)
    arm = run(tmp_path)["arms"]["arm"]
    assert arm["verdict"] != "pass"
    assert any("self score" in reason for reason in arm["reasons"])


def test_that_no_general_suite_is_written_is_said(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": good()})
    assert run(tmp_path)["only_choices"] is False
    for folder in (tmp_path / "eval").iterdir():
        settings = json.loads((folder / "settings.json").read_text())
        for name, suite in settings["suites"].items():
            suite["written"] = name == "pharmacy"
        storage.write_json(folder / "settings.json", settings)
    found = run(tmp_path)
    assert found["only_choices"] is True and found["verdict"] == "pass"
    assert any("every general suite is a choice by likelihood" in reason for reason in found["arms"]["arm"]["reasons"])


def test_the_repeat_evaluates_the_base_in_other_batches_beside_it(
    project: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.evaluation import harness

    asked: list[tuple[int, str, Path | None]] = []

    def evaluate_model(params: Any, model: str, folder: Path, *_: Any) -> harness.Evaluation:
        asked.append((params.batch, model, folder))
        return harness.Evaluation([], {"schema": 1}, {})

    monkeypatch.setattr(harness, "evaluate_model", evaluate_model)
    set_params(project, evaluate__self_suite={"rows": 0})
    run_stage("evaluate", "base")
    run_stage("evaluate", REPEAT)
    (batch, once, weights), (half, again, same_weights) = asked
    assert (half, once, again, weights) == (batch // 2, "base", "base", same_weights)
    assert all((project / "reports/eval" / name / "items.parquet").is_file() for name in ("base", REPEAT))


def revisions(root: Path, before: dict[str, tuple[int, int, int]], after: dict[str, tuple[int, int, int]]) -> list[str]:
    """Two revisions of the arms of one base below `root`: the former in root/former, the present one in root/eval."""
    harness(root, {"arm": before, "control": before})
    shutil.copytree(root / "eval", root / "former")
    for arm in ("arm", "control"):
        pairs = {suite: scores(*numbers) for suite, numbers in after.items()}
        write(root / "eval" / arm, rows({s: p[1] for s, p in pairs.items()}), suites(GENERAL))
    return ["arm", "control"]


def against(root: Path, names: list[str], **knobs: Any) -> tuple[str, str, list[str]]:
    """(the worst verdict against the former revision, the table, the arms that are new)."""
    content, new = gate.decide_against(
        Gate(**knobs), {name: [name] for name in names}, root / "former", root / "eval", "main"
    )
    return content["verdict"], summary.table(content), new


def test_an_arm_as_good_as_at_the_revision_passes_against_it(tmp_path: Path) -> None:
    names = revisions(tmp_path, good(), good())
    verdict, shown, _ = against(tmp_path, names, control="control", min_domain_gain=0.9)
    assert verdict == "pass"
    lines = shown.splitlines()
    assert lines[-1] == "verdict: pass" and not any(line.startswith("control") for line in lines)


@pytest.mark.parametrize("worse", [{name: (40, 0, 164) for name in GENERAL}, {"pharmacy": (0, 60, 0)}])
def test_an_arm_that_is_worse_than_at_the_revision_fails_against_it(
    tmp_path: Path, worse: dict[str, tuple[int, int, int]]
) -> None:
    """The domain may not drop either, however much it gained on the base."""
    names = revisions(tmp_path, good(), good() | worse)
    assert against(tmp_path, names)[0] == "fail"


def test_a_domain_that_moved_both_ways_alike_is_no_regression(tmp_path: Path) -> None:
    """Trained again, a fifth of the domain's answers is another: 240 items then prove no drop, nor that there is none."""
    names = revisions(tmp_path, good(), good() | {"pharmacy": (24, 24, 96)})
    verdict, shown, _ = against(tmp_path, names)
    assert verdict == "cannot-compare"
    assert "the domain score did not move" in shown and "too few items" in shown


def test_a_new_arm_is_no_regression_and_no_common_arm_is_an_error(tmp_path: Path) -> None:
    names = revisions(tmp_path, good(), good())
    shutil.rmtree(tmp_path / "former" / "control")
    verdict, _, new = against(tmp_path, names)
    assert (verdict, new) == ("pass", ["control"])
    shutil.rmtree(tmp_path / "former" / "arm")
    with pytest.raises(UserError, match="nothing to compare"):
        against(tmp_path, names)


def test_other_suites_at_the_revision_cannot_be_compared(tmp_path: Path) -> None:
    names = revisions(tmp_path, good(), good())
    change_items(tmp_path / "former" / "arm", other_prompts)
    verdict, shown, _ = against(tmp_path, names)
    assert verdict == "cannot-compare"
    assert "240 items have another prompt than in the former evaluation" in shown


EVALUATED = """
stages:
  evaluate:
    cmd: "true"
    deps: [params.yaml]
    outs:
      - reports/eval/base/items.parquet
      - reports/eval/arm/items.parquet
      - reports/eval/base/settings.json: {cache: false}
      - reports/eval/arm/settings.json: {cache: false}
  gate:
    cmd: "true"
    deps: [reports/eval]
    outs:
      - reports/gate.json: {cache: false}
"""


def make_project(folder: Path, names: list[str]) -> None:
    """What `holdfast gate` reads beside the evaluations: the parameters that `decide` decides with, stages, the pipeline."""
    evaluate = {
        "tasks": "tasks",
        "suites": {n: {"role": s["role"], "chance": s["chance"]} for n, s in suites().items()},
    }
    section = {"resamples": 2000, "seed": 1, "min_domain_gain": 0.2}
    (folder / "params.yaml").write_text(json.dumps({"arms": names, "gate": section, "evaluate": evaluate}))
    (folder / "dvc.yaml").write_text(EVALUATED)
    (folder / "stages").symlink_to(ROOT / "stages")


def shell(folder: Path, command: str) -> str:
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git and DVC repository: at `main` the arm is good, in the working tree it forgot. Do not write to it."""
    root = tmp_path_factory.mktemp("history") / "project"
    harness(root / "reports", {"arm": good()})
    make_project(root, ["arm"])
    decide(root / "reports", ["arm"], min_domain_gain=0.2)
    shell(root, "git init -q -b main && git config user.name t && git config user.email t@localhost")
    shell(
        root,
        f"{sys.executable} -m dvc init -q && {sys.executable} -m dvc commit -q -f && git add -A && git commit -qm good",
    )
    harness(root / "reports", {"arm": {name: (40, 0, 164) for name in GENERAL} | {"pharmacy": (0, 120, 0)}})
    decide(root / "reports", ["arm"], min_domain_gain=0.2)
    shell(root, f"{sys.executable} -m dvc commit -q -f")
    return root


def ask(folder: Path, *words: str) -> tuple[int, str]:
    """Exit code and output of `holdfast gate`."""
    command = [sys.executable, "-m", "holdfast.cli", "gate", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_against_a_revision_reads_its_items_through_dvc(history: Path) -> None:
    code, shown = ask(history, "--against", "main")
    assert code == 1 and "before: the arm at main; after: the arm as it is now" in shown
    assert "80.0 -> 57.8" in shown.split("before: the arm")[1]  # 204 of 240 right, then 164, above chance


def test_items_of_the_present_may_lie_in_the_cache_only(history: Path, tmp_path: Path) -> None:
    """A CI job has no working tree full of data, and needs none."""
    clone = tmp_path / "clone"
    shell(tmp_path, f"git clone -q {history} clone")
    shutil.copytree(history / ".dvc" / "cache", clone / ".dvc" / "cache")
    code, shown = ask(clone, "--against", "main")
    assert code == 0 and "80.0 -> 80.0" in shown.split("before: the arm")[1], shown


def test_items_of_a_revision_that_nobody_has_are_said_to_be_missing(history: Path, tmp_path: Path) -> None:
    shell(tmp_path, f"git clone -q {history} clone")
    for name in ("reports", "dvc.lock"):
        shell(tmp_path, f"cp -r {history / name} clone/")
    code, shown = ask(tmp_path / "clone", "--against", "main")
    assert code == 3 and "the items of 'arm' at main are not available" in shown
    assert "verdict: fail" in shown  # of the present one, which is there
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("dvc_root", "absent"), [("llm", "does not contain a DVC repo"), (".", "no params.yaml of this project there")]
)
def test_a_project_in_a_subfolder_is_compared_with_itself_there(tmp_path: Path, dvc_root: str, absent: str) -> None:
    """In a larger git repository: a DVC project of its own, or a part of one; and before it was there."""
    repository, project = tmp_path / "repository", tmp_path / "repository" / "llm"
    harness(project / "reports", {"arm": good()})
    shell(repository, "git init -q -b main && git config user.name t && git config user.email t@localhost")
    shell(repository, "touch README.md && git add README.md && git commit -qm start && git tag before")
    make_project(project, ["arm", "new"])
    decide(project / "reports", ["arm", "new"], min_domain_gain=0.2)
    shell(repository / dvc_root, f"{sys.executable} -m dvc init -q {'--subdir' if dvc_root == 'llm' else ''}")
    shell(project, f"{sys.executable} -m dvc commit -q -f && git add -A .. && git commit -qm good")
    harness(project / "reports", {"arm": {name: (40, 0, 164) for name in GENERAL} | {"pharmacy": (0, 120, 0)}})
    decide(project / "reports", ["arm", "new"], min_domain_gain=0.2)
    shell(project, f"{sys.executable} -m dvc commit -q -f")
    code, shown = ask(project, "--against", "main")
    assert "80.0 -> 57.8" in shown.split("before: the arm")[1] and shown.endswith("verdict: fail\n"), shown
    assert code == 2 and "new: not evaluated at main" in shown  # nor here: that cannot be compared
    code, shown = ask(project, "--against", "before")
    assert code == 3 and absent in shown and "Traceback" not in shown


def test_an_unknown_revision_is_a_user_error(history: Path) -> None:
    code, shown = ask(history, "--against", "no-such-branch")
    assert code == 3 and "no such revision" in shown and "Traceback" not in shown


PARAMS = Params.load(ROOT / "params.yaml")
SHIPPED = simulation.suites_of(PARAMS)


def simulate(
    drop: float, changed: float, runs: int, suites: simulation.Suites = SHIPPED, **more: Any
) -> dict[str, float]:
    return simulation.simulate_verdicts(PARAMS.gate, suites, drop, changed, runs, **more)


def test_the_sizes_shipped_are_eleven_general_suites_of_240_items() -> None:
    general = [suite for suite in SHIPPED.values() if suite["role"] == "general"]
    assert [suite["items"] for suite in general] == [240] * 11
    assert PARAMS.gate.margin == 0.03


@pytest.mark.parametrize("changed", [0.02, 0.06, 0.12])
def test_false_alarms_are_at_most_five_in_a_hundred(changed: float) -> None:
    """Up to 12 % of the items lost or gained: with no true change, 95 of 100 arms pass."""
    assert simulate(drop=0.0, changed=changed, runs=100)["pass"] >= 0.95


def test_where_too_much_changes_to_tell_an_arm_cannot_be_compared_and_does_not_fail() -> None:
    """30 % of the items lost or gained, and none of it forgetting: 11 x 240 items are too few for this margin."""
    found = simulate(drop=0.0, changed=0.3, runs=100)
    assert found["fail"] <= 0.05 and found["cannot-compare"] > 0.2


@pytest.mark.parametrize("changed", [0.06, 0.1, 0.2])
def test_twice_the_margin_fails_nineteen_times_in_twenty(changed: float) -> None:
    found = simulate(drop=0.06, changed=changed, runs=100)
    assert found["fail"] >= 0.95 and found["pass"] <= 0.05


def test_a_drop_of_the_whole_margin_seldom_passes() -> None:
    """What the bound promises: at the edge of the margin 5 % pass; 9 % leave room for 200 runs' own noise."""
    assert simulate(drop=0.03, changed=0.1, runs=200)["pass"] <= 0.09


@pytest.mark.parametrize(("suites", "items"), [(1, 150), (1, 240), (4, 30), (5, 50)])
def test_a_drop_of_the_whole_margin_seldom_passes_on_few_items(suites: int, items: int) -> None:
    """All of it lost items, which a bootstrap of few items underrates; 9 % leave room for 200 runs' own noise."""
    assert simulate(drop=0.03, changed=0.03, runs=200, suites=simulation.general_suites(suites, items))["pass"] <= 0.09


@pytest.mark.parametrize("what", simulation.BROKEN)
def test_broken_evaluations_never_pass(what: str) -> None:
    found = simulate(drop=0.0, changed=0.02, runs=25, damage=simulation.BROKEN[what], seed=1)
    assert found["pass"] == 0 and found["cannot-compare"] >= 0.9


def test_a_hundred_thousand_items_in_sixty_suites(tmp_path: Path) -> None:
    for seed, name in enumerate(("base", "arm")):
        simulation.write_evaluation(tmp_path / "eval" / name, suites=60, items=100_000, seed=seed)
    arm = run(tmp_path, min_domain_gain=0, resamples=10_000)["arms"]["arm"]
    assert (arm["verdict"], len(arm["suites"]), arm["general"]["items"]) == ("pass", 60, 100_000)
    assert arm["general"]["detectable"] < 0.01


def test_an_empty_revision_is_no_revision(history: Path) -> None:
    code, shown = ask(history, "--against", "")
    assert code == 3 and "Traceback" not in shown


def test_many_suites_past_their_margin_are_no_chance(tmp_path: Path) -> None:
    """30 of 200 small suites lose 20 points: none of them proves it alone, and the mean stays inside the margin."""
    arm = {f"suite{n:03d}": (0, 0, 18) for n in range(200)}
    few = {f"suite{n:03d}": (2, 0, 16) for n in range(2)}
    many = {f"suite{n:03d}": (4, 0, 14) for n in range(30)}
    harness(tmp_path, {"arm": arm | many}, items=20)
    found = run(tmp_path, min_domain_gain=0, margin=0.05, resamples=400)["arms"]["arm"]
    assert found["general"]["bound"] > -0.05
    assert found["verdict"] == "fail"
    assert any(
        "30 of 200 suites dropped past their margin, where chance alone" in reason for reason in found["reasons"]
    )
    harness(tmp_path, {"arm": arm | few}, items=20)
    assert run(tmp_path, min_domain_gain=0, margin=0.05, resamples=400)["verdict"] == "pass"


def test_items_of_a_group_are_drawn_together_and_tested_together() -> None:
    """By hand: 4 groups of 2 items, of which one lost both and one gained one."""
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    before, after = np.array([1.0, 1, 0, 0, 1, 1, 0, 0]), np.array([0.0, 0, 1, 0, 1, 1, 0, 0])
    assert stats.group_size(groups) == 2
    assert stats.discordance(before, after, groups) == pytest.approx((4 + 1 + 4) / (8 + 4))
    assert stats.cluster_test(before, after, groups) == pytest.approx(0.6547208, rel=1e-5)  # |-1| / sqrt(5)
    draws = stats.resampled_means(before, after, 500, np.random.default_rng(0), groups)
    assert set(np.unique(draws[:, 0] * 4)) <= {0, 1, 2, 3, 4}, "whole groups"
    names = pa.chunked_array([["a", "a", None, "", "b", "a"]])
    found = stats.number_groups(names)
    assert found is not None and sorted(np.bincount(found)) == [1, 1, 1, 3]
    assert stats.number_groups(pa.chunked_array([[None, None, "a"]])) is None


def test_whole_passages_that_flip_do_not_fail_an_arm_where_groups_are_given() -> None:
    found = simulation.simulate_clusters(PARAMS.gate, 5, 50, 5, 0.12, 100, grouped=True)
    assert found["fail"] <= 0.05
    assert simulation.simulate_clusters(PARAMS.gate, 5, 50, 5, 0.12, 100, grouped=False)["fail"] > 0.1


def test_a_suite_that_is_watched_is_shown_and_decides_nothing(tmp_path: Path) -> None:
    """80 of its 240 items are lost: past every margin, and no part of the general score."""
    harness(tmp_path, {"arm": good() | {"sorting": (80, 0, 100)}})
    assert run(tmp_path)["verdict"] == "fail"
    content = run(tmp_path, watched=["sorting"])
    arm = content["arms"]["arm"]
    assert (content["verdict"], arm["suites"]["sorting"]["verdict"]) == ("pass", "watched")
    assert arm["suites"]["sorting"]["change"] == pytest.approx(-1 / 3, rel=1e-4)
    assert arm["general"]["items"] == 3 * ITEMS and arm["general"]["change"] == 0
    assert len(arm["reasons"]) == 1 and arm["reasons"][0].startswith("sorting, which is watched only, dropped by 33.3")
    assert content["multiplicity"]["suites"] == 3, "it takes no part of the risk"
    measured = {key: arm[key] for key in ("problems", "suites", "general", "self", "domain")}
    params = Gate(resamples=2000, min_domain_gain=0.2, seed=1, watched=["sorting"])
    assert storage.round_floats(decision.decide_arm(params, measured)) == arm, "derived anew without items"


def test_a_watched_suite_that_cannot_be_compared_is_a_note(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": good()})
    change_items(tmp_path / "eval/arm", lambda rows: [row for row in rows if row["suite"] != "sorting"])
    assert run(tmp_path)["verdict"] == "cannot-compare"
    arm = run(tmp_path, watched=["sorting"])["arms"]["arm"]
    assert arm["verdict"] == "pass"
    assert arm["reasons"][0].startswith("sorting is watched only, and cannot be compared: 240 of 240 items are missing")


def test_what_is_watched_must_be_a_suite_and_not_all_may_be(tmp_path: Path) -> None:
    harness(tmp_path, {"arm": good()})
    with pytest.raises(UserError, match=r"gate\.watched names 'sortin', which is no suite"):
        run(tmp_path, watched=["sortin"])
    content = run(tmp_path, watched=[*GENERAL])
    assert content["verdict"] == "cannot-compare"
    assert any("there is no general suite" in reason for reason in content["arms"]["arm"]["reasons"])
    assert run(tmp_path, watched=["pharmacy"], min_domain_gain=0)["domain_measured"] is False
