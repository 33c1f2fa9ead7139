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
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import yaml

from benchmarks.study import replay, run
from holdfast.params.gate import Gate
from holdfast.params.whole import Params
from holdfast.verdict import gate, simulation
from holdfast.verdict.run import decide_run

PLANTED = 0.05  # of the general score above chance
DRAWS = 20  # of several pairs of one recipe that are judged together
FILE = Path(__file__).parent / "data" / "pairs.jsonl"
STUDY = Path(__file__).parent / "study.yaml"
TRAINED = {"domain-only": (5e-4, range(6, 26))}  # arms of the study: rate, further seeds
SHORT: dict[str, dict[str, Any]] = {  # a tenth of the default's steps, and less
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
    for arm, recipe, seed in list_trainings(study):
        if (arm, seed) in done:
            continue
        if time.monotonic() > end:
            break
        began = time.monotonic()
        log = (run.SCRATCH / "logs" / f"{arm}_{seed}.txt").open("w")
        with log, redirect_stdout(log), redirect_stderr(log), tempfile.TemporaryDirectory() as scratch:
            models = Path(scratch) / "models"
            ledger = run.train_model(recipe, seed, study, models / "cell")
            scores = run.score_model(study["evaluation"], "evaluation", "cell", models)
        cell = {"arm": arm, "rate": recipe["learning_rate"], "seed": seed, "evaluation": scores, "inputs": shared}
        cell |= {"steps": ledger["steps"], "seconds": round(time.monotonic() - began, 1)}
        with FILE.open("a", encoding="utf-8") as file:
            file.write(json.dumps(cell, sort_keys=True) + "\n")
        print(f"{arm} {seed}: general {scores['general']:.4f}, {cell['seconds']} s", flush=True)


def list_trainings(study: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Arm, recipe and seed of each, in the order in which they are trained."""
    for arm, (rate, seeds) in TRAINED.items():
        recipe = study["main"][arm]
        yield from ((arm, recipe | {"learning_rate": rate or recipe["learning_rate"]}, seed) for seed in seeds)
    yield from ((arm, recipe, seed) for seed in range(1, 1001) for arm, recipe in SHORT.items())


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def table() -> None:
    """Verdicts on pairs of trainings of one recipe, in both directions, and on several pairs judged together."""
    params = Params.load(run.ROOT / "params.yaml")
    demands = params.gate.model_copy(update={"min_domain_gain": -1.0, "control": None, "resamples": 1000})
    suites = {
        name: {"role": "general", "chance": suite.chance, "items": params.pocket.items}
        for name, suite in params.evaluate.suites.items()
        if suite.role == "general"
    }
    cells = read(run.read_study(STUDY)["results"]) + read(FILE)
    recipes: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for cell in cells:
        if "rate" in cell:
            recipes.setdefault((cell["arm"], cell["rate"]), []).append(outcomes(cell["evaluation"]["items"], suites))
    several = {key: trainings for key, trainings in recipes.items() if len(trainings) > 1}
    spreads = {key: stdev(map(partial(score, suites=suites), trainings)) for key, trainings in several.items()}
    print(f"{sum(map(len, several.values()))} trainings of {len(several)} recipes, margin {100 * demands.margin:.1f}")
    print("recipes, spread of trainings    recipes  planted verdicts  together    pass    fail  cannot compare")
    bands = {
        f"{100 * low:.1f} to {100 * high:.1f} points": [key for key, spread in spreads.items() if low <= spread < high]
        for low, high in ((0.0, 0.005), (0.005, 0.01), (0.01, 1.0), (0.0, 1.0))
    }
    bands |= {
        f"{arm}, {100 * spreads[arm, rate]:.1f}": [(arm, rate)]
        for arm, rate in spreads
        if arm in TRAINED and len(several[arm, rate]) > 10
    }
    for band, keys in bands.items():
        for planted in (0.0, PLANTED):
            for together in (1, 2, 3, 5):
                verdicts = [
                    word for key in keys for word in judge_pairs(demands, suites, several[key], planted, together)
                ]
                if verdicts:
                    shares = [verdicts.count(word) / len(verdicts) for word in ("pass", "fail", "cannot-compare")]
                    print(
                        f"{band:31} {len(keys):7d}  {100 * planted:7.1f} {len(verdicts):8d}  {together:8d}"
                        + "".join(f" {share:7.1%}" for share in shares),
                        flush=True,
                    )


def outcomes(items: dict[str, str], suites: dict[str, Any]) -> dict[str, Any]:
    """Right or wrong by suite, from hexadecimal bits in item order."""
    return {
        name: np.array([bit == "1" for bit in f"{int(items[name], 16):0{suite['items']}b}"])
        for name, suite in suites.items()
    }


def score(training: dict[str, Any], suites: dict[str, Any]) -> float:
    chances = {name: suite["chance"] for name, suite in suites.items()}
    return fmean((training[name].mean() - chance) / (1 - chance) for name, chance in chances.items())


def judge_pairs(
    demands: Gate, suites: dict[str, Any], trainings: list[dict[str, Any]], planted: float, together: int
) -> Iterator[str]:
    """Verdicts on one recipe. Alone: every two trainings, both ways round. Together: draws of disjoint pairs, where there are so many
    trainings."""
    if together == 1:
        groups = [[pair] for pair in itertools.permutations(range(len(trainings)), 2)]
    else:
        draw, most = np.random.default_rng(together), DRAWS if len(trainings) >= 2 * together else 0
        orders = [draw.permutation(len(trainings))[: 2 * together].tolist() for _ in range(most)]
        groups = [list(zip(order[::2], order[1::2], strict=True)) for order in orders]
    for group in groups:
        arms = {}
        for place, (former, present) in enumerate(group):
            rng = np.random.default_rng([former, present, place])
            sides = [{}, {}]
            for name in suites:
                after = trainings[present][name]
                lost = planted * (1 - suites[name]["chance"]) / max(after.mean(), 0.05)
                remaining = after & (rng.random(len(after)) >= lost)
                for side, right in zip(sides, (trainings[former][name], remaining), strict=True):
                    side[name] = simulation.answers(name, right.astype(float))
            before, tuned = (side.__getitem__ for side in sides)
            arms[f"pair-{place}"] = gate.compare(demands, suites, before, tuned, [])
        yield decide_run(demands, arms, None, {"pair-0": list(arms)})["verdict"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["train", "table"])
    parser.add_argument("--minutes", type=float, default=60)
    options = parser.parse_args()
    if options.what == "train":
        train(options.minutes)
    else:
        table()
