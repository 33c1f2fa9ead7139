"""Two evaluations side by side: the same items, answered by base and by tuned model.

Here the differences are measured; holdfast/evaluation/verdict.py decides on them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.core import records, storage
from holdfast.core.errors import UserError
from holdfast.evaluation import settings, stats
from holdfast.evaluation.precision import TINY
from holdfast.evaluation.verdict import MEASURED_SCORE, MEASURED_SUITE, SIDES, Sides, is_counted
from holdfast.params.gate import Gate

COLUMNS = [
    "suite",
    "item_id",
    "item_group",
    *stats.KEY,
    "response",
    "correct",
]  # no prompts: they are most of the bytes
Items = Callable[[str], pa.Table]  # a suite's name -> its items; millions of them would not fit into memory together


class Suite(NamedTuple):
    """One suite, measured."""

    numbers: dict[str, Any]  # of verdict.MEASURED_SUITE, rounded as gate.json has them
    draws: stats.Floats | None = (
        None  # chance-adjusted means before and after, (resamples, 2); None: it cannot be compared
    )


def load_evaluation(folder: Path) -> tuple[Items, dict[str, Any]]:
    """(one model's items, read a suite at a time, and the settings of its evaluation). Raises UserError where a file is
    missing or holds something else, and where there are items of a suite that the settings do not name."""
    described, file = settings.read(folder), folder / "items.parquet"
    present = pc.unique(records.read_table("items", file, ["suite"])["suite"]).to_pylist()
    if surplus := sorted(set(present) - set(described["suites"])):
        what = f"holds items of '{surplus[0][:80]}', a suite that its settings do not name"
        raise UserError(what, where=file, do="remove it and run `dvc repro`")
    return partial(one_suite, file), described


def one_suite(file: Path, name: str) -> pa.Table:
    """Without the prompts, which are most of the bytes. Rows are sorted by suite, so little else is read."""
    return records.read_table("items", file, COLUMNS, [("suite", "==", name)])


def measure_arm(
    params: Gate,
    described: dict[str, Any],
    base: Items,
    tuned: Items,
    problems: list[str],
    sides: Sides = SIDES,
) -> dict[str, Any]:
    """What the verdict on one arm is decided on; `described` are the suites of the settings, `problems` what already forbids
    to compare."""
    suites = {name: measure_suite(params, name, described[name], base(name), tuned(name), sides) for name in described}
    numbers = {name: suite.numbers for name, suite in suites.items()}
    counted = {
        role: [suites[name] for name in settings.of_role(numbers, role) if is_counted(params, numbers, name)]
        for role in ("general", "self", "domain")
    }
    scores = {role: measure_score(params, several) for role, several in counted.items()}
    return {"problems": problems, "suites": numbers, **scores}


def measure_suite(
    params: Gate, name: str, suite: dict[str, Any], base: pa.Table, tuned: pa.Table, sides: Sides = SIDES
) -> Suite:
    """One suite, from both models' items of it; `suite` is what the base's settings say of it."""
    numbers = dict.fromkeys(MEASURED_SUITE) | {key: suite[key] for key in ("role", "chance", "items")}
    numbers |= {"written": suite.get("written"), "constant_before": False, "constant_after": False, "problems": []}
    order, problems = stats.pair(base, tuned, sides)
    if not problems and len(order) != suite["items"]:
        problems.append(f"{len(order)} items, where the settings say {suite['items']}")
    if problems:
        return Suite(numbers | {"problems": problems})
    before, after = base["correct"].to_numpy(), tuned["correct"].take(order).to_numpy()
    if not all(np.all((scores >= 0) & (scores <= 1)) for scores in (before, after)):  # NaN is not, either
        return Suite(numbers | {"problems": ["a score is not between 0 and 1"]})

    groups = stats.number_groups(base["item_group"])
    # the seed depends on the suite's name: one suite more does not move the intervals of the others
    rng = np.random.default_rng([params.seed, int(records.text_id(name), 16)])
    draws = stats.chance_adjusted(stats.resampled_means(before, after, params.resamples, rng, groups), suite["chance"])
    old, new = (stats.chance_adjusted(float(scores.mean()), suite["chance"]) for scores in (before, after))
    lost, gained = stats.lost_gained(before, after)
    change = stats.change(old, new, draws, params.confidence)
    numbers |= {"before": float(before.mean()), "after": float(after.mean()), "lost": lost, "gained": gained}
    numbers |= {"low": change["low"], "high": change["high"], "mcnemar_p": stats.mcnemar(lost, gained)}
    numbers |= {"discordance": stats.discordance(before, after, groups)}
    numbers |= {"constant_before": constant(base), "constant_after": constant(tuned)}
    if groups is not None:
        numbers |= {"group_size": stats.group_size(groups), "cluster_p": stats.cluster_test(before, after, groups)}
    if suite["role"] == "general":
        guessed = [stats.guessing(x.sum() + TINY, len(x), suite["chance"]) for x in (before, after)]
        numbers |= dict(zip(("guessing_before", "guessing_after"), guessed, strict=True))
    return Suite(storage.round_floats(numbers), draws)


def measure_score(params: Gate, suites: list[Suite]) -> dict[str, Any] | None:
    """Interval, bound and retention of several suites together; None where there are none or one has no numbers."""
    if not suites or any(suite.draws is None for suite in suites):
        return None
    draws = stats.mean_over_suites([suite.draws for suite in suites])
    before, after = (
        float(np.mean([stats.chance_adjusted(s.numbers[key], s.numbers["chance"]) for s in suites]))
        for key in ("before", "after")
    )
    measured: dict[str, float | None] = dict(stats.change(before, after, draws, params.confidence))
    measured |= stats.retention(before, after, draws, params.confidence)
    return storage.round_floats({key: measured[key] for key in MEASURED_SCORE})


def noise_floor(base: Items, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What differs when the base is evaluated twice, from the second evaluation in `folder`: the noise floor.

    The second may hold a part of the items, and may differ in the engine's settings, which `differs` then names.
    Raises UserError where it asks other questions.
    """
    again, described = load_evaluation(folder)
    other = sorted(key for key, value in settings["engine"].items() if described["engine"].get(key) != value)
    floor: dict[str, Any] = {"items": 0, "lost": 0, "gained": 0, "differs": other}
    changes = []
    for name, suite in sorted(described["suites"].items()):
        first, second = base(name), again(name)
        first = first.filter(pc.is_in(first["item_id"], second["item_id"].combine_chunks()))
        order, reasons = stats.pair(first, second)
        if reasons:
            where = folder / "items.parquet"
            raise UserError(f"is no second evaluation of the base ({name}: {reasons[0]})", where=where, do="remove it")
        before, after = first["correct"].to_numpy(), second["correct"].take(order).to_numpy()
        lost, gained = stats.lost_gained(before, after)
        for key, number in (("items", len(order)), ("lost", lost), ("gained", gained)):
            floor[key] += number
        if suite["role"] == "general":
            changes.append(float(after.mean() - before.mean()) / (1 - suite["chance"]))
    change = float(np.mean(changes)) if changes else 0.0
    return floor | {"changed": floor["lost"] + floor["gained"], "change": change}


def constant(items: pa.Table) -> bool:
    """Whether all answers are the same, and that is not simply right. A dead endpoint looks like this."""
    if len(items) < 2:
        return False
    same_response, same_target = (bool(pc.all(pc.equal(column, column[0])).as_py()) for column in trim(items))
    return same_response and not (same_target and pc.min(items["correct"]).as_py() == 1)


def trim(items: pa.Table) -> list[pa.ChunkedArray]:
    return [pc.utf8_trim_whitespace(items[column]) for column in ("response", "target")]
