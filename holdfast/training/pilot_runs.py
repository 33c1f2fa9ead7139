"""The short runs of a pilot, each measured on rows that none of them has seen.

Before: pilot_plan.py. After: share_fit.py chooses a share. Every run trains on a part of the arm's rows with the arm's
own objective and settings (fine_tuning.py), and is measured on held-out rows of both sources (held_out.py): how far the
tuned model has moved from the base on the replay answers, and how likely it finds the domain's. A finished run is kept
in .cache; the base's log-probabilities on replay rows are computed once for all runs.
"""

from __future__ import annotations

import gc
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdfast.chat import encoding
from holdfast.core import cache, fingerprint, manifest, meter, shards
from holdfast.core.errors import UserError
from holdfast.data import mixture
from holdfast.params.pilot import Pilot
from holdfast.training import fine_tuning, held_out, job, launch, share_fit
from holdfast.training.base_logprobs import Store, build_table
from holdfast.training.held_out import Outcome
from holdfast.training.pilot_plan import Plan, Point

TOP_K_TOKENS = 32  # of the base's log-probabilities kept at each held-out token


@dataclass(frozen=True, slots=True)
class ShortRun:
    """A run, or the base itself, with what it cost and how it did on the held-out rows."""

    outcomes: dict[str, list[Outcome]]  # by source
    steps: int = 0
    trained_on: int = 0  # tokens that passed forward and back
    forward_only: int = 0  # tokens that passed through the frozen base

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> ShortRun:
        outcomes = {source: [Outcome(**one) for one in several] for source, several in content["outcomes"].items()}
        return cls(**{**content, "outcomes": outcomes})


@dataclass(frozen=True, slots=True)
class PilotRuns:
    """The base, and a run for each point of the plan."""

    base: ShortRun
    runs: list[ShortRun]
    trained_on: int  # tokens that passed forward and back, of all runs
    forward_only: int  # tokens that passed through the frozen base


def run_pilots(plan: Plan) -> PilotRuns:
    """Measures the base, and trains and measures a run for each point. Raises UserError under torchrun."""
    if launch.launcher_world_size():
        raise UserError(
            "the pilot starts its own processes", where="torchrun", do="run `holdfast run pilot ARM` by itself"
        )
    settings = plan.tuning.model_dump(exclude={"arms", "processes"})
    identity = [
        plan.base.fingerprint,
        plan.base.dtype,
        plan.arm_config.model_dump(),
        settings,
        plan.epochs,
        plan.max_repeats,
        plan.seed,
        cache.key(plan.train),
        cache.key(plan.held_out),
        fingerprint.of_modules(__name__),
    ]
    work = partial(run_shard, plan=plan)
    base, *runs = map(
        ShortRun.from_json, shards.run_shards("pilot", [None, *plan.points], 1, identity, work, "short runs")
    )
    trained_on, forward_only = sum(run.trained_on for run in runs), [run.forward_only for run in runs]
    # The runs take their replay rows from one sequence, so with a cache the longest has those of all others.
    read = sum(forward_only) if plan.arm_config.target_kl else max(forward_only)
    meter.count(plan.base.parameters, trained=trained_on, read=read)
    return PilotRuns(base, runs, trained_on, read)


def run_shard(part: list[Any], plan: Plan) -> list[dict[str, Any]]:
    """One run as JSON; None is the base."""
    (point,) = part
    if point is None:
        return [asdict(ShortRun(measure_model(plan, plan.base.folder())))]
    return [asdict(run_pilot(plan, Point(*point)))]


def run_pilot(plan: Plan, point: Point) -> ShortRun:
    """Trains at one point and measures the tuned model."""
    own_rate = plan.arm_config.learning_rate or plan.tuning.learning_rate
    kl_cache = "topk" if plan.arm_config.objective == "kl" else "off"
    changes = {"learning_rate": own_rate * point.rate, "kl_cache": kl_cache}
    arm_config = plan.arm_config.model_copy(update=changes)
    rows = mixture.build_mixture(
        plan.train["domain"],
        plan.train["replay"],
        point.share,
        plan.epochs * point.part,
        plan.max_repeats,
        plan.seed,
        plan.arm,
    )
    source = Path(f"pilot of {plan.arm}")
    with fine_tuning.train_arm(plan.tuning, plan.arm, arm_config, plan.base, rows, source) as trained:
        assert trained is not None  # only under torchrun
        free_memory()
        return ShortRun(
            outcomes=measure_model(plan, trained.scratch / job.MODEL_FOLDER),
            steps=trained.result.steps,
            trained_on=trained.tokens_trained_on,
            forward_only=trained.tokens_forward_only,
        )


def measure_model(plan: Plan, folder: Path) -> dict[str, list[Outcome]]:
    """How the model in `folder` does on the held-out rows, by source."""
    base, own_folder = plan.base, plan.base.folder()
    tokenizer = manifest.load_tokenizer(own_folder)
    rows = [
        encoding.encode(tokenizer, row["messages"], row.get("tools"))
        for source in ("replay", "domain")
        for row in plan.held_out[source]
    ]
    store = Store(base.fingerprint, base.dtype, TOP_K_TOKENS)
    table, _ = build_table(store, [ids for ids, _ in rows], lambda: manifest.load_model(own_folder, base.dtype))
    outcomes = held_out.outcomes(manifest.load_model(folder, base.dtype), rows, table)
    free_memory()
    count = len(plan.held_out["replay"])
    return {"replay": outcomes[:count], "domain": outcomes[count:]}


def free_memory() -> None:
    """A trainer and its optimiser refer to each other in circles, which only the collector finds; a GPU needs the
    room."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def tabulate(plan: Plan, pilots: PilotRuns) -> share_fit.Runs:
    """The runs as the fit wants them: an item is a held-out row, its weight the tokens of its answer."""
    share, part, rate = np.array(plan.points).T
    logprob = column([pilots.base], "domain", "logprob")
    return share_fit.Runs(
        share=share,
        length=part,
        rate=rate,
        lost=column(pilots.runs, "replay", "moved"),
        weight=column([pilots.base], "replay", "tokens")[0],
        gained=column(pilots.runs, "domain", "logprob") - logprob,
        domain_weight=column([pilots.base], "domain", "tokens")[0],
    )


def column(runs: list[ShortRun], source: str, name: str) -> np.ndarray:
    """One number of every held-out row, (runs, rows)."""
    return np.array([[getattr(row, name) for row in run.outcomes[source]] for run in runs], dtype=float)


def report(params: Pilot, plan: Plan, pilots: PilotRuns) -> dict[str, Any]:
    """Fits, the choice and every run, for reports/pilot."""
    runs = tabulate(plan, pilots)
    fits = {
        rate: share_fit.fit_runs(runs, params.retention_target, plan.max_share, params.seed, rate)
        for rate in {1.0, *params.learning_rates}
    }
    share, met = share_fit.choose_share(fits[1.0], params.confidence)
    trained_on, forward_only = pilots.trained_on, pilots.forward_only
    return {
        "schema": 1,
        "arm": plan.arm,
        "asked": True,
        "share": share,
        "met": met,
        "most": plan.max_share,
        "settings": params.model_dump(exclude={"seed"}),
        "held_out": {source: len(rows) for source, rows in plan.held_out.items()},
        "runs": [
            {**point._asdict(), **describe(run, runs, n)}
            for n, (point, run) in enumerate(zip(plan.points, pilots.runs, strict=True))
        ],
        "fits": {f"{rate:g}": share_fit.describe(fit, params.confidence) for rate, fit in sorted(fits.items())},
        "tokens": {"trained_on": trained_on, "forward_only": forward_only},
        "flops": plan.base.parameters * (6 * trained_on + 2 * forward_only),
    }


def describe(run: ShortRun, runs: share_fit.Runs, n: int) -> dict[str, Any]:
    """How run number `n` did, per token of the held-out answers."""
    replay, domain = run.outcomes["replay"], run.outcomes["domain"]
    tokens = runs.weight.sum()
    answered = sum(row.right == row.tokens for row in domain)  # greedy decoding gives the whole answer
    return {
        "steps": run.steps,
        "retention": 1 - runs.lost[n].sum() / tokens,
        "same_choice": sum(row.same for row in replay) / tokens,  # tokens at which the likeliest is still the base's
        "kl": sum(row.kl for row in replay) / tokens,
        "gain": runs.gained[n].sum() / runs.domain_weight.sum(),
        "domain_right": answered / len(domain),
    }
