"""Which learning rate does an arm train at? The choice among short runs at several rates, for `learning_rate: auto`.

Of the rates that keep what the arm should keep, those that learn the domain about as well as the best of them are
equals, and the one that keeps most is taken. Pure functions.

Before: pilot_runs.py measures the runs. After: the stage `pilot` writes the choice, and `finetune` reads it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

NEARLY = 0.98  # of the best gain: rates that learn as much are equals


class RateRun(NamedTuple):
    """A short run at one learning rate, by the means over held-out rows. One that diverged is left out before."""

    rate: float
    retention: float  # 1 - total variation distance from the base on replay answers
    gain: float  # nats per token of the domain's answers, over the base


def usual_rate(hidden: int, lora: bool) -> float:
    """5e-5 x (2000 / hidden) ** 0.781, ten times as much for LoRA: what Thinking Machines' Tinker recommends by hidden size
    (tinker-docs.thinkingmachines.ai, supervised learning, hyperparameters; the exponent is Llama's). One digit."""
    return float(f"{5e-5 * (10 if lora else 1) * (2000 / hidden) ** 0.781:.0e}")


def choose_rate(runs: list[RateRun], target: float | None) -> tuple[RateRun, bool]:
    """(the run whose rate is taken, whether it meets the retention `target`); None: nothing is asked of retention."""
    eligible = [run for run in runs if target is None or run.retention >= target]
    candidates = eligible or runs
    best = max(run.gain for run in candidates)
    if best <= 0:  # nothing is learnt: the least harm
        return max(candidates, key=lambda run: (run.retention, -run.rate)), bool(eligible)
    equals = [run for run in candidates if run.gain >= NEARLY * best]
    return max(equals, key=lambda run: (run.retention, -run.rate)), bool(eligible)


def rate_sentence(report: dict[str, Any]) -> str:
    """The choice in words, from what the stage `pilot` writes."""
    runs = report["rates"]["runs"]
    tried = ", ".join(
        f"{run['rate']:g} (diverged)"
        if run["diverged"]
        else f"{run['rate']:g} (gain {run['gain']:.2f}, kept {run['retention']:.1%})"
        for run in runs
    )
    missed = "" if report["rates"]["met"] else f"; none keeps {report['settings']['retention_target']:.1%}"
    return f"{report['arm']}: learning rate {report['learning_rate']:g} after short runs at {tried}{missed}"
