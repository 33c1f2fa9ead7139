"""What a verdict says in short: metrics.json, and the table that `holdfast gate` prints."""

from __future__ import annotations

from holdfast.verdict.fields import SCORES, SET_ASIDE, UNMEASURED, Json


def compute_metrics(arms: dict[str, Json]) -> Json:
    """The content of metrics.json: a few numbers of the base and of each arm."""
    return {"base": base_metrics(arms)} | {name: arm_metrics(arm) for name, arm in arms.items()}


def base_metrics(arms: dict[str, Json]) -> dict[str, float]:
    """The base's scores, from the first arm whose evaluation could be joined with the base's."""
    scores: dict[str, float] = {}
    for arm in arms.values():
        for role in ("domain", "general", "self"):
            before = (arm[role] or {}).get("before")
            if before is not None:
                scores.setdefault(role, before)
    return scores


def arm_metrics(arm: Json) -> Json:
    general, domain = arm["general"], arm["domain"] or {}
    numbers = {key: general[key] for key in ("retention", "lost", "gained")} | {"general": general["after"]}
    numbers |= {"self": (arm["self"] or {}).get("after"), "domain": domain.get("after")}
    numbers |= {"domain_gain": domain.get("change"), "verdict": arm["verdict"]}
    return {key: value for key, value in numbers.items() if value is not None}


def table(gate: Json) -> str:
    """The verdict as aligned plain text, scores in points: a line per arm, then the reasons, then the word."""
    change = f"change [{gate['confidence']:.0%}]"
    rows = [["arm", "general", change, "retention", "self", "domain", "lost/gained", "verdict"]]
    for name, arm in sorted(gate["arms"].items()):
        general = arm["general"]
        own, domain = (arm[role] or dict.fromkeys(SCORES) for role in ("self", "domain"))
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
    lines += list_reasons(gate["arms"])
    for name, method in sorted((gate.get("methods") or {}).items()):  # an earlier version's has none
        general = method["general"] or dict.fromkeys(("change", "low", "high", "between"))
        change, low, high, between = (
            format_number(general[key], "+.1f", 100) for key in ("change", "low", "high", "between")
        )
        count = f"{len(method['arms'])} trainings of {name}"
        lines.append(
            f"{count}: general {change} [{low}, {high}], between them {between.lstrip('+')}: {method['verdict']}"
        )
        lines += [f"{count}: {reason}" for reason in method["reasons"]]
    if noise := gate.get("noise"):
        changed = f"{noise['changed']:,} of {noise['items']:,} outcomes differ"
        lines.append(f"noise floor: {changed} when the base is asked again")
    return "\n".join([*lines, f"verdict: {gate['verdict']}{'' if gate['domain_measured'] else f' ({UNMEASURED})'}"])


def list_reasons(arms: dict[str, Json]) -> list[str]:
    """A line for each reason of each arm. Which suites are set aside follows from the base alone: a line for each ground."""
    lines: list[str] = []
    aside: dict[str, list[str]] = {}  # suites by the ground on which they are set aside
    for arm, content in sorted(arms.items()):
        for reason in content["reasons"]:
            suite, _, ground = reason.partition(f" is {SET_ASIDE}: ")
            if not ground or suite not in content["suites"]:
                lines.append(f"{arm}: {reason}")
            elif suite not in aside.setdefault(ground, []):
                aside[ground].append(suite)
    for ground, suites in aside.items():
        lines.append(f"{', '.join(suites)} {'is' if len(suites) == 1 else 'are'} {SET_ASIDE}: {ground}")
    return lines


def format_number(value: float | None, form: str, scale: int = 1) -> str:
    if value is None:
        return "-"
    text = format(scale * value, form)
    return text if text.strip("+-0.%") else text.lstrip("+-")  # a change of nothing has no sign
