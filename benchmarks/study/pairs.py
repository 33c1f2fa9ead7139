"""Retrained pairs of the pocket lab: how often the verdict differs where only the seed of a training does.

    python -m benchmarks.study.pairs train [--minutes 60]   short trainings of two recipes, one seed after another
    python -m benchmarks.study.pairs table                  verdicts on pairs of them, and on pairs of the study's own trainings

Two trainings of one recipe are compared as `holdfast gate --against` compares a branch with another: neither forgot more than the
other, so a fail is a false alarm. Then 5 points are taken from every general suite of the second, and all but a fail is a miss.
Everything but that planted drop is real: weights, answers, and what differs from one training to the next.

`train` needs `dvc repro acquire ingest`. Each training is a line of data/pairs.jsonl, written when it ends; a killed run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import yaml

from benchmarks.study import replay, run

FILE = Path(__file__).parent / "data" / "pairs.jsonl"
STUDY = Path(__file__).parent / "study.yaml"
RECIPES: dict[str, dict[str, Any]] = {  # short ones: a tenth of the default's steps, and less
    "brief": {
        "share": 0.25,
        "objective": "kl",
        "kl_coefficient": 2.0,
        "replay": "self",
        "learning_rate": 5e-4,
        "epochs": 0.5,
    },
    "brief-plain": {"share": 0.0, "objective": "ce", "learning_rate": 5e-4, "epochs": 0.5},
}


def train(minutes: float) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HOLDFAST_WORKERS": "1"}
    os.chdir(run.ROOT)
    study = yaml.safe_load(STUDY.read_text(encoding="utf-8"))
    shared, end = run.inputs(study), time.monotonic() + 60 * minutes
    done = {(cell["arm"], cell["seed"]) for cell in read(FILE)}
    (run.SCRATCH / "logs").mkdir(parents=True, exist_ok=True)
    replay.write("self", run.ROOT, run.SCRATCH / "self")
    if not (run.SCRATCH / "base-evaluation/settings.json").is_file():
        run.score_model(study["evaluation"], "evaluation", "base", Path("models"))
    for arm, seed in wanted():
        if (arm, seed) in done:
            continue
        if time.monotonic() > end:
            break
        began = time.monotonic()
        log = (run.SCRATCH / "logs" / f"{arm}_{seed}.txt").open("w")
        with log, redirect_stdout(log), redirect_stderr(log), tempfile.TemporaryDirectory() as scratch:
            models = Path(scratch) / "models"
            ledger = run.train_model(RECIPES[arm], seed, study, models / "cell")
            scores = run.score_model(study["evaluation"], "evaluation", "cell", models)
        cell = {"arm": arm, "rate": RECIPES[arm]["learning_rate"], "seed": seed, "evaluation": scores, "inputs": shared}
        cell |= {"steps": ledger["steps"], "seconds": round(time.monotonic() - began, 1)}
        with FILE.open("a", encoding="utf-8") as file:
            file.write(json.dumps(cell, sort_keys=True) + "\n")
        print(f"{arm} {seed}: general {scores['general']:.4f}, {cell['seconds']} s", flush=True)


def wanted() -> Iterator[tuple[str, int]]:
    return ((arm, seed) for seed in range(1, 1001) for arm in RECIPES)


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["train", "table"])
    parser.add_argument("--minutes", type=float, default=60)
    options = parser.parse_args()
    train(options.minutes)
