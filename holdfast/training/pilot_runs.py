"""Short trainings of one arm, each measured on rows that none of them has seen. Used by `pilot`.

A finished run is kept in .cache; the base's log-probabilities on replay rows are computed once for all runs.
"""

from __future__ import annotations

import gc
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from holdfast.chat import encoding
from holdfast.core import cache, manifest
from holdfast.data import mixture
from holdfast.params.finetune import Arm, Finetune
from holdfast.training import base_logprobs, fine_tuning, held_out, job

KEPT = 32  # of the base's log-probabilities per held-out token
Rows = dict[str, list[dict[str, Any]]]  # "domain" and "replay": rows as holdfast/data/mixture.py measures them


@dataclass(frozen=True, slots=True)
class Plan:
    arm: str
    how: Arm
    tuning: Finetune
    entry: manifest.Manifest
    epochs: float  # of the arm's whole run
    max_repeats: int
    seed: int  # of the mixture
    train: Rows
    held: Rows


def measured(plan: Plan, points: list[list[float]]) -> list[dict[str, Any]]:
    """The base, and then a run for each point (share, part of the whole run, learning rate over the arm's own). Each has the
    outcomes of the held-out rows by source, and what it cost."""
    settings = plan.tuning.model_dump(exclude={"arms", "processes"})
    identity = [
        plan.entry.fingerprint, plan.entry.dtype, plan.how.model_dump(), settings, plan.epochs, plan.max_repeats, plan.seed,
        cache.key(plan.train), cache.key(plan.held), fine_tuning.code(),
    ]  # fmt: skip
    return cache.shards("pilot", [[], *points], 1, identity, partial(one, plan=plan), "short runs")


def one(part: list[list[float]], plan: Plan) -> list[dict[str, Any]]:
    if not part[0]:
        return [{"outcomes": outcomes(plan, plan.entry.folder()), "steps": 0, "trained_on": 0, "forward_only": 0}]
    share, length, rate = part[0]
    own = plan.how.learning_rate or plan.tuning.learning_rate
    how = plan.how.model_copy(
        update={"learning_rate": own * rate, "kl_cache": "topk" if plan.how.objective == "kl" else "off"}
    )
    rows = mixture.mixed(
        plan.train["domain"], plan.train["replay"], share, plan.epochs * length, plan.max_repeats, plan.seed, plan.arm
    )
    with fine_tuning.trained(plan.tuning, plan.arm, how, plan.entry, rows, Path(f"pilot of {plan.arm}")) as done:
        assert done is not None  # `pilot` starts its own processes
        free()
        trained_on, forward_only = fine_tuning.passed(how, done)
        return [
            {
                "outcomes": outcomes(plan, done.scratch / job.MODEL),
                "steps": done.result["steps"],
                "trained_on": trained_on,
                "forward_only": forward_only,
            }
        ]


def outcomes(plan: Plan, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What the model in `folder` says to the held-out rows, by source."""
    entry, own = plan.entry, plan.entry.folder()
    tokenizer = manifest.tokenizer(own)
    rows = [encoding.encode(tokenizer, row["messages"]) for row in [*plan.held["replay"], *plan.held["domain"]]]
    code = cache.code_version(*base_logprobs.files())
    store = base_logprobs.Store([entry.fingerprint, entry.dtype, manifest.device().type, code], KEPT)
    ids = [ids for ids, _ in rows]
    table, _ = base_logprobs.table(store, ids, lambda: manifest.model(own, entry.dtype), False, 0, 1, lambda: None)
    found = [asdict(one) for one in held_out.outcomes(manifest.model(folder, entry.dtype), rows, table)]
    free()
    count = len(plan.held["replay"])
    return {"replay": found[:count], "domain": found[count:]}


def free() -> None:
    """A trainer and its optimiser hang together in circles, which only the collector finds; an accelerator needs the room."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
