"""The short runs of a pilot, each measured on rows that none of them has seen.

Before: pilot_plan.py. After: rate_choice.py chooses a learning rate, share_fit.py a share. Every run trains on a part of the arm's rows with the arm's
own objective and settings (fine_tuning.py), and is measured on held-out rows of both sources (held_out.py): how far the
tuned model has moved from the base on the replay answers, and how likely it finds the domain's. A finished run is kept
in .cache; the base's log-probabilities on replay rows are computed once for all runs.
"""

from __future__ import annotations

import gc
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdfast.core import cache, fingerprint, manifest, meter, shards
from holdfast.core.errors import UserError
from holdfast.data import mixture
from holdfast.params.pilot import Pilot
from holdfast.training import fine_tuning, held_out, job, launch, rate_choice, share_fit
from holdfast.training.base_logprobs import Store, build_table
from holdfast.training.held_out import Outcome
from holdfast.training.pilot_plan import Plan, Point
from holdfast.training.rate_choice import RateRun

TOP_K_TOKENS = 32  # of the base's log-probabilities kept at each held-out token


@dataclass(frozen=True, slots=True)
class ShortRun:
    """A run, or the base itself, with what it cost and how it did on the held-out rows."""

    outcomes: dict[str, list[Outcome]]  # by source; none where it diverged
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
    rate_runs: list[ShortRun]
    rate: float  # learning rate of `runs`: the plan's, or the one that was chosen
    met: bool  # whether the chosen rate meets the retention target
    runs: list[ShortRun]
    trained_on: int  # tokens that passed forward and back, of all runs
    forward_only: int  # tokens that passed through the frozen base


def run_pilots(plan: Plan) -> PilotRuns:
    """Measures the base, and trains and measures a run for each point: first those that choose the learning rate, where the
    plan has such, then the others at that rate. Raises UserError under torchrun, and where every rate diverges."""
    if launch.launcher_world_size():
        raise UserError(
            "the pilot starts its own processes", where="torchrun", do="run `holdfast run pilot ARM` by itself"
        )
    base, *rate_runs = run_points(plan, [None, *plan.rate_points], may_diverge=True)
    met = True
    if plan.rate_points:
        rate, met = choose_rate(plan, base, rate_runs)
        plan = replace(plan, rate=rate)
    runs = run_points(plan, list(plan.points), may_diverge=False)
    every = [*rate_runs, *runs]
    trained_on, forward_only = sum(run.trained_on for run in every), [run.forward_only for run in every]
    # The runs take their replay rows from one sequence, so with a cache the longest has those of all others.
    read = sum(forward_only) if plan.arm_config.target_kl else max(forward_only)
    meter.count(plan.base.parameters, trained=trained_on, read=read)
    return PilotRuns(base, rate_runs, plan.rate, met, runs, trained_on, read)


def choose_rate(plan: Plan, base: ShortRun, runs: list[ShortRun]) -> tuple[float, bool]:
    """(learning rate, whether it meets the target); an arm without replay has none to meet."""
    measured = [
        RateRun(plan.rate * point.rate, measure_retention(base, run), measure_gain(base, run))
        for point, run in zip(plan.rate_points, runs, strict=True)
        if run.outcomes
    ]
    if not measured:
        do = "set finetune.learning_rate to a number, or lower pilot.rate_factors"
        raise UserError("the training diverges at every learning rate that is tried", where=f"arm '{plan.arm}'", do=do)
    chosen, met = rate_choice.choose_rate(measured, plan.target if plan.rate_points[0].share else None)
    return chosen.rate, met


def measure_retention(base: ShortRun, run: ShortRun) -> float:
    """1 - total variation distance from the base, mean over the tokens of the held-out replay answers."""
    return 1 - sum(row.moved for row in run.outcomes["replay"]) / sum(row.tokens for row in base.outcomes["replay"])


def measure_gain(base: ShortRun, run: ShortRun) -> float:
    """Log-probability over the base's, nats per token of the held-out answers of the domain."""
    before, after = base.outcomes["domain"], run.outcomes["domain"]
    more = sum(row.logprob for row in after) - sum(row.logprob for row in before)
    return more / sum(row.tokens for row in before)


def run_points(plan: Plan, points: list[Point | None], may_diverge: bool) -> list[ShortRun]:
    """A short run for each point, or the base for None; finished ones are kept in .cache."""
    settings = plan.tuning.model_dump(exclude={"arms", "processes"})
    identity = [
        plan.base.fingerprint,
        plan.base.dtype,
        plan.arm_config.model_dump(),
        settings,
        plan.epochs,
        plan.max_repeats,
        plan.seed,
        plan.rate,
        cache.key(plan.train),
        cache.key(plan.held_out),
        fingerprint.of_modules(__name__),
    ]
    work = partial(run_shard, plan=plan, may_diverge=may_diverge)
    return [ShortRun.from_json(run) for run in shards.run_shards("pilot", points, 1, identity, work, "short runs")]


def run_shard(part: list[Any], plan: Plan, may_diverge: bool) -> list[dict[str, Any]]:
    """One run as JSON; None is the base."""
    (point,) = part
    if point is None:
        return [asdict(ShortRun(measure_model(plan, plan.base.folder())))]
    try:
        return [asdict(run_pilot(plan, Point(*point)))]
    except job.DivergedError:
        if not may_diverge:
            raise
        return [asdict(ShortRun({}))]  # a rate that is too high is an answer, too


def run_pilot(plan: Plan, point: Point) -> ShortRun:
    """Trains at one point and measures the tuned model."""
    kl_cache = "topk" if plan.arm_config.objective == "kl" else "off"
    changes = {"learning_rate": plan.rate * point.rate, "kl_cache": kl_cache}
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
    rows = [fine_tuning.encode_row(tokenizer, row) for source in ("replay", "domain") for row in plan.held_out[source]]
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
    """The choices and every run, for reports/pilot."""
    trained_on, forward_only = pilots.trained_on, pilots.forward_only
    return {
        "schema": 1,
        "arm": plan.arm,
        "asked": True,
        "share": None,
        "learning_rate": pilots.rate if plan.rate_points else None,
        "settings": params.model_dump(exclude={"seed"}),
        "held_out": {source: len(rows) for source, rows in plan.held_out.items()},
        **({"rates": report_rates(plan, pilots)} if plan.rate_points else {}),
        **(report_shares(params, plan, pilots) if plan.points else {}),
        "tokens": {"trained_on": trained_on, "forward_only": forward_only},
        "flops": plan.base.parameters * (6 * trained_on + 2 * forward_only),
    }


def report_rates(plan: Plan, pilots: PilotRuns) -> dict[str, Any]:
    """Every run at a learning rate of its own, and whether the chosen one meets the target."""
    runs = []
    for point, run in zip(plan.rate_points, pilots.rate_runs, strict=True):
        tried = {"rate": plan.rate * point.rate, "share": point.share, "part": point.part, "diverged": not run.outcomes}
        runs.append(tried | (describe(run, pilots.base) if run.outcomes else {}))
    return {"usual": plan.rate, "met": pilots.met, "runs": runs}


def report_shares(params: Pilot, plan: Plan, pilots: PilotRuns) -> dict[str, Any]:
    """Fits, the choice of the share and every run that led to it."""
    runs = tabulate(plan, pilots)
    fits = {
        rate: share_fit.fit_runs(runs, params.retention_target, plan.max_share, params.seed, rate)
        for rate in {1.0, *params.learning_rates}
    }
    share, met = share_fit.choose_share(fits[1.0], params.confidence)
    return {
        "share": share,
        "met": met,
        "most": plan.max_share,
        "runs": [
            point._asdict() | describe(run, pilots.base) for point, run in zip(plan.points, pilots.runs, strict=True)
        ],
        "fits": {f"{rate:g}": share_fit.describe(fit, params.confidence) for rate, fit in sorted(fits.items())},
    }


def describe(run: ShortRun, base: ShortRun) -> dict[str, Any]:
    """How a run did, per token of the held-out answers."""
    replay, domain = run.outcomes["replay"], run.outcomes["domain"]
    tokens = sum(row.tokens for row in base.outcomes["replay"])
    answered = sum(row.right == row.tokens for row in domain)  # greedy decoding gives the whole answer
    return {
        "steps": run.steps,
        "retention": measure_retention(base, run),
        "same_choice": sum(row.same for row in replay) / tokens,  # tokens at which the likeliest is still the base's
        "kl": sum(row.kl for row in replay) / tokens,
        "gain": measure_gain(base, run),
        "domain_right": answered / len(domain),
    }
