"""What the default arm costs, synthesis included, beside replay of the true data, EWC, and the KL on the fly.

    python -m benchmarks.lab.training_cost [--part 0.1] [--no-synthesis-time]        (needs a finished `dvc repro`)

Operations are exact: 6 per parameter and trained token, 2 per token that passes forward, over each arm's whole mixture; of
synthesis as the ledgers in reports/costs have them. Seconds are CPU seconds of one process with one thread: of synthesis, whose
stages run once more with an empty cache in a temporary folder; of training, on `--part` of each mixture, divided by it. With the
base's own answers instead of the panel's, synthesis is what the base writes: user turns and one answer to each.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HOLDFAST_WORKERS": "1"}

import torch

from benchmarks.study import replay  # what the study replays
from holdfast.core import manifest, records, storage
from holdfast.data import mixture
from holdfast.params.finetune import (
    Arm,
    Finetune,
)
from holdfast.params.mix import (
    Mix,
    MixArm,
)
from holdfast.params.respond import Respond
from holdfast.training import fine_tuning

ROOT = Path(__file__).resolve().parents[2]

MANIFESTS = Path("models/manifest")
STAGES = [
    ["reconstruct"],
    ["curate"],
    *(["respond", "--model", name] for name in ("base", "abacus", "lexicon")),
    ["judge"],
]


def arms() -> dict[str, tuple[MixArm, Arm, str]]:
    """Name -> mixture, objective, and whose replay set: none is synthesised for `truth`."""
    mixing, tuning = Mix.load(), Finetune.load()
    default, arm_config = mixing.arms["holdfast"], tuning.arms["holdfast"]
    fly, cached = ({"objective": "kl", "kl_cache": kind} for kind in ("off", "topk"))
    plain = Arm(learning_rate=arm_config.learning_rate, average=arm_config.average)
    return {
        "domain-only": (mixing.arms["domain-only"], tuning.arms["domain-only"], ""),
        "default": (default, arm_config, "consensus"),
        "default, KL on the fly": (default, arm_config.model_copy(update=fly), "consensus"),
        "default, KL cached": (default, arm_config.model_copy(update=cached), "consensus"),
        "default, the base's own answers": (default, arm_config, "self"),
        "the panel's answers, cross-entropy, share 0.5 (the paper)": (
            default.model_copy(update={"share": 0.5, "epochs": mixing.epochs}),
            plain,
            "consensus",
        ),
        "true-data replay, cross-entropy, the default's share": (default, plain, "truth"),
        "true-data replay, cross-entropy, share 0.5": (
            default.model_copy(update={"share": 0.5, "epochs": mixing.epochs}),
            plain,
            "truth",
        ),
        "EWC, Fisher from true data": (
            mixing.arms["domain-only"].model_copy(update={"share": 0.01}),
            Arm(anchor="ewc"),
            "truth",
        ),
    }


def cpu(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def train_arms(part: float, scratch: Path) -> dict[str, tuple[float, float]]:
    """Arm -> (operations, CPU seconds) of training on its whole mixture."""
    mixing, tuning, base = Mix.load(), Finetune.load(), manifest.load(MANIFESTS / "base.json")
    tokenizer, costs = manifest.load_tokenizer(base.folder()), {}
    domain = mixture.domain_rows(tokenizer, records.read("domain", Path("data/domain/train.parquet")))
    for name, (mixed, arm_config, source) in arms().items():
        replayed = []
        if source:
            data = replay.write(source, Path.cwd(), scratch / source)
            replayed = mixture.replay_rows(tokenizer, records.read("replay", data / "replay" / "replay.parquet"))
        epochs, share = mixed.epochs or mixing.epochs, float(mixed.share)
        rows = mixture.build_mixture(domain, replayed, share, epochs, 20, mixing.seed, name)
        few = mixture.build_mixture(domain, replayed, share, epochs * part, 20, mixing.seed, name)
        began = cpu(resource.RUSAGE_SELF)
        with fine_tuning.train_arm(tuning, name, arm_config, base, few, scratch) as trained:
            seconds = (cpu(resource.RUSAGE_SELF) - began) / part
            assert trained is not None
        encoded, once = fine_tuning.encode_rows(tokenizer, rows, arm_config)
        seen = sum(len(row.input_ids) for row in encoded)
        if arm_config.anchor == "ewc":
            extra = 3 * sum(len(row.input_ids) for row in once[: arm_config.fisher_rows])  # forward and back
        elif arm_config.objective != "kl":
            extra = 0
        elif arm_config.kl_cache == "topk":
            extra = sum(len(row.input_ids) for row in once)
        else:
            extra = sum(len(row.input_ids) for row in encoded if min(row.labels) <= fine_tuning.KL)
        costs[name] = base.parameters * (6.0 * seen + 2.0 * extra), seconds
        print(f"  {name}: {seconds:,.0f} s", file=sys.stderr, flush=True)
    return costs


def synthesis_operations() -> dict[str, float]:
    """Of all that was sampled, embedded, answered and judged for a replay set: the panel's, and the base's own alone."""
    found = {name: storage.read_json(Path(f"reports/costs/{'/'.join(name)}.json"))["flops"] for name in map(of, STAGES)}
    base = sum(found[name,] for name in ("reconstruct", "curate"))
    first = found["respond", "base"] / Respond.load().k
    return {"panel": float(sum(found.values())), "base": float(base + first), "": 0.0}


def of(stage: list[str]) -> tuple[str, ...]:
    """("respond", "base") of a command."""
    return tuple(word for word in stage if not word.startswith("--"))


def synthesis_seconds(scratch: Path) -> dict[str, float]:
    """CPU seconds of the stages that make the replay set, with an empty cache."""
    (scratch / "reports").mkdir(parents=True)
    for name in ("params.yaml", "models", "profiles"):
        (scratch / name).symlink_to(Path(name).resolve())
    (scratch / "data").mkdir()
    for name in ("domain", "pocket", "prompts"):
        (scratch / "data" / name).symlink_to(Path("data", name).resolve())
    seconds: dict[tuple[str, ...], float] = {}
    for stage in STAGES:
        before = cpu(resource.RUSAGE_CHILDREN)
        command = [str(Path(sys.executable).with_name("holdfast")), *stage]
        subprocess.run(command, cwd=scratch, check=True, stdout=subprocess.DEVNULL)
        seconds[of(stage)] = cpu(resource.RUSAGE_CHILDREN) - before
        print(f"  {' '.join(stage)}: {seconds[of(stage)]:,.0f} s", file=sys.stderr, flush=True)
    base = seconds["reconstruct",] + seconds["curate",] + seconds["respond", "base"] / Respond.load().k
    return {"panel": sum(seconds.values()), "base": base, "": 0.0}


def main(part: float, timed: bool) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        nothing = dict.fromkeys(("panel", "base", ""), 0.0)
        operations, seconds = synthesis_operations(), synthesis_seconds(Path(scratch) / "again") if timed else nothing
        arm = train_arms(part, Path(scratch))
    flops, spent = arm["domain-only"]
    print(
        "| arm | 10^12 operations: synthesis | training | together / domain-only | CPU seconds: synthesis | training | together / domain-only |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, (_, _, source) in arms().items():
        who = {"consensus": "panel", "self": "base"}.get(source, "")
        made, (own, took) = (operations[who], seconds[who]), arm[name]
        print(
            f"| {name} | {made[0] / 1e12:.2f} | {own / 1e12:.2f} | {(made[0] + own) / flops:.2f} | {made[1]:,.0f} | {took:,.0f} | "
            f"{(made[1] + took) / spent:.2f} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", type=float, default=0.1)
    parser.add_argument("--no-synthesis-time", action="store_true")
    given = parser.parse_args()
    main(given.part, not given.no_synthesis_time)
