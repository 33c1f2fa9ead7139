"""Several trainings of one method judged together: by hand, against scipy, simulated, and through gate.json and page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from gate_project import ARMS, decide, make_project, write_evaluation, write_lock
from scipy import stats

from holdfast.commands import gate as command
from holdfast.core.errors import UserError
from holdfast.params.finetune import Arm, Finetune
from holdfast.params.gate import Gate
from holdfast.params.whole import Params
from holdfast.reporting import exports, findings
from holdfast.training import job
from holdfast.verdict import provenance, simulation, summary, trainings

PARAMS = Gate(min_domain_gain=-1.0)


@pytest.mark.parametrize("freedom", [1.0, 1.5, 2.0, 4.0, 9.0, 33.3, 1e3])
def test_student_s_quantiles_are_scipy_s(freedom: float) -> None:
    for probability in (0.8, 0.95, 0.975, 0.9995):
        expected = stats.t.ppf(probability, freedom)
        assert trainings.student_quantile(probability, freedom) == pytest.approx(expected, rel=1e-7)
    assert trainings.student_quantile(0.975, math.inf) == pytest.approx(1.959964, rel=1e-6)


def test_a_spread_by_hand() -> None:
    """Changes -1, 0, 1, 2 points: mean 0.5, standard deviation 1.291; items 0.5: sqrt(0.25 + 1.6667 / 4) = 0.8165; degrees of
    freedom 3 x (0.66667 / 0.41667)^2 = 7.68."""
    found = trainings.measure_spread([-0.01, 0.0, 0.01, 0.02], [0.004, 0.006, 0.005, 0.005])
    assert found.mean == pytest.approx(0.005) and found.between == pytest.approx(0.0129099, rel=1e-5)
    assert found.error == pytest.approx(0.00816497, rel=1e-5) and found.freedom == pytest.approx(7.68)
    assert found.half_width(0.95) == pytest.approx(0.00816497 * stats.t.ppf(0.95, 7.68), rel=1e-6)
    same = trainings.measure_spread([0.01, 0.01], [0.005, 0.005])
    assert same.freedom == math.inf, "trainings that do not differ leave the items alone"


def test_without_a_true_change_a_method_seldom_fails_however_much_its_trainings_differ() -> None:
    """Standard deviations between trainings of 1.5 and 3 points; 8 % leave room for 100 runs' own noise."""
    for between in (0.015, 0.03):
        alone = simulation.simulate_trainings(PARAMS, 5, 250, 0.06, between, 1, 100)
        several = simulation.simulate_trainings(PARAMS, 5, 250, 0.06, between, 5, 60)
        assert several["fail"] <= 0.08 < alone["fail"] + 0.02 and several["fail"] < alone["fail"]


def test_a_drop_past_the_margin_is_shown_by_five_trainings() -> None:
    found = simulation.simulate_trainings(PARAMS, 5, 250, 0.06, 0.015, 5, 40, drop=0.05)
    assert found["fail"] >= 0.95 and found["pass"] == 0


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Evaluations of three trainings of `holdfast`; the third lost 14 % of its general items, which alone is a fail."""
    folder = make_project(tmp_path / "project")
    monkeypatch.setitem(ARMS, "holdfast-2", (0.0, 0.6))
    monkeypatch.setitem(ARMS, "holdfast-3", (0.14, 0.6))
    for name in ("holdfast-2", "holdfast-3"):
        write_evaluation(folder / "reports/eval" / name, name)
    monkeypatch.chdir(folder)
    return folder


def retrain(project: Path, seeds: tuple[int, ...] = (2, 3), **gate: Any) -> dict[str, Any]:
    params = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    params["retrain"] = {"arms": ["holdfast"], "seeds": list(seeds)}
    params["gate"] |= gate
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    content = decide(project)
    write_lock(project)
    return content


def test_one_bad_training_of_three_is_no_proof_against_the_method(project: Path) -> None:
    alone = retrain(project, ())
    assert (alone["verdict"], alone["methods"], list(alone["arms"])) == ("pass", {}, ["domain-only", "holdfast"])
    content = retrain(project)
    assert content["arms"]["holdfast-3"]["verdict"] == "fail"
    method = content["methods"]["holdfast"]
    assert method["arms"] == ["holdfast", "holdfast-2", "holdfast-3"]
    changes = [content["arms"][name]["general"]["change"] for name in method["arms"]]
    assert method["general"]["change"] == pytest.approx(np.mean(changes), rel=1e-4)
    assert method["general"]["between"] == pytest.approx(np.std(changes, ddof=1), rel=1e-4)
    assert content["verdict"] == method["verdict"] == "cannot-compare", "nor does it show that the method holds"
    assert "yet no drop is shown either: train with more seeds" in method["reasons"][0]
    assert command.main(None) == 2 and not provenance.find_mismatches(content), "derived anew without items"


def test_a_margin_wide_enough_for_seeds_and_items_passes(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = retrain(project, margin=0.4, suite_margin=0.5)
    assert (content["verdict"], content["methods"]["holdfast"]["verdict"]) == ("pass", "pass")
    assert command.main(None) == 0
    assert "3 trainings of holdfast: general " in capsys.readouterr().out
    cases = {(case.group, case.name): case.outcome for case in exports.list_cases(content)}
    assert cases["3 trainings of holdfast", "verdict"] == "passed"


def test_a_training_that_cannot_be_compared_spoils_the_method(project: Path) -> None:
    write_evaluation(project / "reports/eval/holdfast-2", "holdfast-2", engine={"seed": 7})
    content = retrain(project, margin=0.4, suite_margin=0.5)
    assert content["methods"]["holdfast"]["verdict"] == "cannot-compare"
    assert content["methods"]["holdfast"]["reasons"] == ["trainings that cannot be compared with the base: holdfast-2"]


def test_what_is_trained_again_must_be_arms_and_each_seed_another(project: Path) -> None:
    with pytest.raises(UserError, match="seed '2' twice"):
        retrain(project, (2, 2))
    params = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))
    for changed, words in (
        ({"retrain": {"arms": ["another"], "seeds": [2]}}, "'another', which is not one of arms"),
        ({"retrain": {"arms": ["domain-only"], "seeds": [2]}}, "the control 'domain-only', which decides nothing"),
        (
            {"arms": ["domain-only", "holdfast", "holdfast-2"], "retrain": {"arms": ["holdfast"], "seeds": [2]}},
            "is taken",
        ),
    ):
        content = params | changed
        for section in ("mix", "finetune"):
            content[section]["arms"]["holdfast-2"] = content[section]["arms"]["holdfast"]
        with pytest.raises(UserError) as caught:
            Params.from_text(yaml.safe_dump(content))
        assert words in str(caught.value)


def test_a_training_that_is_added_removed_or_not_the_evaluated_one_is_found(project: Path) -> None:
    content = retrain(project, margin=0.4, suite_margin=0.5)
    assert not provenance.find_mismatches(content)
    file = project / "params.yaml"
    text = file.read_text(encoding="utf-8")
    for before, after, words in (
        ("- 3\n", "- 3\n  - 4\n", "the arm 'holdfast-4' of params.yaml has no verdict"),
        ("  - 3\n", "", "the verdict is on an arm 'holdfast-3', which params.yaml does not name"),
    ):
        file.write_text(text.replace(before, after, 1), encoding="utf-8")
        assert words in provenance.find_mismatches(content)
    file.write_text(text, encoding="utf-8")
    lock = project / "dvc.lock"
    lock.write_text(lock.read_text(encoding="utf-8").replace("holdfast-3.dir", "other.dir", 1), encoding="utf-8")
    assert any("models/holdfast-3 was evaluated as another" in reason for reason in provenance.find_mismatches(content))


def test_a_number_of_the_method_that_is_edited_is_found(project: Path) -> None:
    content = retrain(project)
    content["methods"]["holdfast"]["verdict"] = "pass"
    assert any("methods.holdfast.verdict is 'pass'" in reason for reason in provenance.find_mismatches(content))


def test_the_report_says_whether_it_speaks_of_models_or_of_a_method(project: Path) -> None:
    run = findings.Run(gate=decide(project), pairs=None, settings={})  # type: ignore[arg-type]
    assert "the verdict is on the models that were trained" in findings.describe_trainings(run)
    run = findings.Run(gate=retrain(project, margin=0.4, suite_margin=0.5), pairs=None, settings={})  # type: ignore[arg-type]
    word, claim, backing = findings.headline(run)
    assert word == "PASS" and claim.startswith("holdfast over 3 trainings loses ") and "limit 40.0" in claim
    assert "standard deviation between trainings" in backing
    assert findings.explanation(run).endswith(
        "The verdict is on holdfast over 3 trainings: bounds cover the choice of items and of seeds."
    )
    assert findings.deciding_arm(run) in ARMS


def test_a_further_training_has_the_seed_that_dvc_yaml_gives() -> None:
    params = Finetune(arms={"one": Arm()}, max_length=64, learning_rate=1e-3, batch_size=8, seed=1)
    assert [job.use_seed(params, seed).seed for seed in (None, "7", "0")] == [1, 7, 0]
    for seed in ("-1", "x", str(2**31), "1.0"):
        with pytest.raises(UserError, match="is no seed"):
            job.use_seed(params, seed)


def test_a_further_training_orders_the_rows_of_each_epoch_by_its_seed() -> None:
    rows: list = [{"epoch": epoch, "id": f"{epoch:04d}-{n:02d}"} for epoch in range(2) for n in range(20)]
    assert job.order_rows(rows, None) == rows, "the order of the mixture"
    second, third = job.order_rows(rows, "2"), job.order_rows(rows, "3")
    assert [row["epoch"] for row in second] == [row["epoch"] for row in rows]
    assert sorted(second, key=lambda row: row["id"]) == sorted(third, key=lambda row: row["id"]) == rows
    assert second != rows and second != third and second == job.order_rows(rows[::-1], "2")


def test_dvc_yaml_has_a_stage_for_each_further_training_and_none_as_cloned(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    params = Params.load(root / "params.yaml")
    assert params.trainings == {"domain-only": ["domain-only"], "holdfast": ["holdfast"]}, "as cloned, one each"
    stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    again = stages["finetune-retrain"]
    assert again["matrix"] == {"arm": "${retrain.arms}", "seed": "${retrain.seeds}"}
    assert again["params"] == stages["finetune"]["params"], "it depends on what the first training depends on"
    assert again["deps"] == stages["finetune"]["deps"]


def test_the_verdict_s_table_reads_a_verdict_of_before(project: Path) -> None:
    content = decide(project)
    del content["methods"]
    assert "verdict: pass" in summary.table(content)
