"""gate: the verdict per arm, from the paired outcomes of base and tuned model. Did it forget, and did it learn?

    holdfast gate                 writes reports/gate.json and reports/metrics.json, whatever the verdict
    holdfast gate --check         reads reports/gate.json, runs nothing; exit code 0 pass, 1 fail, 2 cannot-compare
    holdfast gate --against REV   the same, and compares each arm with itself at that git revision; writes nothing

An arm passes when the one-sided lower bound of the general change is above -margin, no suite drops past its own margin,
and the lower bound of the domain gain reaches min_domain_gain. It fails when a drop is shown, and what can neither be
shown to hold nor to drop cannot be compared, which is no pass. docs/verdict.md says what each of these rests on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from holdfast.core import records
from holdfast.core.errors import UserError
from holdfast.evaluation import paired, stats, verdict
from holdfast.params.gate import Gate

EXIT = {"pass": 0, "fail": 1, "cannot-compare": 2}  # also from best to worst
REPEAT = "base-repeat"  # the base evaluated once more, where somebody did: the noise floor


def main(params: Gate, names: list[str], eval_folder: Path, out: Path, metrics: Path) -> None:
    base, settings = paired.load(eval_folder / "base")
    suites = settings["suites"]
    if unknown := sorted(set(params.suite_margins) - set(suites)):
        what = f"gate.suite_margins names '{unknown[0]}', which is no suite"
        raise UserError(what, where="params.yaml", do=f"known: {', '.join(sorted(suites))}")

    noise = paired.noise(base, settings, eval_folder / REPEAT) if (eval_folder / REPEAT).is_dir() else None
    arms = {name: compare(params, base, settings, eval_folder / name, noise) for name in names}
    worst = max((arms[name]["verdict"] for name in binding(params, names)), key=EXIT.__getitem__)
    general, suite = paired.confidences(params, suites)
    multiplicity = {"method": "Bonferroni", "suites": len(paired.margins(params, suites))}
    multiplicity |= {"general_confidence": general, "suite_confidence": suite}
    knobs = {"control", "margin", "suite_margin", "confidence", "min_domain_gain", "resamples"}
    gate = {"schema": 1, "verdict": worst, "arms": arms, "noise": noise, "multiplicity": multiplicity}
    gate |= params.model_dump(include=knobs)
    summary = {"base": base_metrics(base, suites)} | {name: arm_metrics(arm) for name, arm in arms.items()}
    records.write_json(out, gate)
    records.write_json(metrics, summary)
    print(table(gate))


def binding(params: Gate, names: list[str]) -> list[str]:
    """The arms that decide: all but the control, unless it is alone."""
    return [name for name in names if name != params.control] or names


def check(path: Path) -> int:
    """Prints the verdict that `path` holds and returns its exit code; raises UserError where there is none."""
    gate = records.read_json(path)
    try:
        text, code = table(gate), EXIT[gate["verdict"]]
    except (KeyError, TypeError, AttributeError, ValueError):
        raise UserError("is not a verdict of this version", where=path, do="remove it and run `dvc repro`") from None
    print(text)
    return code


def against(params: Gate, names: list[str], former: Path, eval_folder: Path, revision: str) -> int:
    """Prints how each arm that decides compares with itself at `revision`, and returns the worst exit code.

    `former` holds the evaluations of that revision; an arm that it lacks is new, which is no regression. The domain may
    not drop past the general margin either.
    """
    arms, sides = {}, ("former", "present")
    demands = params.model_copy(update={"min_domain_gain": -params.margin})
    for name in binding(params, names):
        if (former / name).is_dir():
            old, settings = paired.load(former / name)
            arms[name] = compare(demands, old, settings, eval_folder / name, None, sides)
        else:
            print(f"{name}: not evaluated at {revision}")
    if not arms:
        do = "compare with a revision that has one of the arms that decide"
        raise UserError("no arm of the present was evaluated there: nothing to compare", where=revision, do=do)
    worst = max((arm["verdict"] for arm in arms.values()), key=EXIT.__getitem__)
    print(f"before: the arm at {revision}; after: the arm as it is now")
    print(table({"arms": arms, "verdict": worst, "confidence": params.confidence, "control": None}))
    return EXIT[worst]


def compare(
    params: Gate,
    base: paired.Items,
    settings: dict[str, Any],
    folder: Path,
    noise: dict[str, Any] | None = None,
    sides: paired.Sides = paired.SIDES,
) -> dict[str, Any]:
    """One arm against the base: its entry of gate.json."""
    broken: list[str] = []  # reasons for cannot-compare
    if noise and abs(noise["change"]) >= params.margin:
        moved = f"two evaluations of one base differ by {paired.points(abs(noise['change']))} points"
        broken.append(f"{moved}, no less than the margin of {paired.points(params.margin)}")
    try:
        tuned, tuned_settings = paired.load(folder)
        different = paired.different_settings(settings, tuned_settings, sides)
        return verdict.judge(params, settings["suites"], base, tuned, different + broken, sides)
    except UserError as error:
        if Path(error.where).parent != folder:
            raise
        broken.insert(0, f"the evaluation's {Path(error.where).name} is missing or cannot be read")
    return verdict.judge(params, settings["suites"], base, lambda name: base(name).slice(0, 0), broken, sides)


def base_metrics(base: paired.Items, suites: dict[str, Any]) -> dict[str, float]:
    """The base's scores, from the base alone: they stand whatever happened to the arms."""
    found = {}
    for role in sorted({suite["role"] for suite in suites.values()}):
        names = [name for name, suite in suites.items() if suite["role"] == role]
        means = [pc.mean(base(name)["correct"]).as_py() for name in names]
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
    """The verdict as aligned plain text, scores in points: a line per arm, then the reasons, then the word."""
    rows = [["arm", "general", f"change [{gate['confidence']:.0%}]", "retention", "domain", "lost/gained", "verdict"]]
    for name, arm in sorted(gate["arms"].items()):
        general, domain = arm["general"], arm["domain"] or dict.fromkeys(paired.SCORES)
        change, low, high = (show(general[key], "+.1f", 100) for key in ("change", "low", "high"))
        rows += [
            [
                name,
                f"{show(general['before'], '.1f', 100)} -> {show(general['after'], '.1f', 100)}",
                f"{change} [{low}, {high}]",
                show(general["retention"], ".1%"),
                f"{show(domain['before'], '.1f', 100)} -> {show(domain['after'], '.1f', 100)}",
                f"{show(general['lost'], 'd')}/{show(general['gained'], 'd')}",
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


def show(value: float | None, form: str, scale: int = 1) -> str:
    if value is None:
        return "-"
    text = format(scale * value, form)
    return text if text.strip("+-0.%") else text.lstrip("+-")  # a change of nothing has no sign
