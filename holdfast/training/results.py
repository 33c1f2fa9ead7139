"""The results of a training: the tuned model's folder, and what the arm took.

Before: fine_tuning.py yields a `Trained`. After: the stage `finetune` puts these in their places.
"""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path
from typing import Any

from holdfast.core import checkpoint, ledger, manifest, meter, storage
from holdfast.training import job
from holdfast.training.fine_tuning import Trained, trained_tokens


def save_tuned_model(trained: Trained, base: manifest.Manifest, folder: Path) -> None:
    """Moves the tuned weights to `folder`, and copies the base's tokenizer and template beside them."""
    with storage.replacing_folder(folder) as partial:
        for file in (trained.scratch / job.MODEL_FOLDER).iterdir():
            shutil.move(file, partial / file.name)
        for file in base.folder().iterdir():
            weights = file.suffix == ".safetensors" or file.name.endswith(".index.json")
            if file.name in base.files and not weights and not (partial / file.name).exists():
                shutil.copyfile(file, partial / file.name)
        for file in partial.iterdir():
            file.chmod(0o644)
        checkpoint.check_folder(partial)  # whole, before it takes the earlier one's place
        manifest.load_tokenizer(partial)


def training_ledger(trained: Trained, base: manifest.Manifest) -> dict[str, Any]:
    """What an arm's training took and came to: equal inputs give equal ledgers, so there are no seconds in it.

    FLOPs by the 6ND rule for training and 2ND for the base's forward passes (Kaplan et al., arXiv 2001.08361, sec.
    2.1): N counts all parameters, D all tokens that pass through.
    """
    rows, result, arm_config = trained.rows, trained.result, trained.arm_config
    tokens = {source: trained_tokens(rows, source) for source in ("domain", "replay")}
    counts = {source: sum(row["source"] == source for row in rows) for source in ("domain", "replay")}
    losses = [logs["loss"] for logs in result.history]
    self_taught = arm_config.sdft != "off"
    if self_taught:
        tokens["domain"] = result.more["sdft"]["answer_tokens"]  # not the gold answers'
    return {
        "schema": 1,
        "arm": trained.arm,
        "objective": "sdft" if self_taught else arm_config.objective,
        "kl_coefficient": arm_config.kl_coefficient if arm_config.objective == "kl" else None,
        "learning_rate": trained.learning_rate,
        "epochs": 1 + max(row["epoch"] for row in rows),
        "steps": result.steps,
        "rows": counts,
        "trained_tokens": tokens,
        "share": counts["replay"] / max(len(rows), 1),
        "tokens": {"trained_on": trained.tokens_trained_on, "forward_only": trained.tokens_forward_only},
        "flops": base.parameters * (6 * trained.tokens_trained_on + 2 * trained.tokens_forward_only),
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "preflight": trained.example,
        **result.more,
    }


def count_cost(trained: Trained, base: manifest.Manifest) -> None:
    """Adds what the training took to the stage's cost and timing records."""
    meter.count(base.parameters, trained=trained.tokens_trained_on, read=trained.tokens_forward_only)
    meter.count_training(len(trained.rows), trained.result.peak_memory_bytes)
    ledger.note_timing(**timings(trained))


def timings(trained: Trained) -> dict[str, float]:
    """What differs from run to run: speed over all processes, memory of the first, and what the cache of the base's
    log-probabilities did not have. Medians are of the log's lines after the first, which warms up and compiles."""
    result = trained.result
    return {
        "processes": trained.processes,
        "train_seconds": result.train_seconds,
        "tokens_per_second": median_after_first(result.history, "tokens_per_second"),
        "memory_gib": median_after_first(result.history, "memory_gib"),
        "peak_memory_bytes": result.peak_memory_bytes,
        "base_tokens_computed": result.base_tokens_computed,
    }


def median_after_first(history: list[dict[str, Any]], name: str) -> float:
    values = [logs[name] for logs in history]
    return statistics.median(values[1:] or values)


def sentence(trained: Trained) -> str:
    """A training in one line."""
    losses = [logs["loss"] for logs in trained.result.history]
    on = f" on {trained.processes} processes" if trained.processes > 1 else ""
    steps, seconds = trained.result.steps, trained.result.train_seconds
    return f"{trained.arm}: {steps} steps{on}, loss {losses[0]:.3f} to {losses[-1]:.3f}, {seconds:.0f} s"
