"""Trains and scores arms, learning rates and seeds on the pocket lab; data/results.jsonl gets a line for each cell.

    python -m benchmarks.study.run [--jobs 2] [--study benchmarks/study/study.yaml] [--only ARM ...] [--seeds 1 2]

A study file may name another file of results (`results`, beside it), as league/league.yaml does.

Needs `dvc repro acquire ingest`; the replay set lies beside this file (replay.py). A cell is one arm at one learning rate with
one seed. A finished cell is not run again, so a killed study goes on. `python -m benchmarks.study.table` reads the results.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import yaml

from benchmarks.study import replay  # what the arms replay

ROOT = Path(__file__).parents[2]

STUDY = Path(__file__).parent / "study.yaml"
SCRATCH = ROOT / ".cache/study"  # replay sets, the base's evaluations, a log per cell
BASE = Path("models/manifest/base.json")


def read_study(file: Path) -> dict[str, Any]:
    """The study, with the file of its results as a path."""
    study: dict[str, Any] = yaml.safe_load(file.read_text())
    return study | {"results": file.resolve().parent / study.get("results", "data/results.jsonl")}


def load(study: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Finished cells by name. Raises SystemExit where one was trained from another base or on other replay rows."""
    results = study["results"]
    lines = results.read_text().splitlines() if results.is_file() else []
    found = {cell["cell"]: cell for cell in map(json.loads, lines)}
    now = inputs(study)
    if other := [name for name, cell in found.items() if cell["inputs"] != now]:
        raise SystemExit(f"{len(other)} cells of {results.name} are of other inputs ({other[0]}): move the file away")
    return found


def inputs(study: dict[str, Any]) -> str:
    """Fingerprint of what all cells share: the base, the domain, the replay rows' texts, both sets of suites."""
    from holdfast.core import manifest, records

    rows = records.read("replay", replay.REPLAY)
    texts = [[row["id"], row["instruction"], row["response"]] for row in rows]
    files = [file for part in ("development", "evaluation") for file in sorted((ROOT / study[part]).iterdir())]
    files += [ROOT / "data/pocket/domain/train.jsonl", ROOT / "data/pocket/domain/test.jsonl"]
    digest = hashlib.sha256(json.dumps([manifest.load(ROOT / BASE).fingerprint, texts]).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def name_cell(kind: str, arm: str, arm_config: dict[str, Any], rate: float, seed: int) -> dict[str, Any]:
    arm_config = {**arm_config, "learning_rate": rate}
    return {"cell": f"{arm}_{rate:g}_{seed}", "kind": kind, "arm": arm, "rate": rate, "seed": seed, "how": arm_config}


def find_due(study: dict[str, Any], done: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The cells that can be run now, seed after seed: a reference arm's later seeds wait for its first at all rates."""
    first = study["seeds"][0]
    counted_otherwise = {
        cell["arm"] for cell in done.values() if not cell.get("counts") and cell.get("how", {}).get("share")
    }
    for seed in study["seeds"]:
        for kind in ("main", "reference"):
            for arm, arm_config in study[kind].items():
                if arm in counted_otherwise or seed not in arm_config.get("seeds", study["seeds"]):
                    continue
                rates = (
                    [arm_config["learning_rate"]]
                    if "learning_rate" in arm_config
                    else arm_config.get("rates", study["rates"])
                )
                cells = [name_cell(kind, arm, arm_config, rate, seed) for rate in rates]
                if kind == "reference" and seed != first:
                    tried = [done.get(f"{arm}_{rate:g}_{first}") for rate in rates]
                    if None in tried:
                        continue
                    best = max(range(len(rates)), key=lambda n: development_score(tried[n]))
                    cells = [cells[best]]
                yield from (cell for cell in cells if cell["cell"] not in done)


def development_score(cell: dict[str, Any]) -> float:
    """General + domain score on the development suites."""
    return cell["development"]["general"] + cell["development"]["domain"]


def run(cell: dict[str, Any], study: dict[str, Any]) -> dict[str, Any]:
    """Trains and scores one cell in a temporary folder. What the stages print goes to .cache/study/logs."""
    import torch

    torch.set_num_threads(1)
    os.chdir(ROOT)
    (SCRATCH / "logs").mkdir(parents=True, exist_ok=True)
    with (SCRATCH / "logs" / f"{cell['cell']}.txt").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        return {**cell, **train_cell(cell["how"], cell["seed"], study)}


def train_cell(arm_config: dict[str, Any], seed: int, study: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        models = Path(scratch) / "models"
        began = time.monotonic()
        ledger = train_model(arm_config, seed, study, models / "cell")
        seconds = time.monotonic() - began
        scores = {part: score_model(study[part], part, "cell", models) for part in ("development", "evaluation")}
    return {**scores, "seconds": round(seconds, 1), "ledger": ledger}


def train_model(arm_config: dict[str, Any], seed: int, study: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Writes the tuned model into `folder`; returns its ledger."""
    from holdfast.core import manifest, records
    from holdfast.data import mixture
    from holdfast.params.finetune import Arm, Finetune
    from holdfast.training import results
    from holdfast.training.fine_tuning import train_arm

    arm = Arm(**{key: arm_config[key] for key in Arm.model_fields if key in arm_config})
    tuning = Finetune.load().model_copy(update={"arms": {"cell": arm}, "seed": seed})
    base, share, epochs = manifest.load(BASE), arm_config["share"], arm_config.get("epochs", study["epochs"])
    tokenizer, data = manifest.load_tokenizer(base.folder()), SCRATCH / arm_config["replay"] if share else ROOT / "data"
    domain = mixture.domain_rows(tokenizer, records.read("domain", data / "domain/train.parquet"))
    replayed = records.read("replay", data / "replay/replay.parquet") if share else []
    replayed = mixture.replay_rows(tokenizer, replayed)
    rows = mixture.build_mixture(domain, replayed, share, epochs, study["max_repeats"], seed, "cell")
    with train_arm(tuning, "cell", arm, base, rows, data) as trained:
        assert trained is not None  # only under torchrun
        results.save_tuned_model(trained, base, folder)
        return results.training_ledger(trained, base)


def score_model(tasks: str, part: str, model: str, models: Path) -> dict[str, Any]:
    """Scores by suite, general and domain (chance-adjusted), and every item's outcome as hexadecimal bits in item order."""
    from holdfast.core import manifest, storage
    from holdfast.evaluation import harness
    from holdfast.params.evaluate import Evaluate

    given = Evaluate.load().model_copy(update={"tasks": tasks, "domain_test": "off"})
    base, base_evaluation = manifest.load(BASE), SCRATCH / f"base-{part}"
    weights = harness.model_folder(model, base, models)
    same_as = None if model == "base" else base_evaluation  # an arm is asked as the base was, or refused
    evaluation = harness.evaluate_model(given, model, weights, base, Path("none"), same_as)
    if model == "base":
        storage.write_json(base_evaluation / "settings.json", evaluation.settings)
    right: dict[str, list[float]] = {}
    for row in sorted(evaluation.items, key=lambda row: row["id"]):
        right.setdefault(row["suite"], []).append(row["correct"])
    result: dict[str, Any] = {"scores": {}, "items": {}}
    for suite, values in right.items():
        result["scores"][suite] = sum(values) / len(values)
        result["items"][suite] = f"{int(''.join('1' if value == 1 else '0' for value in values), 2):x}"
    for role in ("general", "domain"):
        parts = [(result["scores"][k] - s.chance) / (1 - s.chance) for k, s in given.suites.items() if s.role == role]
        result[role] = sum(parts) / len(parts)
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--study", type=Path, default=STUDY)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--seeds", nargs="*", type=int)
    given = parser.parse_args()
    study = read_study(given.study)
    study["seeds"] = given.seeds or study["seeds"]
    run_study(study, given.jobs, given.only)


def run_study(study: dict[str, Any], jobs: int, only: list[str]) -> None:
    """Runs every cell that is not finished, of the arms in `only` or of all."""
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HOLDFAST_WORKERS": "1"}
    os.chdir(ROOT)
    from holdfast.core import shards

    done, shared = load(study), inputs(study)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=shards.start_worker) as pool:
        parts = ("development", "evaluation")
        if "base" not in done or not all((SCRATCH / f"base-{part}/settings.json").is_file() for part in parts):
            scores = {
                part: pool.submit(score_model, study[part], part, "base", Path("models")).result() for part in parts
            }
            if "base" not in done:
                keep(study, done, {"cell": "base", "arm": "base", "inputs": shared, **scores})
        for source in replay.SOURCES:  # before two cells want the same one at once
            replay.write(source, ROOT, SCRATCH / source)
        running: dict[Future[dict[str, Any]], str] = {}
        began, before = time.monotonic(), len(done)
        while True:
            waiting = [
                cell
                for cell in find_due(study, done)
                if cell["cell"] not in running.values() and (not only or cell["arm"] in only)
            ]
            for cell in waiting[: jobs - len(running)]:
                running[pool.submit(run, cell, study)] = cell["cell"]
            if not running:
                break
            for finished in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(finished)
                keep(study, done, {**finished.result(), "inputs": shared, "counts": "rows"})
                score, pace = done[name]["development"], (time.monotonic() - began) / (len(done) - before)
                print(
                    f"{name:28} general {score['general']:.3f}  domain {score['domain']:.3f}  {done[name]['seconds']:5.0f} s   "
                    f"{len(done) - 1} cells done, {pace:.0f} s per cell",
                    flush=True,
                )


def keep(study: dict[str, Any], done: dict[str, dict[str, Any]], cell: dict[str, Any]) -> None:
    with study["results"].open("a") as file:
        file.write(json.dumps(cell, sort_keys=True) + "\n")
    done[cell["cell"]] = cell


if __name__ == "__main__":
    main()
