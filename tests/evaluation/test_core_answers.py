"""The core suite in an evaluation: asked of base and arm alike, judged by family, kept out of the replay set."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, describe, run_stage, set_params

from holdfast.core import records, storage
from holdfast.core_suite import families
from holdfast.core_suite.refusing import SHOWN
from holdfast.data.refusals import is_refusal
from holdfast.evaluation import spot, suites
from holdfast.params.evaluate import CORE_FAMILIES, Evaluate
from holdfast.params.gate import Gate
from holdfast.verdict import fields, gate, provenance, thresholds

POCKET = ROOT / "models" / "pocket" / "base"
ASKED = ("refusals", "over_refusals", "tools", "arithmetic", "facts", "calibration")
SECTION: dict[str, Any] = {
    "tasks": "none",
    "suites": {"core": {"role": "general"}},
    "batch": 32,
    "self_suite": {"rows": 0},
    "core": {"items": 6, "items_of": {}, "leave_out": [name for name in CORE_FAMILIES if name not in ASKED]},
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A project in which the pocket base and a copy of it have been asked."""
    project = tmp_path_factory.mktemp("core")
    shutil.copy(ROOT / "params.yaml", project)
    describe(POCKET, project / "models" / "manifest", "base")
    shutil.copytree(POCKET, project / "models" / "same")
    domain = [
        dict(
            id="d",
            group="",
            source="train",
            messages=[{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}],
        )
    ]
    for split in ("train", "test"):
        records.write("domain", project / "data" / "domain" / f"{split}.parquet", domain)
    set_params(project, evaluate=SECTION)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        for model in ("base", "same"):
            run_stage("evaluate", model)
        yield project


def test_every_family_is_a_suite_and_what_the_template_lacks_is_said(lab: Path):
    described = storage.read_json(lab / "reports/eval/base/settings.json")
    assert set(described["suites"]) == {f"core/{name}" for name in ASKED if name != "tools"}
    assert set(described["left_out"]) == {"core/tools"}
    calibration = described["suites"]["core/calibration"]
    assert (calibration["chance"], calibration["items"], calibration["written"]) == (0.625, 6, False)
    assert 0 <= described["calibration"]["ece"] <= 1 and 0 <= described["calibration"]["brier"] <= 2
    assert described["suites"]["core/facts"]["written"] and described["suites"]["core/facts"]["version"] == 2


def test_an_arm_with_the_base_s_weights_answers_alike_and_two_runs_have_the_same_bytes(lab: Path):
    base, same = (records.read("items", lab / f"reports/eval/{model}/items.parquet") for model in ("base", "same"))
    assert base == same and len(base) == 30
    answers = [row["response"] for row in base if row["suite"] == "core/refusals"]
    assert all(is_refusal(answer) or len(answer) <= SHOWN for answer in answers), "the rest is not stored"
    file = lab / "reports/eval/same/items.parquet"
    before = file.read_bytes()
    run_stage("evaluate", "same")
    assert file.read_bytes() == before


def test_items_can_be_asked_again(lab: Path):
    params = Evaluate.model_validate(SECTION)
    found = spot.ask_again(params, "same", lab / "reports/eval/same", 5, lab / "data/domain/test.parquet")
    assert (found.items, found.worse, found.engine) == (5, [], [])


def test_what_the_suite_asks_is_kept_out_of_the_replay_set(lab: Path):
    texts = suites.prompts(Evaluate.model_validate(SECTION), Path("none"))
    assert set(texts) == {f"core/{name}" for name in ASKED}
    for name in ASKED:
        for item in families.draw_items(name, 6):
            assert item.messages[-1]["content"] in texts[f"core/{name}"]


def test_the_verdict_is_refused_where_a_family_is_missing_that_the_template_could_express(lab: Path):
    file = lab / "reports/eval/base/settings.json"
    described = storage.read_json(file)
    judged = {
        name: {key: suite[key] for key in ("role", "chance", "items")} for name, suite in described["suites"].items()
    }
    content = {"arms": {"same": {"suites": judged, "problems": []}}}
    assert list(provenance.changed_suites(content, ["same"])) == []
    try:
        storage.write_json(file, described | {"left_out": {}})
        assert "the suite 'core/tools' of params.yaml was not evaluated" in provenance.changed_suites(content, [])
    finally:
        storage.write_json(file, described)


def test_a_family_s_margin_may_be_given_though_the_template_lacks_it():
    described = {"core/facts": {"role": "general", "chance": 0.0, "items": 6, "before": None}}
    gate.check_suite_margins(Gate(suite_margins={"core/tools": 0.05, "core/facts": 0.05}), described)
    assert set(thresholds.margins(Gate(suite_margins={"core/tools": 0.05}), described)) == {"core/facts"}


def family_items(name: str, right: int, items: int = 96) -> list[dict[str, Any]]:
    return [
        dict(
            id=f"core/{name}/{n:03d}",
            suite=f"core/{name}",
            item_id=f"{n:03d}",
            item_group=None,
            item_hash="h",
            prompt_hash="p",
            correct=float(n < right),
            prompt="?",
            target="!",
            response=str(n),
        )
        for n in range(items)
    ]


def decide(before: dict[str, int], after: dict[str, int]) -> dict[str, Any]:
    described = {f"core/{name}": {"role": "general", "chance": 0.0, "items": 96, "written": True} for name in before}
    sides = [
        {f"core/{n}": records.to_table("items", family_items(n, right)) for n, right in side.items()}
        for side in (before, after)
    ]
    return gate.compare(
        Gate(resamples=500, min_domain_gain=-1), described, sides[0].__getitem__, sides[1].__getitem__, []
    )


def test_a_lost_family_fails_and_is_named_first():
    before = dict.fromkeys(("refusals", "turns", "tools", "facts"), 80)
    arm = decide(before, before | {"tools": 10, "refusals": 50})
    assert arm["verdict"] == "fail"
    reason = next(one for one in arm["reasons"] if one.startswith("suites that dropped"))
    assert reason.index("core/tools") < reason.index("core/refusals") and "core/turns" not in reason
    assert decide(before, before)["verdict"] == "pass"


def test_families_that_a_weak_base_cannot_do_are_set_aside_and_do_not_stop_the_verdict():
    before = {"refusals": 2, "tools": 1, "arithmetic": 0, "turns": 1, "facts": 70, "over_refusals": 90}
    arm = decide(before, before)
    assert arm["verdict"] == "pass"
    assert arm["suites"]["core/refusals"]["verdict"] == fields.SET_ASIDE
    assert any("core/refusals is set aside" in reason for reason in arm["reasons"])
    assert decide(dict.fromkeys(before, 1), dict.fromkeys(before, 1))["verdict"] == "cannot-compare"


def test_core_takes_no_metric_of_its_own():
    with pytest.raises(ValueError, match="takes no more than"):
        Evaluate.model_validate(SECTION | {"suites": {"core": {"role": "domain"}}})
