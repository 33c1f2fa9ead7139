"""What a branch changed of the yardstick that judges it: thresholds, suites, items, seeds, code, frozen stages; in words.

A model that passes by a longer yardstick has not become better. `looser` is also what nobody can tell to be stricter: other
questions, another seed of the bootstrap, other code.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeGuard

from pydantic import ValidationError

from holdfast.params.evaluate import Evaluate
from holdfast.params.gate import Gate
from holdfast.verdict.precision import in_points
from holdfast.verdict.snapshot import REMOTES, Json, Snapshot, dependencies, part

POINTS = {
    "margin": 1,
    "suite_margin": 1,
    "self_margin": 1,
    "min_domain_gain": -1,
    "min_base": 1,
}  # +1: more of it is looser
FRACTIONS = {"confidence": -1, "resamples": -1}
NAMES = {
    "suite_margin": "margin of each suite",
    "self_margin": "margin of the self score",
    "min_domain_gain": "domain gain asked for",
    "min_base": "least score of the base",
    "resamples": "resamples of the bootstrap",
}
SHOWN = 5  # names of a list


class Shift(NamedTuple):
    text: str
    looser: bool


def compare(there: Snapshot, here: Snapshot) -> list[Shift]:
    """What changed from `there` to `here`, the looser first."""
    shifts = [
        *of_thresholds(there, here),
        *of_arms(there, here),
        *of_suites(there, here),
        *of_items(there, here),
        *of_code(there, here),
        *of_stages(there, here),
        *of_remotes(there, here),
        *of_seeds(there, here),
    ]
    return sorted(dict.fromkeys(shifts), key=lambda shift: not shift.looser)


def section(snapshot: Snapshot, name: str, kind: type[Gate] | type[Evaluate]) -> Json:
    """A section with its defaults; as it stands where this version does not take it."""
    content = part(snapshot.params, name)
    try:
        return kind.model_validate(content).model_dump()
    except ValidationError:
        return content


def of_thresholds(there: Snapshot, here: Snapshot) -> Iterator[Shift]:
    old, new = (section(one, "gate", Gate) for one in (there, here))
    if not there.params:
        return
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if before == after or key in ("control", "suite_margins", "watched"):
            continue
        sign, name = POINTS.get(key, FRACTIONS.get(key, 0)), NAMES.get(key, key)
        if key in POINTS:
            yield describe_margin(name, before, after, sign)
        elif sign and is_number(before) and is_number(after):
            looser = (after - before) * sign > 0
            yield Shift(f"{name} {'loosened' if looser else 'tightened'} from {before} to {after}", looser)
        else:
            yield Shift(f"gate.{key} changed from {before} to {after}", True)
    watched = [set(map(str, one.get("watched") or [])) for one in (old, new)]
    for suite in sorted(watched[1] - watched[0]):
        yield Shift(f"suite {suite} is watched only, and decides nothing", True)
    for suite in sorted(watched[0] - watched[1]):
        yield Shift(f"suite {suite} is no longer watched only", False)
    margins = [part(one, "suite_margins") for one in (old, new)]
    for suite in sorted(set(margins[0]) | set(margins[1])):
        before, after = (m.get(suite, one.get("suite_margin")) for m, one in zip(margins, (old, new), strict=True))
        if before != after:
            yield describe_margin(f"margin of suite {suite}", before, after)
    if old.get("control") != new.get("control"):
        yield Shift(f"the control, which does not count, is {new.get('control')} instead of {old.get('control')}", True)


def describe_margin(name: str, before: Any, after: Any, sign: int = 1) -> Shift:
    """Points, or per cents of the base's score; from one to the other nobody can tell that it is not looser."""
    if is_number(before) and is_number(after):
        looser, values = (after - before) * sign > 0, f"from {in_points(before)} to {in_points(after)} points"
    elif all(isinstance(one, str) and re.fullmatch(r"[0-9]+(\.[0-9]+)? ?%", one) for one in (before, after)):
        sizes = [float(one.rstrip(" %")) for one in (before, after)]
        looser, values = sizes[1] > sizes[0], f"from {before} to {after} of the base's score"
    else:
        words = [f"{in_points(one)} points" if is_number(one) else str(one) for one in (before, after)]
        return Shift(f"{name} changed from {words[0]} to {words[1]}", True)
    return Shift(f"{name} {'loosened' if looser else 'tightened'} {values}", looser)


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def of_arms(there: Snapshot, here: Snapshot) -> Iterator[Shift]:
    listed = [one.params.get("arms") for one in (there, here)]
    old, new = ([str(name) for name in names] if isinstance(names, list) else [] for names in listed)
    for name in sorted(set(old) - set(new)):
        yield Shift(f"arm {name} removed", True)
    if there.params and (added := sorted(set(new) - set(old))):
        yield Shift(f"{list_names(added)} new among the arms", False)
    trained = [list_retrained(one.params.get("retrain")) for one in (there, here)]
    if gone := sorted(trained[0] - trained[1]):
        yield Shift(f"further trainings removed: {list_names(gone)}", True)
    if there.params and (more := sorted(trained[1] - trained[0])):
        yield Shift(f"further trainings added: {list_names(more)}", False)


def list_retrained(retrain: Any) -> set[str]:
    """The further trainings that params.yaml asks for, as it stands there."""
    arms, seeds = (part({"": retrain}, "").get(key) for key in ("arms", "seeds"))
    return (
        {f"{arm}-{seed}" for arm in arms for seed in seeds}
        if isinstance(arms, list) and isinstance(seeds, list)
        else set()
    )


def of_suites(there: Snapshot, here: Snapshot) -> Iterator[Shift]:
    old, new = (section(one, "evaluate", Evaluate) for one in (there, here))
    suites = [part(one, "suites") for one in (old, new)]
    for name in sorted(suites[0].keys() - suites[1].keys()):
        yield Shift(f"suite {name} removed", True)
    if there.params and (added := sorted(suites[1].keys() - suites[0].keys())):
        yield Shift(f"suite {list_names(added)} added", False)
    for name in sorted(suites[0].keys() & suites[1].keys()):
        former, present = part(suites[0], name), part(suites[1], name)
        for key in sorted(former.keys() | present.keys()):
            if former.get(key) != present.get(key):
                yield Shift(f"{key} of suite {name} changed from {former.get(key)} to {present.get(key)}", True)
    if not there.params:
        return
    for key in sorted((old.keys() | new.keys()) - {"suites"}):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if key == "limit":
            looser = after is not None and (before is None or after < before)
            yield Shift(f"items per suite limited to {after or 'all'} instead of {before or 'all'}", looser)
        else:  # base and arm are asked alike with any of these; what is asked must stay
            yield Shift(
                f"evaluate.{key} changed from {before} to {after}",
                key in ("tasks", "domain_test", "core", "self_suite"),
            )


def of_items(there: Snapshot, here: Snapshot) -> Iterator[Shift]:
    """Fewer items or none, other task files, another test split of the domain."""
    counts = [
        {name: suite.get("items") for name, suite in part(one.settings, "suites").items() if isinstance(suite, dict)}
        for one in (there, here)
    ]
    named = part(there.params, "evaluate", "suites").keys()  # of_suites says it of these
    if here.settings and (gone := sorted(counts[0].keys() - counts[1].keys() - named)):
        yield Shift(f"not evaluated any more: {list_names(gone)}", True)
    for name in sorted(counts[0].keys() & counts[1].keys()):
        before, after = counts[0][name], counts[1][name]
        if before != after and is_number(before) and is_number(after):
            yield Shift(f"suite {name} has {after:,} items instead of {before:,}", after < before)
    old, new = (dependencies(one.lock, "evaluate-base") for one in (there, here))
    tasks = [str(part(one.params, "evaluate").get("tasks", "")) for one in (there, here)]
    for path in sorted(old.keys() & new.keys() & {*tasks, "data/domain/test.parquet"}):
        if old[path] != new[path]:
            yield Shift(f"the items in {path} changed", True)


def of_code(there: Snapshot, here: Snapshot) -> Iterator[Shift]:
    codes: list[Json] = [part(one.gate, "provenance", "code") for one in (there, here)]
    if all(codes):
        old, new = codes
        if changed := sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name)):
            yield Shift(f"the code of the gate changed: {list_names(changed)}", True)
    elif there.gate and (
        dependencies(there.lock, "gate").get(".holdfast/code/gate")
        != dependencies(here.lock, "gate").get(".holdfast/code/gate")
    ):
        yield Shift("the code of the gate changed", True)
    evaluating = [dependencies(one.lock, "evaluate-base").get(".holdfast/code/evaluate") for one in (there, here)]
    if all(evaluating) and evaluating[0] != evaluating[1]:
        yield Shift("the code that evaluates changed", False)
    for name in sorted(there.scripts.keys() | here.scripts.keys()):
        if name in there.scripts and there.scripts[name] != here.scripts.get(name):
            yield Shift(f"{name} changed, which runs the gate", True)


def of_remotes(there: Snapshot, here: Snapshot) -> Iterator[Shift]:
    """A remote that is gone, or another, hides the items of a verdict from whoever computes it again; a further one does not."""
    old, new = (read_sections(one.remotes or "") for one in (there, here))
    for name in sorted(old):
        if new.get(name) != old[name]:
            yield Shift(f"[{name}] of {REMOTES} {'changed' if name in new else 'removed'}: where the items are", True)
    if there.params and (added := sorted(new.keys() - old.keys())):
        yield Shift(f"{REMOTES} has [{list_names(added)}] more", False)


def read_sections(text: str) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(text)
    except configparser.Error:
        return {"": {"": text}}
    return {name: dict(parser[name]) for name in parser.sections()}


def of_stages(there: Snapshot, here: Snapshot) -> Iterator[Shift]:
    for name in sorted(there.pipeline.keys() - here.pipeline.keys()):
        yield Shift(f"stage {name} removed from dvc.yaml", True)
    for name in exempt(here.pipeline, there.pipeline):
        yield Shift(f"stage {name} is not checked any more: frozen, or always_changed, in dvc.yaml", True)
    for name in sorted(there.pipeline.keys() & here.pipeline.keys()):
        old, new = unwrap(there.pipeline[name]), unwrap(here.pipeline[name])
        if any(old.get(key) != new.get(key) for key in ("cmd", "wdir")):
            yield Shift(f"stage {name} runs another command", True)
        if any(there.pipeline[name].get(key) != here.pipeline[name].get(key) for key in ("matrix", "foreach")):
            yield Shift(f"stage {name} runs for other cells", True)
        for kind in ("deps", "params"):  # what a stage does not depend on can change without the stage being stale
            if lost := sorted(name_entries(old.get(kind)) - name_entries(new.get(kind))):
                yield Shift(f"stage {name} no longer depends on {list_names(lost)}", True)


def unwrap(stage: Json) -> Json:
    """What a stage does: of one with `foreach`, what it does for each."""
    inner = stage.get("do")
    return inner if isinstance(inner, dict) else stage


def name_entries(entries: Any) -> set[str]:
    """Deps or params of a stage, as DVC allows them to be written: PATH, KEY, {PATH: ...}, {FILE: [KEY, ...]}."""
    names = set()
    for entry in entries if isinstance(entries, list) else []:
        for name, keys in entry.items() if isinstance(entry, dict) else [(entry, None)]:
            names |= {f"{name}: {key}" for key in keys} if isinstance(keys, list) else {str(name)}
    return names


def exempt(here: Json, there: Json) -> list[str]:
    """Stages that nobody checks here, and that were checked there, by their names in dvc.yaml."""
    return sorted(name for name, stage in here.items() if is_exempt(stage) and not is_exempt(there.get(name, {})))


def is_exempt(stage: Json) -> bool:
    """Whether `holdfast check` has nothing to compare: DVC neither runs a frozen stage nor tells whether one that always
    changes is stale."""
    return stage.get("cmd") != "holdfast code" and any(
        one.get(key) for one in (stage, unwrap(stage)) for key in ("frozen", "always_changed")
    )


def of_seeds(there: Snapshot, here: Snapshot) -> Iterator[Shift]:
    for name in sorted(there.params.keys() & here.params.keys() - {"gate", "evaluate"}):
        old, new = (
            one.params[name].get("seed") if isinstance(one.params[name], dict) else None for one in (there, here)
        )
        if old != new:
            yield Shift(f"seed of {name} changed from {old} to {new}: other luck", False)


def list_names(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
