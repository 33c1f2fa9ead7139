"""gate: the verdict per arm, from the paired outcomes of base and tuned model. Did it forget, and did it learn?

    holdfast gate            writes reports/gate.json and reports/metrics.json, whatever the verdict
    holdfast gate --check    reads reports/gate.json, runs nothing; exit code 0 pass, 1 fail, 2 cannot-compare

An arm passes when the one-sided lower bound of the general change is above -margin, no suite drops past its own margin,
and the lower bound of the domain gain reaches min_domain_gain. What cannot be compared never passes. Multiplicity: the
margin is tested once, on the mean over suites; a suite's drop counts when it is past the suite's margin and outside the
noise of its items at the confidence divided among all suites (Bonferroni). So a model that forgot nothing seldom fails,
however many suites there are, while there are items enough: general.detectable below three quarters of the margin.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.core import paired, records, stats
from stages.core.errors import UserError
from stages.core.params import Gate

EXIT = {"pass": 0, "fail": 1, "cannot-compare": 2}  # also from best to worst


def main(params: Gate, names: list[str], eval_folder: Path, out: Path, metrics: Path) -> None:
    base, settings = paired.load(eval_folder / "base")
    suites = settings["suites"]
    if unknown := sorted(set(params.suite_margins) - set(suites)):
        what = f"gate.suite_margins names '{unknown[0]}', which is no suite"
        raise UserError(what, where="params.yaml", do=f"known: {', '.join(sorted(suites))}")

    arms = {name: compare(params, base, settings, eval_folder / name) for name in names}
    binding = [arm["verdict"] for name, arm in arms.items() if name != params.control or len(arms) == 1]
    knobs = {"control", "margin", "suite_margin", "confidence", "min_domain_gain", "resamples"}
    verdict = max(binding, key=EXIT.__getitem__)
    gate = {"schema": 1, "verdict": verdict, "arms": arms, **params.model_dump(include=knobs)}
    summary = {"base": base_metrics(base, suites)} | {name: arm_metrics(arm) for name, arm in arms.items()}
    records.write_json(out, gate)
    records.write_json(metrics, summary)
    print(table(gate))


def check(path: Path) -> int:
    """Prints the verdict that `path` holds and returns its exit code; raises UserError where there is none."""
    gate = records.read_json(path)
    try:
        text, code = table(gate), EXIT[gate["verdict"]]
    except (KeyError, TypeError, AttributeError, ValueError):
        raise UserError("is not a verdict of this version", where=path, do="remove it and run `dvc repro`") from None
    print(text)
    return code


def compare(params: Gate, base: pa.Table, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One arm against the base: its entry of gate.json."""
    broken: list[str] = []  # reasons for cannot-compare
    try:
        tuned, tuned_settings = paired.load(folder)
        broken += paired.different_settings(settings, tuned_settings)
    except UserError as error:
        tuned = base.slice(0, 0)
        broken.append(f"the evaluation's {Path(error.where).name} is missing or cannot be read")

    suites = {}
    for name in sorted(settings["suites"]):
        mine, theirs = (items.filter(pc.field("suite") == name) for items in (base, tuned))
        suites[name] = paired.measure(params, name, settings["suites"], mine, theirs)
    failed: list[str] = []  # reasons for fail
    dropped = [drop for suite in suites.values() for drop in suite.failed]
    notes = [note for suite in suites.values() for note in suite.notes]
    broken += together({name: suite.broken for name, suite in suites.items()})
    if all(suite.collapsed for suite in suites.values()):
        broken.append("one answer per suite, whatever the item: a dead endpoint, or nothing is left of the model")

    general, domain = (
        paired.score(params, [suite for suite in suites.values() if suite.entry["role"] == role])
        for role in ("general", "domain")
    )
    if general is None:
        broken.append("there is no general suite: nothing measures what the base knew")
    elif general["change"] is not None:
        sure = f"at {params.confidence:.0%} confidence"
        # a drop that lies wholly past the margin is a fail however few the items
        if general["width"] >= params.margin and general["high"] >= -params.margin:
            least = f"with no change at all, the drop may be {general['width']:.3f} {sure}"
            broken.append(f"too few items for the margin {params.margin}: {least}")
        elif general["bound"] <= -params.margin:
            drop = f"the drop may be {-general['bound']:.3f} {sure}"
            hint = "; no drop is shown either, more items would tell" if general["high"] >= 0 else ""
            failed.append(
                f"the general score changed by {general['change']:+.3f}; {drop}, past the margin {params.margin}{hint}"
            )
    if domain is None and params.min_domain_gain > 0:
        broken.append(f"a domain gain of {params.min_domain_gain} is asked for, and there is no domain suite")
    elif domain and domain["change"] is not None and domain["bound"] < params.min_domain_gain - paired.TINY:
        gain = f"the gain may be only {domain['bound']:.3f} at {params.confidence:.0%} confidence"
        failed.append(
            f"the domain score changed by {domain['change']:+.3f}; {gain}, less than {params.min_domain_gain}"
        )
    if dropped:
        failed.append(f"suites that dropped past their margin: {'; '.join(dropped)}")
    return {
        "verdict": "cannot-compare" if broken else "fail" if failed else "pass",
        "reasons": broken + failed + notes,
        "general": {key: general and general[key] for key in (*paired.SCORES, *paired.EXTRAS)},
        "domain": domain and {key: domain[key] for key in paired.SCORES},
        "suites": {name: suite.entry for name, suite in suites.items()},
    }


def together(reasons: dict[str, list[str]]) -> list[str]:
    """One sentence per reason, with the suites that it holds for."""
    suites: dict[str, list[str]] = {}
    for name, found in reasons.items():
        for reason in found:
            suites.setdefault(reason, []).append(name)
    return [f"{', '.join(names)}: {reason}" for reason, names in suites.items()]


def base_metrics(base: pa.Table, suites: dict[str, Any]) -> dict[str, float]:
    """The base's scores, from the base alone: they stand whatever happened to the arms."""
    found = {}
    for role in sorted({suite["role"] for suite in suites.values()}):
        names = [name for name, suite in suites.items() if suite["role"] == role]
        means = [pc.mean(base.filter(pc.field("suite") == name)["correct"]).as_py() for name in names]
        if None not in means:
            adjusted = [stats.chance_adjusted(mean, suites[n]["chance"]) for n, mean in zip(names, means, strict=True)]
            found[role] = sum(adjusted) / len(adjusted)
    return {role: value for role, value in found.items() if value == value}  # no NaN in JSON


def arm_metrics(arm: dict[str, Any]) -> dict[str, Any]:
    general, domain = arm["general"], arm["domain"] or {}
    found = {key: general[key] for key in ("retention", "lost", "gained")} | {"general": general["after"]}
    found |= {"domain": domain.get("after"), "domain_gain": domain.get("change"), "verdict": arm["verdict"]}
    return {key: value for key, value in found.items() if value is not None}


def table(gate: dict[str, Any]) -> str:
    """The verdict as aligned plain text: a line per arm, then the reasons, then the word."""
    rows = [["arm", "general", f"change [{gate['confidence']:.0%}]", "retention", "domain", "lost/gained", "verdict"]]
    for name, arm in sorted(gate["arms"].items()):
        general, domain = arm["general"], arm["domain"] or dict.fromkeys(paired.SCORES)
        change, low, high = (show(general[key], "+.3f") for key in ("change", "low", "high"))
        rows += [
            [
                name,
                f"{show(general['before'], '.3f')} -> {show(general['after'], '.3f')}",
                f"{change} [{low}, {high}]",
                show(general["retention"], ".1%"),
                f"{show(domain['before'], '.3f')} -> {show(domain['after'], '.3f')}",
                f"{show(general['lost'], 'd')}/{show(general['gained'], 'd')}",
                arm["verdict"] + (" (control)" if name == gate["control"] else ""),
            ]
        ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{name}: {reason}" for name, arm in sorted(gate["arms"].items()) for reason in arm["reasons"]]
    return "\n".join([*lines, f"verdict: {gate['verdict']}"])


def show(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
