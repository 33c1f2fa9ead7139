"""Trains and scores arms, learning rates and seeds on the pocket lab; results.jsonl gets a line for each cell.

    python benchmarks/study/run.py [--jobs 2] [--study benchmarks/study/study.yaml] [--only ARM ...] [--seeds 1 2]

Needs `dvc repro acquire ingest`; the replay set lies beside this file (replay.py). A cell is one arm at one learning rate with
one seed. A finished cell is not run again, so a killed study goes on. `python benchmarks/study/table.py` reads the results.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
import replay  # noqa: E402  (what the arms replay)

RESULTS = Path(__file__).parent / "results.jsonl"
SCRATCH = ROOT / ".cache/study"  # replay sets, the base's evaluations, a log per cell
BASE = Path("models/manifest/base.json")


def load(study: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Finished cells by name. Raises SystemExit where one was trained from another base or on other replay rows."""
    lines = RESULTS.read_text().splitlines() if RESULTS.is_file() else []
    found = {cell["cell"]: cell for cell in map(json.loads, lines)}
    now = inputs(study)
    if other := [name for name, cell in found.items() if cell["inputs"] != now]:
        raise SystemExit(f"{len(other)} cells of {RESULTS.name} are of other inputs ({other[0]}): move the file away")
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


def named(kind: str, arm: str, how: dict[str, Any], rate: float, seed: int) -> dict[str, Any]:
    how = {**how, "learning_rate": rate}
    return {"cell": f"{arm}_{rate:g}_{seed}", "kind": kind, "arm": arm, "rate": rate, "seed": seed, "how": how}


def due(study: dict[str, Any], done: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The cells that can be run now, seed after seed: a reference arm's later seeds wait for its first at all rates."""
    first = study["seeds"][0]
    for seed in study["seeds"]:
        for kind in ("main", "reference"):
            for arm, how in study[kind].items():
                if seed not in how.get("seeds", study["seeds"]):
                    continue
                rates = [how["learning_rate"]] if "learning_rate" in how else how.get("rates", study["rates"])
                cells = [named(kind, arm, how, rate, seed) for rate in rates]
                if kind == "reference" and seed != first:
                    tried = [done.get(f"{arm}_{rate:g}_{first}") for rate in rates]
                    if None in tried:
                        continue
                    best = max(range(len(rates)), key=lambda n: together(tried[n]))
                    cells = [cells[best]]
                yield from (cell for cell in cells if cell["cell"] not in done)


def together(cell: dict[str, Any]) -> float:
    """General + domain score on the development suites."""
    return cell["development"]["general"] + cell["development"]["domain"]


def run(cell: dict[str, Any], study: dict[str, Any]) -> dict[str, Any]:
    """Trains and scores one cell in a temporary folder. What the stages print goes to .cache/study/logs."""
    import torch

    torch.set_num_threads(1)
    os.chdir(ROOT)
    (SCRATCH / "logs").mkdir(parents=True, exist_ok=True)
    with (SCRATCH / "logs" / f"{cell['cell']}.txt").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        return {**cell, **trained(cell["how"], cell["seed"], study)}


def trained(how: dict[str, Any], seed: int, study: dict[str, Any]) -> dict[str, Any]:
    from holdfast.data import mixing
    from holdfast.params.finetune import Arm, Finetune
    from holdfast.params.mix import Mix, MixArm
    from holdfast.training import finetune

    mix_params, tuning = Mix.load(), Finetune.load()
    arm = Arm(**{key: how[key] for key in Arm.model_fields if key in how})
    more = {"epochs": how.get("epochs", study["epochs"]), "max_repeats": study["max_repeats"], "seed": seed}
    mix_params = mix_params.model_copy(update={"arms": {"cell": MixArm(share=how["share"])}, **more})
    tuning = tuning.model_copy(update={"arms": {"cell": arm}, "seed": seed})
    data = SCRATCH / how["replay"] if how["share"] else ROOT / "data"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        mixing.main(mix_params, "cell", BASE, data, folder / "mix.parquet")
        began = time.monotonic()
        finetune.main(tuning, "cell", BASE, folder / "mix.parquet", folder / "models" / "cell", folder / "training")
        seconds = time.monotonic() - began
        ledger = json.loads((folder / "training/ledger.json").read_text())
        scores = {part: scored(study[part], part, "cell", folder / "models") for part in ("development", "evaluation")}
    return {**scores, "seconds": round(seconds, 1), "ledger": ledger}


def scored(tasks: str, part: str, model: str, models: Path) -> dict[str, Any]:
    """Scores by suite, general and domain (chance-adjusted), and every item's outcome as hexadecimal bits in item order."""
    from holdfast.core import records
    from holdfast.evaluation import harness
    from holdfast.params.evaluate import Evaluate

    given = Evaluate.load().model_copy(update={"tasks": tasks, "domain_test": "off"})
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        if model != "base":  # an arm is asked as the base was, or refused
            (out / "base").symlink_to(SCRATCH / f"base-{part}")
        harness.main(given, model, BASE, models, Path("none"), out / model)
        rows = records.read("items", out / model / "items.parquet")
        if model == "base":
            (SCRATCH / f"base-{part}").mkdir(parents=True, exist_ok=True)
            (SCRATCH / f"base-{part}/settings.json").write_text((out / "base/settings.json").read_text())
    right: dict[str, list[float]] = {}
    for row in sorted(rows, key=lambda row: row["id"]):
        right.setdefault(row["suite"], []).append(row["correct"])
    found: dict[str, Any] = {"scores": {}, "items": {}}
    for suite, values in right.items():
        found["scores"][suite] = sum(values) / len(values)
        found["items"][suite] = f"{int(''.join('1' if value == 1 else '0' for value in values), 2):x}"
    for role in ("general", "domain"):
        parts = [(found["scores"][k] - s.chance) / (1 - s.chance) for k, s in given.suites.items() if s.role == role]
        found[role] = sum(parts) / len(parts)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--study", type=Path, default=Path(__file__).parent / "study.yaml")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--seeds", nargs="*", type=int)
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HOLDFAST_WORKERS": "1"}
    os.chdir(ROOT)
    study = yaml.safe_load(given.study.read_text())
    study["seeds"] = given.seeds or study["seeds"]
    done, shared = load(study), inputs(study)
    with ProcessPoolExecutor(given.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        parts = ("development", "evaluation")
        if "base" not in done or not all((SCRATCH / f"base-{part}/settings.json").is_file() for part in parts):
            scores = {part: pool.submit(scored, study[part], part, "base", Path("models")).result() for part in parts}
            if "base" not in done:
                keep(done, {"cell": "base", "arm": "base", "inputs": shared, **scores})
        for source in replay.SOURCES:  # before two cells want the same one at once
            replay.write(source, ROOT, SCRATCH / source)
        running: dict[Future[dict[str, Any]], str] = {}
        began, before = time.monotonic(), len(done)
        while True:
            waiting = [
                cell for cell in due(study, done)
                if cell["cell"] not in running.values() and (not given.only or cell["arm"] in given.only)
            ]  # fmt: skip
            for cell in waiting[: given.jobs - len(running)]:
                running[pool.submit(run, cell, study)] = cell["cell"]
            if not running:
                break
            for finished in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(finished)
                keep(done, {**finished.result(), "inputs": shared})
                score, pace = done[name]["development"], (time.monotonic() - began) / (len(done) - before)
                print(f"{name:28} general {score['general']:.3f}  domain {score['domain']:.3f}  {done[name]['seconds']:5.0f} s   "
                      f"{len(done) - 1} cells done, {pace:.0f} s per cell", flush=True)  # fmt: skip


def keep(done: dict[str, dict[str, Any]], cell: dict[str, Any]) -> None:
    with RESULTS.open("a") as file:
        file.write(json.dumps(cell, sort_keys=True) + "\n")
    done[cell["cell"]] = cell


if __name__ == "__main__":
    main()
