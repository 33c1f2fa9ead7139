"""Verdicts from the paired outcomes of base and tuned model: each arm, the run as a whole, and an arm against a revision.

An arm passes when the one-sided lower bound of the general change is above -margin, no suite drops past its own margin,
and the lower bound of the domain gain reaches min_domain_gain. It fails when a drop is shown, and what can neither be
shown to hold nor to drop cannot be compared, which is no pass. docs/verdict.md says what each of these rests on.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from holdfast.core import storage
from holdfast.core.errors import ExitCode, UserError
from holdfast.evaluation import paired, stats, verdict
from holdfast.evaluation.settings import of_role, only_choices
from holdfast.params.gate import Gate

EXIT_CODES = {  # from best to worst
    "pass": ExitCode.OK,
    "fail": ExitCode.FAIL,
    "cannot-compare": ExitCode.CANNOT_COMPARE,
}


def check_suite_margins(params: Gate, suites: dict[str, Any]) -> None:
    """Raises UserError where `gate.suite_margins` names a suite that was not evaluated."""
    if unknown := sorted(set(params.suite_margins) - set(suites)):
        what = f"gate.suite_margins names '{unknown[0]}', which is no suite"
        raise UserError(what, where="params.yaml", do=f"known: {', '.join(sorted(suites))}")


def decide_arm(
    params: Gate,
    base: paired.Items,
    settings: dict[str, Any],
    folder: Path,
    noise: dict[str, Any] | None = None,
    sides: paired.Sides = paired.SIDES,
) -> dict[str, Any]:
    """The verdict on the arm whose evaluation is in `folder`, as gate.json holds it.

    `settings`: of the base's evaluation. `noise`: the noise floor, where the base was evaluated twice.
    """
    broken: list[str] = []  # reasons for cannot-compare
    if noise and abs(noise["change"]) >= params.margin:
        moved = f"two evaluations of one base differ by {paired.in_points(abs(noise['change']))} points"
        broken.append(f"{moved}, no less than the margin of {paired.in_points(params.margin)}")
    try:
        tuned, tuned_settings = paired.load_evaluation(folder)
        different = paired.different_settings(settings, tuned_settings, sides)
        return verdict.decide(params, settings["suites"], base, tuned, different + broken, sides)
    except UserError as error:
        if Path(error.where).parent != folder:
            raise
        broken.insert(0, f"the evaluation's {Path(error.where).name} is missing or cannot be read")
    return verdict.decide(params, settings["suites"], base, lambda name: base(name).slice(0, 0), broken, sides)


def decide_run(
    params: Gate, suites: dict[str, Any], arms: dict[str, dict[str, Any]], noise: dict[str, Any] | None
) -> dict[str, Any]:
    """The content of gate.json: the worst verdict of the arms that decide, every arm's, and what they rest on."""
    general, suite = paired.confidences(params, suites)
    multiplicity = {"method": "Bonferroni", "suites": len(paired.margins(params, suites))}
    multiplicity |= {"general_confidence": general, "suite_confidence": suite}
    worst = worst_verdict(arms[name] for name in deciding_arms(params, list(arms)))
    content = {"schema": 1, "verdict": worst, "arms": arms, "noise": noise, "multiplicity": multiplicity}
    content["only_choices"] = only_choices(suites)
    demands = {"control", "margin", "suite_margin", "self_margin", "confidence", "min_domain_gain", "resamples"}
    return content | params.model_dump(include=demands)


def deciding_arms(params: Gate, names: list[str]) -> list[str]:
    """All arms but the control, unless it is alone."""
    return [name for name in names if name != params.control] or names


def worst_verdict(arms: Iterable[dict[str, Any]]) -> str:
    return max((str(arm["verdict"]) for arm in arms), key=EXIT_CODES.__getitem__)


def decide_against(
    params: Gate, names: list[str], former: Path, present: Path, revision: str
) -> tuple[dict[str, Any], list[str]]:
    """(verdict on each arm that decides against itself at `revision`, the arms that were not evaluated there).

    `former` and `present` hold the evaluations of both; an arm that `former` lacks is new, which is no regression. The
    domain may not drop past the general margin either. Raises UserError where no arm can be compared.
    """
    arms, sides = {}, ("former", "present")
    demands = params.model_copy(update={"min_domain_gain": -params.margin})
    deciding = deciding_arms(params, names)
    for name in deciding:
        if (former / name).is_dir():
            old, settings = paired.load_evaluation(former / name)
            arms[name] = decide_arm(demands, old, settings, present / name, None, sides)
    if not arms:
        do = "compare with a revision that has one of the arms that decide"
        raise UserError("no arm of the present was evaluated there: nothing to compare", where=revision, do=do)
    content = {"arms": arms, "verdict": worst_verdict(arms.values()), "confidence": params.confidence, "control": None}
    return content, [name for name in deciding if name not in arms]


def read_verdict(path: Path) -> tuple[str, int]:
    """(the verdict of gate.json as text, its exit code). Raises UserError where the file holds none."""
    content = storage.read_json(path)
    try:
        return table(content), EXIT_CODES[content["verdict"]]
    except (KeyError, TypeError, AttributeError, ValueError):
        raise UserError("is not a verdict of this version", where=path, do="remove it and run `dvc repro`") from None


def metrics(base: paired.Items, suites: dict[str, Any], arms: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The content of metrics.json: a few numbers of the base and of each arm."""
    return {"base": base_metrics(base, suites)} | {name: arm_metrics(arm) for name, arm in arms.items()}


def base_metrics(base: paired.Items, suites: dict[str, Any]) -> dict[str, float]:
    """The base's scores, from the base alone: they do not depend on the arms."""
    scores = {}
    for role in sorted({suite["role"] for suite in suites.values()}):
        names = of_role(suites, role)
        means = [pc.mean(base(name)["correct"]).as_py() for name in names]
        if None not in means:
            adjusted = [stats.chance_adjusted(mean, suites[n]["chance"]) for n, mean in zip(names, means, strict=True)]
            scores[role] = sum(adjusted) / len(adjusted)
    return {role: value for role, value in scores.items() if value == value}  # no NaN in JSON


def arm_metrics(arm: dict[str, Any]) -> dict[str, Any]:
    general, domain = arm["general"], arm["domain"] or {}
    numbers = {key: general[key] for key in ("retention", "lost", "gained")} | {"general": general["after"]}
    numbers |= {
        "self": (arm["self"] or {}).get("after"),
        "domain": domain.get("after"),
        "domain_gain": domain.get("change"),
        "verdict": arm["verdict"],
    }
    return {key: value for key, value in numbers.items() if value is not None}


def table(gate: dict[str, Any]) -> str:
    """The verdict as aligned plain text, scores in points: a line per arm, then the reasons, then the word."""
    rows = [
        [
            "arm",
            "general",
            f"change [{gate['confidence']:.0%}]",
            "retention",
            "self",
            "domain",
            "lost/gained",
            "verdict",
        ]
    ]
    for name, arm in sorted(gate["arms"].items()):
        general, (own, domain) = (
            arm["general"],
            (arm.get(role) or dict.fromkeys(paired.SCORES) for role in ("self", "domain")),
        )
        change, low, high = (format_number(general[key], "+.1f", 100) for key in ("change", "low", "high"))
        rows += [
            [
                name,
                f"{format_number(general['before'], '.1f', 100)} -> {format_number(general['after'], '.1f', 100)}",
                f"{change} [{low}, {high}]",
                format_number(general["retention"], ".1%"),
                f"{format_number(own['before'], '.1f', 100)} -> {format_number(own['after'], '.1f', 100)}",
                f"{format_number(domain['before'], '.1f', 100)} -> {format_number(domain['after'], '.1f', 100)}",
                f"{format_number(general['lost'], 'd')}/{format_number(general['gained'], 'd')}",
                arm["verdict"] + (" (control)" if name == gate["control"] else ""),
            ]
        ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{name}: {reason}" for name, arm in sorted(gate["arms"].items()) for reason in arm["reasons"]]
    if noise := gate.get("noise"):
        changed = f"{noise['changed']:,} of {noise['items']:,} outcomes differ"
        lines.append(f"noise floor: {changed} when the base is asked again")
    return "\n".join([*lines, f"verdict: {gate['verdict']}"])


def format_number(value: float | None, form: str, scale: int = 1) -> str:
    if value is None:
        return "-"
    text = format(scale * value, form)
    return text if text.strip("+-0.%") else text.lstrip("+-")  # a change of nothing has no sign
