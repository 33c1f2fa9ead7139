"""The stage `finetune` with a tiny model: what is trained, how, what is refused, and what a kill or a bad loss leaves behind."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import MIXTURE, describe, mixture, run, run_stage, train_arm
from safetensors.torch import load_file, save_file

from holdfast.chat import encoding
from holdfast.core import ledger, manifest, records, storage
from holdfast.core.errors import UserError
from holdfast.params.finetune import Arm
from holdfast.planning import machine
from holdfast.training import (
    averaging,
    compiling,
    curves,
    fine_tuning,
    job,
    monitoring,
    process,
    results,
    saved_model,
    self_distilling,
    trainer,
)


@pytest.fixture
def train(project: Path, base: Path):
    """train(objective, params) -> training curves by metric; the model is in models/arm."""

    def run(objective: str = "ce", **params) -> dict[str, list[float]]:
        arm = {key: params.pop(key) for key in Arm.model_fields if key in params and key != "learning_rate"}
        defaults = dict(
            learning_rate=1e-2, batch_size=4, bf16=False, log_steps=1, scheduler="constant", warmup=0.0, seed=1
        )
        return train_arm(project, {"arms": {"arm": {"objective": objective, **arm}}, **defaults, **params})

    mixture(project)
    return run


def read_ledger(project: Path) -> dict:
    return storage.read_json(project / "reports/training/arm/ledger.json")


def nothing_left(project: Path) -> bool:
    """No output and no half-written folder."""
    return (
        {f.name for f in project.iterdir()} <= {"params.yaml", "stages", "models", "data", "odd", ".cache"}
        and not [f for f in (project / ".cache").rglob("*") if f.is_file()]
        and {f.name for f in (project / "models").iterdir()} == {"manifest"}
        and [f.name for f in (project / MIXTURE).parent.iterdir()] == [MIXTURE.name]
    )


def first_loss_by_hand(base: Path, rows: list[dict]) -> float:
    """Mean cross-entropy over all answers' tokens, each row by itself."""
    folder = manifest.load(base).folder()
    tokenizer, model = manifest.load_tokenizer(folder), manifest.load_model(folder, "float32")
    total, count = 0.0, 0
    for row in rows:
        ids, mask = encoding.encode(tokenizer, row["messages"])
        with torch.no_grad():
            each = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        total -= sum(each[t - 1, ids[t]].item() for t in range(1, len(ids)) if mask[t])
        count += sum(mask)
    return total / count


@pytest.mark.parametrize("packing", [False, True])
def test_the_first_loss_is_the_mean_over_the_answers_each_by_itself(train, base, project, packing):
    """Packed rows do not see one another: a leak would change this number."""
    rows = mixture(project, domain=8, replay=0)
    curves = train(batch_size=8, packing=packing)
    assert curves["loss"][0] == pytest.approx(first_loss_by_hand(base, rows), abs=1e-4)
    assert len(curves["loss"]) == (1 if packing else 2)  # packed, all 16 rows are one step
    assert packing or curves["loss"][-1] < curves["loss"][0]


@pytest.mark.parametrize("arm", [{"objective": "kl"}, {"objective": "ce", "target_kl": 1.0}])
def test_in_mixed_precision_both_sides_of_the_kl_are_rounded_alike(train, project, arm):
    mixture(project)
    curves = train(**arm, batch_size=8, bf16=True)
    assert curves["kl" if arm["objective"] == "kl" else "target_kl"][0] == pytest.approx(0, abs=1e-6)
    plain = train(**arm, batch_size=8)
    assert curves["loss"][0] != plain["loss"][0]  # it was rounded
    assert curves["loss"] == pytest.approx(plain["loss"], rel=0.01)


def test_a_base_that_was_cast_once_says_what_autocast_would_have_it_say(base):
    """To the bit; its matrices take half the memory, norms and embeddings stay as they are."""
    model = manifest.load_model(manifest.load(base).folder(), "float32")
    ids = torch.randint(len(model.get_input_embeddings().weight), (3, 7), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        before = model(ids.to(model.device)).logits
    trainer.cast_once(model)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(ids.to(model.device)).logits, before)
    kinds = {name.rsplit(".", 2)[-2]: weight.dtype for name, weight in model.named_parameters()}
    assert kinds["q_proj"] == kinds["down_proj"] == kinds["lm_head"] == torch.bfloat16
    assert kinds["embed_tokens"] == kinds["norm"] == torch.float32


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("more", [{}, {"activation_checkpointing": True, "micro_batch": 2}])
def test_a_compiled_run_has_the_same_curve(train, project, tiny, more):
    mixture(project)
    arm = {"objective": "kl", "target_kl": 0.5}
    plain = train(**arm, **more)
    torch._dynamo.utils.counters.clear()
    compiled = train(**arm, compile=True, **more)
    assert torch._dynamo.utils.counters["frames"]["ok"] >= 3  # the block, with gradients and without, and the losses
    for metric in plain:
        assert compiled[metric] == pytest.approx(plain[metric], rel=1e-4, abs=1e-5), metric
    names = [set(load_file(folder / "model.safetensors")) for folder in (tiny, project / "models/arm")]
    assert names[0] == names[1]


def test_compilation_waits_for_a_gpu_and_a_run_that_is_long_enough(monkeypatch):
    gpu, cpu = "cuda", "cpu"
    monkeypatch.setattr(compiling.shutil, "which", lambda name: "/usr/bin/cc" if name == "cc" else None)
    assert compiling.pays_off("auto", gpu, 1e17)
    assert not compiling.pays_off("auto", gpu, 1e15)
    assert not compiling.pays_off("auto", cpu, 1e17)
    assert compiling.pays_off(True, cpu, 0) and not compiling.pays_off(False, gpu, 1e17)
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    assert not compiling.pays_off("auto", gpu, 1e17)


@pytest.mark.parametrize("packing", [False, True])
def test_kl_starts_at_zero_beside_the_domain_s_cross_entropy(train, base, project, packing):
    rows = mixture(project)
    curves = train("kl", batch_size=8, packing=packing)
    assert curves["kl"][0] == pytest.approx(0, abs=1e-6)
    assert packing or curves["kl"][-1] > 1e-3  # packed, all rows are one step
    domain = first_loss_by_hand(base, [row for row in rows if row["source"] == "domain"])
    assert curves["domain_loss"][0] == pytest.approx(domain, abs=1e-4)
    assert curves["loss"][0] == pytest.approx(domain, abs=1e-4)


def test_the_kl_term_holds_the_model_back(train, project):
    mixture(project, epochs=6)
    drift = [train("kl", kl_coefficient=weight)["kl"][-1] for weight in (0.1, 10.0)]
    assert drift[1] < drift[0] / 3


def test_the_kl_s_weight_is_steered_by_the_kl_of_each_step(train, project):
    curves = train("kl", kl_target=0.02, micro_batch=2)
    factors = [1.0]
    for kl in curves["kl"]:
        step = 1 + 0.1 * min(max((kl - 0.02) / 0.02, -0.2), 0.2)
        factors.append(factors[-1] * (step if kl > 0 else 1))
    assert curves["kl_factor"] == pytest.approx(factors[1:], rel=1e-4)
    assert factors[-1] > 1
    assert read_ledger(project)["kl_steering"] == {"target": 0.02, "factor": pytest.approx(factors[-1], rel=1e-4)}
    with pytest.raises(UserError, match="kl_target goes with the KL objective"):
        train("ce", kl_target=0.02)


def test_a_replay_row_weighs_the_same_at_any_share(train, project):
    """kl_coefficient is per trained token: the step's mean KL counts by replay's tokens over the domain's."""
    rows = mixture(project, domain=8, replay=2)
    tokens = {s: sum(row["trained_tokens"] for row in rows if row["source"] == s) for s in ("domain", "replay")}
    curves = train("kl", kl_coefficient=50.0, batch_size=len(rows) // 2)
    expected = curves["domain_loss"][-1] + 50 * tokens["replay"] / tokens["domain"] * curves["kl"][-1]
    assert curves["kl"][-1] > 0
    assert curves["loss"][-1] == pytest.approx(expected, rel=1e-3)


def weights(project: Path) -> torch.Tensor:
    """All weights of the tuned model in one vector."""
    return torch.cat(
        [w.flatten() for w in manifest.load_model(project / "models/arm", "float32").state_dict().values()]
    )


@pytest.mark.parametrize("anchor", ["l2sp", "ewc"])
def test_an_anchor_holds_the_weights_back(train, project, tiny, anchor):
    mixture(project, epochs=12)
    start = torch.cat([w.flatten() for w in manifest.load_model(tiny, "float32").state_dict().values()])
    way = []
    for strength in (1e-6, 1e4):
        curves = train(anchor=anchor, anchor_coefficient=strength, learning_rate=1e-3)
        assert curves["anchor"][0] == 0
        way.append((weights(project) - start).norm().item())
    assert way[1] < way[0] / 3


def test_kl_on_the_target_tokens_holds_them_back(train, project):
    mixture(project, epochs=12)
    free, held = (train(target_kl=weight, learning_rate=1e-3) for weight in (1e-6, 10.0))
    assert held["target_kl"][0] == pytest.approx(0, abs=1e-6)
    assert held["target_kl"][-1] < free["target_kl"][-1] / 3
    assert held["domain_loss"][-1] > free["domain_loss"][-1]


def test_replayed_tokens_have_a_curve_of_their_own(train, base, project):
    rows = mixture(project)
    curves = train(batch_size=8)
    for source in ("domain", "replay"):
        by_hand = first_loss_by_hand(base, [row for row in rows if row["source"] == source][:4])
        assert curves[f"{source}_loss"][0] == pytest.approx(by_hand, abs=1e-4)
    mixture(project, replay=0)
    assert "replay_loss" not in train()


@pytest.mark.parametrize("packing", [False, True])
def test_curves_show_every_loss_and_the_rate_and_speed_and_memory_go_to_the_timing_record(
    train, project, packing, monkeypatch
):
    """Tokens per second: of the rows, without padding, over the time since the last line."""
    rows, clock, noted, histories = mixture(project), iter(range(1000)), {}, []
    timings = results.timings
    monkeypatch.setattr("holdfast.training.trainer.time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(ledger, "note_timing", noted.update)
    monkeypatch.setattr(
        results, "timings", lambda trained: histories.append(trained.result.history) or timings(trained)
    )
    curves = train("kl", batch_size=8, packing=packing)
    assert set(curves) == {"loss", "domain_loss", "kl", "learning_rate", "grad_norm"}
    tokenizer = manifest.load_tokenizer(manifest.load(project / "models/manifest/base.json").folder())
    sizes = [len(encoding.encode(tokenizer, row["messages"])[0]) for row in rows]
    by_line = [sum(sizes)] if packing else [sum(sizes[:8]), sum(sizes[8:])]
    assert [logs["tokens_per_second"] for logs in histories[0]] == by_line
    assert noted["tokens_per_second"] == by_line[-1]  # the first line warms up
    assert all(0.01 < logs["memory_gib"] < 100 for logs in histories[0])
    assert 0.01 < noted["memory_gib"] < 100
    assert 0.01 < noted["peak_memory_bytes"] / 2**30 < 100
    assert noted["train_seconds"] > 0
    assert noted["processes"] == 1


def test_two_runs_leave_the_same_bytes_in_the_reports(train, project):
    """No seconds, speed or memory in what is tracked."""

    def contents() -> dict[str, bytes]:
        train("kl")
        folder = project / "reports/training/arm"
        return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}

    first = contents()
    assert "ledger.json" in first
    assert contents() == first


def test_progress_counts_the_steps_that_will_be(train, monkeypatch):
    """16 rows by 8 are two steps; packed, they are one."""
    totals = []

    class Counted(monitoring.Progress):
        def __init__(self, what: str, total: int, unit: str) -> None:
            super().__init__(what, total, unit)
            totals.append((total, unit))

    monkeypatch.setattr(monitoring, "Progress", Counted)
    train(batch_size=8)
    train(batch_size=8, packing=True)
    assert totals == [(2, "steps"), (1, "steps")]


def test_unlikely_tokens_pull_less_under_dft(train, project):
    mixture(project, epochs=6)
    plain, weighed = train(learning_rate=1e-3), train(learning_rate=1e-3, reweight="dft")
    assert weighed["domain_loss"][0] == plain["domain_loss"][0]  # what is shown is the cross-entropy itself
    assert weighed["loss"][0] < plain["loss"][0]
    assert weighed["domain_loss"][-1] > plain["domain_loss"][-1]


@pytest.mark.parametrize("packing", [False, True])
def test_the_cached_kl_is_the_kl(train, project, packing, monkeypatch):
    """With all tokens kept, on the fly and cached differ by rounding alone; with few, the ledger says by how much."""
    mixture(project, epochs=4)
    noted = {}
    monkeypatch.setattr(ledger, "note_timing", noted.update)
    settings = dict(packing=packing, max_length=64, learning_rate=1e-3)
    whole = train("kl", **settings)
    for curve, values in train("kl", kl_cache="topk", kl_top_k=4096, **settings).items():
        assert values == pytest.approx(whole[curve], rel=1e-3, abs=1e-5), curve
    taken = read_ledger(project)
    assert taken["kl_cache"]["mass_left"] == pytest.approx(0, abs=1e-5)
    assert taken["kl_cache"]["kl_top_k"] == pytest.approx(taken["kl_cache"]["kl_whole"], rel=1e-3)
    replayed = taken["tokens"]["forward_only"]
    assert 0 < replayed < taken["tokens"]["trained_on"] / 2  # every replay row once, not once per epoch
    assert noted["base_tokens_computed"] == replayed
    train("kl", kl_cache="topk", kl_top_k=4096, seed=2, **settings)
    assert noted["base_tokens_computed"] == 0  # another seed asks the base nothing
    assert read_ledger(project)["tokens"] == taken["tokens"]  # whichever run computed them
    train("kl", kl_cache="topk", kl_top_k=8, **settings)
    few = read_ledger(project)["kl_cache"]
    assert 0.1 < few["mass_left"] < 1
    assert few["kl_top_k"] < few["kl_whole"]


def test_averaging_stops_part_of_the_way(train, project, tiny):
    start = torch.cat([w.flatten() for w in manifest.load_model(tiny, "float32").state_dict().values()])
    train()
    whole = weights(project)
    train(average=0.25)
    torch.testing.assert_close(weights(project), start + 0.25 * (whole - start), rtol=1e-4, atol=1e-5)


def test_how_far_to_average_is_chosen_on_rows_that_are_not_trained_on(train, project, tiny, monkeypatch):
    monkeypatch.setattr(averaging, "MIN_HELD_OUT_ROWS", 1)
    mixture(project, domain=10, replay=10)
    start = torch.cat([w.flatten() for w in manifest.load_model(tiny, "float32").state_dict().values()])
    train("kl", average="auto", retention_target=1e-6)
    loose = read_ledger(project)
    assert (loose["average"]["chosen"], loose["average"]["met"], len(loose["average"]["tried"])) == (1, True, 1)
    whole = weights(project)
    train("kl")
    every = read_ledger(project)
    assert loose["rows"]["replay"] < every["rows"]["replay"]
    assert loose["rows"]["domain"] < every["rows"]["domain"]

    train("kl", average="auto", retention_target=0.999999)
    strict = read_ledger(project)["average"]
    parts = [one["average"] for one in strict["tried"]]
    kept = [one["retention"] for one in strict["tried"]]
    assert parts == sorted(parts, reverse=True)
    assert len(parts) > 1
    assert strict["chosen"] == parts[-1]
    assert kept == sorted(kept)  # the nearer to the base, the more is kept
    torch.testing.assert_close(weights(project), start + parts[-1] * (whole - start), rtol=1e-4, atol=1e-5)


def test_too_few_rows_to_choose_how_far_to_average(train):
    with pytest.raises(UserError, match=r"arm\.average: .* a fifth of 4 replay rows is too few"):
        train("kl", average="auto")


def test_what_the_base_finds_unlikely_is_masked_and_counted(train, project):
    rows = mixture(project, domain=10, replay=10)
    plain = train("kl")
    before = read_ledger(project)
    masked = train("kl", mask_perplexity=1e4)  # a base of random weights finds nothing likely
    ledger = read_ledger(project)
    assert 0 < ledger["masked"]["tokens"] < ledger["masked"]["of"]
    assert masked["domain_loss"][0] < plain["domain_loss"][0]
    assert ledger["tokens"]["forward_only"] > before["tokens"]["forward_only"]
    with pytest.raises(
        UserError, match=r"nothing is left to train on\n.*mask_perplexity|mask_perplexity: .*nothing is left"
    ):
        train("kl", mask_perplexity=1.0001)
    assert rows and read_ledger(project) == ledger, "the earlier training is left as it was"


def test_distillation_after_the_training_is_counted_and_gives_the_same_bytes_again(train, project):
    mixture(project, domain=8, replay=8)
    train("kl")
    before, plain = weights(project), read_ledger(project)
    train("kl", distil_steps=3, distil_learning_rate=1e-3)
    after, ledger = weights(project), read_ledger(project)
    assert not torch.equal(before, after)
    assert ledger["distilled"]["steps"] == 3 and ledger["distilled"]["tokens"] > 0
    assert ledger["loss_last"] == plain["loss_last"]
    tokens = ledger["distilled"]["tokens"]
    assert ledger["tokens"]["trained_on"] == plain["tokens"]["trained_on"] + tokens
    assert ledger["tokens"]["forward_only"] == plain["tokens"]["forward_only"] + 2 * tokens, (
        "written, and read by the base"
    )
    train("kl", distil_steps=3, distil_learning_rate=1e-3)
    assert torch.equal(weights(project), after)
    mixture(project, replay=0)
    with pytest.raises(UserError, match=r"asks for distil_steps but its mixture has no replay rows"):
        train("ce", distil_steps=3)


def test_a_model_that_teaches_itself_is_trained_on_its_own_answers(train, project, monkeypatch):
    """Both teachers; the moving one is the average of the model's weights after each step, by hand."""
    rows = mixture(project, domain=4, replay=0)
    settings = dict(sdft_max_tokens=4, sdft_update_rate=0.25, learning_rate=1e-3)
    spied: list[Any] = []

    class Spy(self_distilling.SelfDistillation):
        def training_step(self, *args, **kwargs):
            if not self.state.global_step:
                spied.append((self, []))
            spied[-1][1].append(weight(self.model))
            return super().training_step(*args, **kwargs)

    def weight(model):
        return model.get_input_embeddings().weight.detach().clone()

    monkeypatch.setattr(self_distilling, "SelfDistillation", Spy)
    train("ce", sdft="fixed", **settings)
    fixed, ledger = weights(project), read_ledger(project)
    trainer, (base, first) = spied[0]
    assert torch.equal(weight(trainer.teacher_model), base) and not torch.equal(first, base)
    assert ledger["objective"] == "sdft" and ledger["steps"] == 2 and ledger["loss_last"] > 0
    tokens, answers = ledger["tokens"], ledger["sdft"]["answer_tokens"]
    assert 8 <= answers == ledger["trained_tokens"]["domain"] <= 8 * 4, "two steps of four answers"
    assert answers < tokens["trained_on"] < tokens["forward_only"] - tokens["trained_on"], "the teacher reads more"

    train("ce", sdft="moving", **settings)
    trainer, (base, first) = spied[1]
    average = base
    for after in (first, weight(trainer.model)):
        average = 0.75 * average + 0.25 * after
    torch.testing.assert_close(weight(trainer.teacher_model), average)
    assert not torch.equal(weights(project), fixed)
    train("ce", sdft="fixed", **settings)
    assert torch.equal(weights(project), fixed) and read_ledger(project) == ledger

    with pytest.raises(UserError, match="sdft and target_kl cannot go together"):
        train("ce", sdft="fixed", target_kl=0.1)
    with pytest.raises(UserError, match=r"has \d+ tokens, 12 are left beside sdft_max_tokens"):
        train("ce", sdft="fixed", sdft_max_tokens=500)
    mixture(project, replay=2)
    with pytest.raises(UserError, match=r"has replay rows, and sdft is for the domain's rows alone"):
        train("ce", sdft="fixed")
    assert rows and read_ledger(project) == ledger, "the earlier training is left as it was"


ADAPTERS = [{"lora_rank": 4}, {"osf_rank": 0.25}]


@pytest.mark.parametrize("adapter", ADAPTERS, ids=str)
def test_the_base_is_the_model_with_its_adapter_off(train, project, adapter, monkeypatch):
    """The KL is that of a table of all the base's log-probabilities, with one model in memory."""
    loaded = []
    load_model = manifest.load_model
    monkeypatch.setattr(manifest, "load_model", lambda *args, **more: loaded.append(args) or load_model(*args, **more))
    curves = train("kl", **adapter)
    assert len(loaded) == 2, "one to train, one to check what was saved"
    of_a_table = train("kl", kl_cache="topk", kl_top_k=10_000, **adapter)
    assert curves["kl"][0] == pytest.approx(0, abs=1e-5)
    assert curves["kl"][-1] > 1e-3
    assert curves["kl"] == pytest.approx(of_a_table["kl"], rel=1e-3, abs=1e-5)
    assert curves["loss"] == pytest.approx(of_a_table["loss"], rel=1e-3)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=str)
@pytest.mark.parametrize("objective", ["ce", "kl"])
def test_adapters_are_merged_into_the_base_s_own_shape(train, project, tiny, objective, adapter):
    curves = train(objective, **adapter)
    assert curves["loss"][-1] != curves["loss"][0]
    before, after = (manifest.load_model(folder, "float32").state_dict() for folder in (tiny, project / "models/arm"))
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed
    assert not any("embed" in k or "norm" in k for k in changed)  # linear layers only
    assert not list((project / "models/arm").glob("adapter*"))


@pytest.mark.parametrize("anchor", ["none", "l2sp"])
@pytest.mark.parametrize("objective", ["ce", "kl"])
def test_gradient_accumulation_changes_nothing(train, objective, anchor):
    kept = dict(anchor=anchor, anchor_coefficient=10.0)
    whole, parts = train(objective, **kept), train(objective, micro_batch=2, **kept)
    assert set(whole) == set(parts) >= {"loss", "learning_rate", "grad_norm"}
    assert len(whole["loss"]) == 4
    for metric in whole:
        assert parts[metric] == pytest.approx(whole[metric], rel=1e-5, abs=1e-5), metric


def test_the_same_seed_gives_the_same_bytes(train, project):
    def digests(packing: bool, seed: int) -> tuple[str, ...]:
        train("kl", packing=packing, seed=seed, batch_size=1, max_length=32)
        return tuple(hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted((project / "models/arm").iterdir()))

    first = digests(True, 1)
    assert digests(True, 1) == first
    assert digests(True, 2) != first
    assert digests(False, 1) == digests(False, 2)  # unpacked, the mixture decides the order


def test_a_further_training_of_the_same_mixture_is_another_model(train, project):
    """`retrain.seeds`: otherwise three trainings are one model three times, and their spread is zero."""
    train("kl", batch_size=2)

    def train_again(seed: str) -> bytes:
        run_stage("finetune", "arm", seed)
        return (project / f"models/arm-{seed}/model.safetensors").read_bytes()

    second, third = train_again("2"), train_again("3")
    assert len({(project / "models/arm/model.safetensors").read_bytes(), second, third}) == 3
    assert train_again("2") == second


def test_rows_are_trained_on_in_the_order_of_the_mixture(train, base, project):
    """One step per row: the first losses are those of the first rows."""
    rows = mixture(project, domain=3, replay=3, epochs=1)
    losses = train(batch_size=1, learning_rate=1e-9)["loss"]
    assert losses == pytest.approx([first_loss_by_hand(base, [row]) for row in rows], abs=1e-4)


def test_the_tuned_model_keeps_the_base_s_dtype_tokenizer_and_template(train, tiny, project):
    half = project / "odd" / "half"
    shutil.copytree(tiny, half)
    model = manifest.load_model(tiny).to(torch.bfloat16)
    model.save_pretrained(half)
    (half / "model.safetensors.index.json").write_text('{"weight_map": {}}')  # as a sharded base would have
    describe(half, project / "models/manifest")
    train()
    tuned = project / "models" / "arm"
    assert saved_model.stored_dtype(tuned) == torch.bfloat16
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (tuned / name).read_bytes() == (tiny / name).read_bytes()
    assert not (tuned / "model.safetensors.index.json").exists()  # it would point to the base's shards
    assert {f.stat().st_mode & 0o777 for f in tuned.iterdir()} == {0o644}
    changed = manifest.load_model(tuned).get_output_embeddings().weight - model.float().get_output_embeddings().weight
    assert changed.abs().max() > 0


def test_the_ledger_says_what_the_arm_cost(train, project, tokenizer):
    rows = records.read("mix", project / MIXTURE)
    train("kl")
    taken = read_ledger(project)
    tokens = {
        s: sum(len(encoding.encode(tokenizer, row["messages"])[0]) for row in rows if row["source"] == s)
        for s in ("domain", "replay")
    }
    parameters = manifest.load(project / "models/manifest/base.json").parameters
    by_hand = parameters * (6 * sum(tokens.values()) + 2 * tokens["replay"])  # 6ND and the base's 2ND
    assert taken["flops"] == pytest.approx(by_hand, rel=1e-5)
    assert (taken["steps"], taken["rows"], taken["share"]) == (4, {"domain": 8, "replay": 8}, 0.5)
    assert taken["epochs"] == 2
    assert taken["loss_last"] < taken["loss_first"]
    train(anchor="ewc", fisher_rows=3)  # the gradients of three rows more
    replayed = {row["messages"][0]["content"]: row["messages"] for row in rows if row["source"] == "replay"}
    more = sum(len(encoding.encode(tokenizer, messages)[0]) for messages in list(replayed.values())[:3])
    weighed = read_ledger(project)
    assert weighed["tokens"]["trained_on"] == sum(tokens.values()) + more


def test_an_end_of_turn_without_loss_is_refused(train, project, tiny, tokenizer):
    """A template that ends no turn, and a tokenizer without an end of text that could stand in."""
    odd = project / "odd" / "endless"
    shutil.copytree(tiny, odd)
    (odd / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
    )
    config = json.loads((odd / "tokenizer_config.json").read_text())
    (odd / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": None}))
    describe(odd, project / "models/manifest")
    with pytest.raises(UserError, match="never learn to stop") as caught:
        train()
    assert len(str(caught.value).splitlines()) == 2
    assert nothing_left(project)


def test_a_row_that_is_too_long_is_refused_not_cut(train, project):
    with pytest.raises(UserError, match=r"tokens, 10 are allowed[\s\S]*finetune.max_length"):
        train(max_length=10)
    assert nothing_left(project)


def test_a_row_longer_than_the_model_s_context_is_refused(train, project):
    rows = mixture(project)
    rows[0]["messages"][0]["content"] = "why " * 600
    records.write("mix", project / MIXTURE, rows)
    with pytest.raises(UserError, match=r"tokens, 512 are allowed[\s\S]*ingest.max_chars") as caught:
        train(max_length=4096)
    assert "max_length" not in str(caught.value)  # raising it would not help
    assert nothing_left(project)


def test_kl_without_replay_rows_is_refused(train, project):
    mixture(project, replay=0)
    with pytest.raises(UserError, match="no replay rows"):
        train("kl")
    assert nothing_left(project)


def test_an_empty_mixture_is_refused(train, project):
    records.write("mix", project / MIXTURE, [])
    with pytest.raises(UserError, match="no rows"):
        train()


@pytest.mark.parametrize("objective", ["ce", "kl"])
def test_a_loss_that_is_no_number_stops_and_leaves_no_model(train, project, objective):
    mixture(project, epochs=4)
    with pytest.raises(UserError, match=r"the (loss|gradient's norm|cross-entropy) is [\s\S]*finetune.learning_rate"):
        train(objective, learning_rate=1e30, max_grad_norm=1e30)
    assert nothing_left(project)


def test_a_loss_that_explodes_stops(train, project):
    mixture(project, epochs=8)
    with pytest.raises(UserError, match="worse than guessing"):
        train(learning_rate=10.0)
    assert nothing_left(project)


def test_a_bad_loss_never_reaches_a_checkpoint_and_the_last_good_one_is_named(train, project, monkeypatch):
    """Between two lines of the log, a checkpoint is due: it is not written, and the one before stays."""
    mixture(project, epochs=6)
    ended = monitoring.Watch.on_step_end

    def poison(self, args, state, control, model=None, **kwargs):
        ended(self, args, state, control, **kwargs)
        if state.global_step == 3:
            next(model.parameters()).data.fill_(float("nan"))

    monkeypatch.setattr(monitoring.Watch, "on_step_end", poison)
    with pytest.raises(UserError, match=r"the loss is nan at step 4[\s\S]*learning_rate") as caught:
        train(checkpoint_steps=2, log_steps=100)
    (kept,) = project.glob(".cache/finetune/*/checkpoint-*")
    assert kept.name == "checkpoint-2"
    assert str(kept.relative_to(project)) in str(caught.value)
    assert all(w.isfinite().all() for w in manifest.load_model(kept, "float32").state_dict().values())
    assert not (project / "models/arm").exists()


def test_a_failed_run_leaves_the_earlier_model_and_curves(train, project):
    mixture(project, epochs=4)
    train()
    before = {
        f: f.read_bytes() for folder in ("models/arm", "reports") for f in (project / folder).rglob("*") if f.is_file()
    }
    with pytest.raises(UserError, match="the (loss|gradient's norm|cross-entropy) is"):
        train(learning_rate=1e30, max_grad_norm=1e30)
    assert {
        f: f.read_bytes() for folder in ("models/arm", "reports") for f in (project / folder).rglob("*") if f.is_file()
    } == before
    assert not [f for f in project.rglob(".*") if f.name != ".cache"]
    assert not [f for f in (project / ".cache").rglob("*") if f.is_file()]


class Killed(Exception):
    pass


def killed(monkeypatch: pytest.MonkeyPatch, step: int, run: Callable[[], object]) -> None:
    """The run, ended without warning after a step."""

    def kill(self, args, state, control, **kwargs):
        if state.global_step == step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(monitoring.Watch, "on_step_end", kill)
        with pytest.raises(Killed):
            run()


@pytest.mark.parametrize(("objective", "more"), [("ce", {}), ("kl", {"kl_target": 0.02})])
def test_a_killed_run_goes_on_from_its_checkpoint_and_ends_the_same(
    train, project, monkeypatch, objective, more, capsys
):
    mixture(project, epochs=4)
    settings = dict(checkpoint_steps=3, scheduler="cosine", learning_rate=1e-3, **more)
    whole = train(objective, **settings)
    expected = (project / "models/arm/model.safetensors").read_bytes()
    shutil.rmtree(project / "models/arm")

    killed(monkeypatch, 5, lambda: train(objective, **settings))
    assert not (project / "models/arm").exists()
    (checkpoint,) = project.glob(".cache/finetune/*/checkpoint-3")
    shutil.copytree(checkpoint, checkpoint.with_name("checkpoint-4"))
    (checkpoint.with_name("checkpoint-4") / "trainer_state.json").unlink()  # as a kill while it was written leaves it
    capsys.readouterr()
    assert train(objective, **settings) == whole  # the curves
    assert "resuming from checkpoint-3" in capsys.readouterr().out
    assert (project / "models/arm/model.safetensors").read_bytes() == expected
    assert not list((project / ".cache/finetune").iterdir())


def test_a_checkpoint_of_other_settings_is_not_used(train, project, monkeypatch, capsys):
    mixture(project, epochs=4)

    killed(monkeypatch, 5, lambda: train(checkpoint_steps=3))
    train(checkpoint_steps=3, learning_rate=1e-3)
    mixture(project, epochs=3)
    train(checkpoint_steps=3)
    assert "resuming" not in capsys.readouterr().out


def model_files(project: Path) -> dict[Path, bytes]:
    return {f: f.read_bytes() for part in ("models/arm", "reports") for f in (project / part).rglob("*") if f.is_file()}


@pytest.mark.parametrize("damage", ["another weight", "a tensor lost", "cut short", "quantised"])
def test_a_saved_model_that_answers_otherwise_fails_and_the_earlier_one_stays(train, project, monkeypatch, damage):
    train()
    before, save = model_files(project), saved_model.save_as_stored

    def save_badly(job, model) -> None:
        save(job, model)
        file = job.scratch / "model" / "model.safetensors"
        tensors = load_file(file)
        name = "model.layers.0.mlp.down_proj.weight"
        if damage == "another weight":
            tensors[name] = -tensors[name]
        elif damage == "a tensor lost":
            del tensors[name]
        save_file(tensors, file, metadata={"format": "pt"})
        if damage == "cut short":
            file.write_bytes(file.read_bytes()[:-5])
        elif damage == "quantised":
            config = json.loads((file.parent / "config.json").read_text())
            config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
            (file.parent / "config.json").write_text(json.dumps(config))

    monkeypatch.setattr(saved_model, "save_as_stored", save_badly)
    wanted = {
        "another weight": "the saved model answers otherwise than the trained one",
        "a tensor lost": "missing model.layers.0",
        "cut short": "not a readable safetensors file",
        "quantised": r"is quantised \(fp8\)",
    }
    with pytest.raises(UserError, match=wanted[damage]):
        train(learning_rate=2e-2)
    assert model_files(project) == before


def test_a_tuned_model_that_lacks_its_tokenizer_takes_no_one_s_place(train, project, base, monkeypatch):
    train()
    before = model_files(project)
    monkeypatch.setattr(results.shutil, "copyfile", lambda *_: None)
    with pytest.raises(UserError, match="tokenizer cannot be loaded"):
        train(learning_rate=2e-2)
    assert model_files(project) == before


def test_a_second_run_of_the_same_training_is_told_who_is_at_it(train, project, monkeypatch):
    import os

    start, told = process.train, []

    def train_twice(job) -> None:
        child = os.fork()
        if child == 0:
            try:
                with fine_tuning.scratch_folder(["same"], "arm"):
                    os._exit(1)
            except UserError as error:
                told.append(error)
                (project / "told").write_text(str(error))
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        start(job)

    monkeypatch.setattr(process, "train", train_twice)
    monkeypatch.setattr(fine_tuning.cache, "key", lambda *_: "same")
    train()
    said = (project / "told").read_text()
    assert f"finetune, arm 'arm': another run is at the same work (process {os.getpid()} on " in said
    assert (project / "models/arm/model.safetensors").is_file()
    assert not list((project / ".cache/finetune").iterdir())


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("trainer_state.json", "cut short"),
        ("optimizer.pt", "altered"),
        ("model.safetensors", "gone"),
        ("checksums.json", "cut short"),
        ("adapter_model.safetensors", "added"),
    ],
)
def test_a_damaged_checkpoint_is_said_and_never_resumed_from(train, project, monkeypatch, capsys, file, damage):
    mixture(project, epochs=4)
    settings = dict(checkpoint_steps=3, scheduler="cosine", learning_rate=1e-3)
    killed(monkeypatch, 5, lambda: train(**settings))
    (folder,) = project.glob(".cache/finetune/*/checkpoint-3")
    content = (folder / file).read_bytes() if (folder / file).exists() else b""
    if damage == "gone":
        (folder / file).unlink()
    elif damage == "added":
        (folder / file).write_bytes(b"weights")
    else:
        half = len(content) // 2
        altered = content[:half] + bytes([content[half] ^ 4]) + content[half + 1 :]
        (folder / file).write_bytes(content[:-20] if damage == "cut short" else altered)
    capsys.readouterr()
    train(**settings)
    said = capsys.readouterr().out
    assert "resuming" not in said
    assert "checkpoint-3 is damaged" in said
    assert (project / "models/arm/model.safetensors").is_file()


def test_a_checkpoint_of_other_shapes_is_refused_in_two_lines(train, project, monkeypatch):
    """Sealed anew, as a hand or another program leaves it."""
    mixture(project, epochs=4)
    killed(monkeypatch, 5, lambda: train(checkpoint_steps=3))
    (folder,) = project.glob(".cache/finetune/*/checkpoint-3")
    whole = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    for other in ({**whole, name: whole[name][:3].clone()}, {k: v for k, v in whole.items() if k != name}):
        save_file(other, folder / "model.safetensors", metadata={"format": "pt"})
        job.seal_checkpoint(folder)
        with pytest.raises(UserError, match=f"{name} is missing or has another shape") as caught:
            train(checkpoint_steps=3)
        assert len(str(caught.value).splitlines()) == 2
        assert not (project / "models/arm").exists()


def test_the_checkpoint_before_a_damaged_one_is_taken(project):
    for step in (3, 6):
        folder = project / "scratch" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(b"weights")
        job.seal_checkpoint(folder)
    assert job.last_checkpoint(project / "scratch") == folder
    (folder / "weights").write_bytes(b"weight")
    job.remove_damaged_checkpoints(project / "scratch", "arm")
    assert job.last_checkpoint(project / "scratch") == folder.with_name("checkpoint-3")


def write_checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "rng").mkdir()
    (folder / "rng" / "0.pth").write_bytes(b"state")
    job.seal_checkpoint(folder)
    return folder


def link_elsewhere(folder: Path) -> None:
    (folder / "checkpoint-9").symlink_to(write_checkpoint(folder.parent / "checkpoint-9"))


ODD: dict[str, Callable[[Path], object]] = {
    "a file": lambda folder: (folder / "checkpoint-9").write_bytes(b"x"),
    "a link": link_elsewhere,
    "a link to nowhere": lambda folder: (folder / "checkpoint-9").symlink_to("nowhere"),
    "no number": lambda folder: write_checkpoint(folder / "checkpoint-best"),
    "a copy": lambda folder: write_checkpoint(folder / "checkpoint-9-old"),
    "no name": lambda folder: write_checkpoint(folder / "checkpoint-"),
    "an added state": lambda folder: (write_checkpoint(folder / "checkpoint-9") / "scaler.pt").write_bytes(b"x"),
    "added shards": lambda folder: (write_checkpoint(folder / "checkpoint-9") / "pytorch_model_fsdp_0").mkdir(),
    "a folder for a file": lambda folder: (
        write_checkpoint(folder / "checkpoint-9") / "model.safetensors"
    ).rename(folder / "moved") and (folder / "checkpoint-9" / "model.safetensors").mkdir(),
    "checksums of another place": lambda folder: (
        write_checkpoint(folder / "checkpoint-9") / "checksums.json"
    ).write_text(json.dumps({"../../../../../etc/hostname": "0"})),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_checkpoint_is_said_and_the_one_before_is_taken(tmp_path, capsys, kind):
    whole = write_checkpoint(tmp_path / "scratch" / "checkpoint-3")
    ODD[kind](whole.parent)
    job.remove_damaged_checkpoints(whole.parent, "arm")
    assert job.last_checkpoint(whole.parent) == whole
    assert "and not used" in capsys.readouterr().out
    assert [one.name for one in whole.parent.glob("checkpoint-*")] == ["checkpoint-3"]
    if kind == "a link":
        assert (tmp_path / "checkpoint-9" / "model.safetensors").is_file(), "what it points to stays"


def test_a_file_in_the_place_of_the_scratch_folder_is_one_message(project):
    place = project / ".cache" / "finetune" / fine_tuning.cache.key(["x"])
    place.parent.mkdir(parents=True)
    place.write_bytes(b"x")
    with pytest.raises(UserError, match="the cache cannot be written"), fine_tuning.scratch_folder(["x"], "arm"):
        pass


@pytest.mark.parametrize("limit", [20_000, 150_000])  # bytes of a file: the weights, then the optimizer's state
def test_a_full_disk_while_a_checkpoint_is_written_is_one_message(train, project, limit):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(UserError, match=r"the cache cannot be written") as caught:
            train(checkpoint_steps=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(str(caught.value).splitlines()) == 2
    assert not (project / "models/arm").exists()
    train(checkpoint_steps=1)


def test_a_repository_without_a_commit_is_named_in_one_line(tmp_path, monkeypatch):
    """DVCLive asks git for the last commit. It took the training down with a traceback, after hours of synthesis."""
    run(tmp_path, "git", "init")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="training needs a first commit"):
        curves.open_live(tmp_path / "curves")
    [(mark, text), *_] = machine.check_remote()
    assert (mark, text[:18]) == ("!!", "git: no commit yet")
