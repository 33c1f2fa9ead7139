"""`holdfast plan`: what flows through the stages by hand arithmetic, the rule for a named device, and a measurement that looks sane."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import ROOT, set_params

from holdfast.commands import plan
from holdfast.core import storage
from holdfast.core.errors import UserError
from holdfast.core_suite.families import FAMILIES
from holdfast.engines import local
from holdfast.engines.interface import Completion
from holdfast.params.base import STAGES
from holdfast.params.evaluate import Evaluate
from holdfast.params.models import Model
from holdfast.params.whole import Params
from holdfast.planning import costs, devices, earlier, generation_speed, kinds, shapes
from holdfast.planning.costs import Domain, Means, Rates, Work

MEANS = Means(turn=10, answer=20, kept=0.5, distinct=0.25, prefix=5)
DOMAIN = Domain(rows=100, tokens=3000, answers=1000, items=40)


@pytest.fixture
def settings(project: Path) -> Params:
    set_params(
        project,
        panel=["base", "abacus"],
        reconstruct__samples=1000,
        respond__k=2,
        balance__rows=400,
        mix__epochs=2,
        mix__arms={"domain-only": {"share": 0.0}, "holdfast": {"share": 0.5}},
        mix__max_repeats=4,
        finetune__arms={"domain-only": {"objective": "ce"}, "holdfast": {"objective": "kl"}},
    )
    set_params(project, judge={"rubric": "data/pocket/rubric.txt", "adaptive": False}, evaluate__self_suite={"rows": 0})
    return Params.load()


def by_stage(works: list[Work]) -> dict[str, Work]:
    return {one.stage: one for one in works}


def test_rows_and_tokens_of_every_stage_by_hand(settings):
    work = by_stage(costs.plan_work(settings, DOMAIN, MEANS, rubric=30))
    assert work["reconstruct"] == Work("reconstruct", "base", 1000, written=10_000, read=5000)
    assert work["curate"].read == 10_000
    assert work["respond@abacus"] == Work(
        "respond@abacus", "abacus", 1000, written=20_000, read=15_000
    )  # 500 kept, 2 each
    pairs = 500 * 2 * 2 * 0.25
    assert work["judge@abacus"] == Work("judge@abacus", "abacus", pairs, read=pairs * (30 + 35))
    assert work["judge@base"].read == pairs * (30 + 35) + pairs * 35  # and its likelihoods
    assert work["finetune@domain-only"] == Work("finetune@domain-only", "base", 200, read=0, trained=6000)
    replay = 100 * 2  # as many rows as the domain's in two epochs
    tuned = work["finetune@holdfast"]
    assert tuned.rows == pytest.approx(200 + replay)
    assert tuned.trained == pytest.approx(6000 + replay * 35)
    assert tuned.read == pytest.approx(replay * 35)  # the base beside it
    assert work["evaluate@base"].written == 40 * 20


def test_lookalikes_are_short_and_end_in_time_less_often(settings, project):
    """Turns of 10 tokens end after any token with a probability of a tenth; of the domain's rows, 30 - 10 - 5 tokens are the user's."""
    domain = Domain(rows=100, tokens=3000, answers=1000, items=40)
    set_params(project, reconstruct__lookalikes={"share": 0.5})
    work = by_stage(costs.plan_work(Params.load(), domain, MEANS, 30))
    assert 1000 * 0.85 * 10 < work["reconstruct"].written < 10_000
    in_time = 1 - 0.9**15
    assert work["respond@abacus"].rows == pytest.approx(1000 * 0.5 * (0.5 * in_time + 0.5) * 2)


def test_each_further_training_is_planned_like_its_arm_s_first(settings, project):
    before = by_stage(costs.plan_work(settings, DOMAIN, MEANS, 30))
    set_params(project, retrain={"arms": ["holdfast"], "seeds": [2, 3]})
    work = by_stage(costs.plan_work(Params.load(), DOMAIN, MEANS, 30))
    added = {f"{stage}-retrain@holdfast-{seed}" for stage in ("finetune", "evaluate") for seed in (2, 3)}
    assert work.keys() - before.keys() == added
    for name in added:
        script, arm = costs.split_stage(name)
        assert replace(work[name], stage="") == replace(work[f"{script}@{arm}"], stage="")
    shape = shapes.Shape(parameters=1000, layers=2, hidden=8, heads=4, cache=64, vocabulary=10, context=512)
    memory = [
        costs.memory(Params.load(), f"finetune{cell}", shape, 2, 1) for cell in ("@holdfast", "-retrain@holdfast-2")
    ]
    assert memory[0] == memory[1] > 0


def test_the_self_suite_is_held_out_answered_and_read(settings, project):
    """100 of 500 fit instructions are held out. The base writes and reads its answers; an arm is read for the KL, too, and
    the first arm pays for the base's side of it."""
    set_params(project, evaluate__self_suite={"rows": 250, "max_tokens": 64}, respond__max_tokens=64)
    work = by_stage(costs.plan_work(Params.load(), DOMAIN, MEANS, 30))
    assert work["respond@base"].rows == 400 * 2
    turn, both, items = 15, 35, DOMAIN.items
    for name, passes in (("base", 1), ("domain-only", 3), ("holdfast", 2)):
        evaluation = work[f"evaluate@{name}"]
        assert evaluation.rows == items + 100
        assert evaluation.written == pytest.approx((items + 100) * 20, rel=1e-3)
        assert evaluation.read == pytest.approx(items * turn + 100 * (turn + passes * both), rel=1e-3)
    assert work["balance"].rows == 400


def test_the_core_suite_s_answers_have_limits_of_their_own():
    """`respond.max_tokens: 32` cuts replay answers, not those of suites, which an evaluation spends most of its time on."""
    evaluate = Evaluate(tasks="x", suites={"core": {"role": "general"}}, core={"items": 10}, limit=6)  # type: ignore[arg-type]
    limits = [family.max_tokens for family in FAMILIES.values() if family.max_tokens > 1]
    domain = Domain(items=6 * len(FAMILIES) + 50, suites=kinds.measure_suites(evaluate, None))
    thoughts = evaluate.core.thought_tokens / 2  # half the items of that family have some
    assert costs.count_suite_answers(domain, 32.0, 32) == pytest.approx(
        6 * (sum(limits) + thoughts) + 50 * 32, rel=1e-3
    )


def test_prompts_that_tools_make_longer_are_read_wherever_there_are_some(settings, project):
    """A fifth of the rows with tools of 200 tokens, half of them answered twice; answers have 20 tokens wherever they are cut."""
    set_params(project, respond__max_tokens=256)  # as respond.tools_max_tokens
    plain = by_stage(costs.plan_work(Params.load(), DOMAIN, MEANS, 30))
    set_params(project, reconstruct__tools={"share": 0.2})
    suites = {"core/tools": kinds.OwnSuite(10, 400.0, 128.0)}
    domain = replace(DOMAIN, suites=suites, tools=200.0)
    work = by_stage(costs.plan_work(Params.load(), domain, MEANS, 30))
    drawn = plain["reconstruct"].rows
    assert work["reconstruct"].read - plain["reconstruct"].read == pytest.approx(0.2 * drawn * 200)
    answers, turn = plain["respond@base"].rows, MEANS.turn + MEANS.prefix
    more = 0.2 * answers * (1.5 * 200 + 0.5 * (turn + 20))
    assert work["respond@base"].read - plain["respond@base"].read == pytest.approx(more, rel=1e-3)
    others = [stage for stage in plain if stage.startswith("respond@") and stage != "respond@base"]
    assert all(work[stage].rows == pytest.approx(0.8 * plain[stage].rows) for stage in others) and others
    read = work["evaluate@base"].read - plain["evaluate@base"].read
    assert read == pytest.approx(10 * (400 - turn))
    assert costs.training_size(Params.load(), "holdfast", domain, MEANS, 40)[2] == 160 * (35 + 0.2 * 200)
    reconstruct = Params.load().reconstruct.model_copy(update={"folder": str(ROOT / "data/prompts")})
    assert 100 < kinds.measure_tools(reconstruct, None) < 1000


def test_a_training_with_sdft_is_counted_by_the_model_s_own_answers():
    """10 rows twice, each of 6 tokens of request, 4 of gold answer and 5 of its own."""
    work = costs.count_self_taught(20, 200, Domain(rows=10, tokens=100, answers=40), 5, "base")
    assert (work.written, work.trained, work.read) == (20 * 5, 20 * 11, 20 * (6 + 6 + 4 + 5))


def test_answers_that_a_limit_cuts_are_longer_under_another():
    half = sum(n * 0.5**n for n in range(1, 4)) + 3 * 0.5**3  # ends after any token with probability 1/2, cut at 3
    assert costs.stretch_answer(half, 3, 100) == pytest.approx(2.0)
    assert costs.stretch_answer(32, 32, 64) == pytest.approx(64, rel=1e-3)  # none ended
    assert costs.stretch_answer(1.0, 32, 64) == pytest.approx(1.0)


def test_the_stages_are_those_of_the_dag(settings):
    import yaml

    dag = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    named = {name.partition("-")[0] for name, stage in dag.items() if not stage.get("frozen")}
    planned = [one.stage.partition("@")[0] for one in costs.plan_work(settings, DOMAIN, MEANS, 30)]
    assert set(STAGES) == named - {"code"}  # which only looks, and needs no planning
    assert tuple(dict.fromkeys(planned)) == STAGES
    assert set(devices.START_SECONDS) == set(STAGES)


def test_replay_rows_are_used_at_most_max_repeats_times(settings):
    rows, _, replay = costs.training_size(settings, "holdfast", Domain(100, 3000, 10**6, 0), MEANS, chosen=40)
    assert (rows, replay) == (200 + 40 * 4, 160 * 35)


def test_samples_auto_draws_what_the_arms_will_replay(settings, project):
    """100 rows, 2 epochs, half replay: 200 rows, each used about twice, a quarter to spare: 125, so the least, 500."""
    set_params(project, reconstruct={"samples": "auto"}, consensus={"strategy": "first"}, panel=["base"])
    work = by_stage(costs.plan_work(Params.load(), DOMAIN, MEANS, 30))
    assert work["reconstruct"].rows == 500 / MEANS.kept
    assert not any(stage.startswith("judge") for stage in work)
    more = by_stage(costs.plan_work(Params.load(), Domain(rows=4000, tokens=1, answers=1, items=1), MEANS, 30))
    assert more["reconstruct"].rows == 4000 * 2 / 2 * 1.25 / MEANS.kept


def test_judges_that_may_be_spared_are_counted_as_spared(settings, project):
    """Of 500 instructions 100 are judged whole; of the others the base judges what the strategy could choose."""
    whole = by_stage(costs.plan_work(settings, DOMAIN, MEANS, 30))
    rubric, found = {"rubric": "data/pocket/rubric.txt", "adaptive": True, "audit": 100}, {}
    for strategy in ("agreement", "mean_score"):
        set_params(project, judge=rubric, consensus={"strategy": strategy})
        means = replace(MEANS, leading=0.1, undecided=0.3)
        found[strategy] = by_stage(costs.plan_work(Params.load(), DOMAIN, means, 30))
    responses = 500 * 2 * 2
    assert whole["judge@abacus"].rows == whole["judge@base"].rows == responses * 0.25
    assert found["mean_score"]["judge@base"].rows == pytest.approx(responses * 0.25)
    assert found["mean_score"]["judge@abacus"].rows == pytest.approx(responses * (0.2 * 0.25 + 0.8 * 0.25 * 0.3))
    assert found["agreement"]["judge@base"].rows == pytest.approx(responses * (0.2 * 0.25 + 0.8 * 0.1))
    assert found["agreement"]["judge@abacus"].rows == pytest.approx(responses * (0.2 * 0.25 + 0.8 * 0.1 * 0.3))


def test_an_earlier_run_of_the_same_panel_says_how_often_a_further_judge_is_asked(settings, project):
    set_params(project, judge={"rubric": "r", "adaptive": True}, consensus={"strategy": "agreement"})
    given = Params.load()
    assert earlier.read_undecided(given) == costs.UNDECIDED
    assert earlier.describe_source(given) == "an assumption"
    report = dict(audited_instructions=100, instructions=1000, calls_of_the_full_panel=4000, strategy="agreement")
    report["judges"] = {"base": {"calls": 1200}, "abacus": {"calls": 300}}  # 200 pairs each are the sample's
    storage.write_json(earlier.REPORT, report)
    assert earlier.read_undecided(given) == pytest.approx(100 / 1000)
    assert "earlier run" in earlier.describe_source(given)
    storage.write_json(earlier.REPORT, report | {"strategy": "mean_score"})
    assert earlier.read_undecided(given) == costs.UNDECIDED
    set_params(project, consensus={"strategy": "base_best_of_k"})
    assert earlier.read_undecided(Params.load()) == 0.0


def test_training_memory_is_weights_state_base_and_logits(settings, project):
    shape = shapes.Shape(parameters=1000, layers=2, hidden=8, heads=4, cache=64, vocabulary=10, context=512)
    micro, length = settings.finetune.micro_batch or settings.finetune.batch_size, settings.finetune.max_length
    kept = 50 * micro * length * 8 * 2  # activations: 50 bytes for each of hidden, in each of 2 layers
    logits = micro * length * 10
    assert costs.memory(settings, "finetune@domain-only", shape, 2, 1) == 16_000 + 16 * logits + kept
    assert costs.memory(settings, "finetune@holdfast", shape, 2, 1) == 18_000 + 24 * logits + kept
    assert costs.memory(settings, "finetune@domain-only", shape, 2, 1, True) == 16_000 + 4 * logits + kept
    assert costs.memory(settings, "finetune@holdfast", shape, 2, 1, True) == 18_000 + 6 * logits + kept
    set_params(project, finetune__bf16=False)
    assert costs.memory(Params.load(), "finetune@holdfast", shape, 2, 1) == 20_000 + 24 * logits + kept
    set_params(project, finetune__bf16="auto", finetune__arms__holdfast__kl_cache="topk")
    assert costs.memory(Params.load(), "finetune@holdfast", shape, 2, 1) == 16_000 + 16 * logits + kept
    set_params(project, finetune__arms__holdfast__kl_cache="off")
    plain = 5 * 4 * length * length * micro * 2  # on a CPU also the attention of 4 heads
    assert costs.memory(settings, "finetune@domain-only", shape, 4, 1) == 16_000 + 16 * logits + kept + plain
    set_params(project, finetune__processes={"count": 4, "strategy": "fsdp2"})
    sharded = costs.memory(Params.load(), "finetune@holdfast", shape, 2, 4)
    assert sharded == 4000 + 2000 + 24 * logits + kept  # the frozen base is whole in each process


def test_a_judge_on_a_cpu_is_planned_with_the_tokens_that_the_engine_reads_at_once():
    assert costs.MAX_SCORED_TOKENS == local.TOKENS


def test_training_memory_is_what_an_h100_took(settings, project):
    """`python -m benchmarks.speed.gpu`, rows of 1,000 tokens: 59.3 GiB, 32.7 compiled; a model of Qwen2.5-0.5B's shape."""
    set_params(project, finetune__micro_batch=16, finetune__max_length=1000, finetune__batch_size=32)
    shape = shapes.Shape(
        parameters=494_000_000, layers=24, hidden=896, heads=14, cache=2 * 24 * 128, vocabulary=151_936, context=32_768
    )
    for compiled, took in ((False, 59.3), (True, 32.7)):
        found = costs.memory(Params.load(), "finetune@domain-only", shape, 2, 1, compiled) / 2**30
        assert 1 / 1.2 < found / took < 1.2, compiled


def test_a_named_device_is_reckoned_by_operations_over_peak():
    rates = devices.rates_by_rule(8_000_000_000, "a100", served=False)
    assert rates.read == pytest.approx(312e12 * devices.READ_EFFICIENCY / 16e9)
    assert rates.train == pytest.approx(312e12 * devices.TRAIN_EFFICIENCY / 48e9)
    assert devices.rates_by_rule(8_000_000_000, "a100", served=True).write > rates.write


def test_magpie_s_own_cost_comes_out():
    """arXiv 2406.08464: 3 M pairs with Llama-3-8B took 206 hours of one A100; about 60 and 400 tokens a pair."""
    shape = shapes.find_shape(Model(hub="meta-llama/Llama-3.1-8B-Instruct", revision="0" * 40), Path("nowhere"))
    assert shape is not None
    pairs = Work("respond", "base", 0, written=3e6 * 460)
    _, seconds = devices.stage_seconds(pairs, devices.rates_by_rule(shape.parameters, "a100", served=True), slower=0)
    assert 206 / 1.5 < seconds / 3600 < 206 * 1.5


def test_seconds_are_work_over_rate_and_a_start():
    beside, running = devices.stage_seconds(
        Work("judge", "base", 10, written=100, read=1000), Rates(write=10, read=100), slower=2
    )
    assert (beside, running) == (2 * devices.START_SECONDS["judge"], 20)
    assert devices.stage_seconds(Work("gate"), None, slower=1) == (devices.START_SECONDS["gate"], 0)


@pytest.mark.parametrize(("cut", "mean", "ended"), [(False, 3.0, 0.75), (True, 4.0, 1.0)])
def test_texts_that_time_cuts_short_are_not_taken_for_texts_that_never_end(cut, mean, ended, monkeypatch):
    """Three texts of 2 tokens and one that runs on to the 6th; in tokens written by ends seen, all would have ended."""
    ticks = iter([0.0, 4.0, 0.0, 1.0] if cut else [0.0, 0.0, 0.0, 1.0])
    monkeypatch.setattr(generation_speed, "clock", lambda: next(ticks))
    longest = 1000 if cut else 6
    monkeypatch.setattr(generation_speed, "MEASURE_SECONDS", 6.0)

    def write(length: int) -> list[Completion]:
        assert length in (4, 6, 8)
        return [Completion("ab", "stop", 2)] * 3 + [Completion("abcdef", "length", 6)]

    _, seconds, found, share = generation_speed.time_writing(write, longest)
    assert seconds == 1.0
    assert found == pytest.approx((3 * 3 + 7) / 3 if cut else mean, rel=1e-6)
    assert share == pytest.approx(ended)


@pytest.mark.slow
def test_the_plan_of_the_pocket_lab_is_within_half_as_much_again_of_its_ledgers(monkeypatch, capsys):
    """Rows against the committed reports of a run; `python -m benchmarks.speed.plan` has tokens, time, memory and money, too."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(generation_speed, "MEASURE_SECONDS", 60.0)  # answers are not cut where the machine is busy
    plan.main(price=None, device=None, count=1, as_json=True)
    lines = {line["stage"]: line for line in json.loads(capsys.readouterr().out)["stages"]}
    given, panel = Params.load(), storage.read_json(earlier.REPORT)

    def close(stage: str, what: str, ledger: float) -> None:
        assert ledger / 1.5 < lines[stage][what] < 1.5 * ledger, (stage, what, ledger)

    for name in given.panel:
        close(f"judge@{name}", "rows", panel["judges"][name]["calls"])
        close(f"respond@{name}", "rows", panel["responses"] / len(given.panel))
    close("reconstruct", "rows", storage.read_json(ROOT / "reports" / "reconstruct.json")["rows"])
    close("curate", "rows", storage.read_json(ROOT / "reports" / "curate.json")["read"])
    close("balance", "rows", storage.read_json(ROOT / "reports" / "curate.json")["kept"])
    close("drift", "rows", panel["instructions"])


@pytest.fixture
def lab(project: Path, tiny: Path) -> Path:
    """The pocket lab with the tiny model as the whole panel, and few rows."""
    (project / "data").mkdir()
    (project / "data" / "pocket").symlink_to(ROOT / "data" / "pocket")
    shutil.copytree(ROOT / "profiles", project / "profiles")
    set_params(
        project,
        model_folder=tiny.parent.as_posix(),
        models={"base": {"path": tiny.name}},
        panel=["base"],
        reconstruct__batch=4,
        reconstruct__max_tokens=8,
        respond__max_tokens=8,
        respond__k=1,
        finetune__micro_batch=2,
    )
    return project


@pytest.mark.parametrize("compiled", [False, True])
def test_training_is_measured_compiled_where_it_will_be(lab, capsys, monkeypatch, compiled):
    """Both models' blocks and both losses; that a compiled run is the same run is tests/training/test_training.py's."""
    from holdfast.planning import training_speed
    from holdfast.training import compiling, losses

    for module in (generation_speed, training_speed):
        monkeypatch.setattr(module, "MEASURE_SECONDS", 0.01)
    taken: list[object] = []
    monkeypatch.setattr(compiling, "compile_blocks", lambda model: taken.append(type(model).__name__))
    monkeypatch.setattr(compiling, "compile_loss", lambda one: taken.append(one) or one)
    set_params(lab, finetune__compile=compiled)
    plan.main(price=None, device=None, count=1, as_json=False)
    whole = [losses.cross_entropies, losses.kl_sum, "LlamaForCausalLM", "LlamaForCausalLM"]
    assert taken == (whole if compiled else [])
    assert "finetune@holdfast" in capsys.readouterr().out


def test_a_measured_plan_names_every_stage_and_its_money(lab, capsys, monkeypatch):
    from holdfast.planning import training_speed

    for module in (generation_speed, training_speed):
        monkeypatch.setattr(module, "MEASURE_SECONDS", 0.01)
    plan.main(price=3600.0, device=None, count=1, as_json=False)
    said, progress = capsys.readouterr()
    assert progress.splitlines() == [
        "measuring base: writes and scores for some seconds",
        "measuring base: trains for some seconds",
    ]
    assert said.startswith("on this machine, before anything has run")
    rows = {
        line.split()[0]: line.split()
        for line in said.splitlines()[3:]
        if line and not line.startswith(("device-h", "memory", "note"))
    }
    assert {
        "reconstruct",
        "respond@base",
        "judge@base",
        "finetune@holdfast",
        "evaluate@domain-only",
        "report",
        "all",
    } <= set(rows)
    assert float(rows["reconstruct"][1].replace(",", "")) == 10_000
    assert float(rows["ingest"][1].replace(",", "")) == 2400
    assert all(float(rows[stage][-1].replace(",", "")) > 0 for stage in ("reconstruct", "finetune@holdfast", "all"))


def test_device_hours_are_the_seconds_times_the_devices_in_use(settings, monkeypatch):
    """Two worker processes on one CPU are one device; eight GPUs that write together are eight; evaluating takes one."""
    monkeypatch.setattr(devices, "stage_seconds", lambda *_: (10.0, 100.0))
    monkeypatch.setenv("HOLDFAST_WORKERS", "2")
    shape = shapes.Shape(parameters=1000, layers=2, hidden=8, heads=4, cache=64, vocabulary=10, context=512)
    rates, sizes = {"base": Rates(write=1, read=1)}, {"base": shape}

    def plan_one(stage: str, model: str, here: bool, count: int) -> tuple[float | None, float]:
        line = plan.plan_stage(settings, Work(stage, model, 10_000), rates, sizes, 1.0, here, count)
        return line.seconds, line.hours * 3600

    assert plan_one("respond@base", "base", here=True, count=1) == (60.0, pytest.approx(60.0))
    assert plan_one("respond@base", "base", here=False, count=8) == (22.5, pytest.approx(8 * 22.5))
    assert plan_one("evaluate@base", "base", here=False, count=8) == (110.0, pytest.approx(110.0))
    assert plan_one("gate", "", here=False, count=8)[1] == 0


def test_assumed_lengths_stay_within_the_limits_of_params(lab, capsys):
    for longest, answer in ((8, 8), (5000, 300)):
        set_params(lab, respond__max_tokens=longest, reconstruct__max_tokens=longest)
        plan.main(price=None, device="h100", count=1, as_json=True)
        found = json.loads(capsys.readouterr().out)
        line = {one["stage"]: one for one in found["stages"]}["respond@base"]
        turn = min(60, longest) + 40
        assert line["tokens"] == pytest.approx(line["rows"] * (answer + turn), rel=1e-4)
        assert f"{min(60, longest)} tokens an instruction, {answer} a response are assumed" in " ".join(found["notes"])


def test_a_plan_for_a_named_device_needs_no_weights(lab, capsys):
    shutil.copyfile(lab / "profiles" / "paper.yaml", lab / "params.yaml")
    (lab / "data" / "local").mkdir()
    (lab / "data" / "local" / "train.jsonl").write_text('{"prompt": "q", "completion": "a"}\n' * 3, encoding="utf-8")
    plan.main(price=None, device="h100", count=8, as_json=True)
    found = json.loads(capsys.readouterr().out)
    lines = {line["stage"]: line for line in found["stages"]}
    assert lines["finetune@paper"]["memory"] > 70e9 * 16 / 8
    assert lines["respond@api"]["seconds"] is None  # nobody knows its size
    assert lines["respond@api"]["tokens"] > 0
    notes = " ".join(found["notes"])
    assert "api is behind a server" in notes and "10% by a server" in notes and "assumed" in notes
    assert "evaluate@base holds 139 GiB by plan, and h100 has 75" in notes
    assert "the base's endpoint does not serve the arms" in notes
    assert "finetune@domain-only holds" in notes, "one sentence for all arms"
    assert "finetune@paper holds" not in notes
    assert "respond@base holds" not in notes, "a server does"


@pytest.mark.parametrize(
    ("changes", "device", "expected"),
    [
        ({}, "abacus", "known: h200, h100"),
        ({"judge__rubric": "nothing.txt"}, "h100", "judge.rubric"),
        ({"ingest__train": {"path": "nothing.jsonl"}}, "h100", "no such file"),
        ({"models__base": {"path": "nothing"}}, "h100", "give the folder of a chat model"),
    ],
    ids=["device", "rubric", "data", "model"],
)
def test_bad_input_for_plan_is_one_to_three_lines(lab, changes, device, expected):
    set_params(lab, **changes)
    with pytest.raises(UserError, match=expected) as caught:
        plan.main(None, device, 1, False)
    assert len(str(caught.value).splitlines()) <= 3


def test_what_does_not_fit_is_noted_before_anything_runs(lab, capsys):
    set_params(lab, respond__max_tokens=600, finetune__max_length=4096)
    plan.main(price=None, device="h100", count=1, as_json=False)
    said = capsys.readouterr().out
    assert "note: 'base' has a context of 512 tokens" in said
    assert "note: finetune.max_length 4,096 is above the base's context" in said


def test_the_operations_of_a_forward_pass_are_those_of_a_published_model():
    """Qwen2.5-0.5B has 494 M parameters, 358 M of them in the layers (its model card): 2 operations of each per token."""
    shape = dict(hidden=896, inner=4864, layers=24, heads=14, shared_heads=2, vocabulary=151_936)

    def flops(tokens: float, logits: float, context: float) -> float:
        return shapes.forward_flops(**shape, tokens=tokens, logits=logits, context=context)

    assert flops(1, 0, 0) / 2 == pytest.approx(358e6, rel=0.005)
    assert flops(1, 1, 0) / 2 == pytest.approx(494e6, rel=0.005)
    assert flops(1, 0, context=1000) - flops(1, 0, 0) == 4 * 24 * 896 * 1000
