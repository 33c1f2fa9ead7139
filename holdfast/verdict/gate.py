"""Verdicts from the evaluations of a run: each arm, the run as a whole, and an arm against a revision.

An arm passes when the one-sided lower bound of the general change is above -margin, no suite drops past its own margin,
and the lower bound of the domain gain reaches min_domain_gain. It fails when a drop is shown, and what can neither be
shown to hold nor to drop cannot be compared, which is no pass. docs/verdict.md says what each of these rests on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from holdfast.core import storage
from holdfast.core.errors import UserError
from holdfast.evaluation import results, settings
from holdfast.params.evaluate import CORE, CORE_FAMILIES, PUBLIC_SUITES
from holdfast.params.gate import Gate, resolve_margin
from holdfast.verdict import decision, paired, provenance, run, thresholds
from holdfast.verdict.fields import SIDES, Sides
from holdfast.verdict.pooling import adjust


def decide_all(params: Gate, trainings: dict[str, list[str]], evaluations: Path) -> dict[str, Any]:
    """The content of gate.json, from the evaluations of base and arms; `trainings`: the models of each arm, by name.
    Raises UserError where the base's cannot be read."""
    base, described = results.load(evaluations / "base")
    check_suite_margins(params, described["suites"])
    repeat = evaluations / provenance.REPEAT
    noise = paired.noise_floor(base, described, repeat) if repeat.is_dir() else None
    noise = storage.round_floats(noise)  # as gate.json has it: all words follow from what is written
    names = [name for several in trainings.values() for name in several]
    arms = {name: decide_arm(params, base, described, evaluations / name, noise) for name in names}
    content = run.decide_run(params, arms, noise, trainings)
    return content | {"provenance": provenance.describe(params, names, evaluations)}


def check_suite_margins(params: Gate, suites: dict[str, Any]) -> None:
    """Raises UserError where `gate.suite_margins` or `gate.watched` names a suite that was not evaluated."""
    families = {f"{CORE}/{name}" for name in CORE_FAMILIES}  # a template may not express all of them
    families |= {f"{name}/{part}" for name, parts in PUBLIC_SUITES.items() for part in parts}
    for key in ("suite_margins", "watched"):
        if unknown := sorted(set(getattr(params, key)) - set(suites) - families):
            what = f"gate.{key} names '{unknown[0]}', which is no suite"
            raise UserError(what, where="params.yaml", do=f"known: {', '.join(sorted(suites))}")


def decide_arm(
    params: Gate,
    base: results.Items,
    described: dict[str, Any],
    folder: Path,
    noise: dict[str, Any] | None = None,
    sides: Sides = SIDES,
) -> dict[str, Any]:
    """The verdict on the arm whose evaluation is in `folder`, as gate.json holds it.

    `described`: the settings of the base's evaluation. `noise`: the noise floor, where the base was evaluated twice.
    """
    try:
        tuned, tuned_settings = results.load(folder)
        problems = different_settings(described, tuned_settings, sides)
        return compare(params, described["suites"], base, tuned, problems, noise, sides)
    except UserError as error:
        if Path(error.where).parent != folder:
            raise
        problems = [f"the evaluation's {Path(error.where).name} cannot be used: {error.what}"]
    return compare(params, described["suites"], base, lambda name: base(name).slice(0, 0), problems, noise, sides)


def compare(
    params: Gate,
    described: dict[str, Any],
    base: results.Items,
    tuned: results.Items,
    problems: list[str],
    noise: dict[str, Any] | None = None,
    sides: Sides = SIDES,
) -> dict[str, Any]:
    """The verdict on one arm from the items of both models; `described` are the suites of the settings."""
    measured = paired.measure_arm(params, described, base, tuned, problems, sides)
    return decision.decide_arm(params, measured, noise, sides)


def different_settings(base: dict[str, Any], tuned: dict[str, Any], sides: Sides = SIDES) -> list[str]:
    """Reasons not to compare: scores made with other settings belong to another test."""
    reason = f"evaluated with other settings than the {sides[0]} model"
    differing = settings.differences(base, tuned)
    return [f"{reason}: {part} ({', '.join(keys)})" for part, keys in differing.items()]


def domain_margin(params: Gate, trainings: dict[str, list[str]], former: Path) -> float:
    """How much the domain may drop against a revision: as much as the general score; a per cent is one of the best score there."""
    if isinstance(params.margin, float):
        return params.margin
    scores = [0.0]
    for name in (name for several in trainings.values() for name in several if (former / name).is_dir()):
        items, described = results.load(former / name)
        suites = {suite: entry for suite, entry in described["suites"].items() if entry["role"] == "domain"}
        means = [
            (float(np.mean(items(suite)["correct"].to_numpy())), entry["chance"]) for suite, entry in suites.items()
        ]
        scores += [sum(adjust(*mean) for mean in means) / len(means)] if means else []
    return min(0.999, max(1e-6, resolve_margin(params.margin, max(scores))))


def decide_against(
    params: Gate, trainings: dict[str, list[str]], former: Path, present: Path, revision: str
) -> tuple[dict[str, Any], list[str]]:
    """(verdict on each arm that decides against itself at `revision`, the arms that were not evaluated there).

    `former` and `present` hold the evaluations of both; an arm that `former` lacks is new, which is no regression. The
    domain may not drop past the general margin either. Raises UserError where no arm can be compared.
    """
    arms, sides = {}, ("former", "present")
    demands = params.model_copy(update={"min_domain_gain": -domain_margin(params, trainings, former)})
    deciding = thresholds.deciding_arms(params, [name for several in trainings.values() for name in several])
    for name in deciding:
        if (former / name).is_dir():
            old, described = results.load(former / name)
            arms[name] = decide_arm(demands, old, described, present / name, None, sides)
    if not arms:
        do = "compare with a revision that has one of the arms that decide"
        raise UserError("no arm of the present was evaluated there: nothing to compare", where=revision, do=do)
    content = run.decide_run(params.model_copy(update={"control": None}), arms, None, trainings)
    return content, [name for name in deciding if name not in arms]
