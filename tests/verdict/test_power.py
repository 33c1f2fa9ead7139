"""Power before a run: by hand, against simulated arms, and what it says of a base at chance or at its ceiling."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gate_project import make_project
from helpers import run_stage

from holdfast.commands import doctor
from holdfast.commands import gate as command
from holdfast.core import records, storage
from holdfast.core.errors import UserError
from holdfast.params.evaluate import DOMAIN_TEST, Evaluate
from holdfast.params.gate import Gate
from holdfast.params.ingest import Ingest
from holdfast.planning import prospects
from holdfast.verdict import baseline, pooling, power, precision
from holdfast.verdict.power import Suite

PARAMS = Gate(min_domain_gain=-1.0)


def five(items: int = 250, **more: float) -> dict[str, Suite]:
    one = Suite("general", 0.0, items, changed=0.12, assumed=True, before=0.7, guessing=0.0)
    return {f"suite{n}": replace(one, **more) for n in range(5)}


def test_by_hand() -> None:
    """1,250 items of which 12 % change: standard error 0.98 points; z(0.95) = 1.645, z(0.975) + z(0.8) = 2.802."""
    score = power.assess(PARAMS, five()).scores[0]
    assert score.error == score.edge == pytest.approx(0.0097980, rel=1e-4)
    assert score.detectable == pytest.approx(2.8016 * 0.0097980, rel=1e-4)
    assert score.passes == pytest.approx(0.92176, abs=1e-4)  # Phi((0.03 - 1.6449 x 0.009798) / 0.009798) = Phi(1.417)
    assert score.slips < 0.001
    # (1.6449 + 1.6449)^2 x 0.12 / 0.03^2 = 1,443 items, the sample size of paired non-inferiority
    assert score.missing == 1443 - 1250


def test_as_many_items_more_as_it_says_are_enough() -> None:
    score = power.assess(PARAMS, five(200)).scores[0]
    assert score.passes < power.LIKELY
    more = power.assess(PARAMS, five(-(-(score.items + score.missing) // 5))).scores[0]
    assert more.missing == 0 and more.passes >= power.LIKELY


@pytest.mark.parametrize(("drop", "changed"), [(0.0, 0.12), (0.015, 0.12), (0.03, 0.12), (0.045, 0.12)])
def test_the_probability_to_pass_is_that_of_simulated_arms(drop: float, changed: float) -> None:
    """4,000 arms of five suites of 250 items, lost and gained drawn per item, through the verdict's own decision."""
    rng = np.random.default_rng(3)
    lost, gained = (changed + drop) / 2, (changed - drop) / 2
    cells = rng.multinomial(250, [lost, gained, 1 - lost - gained], size=(4000, 5))
    changes = (cells[..., 1] - cells[..., 0]).mean(axis=1) / 250
    observed = (cells[..., 0] + cells[..., 1] + 1) / 252
    passed = 0
    for change, discordances in zip(changes, observed, strict=True):
        error = precision.standard_error([250] * 5, discordances, [0.0] * 5)
        edge = precision.standard_error([250] * 5, discordances, [0.0] * 5, 0.03)
        score = {"change": change, "bound": change - precision.half_width(error, 0.95), "before": 0.7, "items": 1250}
        score |= {"after": 0.7 + change, "error": error, "edge": edge}
        passed += pooling.drop_reasons("general", score, 0.03, 0.95, 0.975) == ([], [])
    error = precision.standard_error([250] * 5, [changed] * 5, [0.0] * 5)
    assert passed / 4000 == pytest.approx(power.passing(drop, 0.03, error, error, 0.95), abs=0.03)


def test_an_arm_that_rose_holds_however_wide_the_interval() -> None:
    """Few groups, a standard error above the margin, and a score that rose by more than that makes up for."""
    score = {"change": 0.05, "bound": 0.01, "before": 0.7, "after": 0.75, "items": 250, "error": 0.024, "edge": 0.024}
    assert pooling.drop_reasons("general", score, 0.03, 0.95, 0.975) == ([], [])
    level = score | {"change": 0.0, "bound": -0.04, "after": 0.7}
    assert pooling.drop_reasons("general", level, 0.03, 0.95, 0.975)[1], "and one that did not is not shown to hold"


def test_passages_are_fewer_than_their_questions() -> None:
    alone, grouped = five(), five(changed=0.6, group_size=5.0)
    known = [power.assess(PARAMS, suites).scores[0] for suites in (alone, grouped)]
    assert known[1].error == pytest.approx(5**0.5 * known[0].error)
    assert known[1].missing > 5 * known[0].missing > 0


def test_a_base_at_chance_is_set_aside_and_too_few_suites_block() -> None:
    guessing = Suite("general", 0.5, 250, 0.1, assumed=True, before=0.5, guessing=0.5)
    outlook = power.assess(PARAMS, five() | {"coin": guessing})
    assert list(outlook.set_aside) == ["coin"] and not outlook.blocked
    assert outlook.scores[0].items == 1250, "the others make up the score"
    blocked = power.assess(PARAMS, {"facts": five()["suite0"], "coin": guessing, "dice": guessing})
    assert "1 of 3 general suites can show forgetting" in blocked.blocked[0]


def test_families_of_the_core_suite_at_chance_block_nothing_while_others_are_left() -> None:
    """No base has them all: of 4, 3 at chance, the one that is left decides; the same of other suites stops the run."""
    guessing = Suite("general", 0.5, 96, 0.1, assumed=True, before=0.5, guessing=0.5)
    families = {f"core/{name}": guessing for name in ("tools", "code", "languages")}
    assert not power.assess(PARAMS, {"core/facts": five()["suite0"]} | families).blocked
    assert power.assess(PARAMS, families).blocked, "not even one is left"
    plain = {name.removeprefix("core/"): suite for name, suite in families.items()}
    assert power.assess(PARAMS, {"facts": five()["suite0"]} | plain).blocked


def test_a_domain_gain_that_is_not_there_to_be_had() -> None:
    domain = {"pharmacy": Suite("domain", 0.0, 250, 0.1, assumed=True, before=0.9)}
    outlook = power.assess(Gate(min_domain_gain=0.2), five() | domain)
    assert "already has 90.0 points" in outlook.blocked[0]
    assert not power.assess(Gate(min_domain_gain=0.05), five() | domain).blocked


def test_the_base_s_evaluation_and_its_groups_are_read(tmp_path: Path) -> None:
    items = [
        {"id": f"facts/{n}", "suite": "facts", "item_id": str(n), "item_hash": "h", "prompt_hash": "p", "prompt": "q"}
        | {"target": "t", "response": "r", "correct": float(n < 30), "item_group": f"passage {n // 4}"}
        for n in range(40)
    ]
    records.write("items", tmp_path / "items.parquet", items)
    described = {"facts": {"role": "general", "chance": 0.0, "items": 40, "metric": "exact_match"}}
    storage.write_json(tmp_path / "settings.json", {"schema": 1, "model": "base", "engine": {}, "suites": described})
    suite = baseline.read_suites(tmp_path)["facts"]
    assert (suite.before, suite.group_size, suite.items) == (0.75, 4.0, 40)
    assert suite.changed == 4 * power.CHANGED and suite.assumed


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_project(tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def test_gate_power_prints_suites_scores_and_what_is_assumed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.print_power()
    shown = capsys.readouterr().out
    assert "judging" in shown and "general score: 600 items show a drop of" in shown
    assert "assumed" not in shown, "the verdict that is here says how many items change"
    Path("reports/gate.json").unlink()
    command.print_power()
    assert "10% of the items are assumed to change" in capsys.readouterr().out


def test_doctor_says_what_is_missing_and_what_no_arm_can_reach(project: Path) -> None:
    outlook = prospects.survey_suites(Gate(margin=0.005), Evaluate.load())
    assert outlook.power.scores[0].missing > 0
    assert any("items more would make that 95%" in line for line in prospects.summarise(outlook))

    class Project:
        gate, evaluate, ingest = Gate(min_base=0.95), Evaluate.load(), None

    lines = list(doctor.check_power(Project()))  # type: ignore[arg-type]
    assert (doctor.NEEDED, lines[-1][1]) == lines[-1] and "no arm can pass" in lines[-1][1]


def test_a_domain_whose_test_split_is_not_made_yet_blocks_nothing(tmp_path: Path, monkeypatch) -> None:
    """A project just made by `holdfast init`: doctor said that no arm could pass, for want of a domain suite."""
    monkeypatch.chdir(tmp_path)
    asked = Evaluate(tasks="data", suites={"facts": {"role": "general"}}, domain_test="exact_match")
    assert not prospects.survey_suites(Gate(min_domain_gain=0.02), asked).power.blocked
    no_domain = asked.model_copy(update={"domain_test": "off"})
    assert prospects.survey_suites(Gate(min_domain_gain=0.02), no_domain).power.blocked


@pytest.mark.parametrize(("test", "counted"), [(None, 4), ({"path": "test.jsonl"}, 7)], ids=["a tenth", "a file"])
def test_the_domain_s_test_split_is_counted_from_its_source(tmp_path: Path, test: dict | None, counted: int) -> None:
    for name, rows in (("train", 40), ("test", 7)):
        lines = [json.dumps({"prompt": f"{n}?", "completion": "a"}) + "\n" for n in range(rows)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    ingest = Ingest(folder=str(tmp_path), train={"path": "train.jsonl"}, test=test)  # type: ignore[arg-type]
    suites, uncounted = prospects.count_suites(
        [DOMAIN_TEST], Evaluate(tasks="data", suites={"core": {"role": "general"}}, domain_test="exact_match"), ingest
    )
    assert (suites[DOMAIN_TEST].items, uncounted) == (counted, [])
    nowhere = ingest.model_copy(update={"folder": "nowhere"})
    assert prospects.count_suites(
        [DOMAIN_TEST], Evaluate(tasks="data", suites={"core": {"role": "general"}}, domain_test="exact_match"), nowhere
    )[1] == [DOMAIN_TEST]


def test_the_pipeline_stops_before_training_where_no_arm_could_pass(project: Path) -> None:
    run_stage("baseline")
    assert storage.read_json(project / "reports/baseline.json") == {"schema": 1, "measurable": True}
    (project / "reports/baseline.json").unlink()
    text = (project / "params.yaml").read_text(encoding="utf-8")
    (project / "params.yaml").write_text(
        text.replace("margin: 0.05", "margin: 0.05\n  min_base: 0.95"), encoding="utf-8"
    )
    with pytest.raises(UserError, match="general suites can show forgetting"):
        run_stage("baseline")
    assert not (project / "reports/baseline.json").exists()
