"""`share: auto` and `learning_rate: auto`: the fit finds what made the runs, the stage chooses by short runs, and an arm with numbers of
its own costs nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, candidate, run_stage, set_params

from holdfast.chat import encoding
from holdfast.core import manifest, records, storage
from holdfast.core.errors import UserError
from holdfast.reporting import share_report
from holdfast.reporting.findings import Run
from holdfast.training import base_logprobs, held_out, pilot_runs, rate_choice, share_fit
from holdfast.training.rate_choice import RateRun

SHARES, PARTS = [0.05, 0.2, 0.5], [0.1, 0.3]
A, B, C = np.log(0.02), -0.5, 0.4  # log D = A + B log(share) + C log(part)


def runs(slope: float = B, noise: float = 0.0, items: int = 400) -> share_fit.Runs:
    share, part = (axis.ravel() for axis in np.meshgrid(SHARES, PARTS))
    random = np.random.default_rng(0)
    drop = np.exp(A + slope * np.log(share) + C * np.log(part) + noise * random.standard_normal(6))
    weight = np.full(items, 4.0)
    gained = (2 + 0.3 * np.log(part) - 0.1 * np.log(share))[:, None] * np.full(items, 3.0)
    return share_fit.Runs(share, part, np.ones(6), drop[:, None] * weight, weight, gained, np.full(items, 3.0))


def test_the_fit_gives_back_the_law_that_made_the_runs():
    fit = share_fit.fit_runs(runs(), 0.947, 0.8, 0)
    by_hand = (0.053 / 0.02) ** (1 / B)  # of D = 0.02 share ** B at the whole length: 0.142
    assert share_fit.choose_share(fit, 0.5) == (0.15, True)
    assert by_hand == pytest.approx(0.1424, abs=1e-4)
    expected = 1 - 0.02 * fit.shares**B
    assert fit.retention[1] == pytest.approx(expected, abs=1e-6)
    assert fit.gain[1] == pytest.approx(2 - 0.1 * np.log(fit.shares), abs=1e-6)
    assert fit.residual == pytest.approx(0, abs=1e-9)


def test_noise_between_runs_widens_the_interval_and_raises_the_choice():
    calm, noisy = (share_fit.fit_runs(runs(noise=noise), 0.95, 0.8, 0) for noise in (0.0, 0.2))
    assert np.ptp(noisy.retention[:, 3]) > 10 * np.ptp(calm.retention[:, 3])
    assert share_fit.choose_share(noisy, 0.95)[0] > share_fit.choose_share(noisy, 0.5)[0]


def test_noise_between_items_widens_it_too():
    even = runs()
    random = np.random.default_rng(1).exponential(size=even.lost.shape[1])
    odd = share_fit.Runs(
        even.share, even.length, even.rate, even.lost * random, even.weight, even.gained, even.domain_weight
    )
    few = share_fit.Runs(
        even.share, even.length, even.rate, odd.lost[:, :20], even.weight[:20], even.gained, even.domain_weight
    )
    width = [np.ptp(share_fit.fit_runs(one, 0.95, 0.8, 0).retention[:, 3]) for one in (even, odd, few)]
    assert width[0] < width[1] < width[2]


@pytest.mark.parametrize(("target", "slope"), [(0.999, B), (0.985, 0.5)])
def test_a_target_that_no_share_meets_takes_the_largest_and_says_so(target, slope):
    assert share_fit.choose_share(share_fit.fit_runs(runs(slope), target, 0.6, 0), 0.8) == (0.6, False)


def test_a_target_that_the_smallest_share_meets_takes_it():
    assert share_fit.choose_share(share_fit.fit_runs(runs(), 0.5, 0.8, 0), 0.95) == (0.05, True)


def test_other_learning_rates_have_their_own_curve():
    one = runs()
    rate = np.repeat([1.0, 2.0], 6)
    lost = np.concatenate([one.lost, one.lost * 2**1.5])
    both = share_fit.Runs(
        np.tile(one.share, 2),
        np.tile(one.length, 2),
        rate,
        lost,
        one.weight,
        np.tile(one.gained, (2, 1)),
        one.domain_weight,
    )
    for r in (1.0, 2.0, 4.0):
        found = share_fit.fit_runs(both, 0.9, 0.8, 0, r)
        assert found.retention[1] == pytest.approx(1 - np.minimum(0.02 * r**1.5 * found.shares**B, 1), abs=1e-6)


def test_what_moved_is_the_total_variation_distance():
    base, tuned = torch.tensor([[0.5, 0.3, 0.1, 0.1]]), torch.tensor([[0.4, 0.2, 0.1, 0.3]])
    kept = torch.tensor([[0, 1, 2, 3]]), base.log()
    assert held_out.total_variation(*kept, tuned.log() + 3).item() == pytest.approx(0.2, rel=1e-5)
    two = torch.tensor([[0, 1]]), base[:, :2].log()
    assert held_out.total_variation(*two, tuned.log()).item() == pytest.approx(0.2, rel=1e-5)
    assert held_out.total_variation(*two, base.log()).item() == pytest.approx(0, abs=1e-6)


def test_held_out_rows_are_measured_each_by_itself(tiny, project, monkeypatch):
    """Row by row and without padding, the same numbers; the base itself has not moved."""
    monkeypatch.setattr(held_out, "MAX_BATCH_TOKENS", 64)
    tokenizer, model = manifest.load_tokenizer(tiny), manifest.load_model(tiny, "float32")
    rows = [encoding.encode(tokenizer, encoding.turns(f"What is {n}?", "one two " * (n + 1))) for n in range(7)]
    store = base_logprobs.Store("x", "float32", 4096)
    table, _ = base_logprobs.build_table(store, [ids for ids, _ in rows], lambda: model)
    other = manifest.load_model(tiny, "float32")
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.05 * torch.randn_like(weight)
    found, itself = held_out.outcomes(other, rows, table), held_out.outcomes(model, rows, table)
    for (ids, mask), one, same in zip(rows, found, itself, strict=True):
        with torch.no_grad():
            after, before = (m(torch.tensor([ids])).logits[0, :-1].log_softmax(-1) for m in (other, model))
        where = [t - 1 for t, on in enumerate(mask) if on]
        answer, after, before = torch.tensor(ids)[1:][where], after[where], before[where]
        assert one.tokens == sum(mask)
        assert one.logprob == pytest.approx(after.gather(1, answer[:, None]).sum().item(), rel=1e-4)
        assert one.right == (after.argmax(1) == answer).sum()
        assert one.same == (after.argmax(1) == before.argmax(1)).sum() < one.tokens
        assert one.kl == pytest.approx((before.exp() * (before - after)).sum().item(), rel=1e-3)
        assert one.moved == pytest.approx((before.exp() - after.exp()).abs().sum().item() / 2, rel=1e-3)
        assert (same.same, same.kl, same.moved) == (same.tokens, pytest.approx(0, abs=1e-4), pytest.approx(0, abs=1e-4))


@pytest.fixture
def run(project: Path, base: Path):
    """run(share, pilot params, replay rows, domain rows) -> reports/pilot/arm.json of a tiny model."""

    def pilot(share: object = "auto", replay: int = 60, domain: int = 60, rate: object = 3e-3, **params) -> dict:
        rows = []
        for n in range(domain):
            turns = [{"role": "user", "content": f"Domain {n}?"}, {"role": "assistant", "content": f"{n} red foxes"}]
            rows.append(dict(id=f"d{n:03d}", messages=turns, group="", source=f"train.jsonl:{n + 1}"))
        records.write("domain", project / "data/domain/train.parquet", rows)
        kept = [{**candidate(f"r{n:03d}", f"What is {n}?", f"{n} and {n}"), "difficulty": 0} for n in range(replay)]
        records.write("replay", project / "data/replay/replay.parquet", kept)
        tuning = dict(arms={"arm": {"objective": "kl"}}, learning_rate=rate, batch_size=8, bf16=False, processes=1)
        mixing = {"arms": {"arm": {"share": share}}, "epochs": 1}
        set_params(project, pilot={"parts": [0.25], **params}, mix=mixing, finetune=tuning)
        run_stage("pilot", "arm")
        return storage.read_json(project / "reports/pilot/arm.json")

    return pilot


def test_a_pilot_tries_its_shares_and_the_mixture_takes_what_it_chose(run, project, base, monkeypatch, capsys):
    found = run(shares=[0.1, 0.5], retention_target=0.9)
    assert [(one["share"], one["part"], one["rate"]) for one in found["runs"]] == [(0.1, 0.25, 1.0), (0.5, 0.25, 1.0)]
    assert found["held_out"] == {"replay": 12, "domain": 12}
    for one in found["runs"]:
        assert one["steps"] > 0
        assert one["gain"] > 0  # a text that was trained on is likelier
        assert 0 < one["retention"] < 1
    assert 0.1 <= found["share"] <= 0.83
    assert found["share"] == found["fits"]["1"]["share"]
    assert not list((project / ".cache/finetune").iterdir())
    set_params(project, mix={"arms": {"arm": {"share": "auto"}}, "max_repeats": 9})
    run_stage("mix", "arm")
    assert storage.read_json(project / "reports/mix/arm.json")["share"]["wanted"] == found["share"]
    assert storage.read_json(project / "reports/mix/arm.json")["share"]["chosen_by"] == "pilot"

    monkeypatch.setattr(
        pilot_runs, "measure_model", None
    )  # finished runs are kept: a kill costs the one that was under way
    before = (project / "reports/pilot/arm.json").read_bytes()
    run(shares=[0.1, 0.5], retention_target=0.9)
    assert (project / "reports/pilot/arm.json").read_bytes() == before


def test_no_run_has_seen_a_held_out_row(run, monkeypatch):
    plans = []

    def stop(plan):
        plans.append(plan)
        raise KeyboardInterrupt

    monkeypatch.setattr(pilot_runs, "run_pilots", stop)
    with pytest.raises(KeyboardInterrupt):
        run()
    for source in ("domain", "replay"):
        held, rest = ({row["source_id"] for row in rows[source]} for rows in (plans[0].held_out, plans[0].train))
        assert len(held) == 12
        assert len(rest) == 48
        assert not held & rest


def test_an_arm_with_a_share_of_its_own_runs_nothing_and_loads_nothing_heavy(run, project):
    assert run(0.3) == {"schema": 1, "arm": "arm", "asked": False, "share": None}
    code = "import sys; from stages import pilot; assert not {'torch', 'transformers', 'trl'} & set(sys.modules), sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("target", "rate", "met"),
    [
        (None, 3e-4, True),  # 1e-3 learns no more and keeps less
        (0.9, 3e-4, True),
        (0.95, 1e-4, True),  # what learns more keeps too little
        (0.99, 3e-4, False),  # none keeps it: as if nothing were asked
    ],
)
def test_of_the_rates_that_learn_as_much_the_one_that_keeps_most_is_taken(target, rate, met):
    runs = [RateRun(1e-4, 0.96, 2.0), RateRun(3e-4, 0.92, 3.0), RateRun(1e-3, 0.8, 3.05), RateRun(3e-3, 0.5, 1.0)]
    chosen, is_met = rate_choice.choose_rate(runs, target)
    assert (chosen.rate, is_met) == (rate, met)


def test_where_no_rate_learns_anything_the_least_harmful_is_taken():
    assert rate_choice.choose_rate([RateRun(1e-4, 0.96, -0.1), RateRun(3e-4, 0.92, -0.01)], None)[0].rate == 1e-4


def test_the_learning_rate_that_short_runs_choose_is_trained_with(run, project, capsys):
    pilot = run(0.3, rate="auto", rate_factors=[0.1, 1.0, 1e30])
    usual = pilot["rates"]["usual"]
    slow, usually, exploded = pilot["rates"]["runs"]
    assert (slow["rate"], usually["rate"]) == pytest.approx((0.1 * usual, usual))
    assert usually["gain"] > slow["gain"]
    assert exploded == {"rate": 1e30 * usual, "share": 0.3, "part": 0.25, "diverged": True}
    assert pilot["share"] is None
    assert pilot["learning_rate"] in (slow["rate"], usually["rate"])
    printed = capsys.readouterr().out
    assert f"arm: learning rate {pilot['learning_rate']:g} after short runs at " in printed
    assert "(diverged)" in printed
    run_stage("mix", "arm")
    run_stage("finetune", "arm")
    assert storage.read_json(project / "reports/training/arm/ledger.json")["learning_rate"] == pilot["learning_rate"]

    gate = {"arms": {"arm": {}}, "verdict": "pass"}
    text = "".join(share_report.sections(Run(gate=gate, pairs=None, settings={}, pilots={"arm": pilot})))
    assert "Learning rate chosen by short runs. arm: learning rate" in text
    assert "<circle" not in text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            dict(share=0.3, rate="auto", replay=20),
            "finetune.arms.arm: learning_rate: auto: 4 rows of the replay set .*\n  .*set finetune.arms.arm.learning_rate to a number",
        ),
        (
            dict(replay=20),
            "4 rows of the replay set can be held out .*\n  raise reconstruct.samples and balance.rows, or set mix.arms.arm.share",
        ),
        (
            dict(domain=20),
            "4 rows of the domain set can be held out .*\n  set mix.arms.arm.share to a number, such as 0.25",
        ),
        (dict(held_out=4), "4 rows of the replay set can be held out.*\n  raise pilot.held_out to 10 or more"),
        (dict(shares=[0.95, 0.97]), "fewer than two of pilot.shares"),
    ],
)
def test_too_little_data_for_a_pilot_is_said_before_anything_is_trained(run, project, settings, said):
    with pytest.raises(UserError, match=said) as caught:
        run(**settings)
    assert "mix.arms.arm: share: auto" in str(caught.value) or "rate" in settings
    assert len(str(caught.value).splitlines()) <= 3
    assert not (project / "reports").exists()


def test_a_pilot_under_torchrun_says_that_it_starts_processes_itself(run, project, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="starts its own processes"):
        run()
    assert not (project / "reports").exists()


def test_a_mixture_without_its_pilot_says_what_to_run(run, project, base):
    run(0.3)
    set_params(project, mix={"arms": {"arm": {"share": "auto"}}})
    with pytest.raises(UserError, match="holds no share[\\s\\S]*dvc repro"):
        run_stage("mix", "arm")
    assert not (project / "data/mixes").exists()


def test_the_report_shows_the_fit_the_target_and_the_choice():
    fit = share_fit.fit_runs(runs(), 0.947, 0.8, 0)
    tried = [{"share": s, "part": 0.3, "rate": 1.0, "retention": 0.97} for s in SHARES]
    settings = {"retention_target": 0.947, "confidence": 0.8}
    chosen = {"schema": 1, "arm": "<b>", "asked": True, "share": 0.15, "met": True, "most": 0.8, "runs": tried}
    found = {**chosen, "settings": settings, "fits": {"1": share_fit.describe(fit, 0.8)}}
    mixed = {
        "replay": {"rows": 50, "most_uses": 3},
        "rewritten": {"answers": 9, "rewritten": 4, "base_logprob": {"gold": -2.0, "taken": -1.0}},
    }
    gate = {"arms": {"<b>": {}}, "verdict": "pass"}
    run = Run(gate=gate, pairs=None, settings={}, pilots={"<b>": found}, mixes={"<b>": mixed})
    text = "".join(share_report.sections(run))
    assert "share 15%" in text
    assert "15% to 15% (90 % interval)" in text
    assert text.count("<circle") == len(SHARES)
    assert "each of 50 replay rows is trained on up to 3 times" in text
    assert "4 of 9 domain answers" in text
    assert "<b>" not in text.replace("<figcaption><b>", "")  # an arm's name is text
    assert share_report.sections(Run(gate=gate, pairs=None, settings={})) == []


def test_the_plan_counts_the_short_runs_and_the_rewriting():
    from holdfast.params.base import parse, read_yaml
    from holdfast.params.whole import Params
    from holdfast.planning import costs

    content = read_yaml(ROOT / "params.yaml")
    content["arms"] = ["holdfast"]
    content["gate"]["control"] = None
    content["mix"]["arms"]["holdfast"] |= {"share": "auto", "targets": "rewritten"}
    content["finetune"]["arms"]["holdfast"]["learning_rate"] = "auto"
    given = parse(Params, content)
    works = {one.stage: one for one in costs.plan_work(given, costs.Domain(100, 1000, 500, 10), costs.Means(), 50)}
    assert works["pilot@holdfast"].trained == pytest.approx((0.4 * 3 + 0.3 * 3) * works["finetune@holdfast"].trained)
    assert works["mix@holdfast"].written == 2 * 4 * 500
