"""Fine-tunes the base on one arm's mixture with TRL, loss on the assistant's tokens only.

holdfast finetune --arm NAME        (writes models/NAME/ and reports/training/NAME/)

Rows are encoded and checked in holdfast/training/fine_tuning.py; training itself is in holdfast/training/process.py, on as many
processes as finetune.processes says (docs/training.md).
"""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path

from holdfast.core import manifest, meter, records
from holdfast.core.errors import UserError
from holdfast.params.finetune import Arm, Finetune
from holdfast.training import curves as curves_of
from holdfast.training import fine_tuning, job


def main(params: Finetune, arm: str, model: Path, mixture: Path, out: Path, curves: Path) -> None:
    if arm not in params.arms:
        raise UserError(
            f"arm '{arm}' has no entry in finetune.arms",
            where="params.yaml",
            do=f"add finetune.arms.{arm}: {{objective: ce}}",
        )
    how, entry = params.arms[arm], manifest.load(model)
    rows = records.read("mix", mixture)
    began = time.monotonic()
    with fine_tuning.trained(params, arm, how, entry, rows, mixture) as done:
        if done is None:
            return  # one of several that torchrun has started: the first one writes
        seconds, (seen, reference) = time.monotonic() - began, fine_tuning.passed(how, done)
        meter.count(entry.parameters, trained=seen, read=reference)
        meter.total.rows, meter.memory = len(done.rows), done.result["peak_memory_bytes"]
        with records.replacing_folder(curves) as partial:
            curves_of.write(partial, done.result["history"])
            records.write_json(partial / "ledger.json", ledger(params, arm, how, entry, seconds, done))
        with records.replacing_folder(out) as partial:
            for file in (done.scratch / job.MODEL).iterdir():
                shutil.move(file, partial / file.name)
            folder = entry.folder()
            for file in folder.iterdir():  # tokenizer and template as they were; weights and config are ours
                ours = file.suffix == ".safetensors" or file.name.endswith(".index.json")
                if file.name in entry.files and not ours and not (partial / file.name).exists():
                    shutil.copyfile(file, partial / file.name)
            for file in partial.iterdir():
                file.chmod(0o644)
    losses = [logs["loss"] for logs in done.result["history"]]
    on = f" on {done.processes} processes" if done.processes > 1 else ""
    print(f"{arm}: {done.result['steps']} steps{on}, loss {losses[0]:.3f} to {losses[-1]:.3f}, {seconds:.0f} s")


def ledger(
    params: Finetune, arm: str, how: Arm, entry: manifest.Manifest, seconds: float, done: fine_tuning.Trained
) -> dict:
    """What the arm cost. FLOPs by the 6ND rule for training and 2ND for the base's forward passes (Kaplan et al.,
    arXiv 2001.08361, sec. 2.1); N counts all parameters, D all tokens that pass through. Memory is that of process 0."""
    rows = done.rows
    tokens = {
        source: sum(r["trained_tokens"] for r in rows if r["source"] == source) for source in ("domain", "replay")
    }
    result, (seen, reference) = done.result, fine_tuning.passed(how, done)
    losses = [logs["loss"] for logs in result["history"]]
    found = {
        "schema": 1,
        "arm": arm,
        "objective": how.objective,
        "kl_coefficient": how.kl_coefficient if how.objective == "kl" else None,
        "learning_rate": how.learning_rate or params.learning_rate,
        "epochs": 1 + max(row["epoch"] for row in rows),
        "steps": result["steps"],
        "rows": {source: sum(r["source"] == source for r in rows) for source in ("domain", "replay")},
        "trained_tokens": tokens,
        "share": tokens["replay"] / max(sum(tokens.values()), 1),
        "tokens": {"trained_on": seen, "forward_only": reference},
        "flops": 6 * entry.parameters * seen + 2 * entry.parameters * reference,
        "seconds": round(seconds, 1),
        "train_seconds": result["train_seconds"],  # of the last start, without loading and saving
        "tokens_per_second": steady(result["history"]),
        "processes": done.processes,
        "peak_memory_bytes": result["peak_memory_bytes"],
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "preflight": done.example,
    }
    return found | {key: result[key] for key in ("kl_cache", "average") if key in result}


def steady(history: list[dict]) -> float:
    """Tokens per second over all processes: the median of the lines after the first, which warms up and compiles."""
    return round(statistics.median([logs["tokens_per_second"] for logs in history][min(1, len(history) - 1) :]), 1)
