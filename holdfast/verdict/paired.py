"""Two evaluations side by side: the same items, answered by base and by tuned model.

Here the differences are measured; holdfast/verdict/decision.py decides on them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.core import records, storage
from holdfast.core.errors import UserError
from holdfast.evaluation import results, settings
from holdfast.evaluation.results import KEY, Items
from holdfast.params.gate import Gate
from holdfast.verdict import stats
from holdfast.verdict.fields import MEASURED_SCORE, MEASURED_SUITE, SIDES, Sides
from holdfast.verdict.precision import TINY
from holdfast.verdict.thresholds import is_counted


class Suite(NamedTuple):
    """One suite, measured."""

    numbers: dict[str, Any]  # of fields.MEASURED_SUITE, rounded as gate.json has them
    draws: stats.Floats | None = (
        None  # chance-adjusted means before and after, (resamples, 2); None: it cannot be compared
    )


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
    order, problems = pair(base, tuned, sides)
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


def pair(base: pa.Table, tuned: pa.Table, sides: Sides = SIDES) -> tuple[pa.Array, list[str]]:
    """Joins one suite's items on item_id: row i of `base` belongs to row `order[i]` of `tuned`.

    Both hold item_id and the columns of KEY. A non-empty list of reasons means: these are not the same questions, or not marked by
    the same key, so do not compare them (`order` is then empty). `sides` is what the reasons call the two evaluations.
    """
    reasons = []
    ids, others = base["item_id"], tuned["item_id"]
    aligned = len(ids) == len(others) and pc.all(pc.equal(ids, others)).as_py()  # the rule, and far cheaper
    for whose, items in zip(sides[: 1 if aligned else 2], (ids, others), strict=False):
        if repeated := len(items) - pc.count_distinct(items).as_py():
            reasons.append(f"{repeated} items appear twice in the {whose} evaluation")
    if not len(base):
        reasons.append(f"the {sides[0]} evaluation has no items")
    order = pa.array(np.arange(len(ids), dtype=np.int32)) if aligned else pc.index_in(ids, value_set=others)
    if order.null_count:
        reasons.append(f"{order.null_count} of {len(base)} items are missing in the {sides[1]} evaluation")
    if not aligned and (surplus := pc.index_in(others, value_set=ids).null_count):
        reasons.append(f"{surplus} items of the {sides[1]} evaluation are not in the {sides[0]} evaluation")
    both = pc.is_valid(order)
    mine, theirs = (base, tuned) if aligned else (base.filter(both), tuned.take(order.drop_null()))
    for column, what in KEY.items():
        if different := pc.sum(pc.not_equal(mine[column], theirs[column])).as_py():
            reasons.append(f"{different} of {len(base)} items have another {what} than in the {sides[0]} evaluation")
    return (order.slice(0, 0) if reasons else order), reasons


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
    """What differs when the base is evaluated twice, from the second evaluation in `folder`.

    The second may hold a part of the items, and may differ in the engine's settings, which `differs` then names.
    Raises UserError where it asks other questions.
    """
    again, described = results.load(folder)
    return compare_repeat(base, again, settings, described, folder)


def compare_repeat(
    base: Items, again: Items, settings: dict[str, Any], described: dict[str, Any], folder: Path = Path()
) -> dict[str, Any]:
    """The noise floor: of all suites together and of each, what differs from one evaluation of one model to the next."""
    other = sorted(key for key, value in settings["engine"].items() if described["engine"].get(key) != value)
    floor: dict[str, Any] = {"items": 0, "lost": 0, "gained": 0, "differs": other, "suites": {}}
    changes = []
    for name, suite in sorted(described["suites"].items()):
        first, second = base(name), again(name)
        first = first.filter(pc.is_in(first["item_id"], second["item_id"].combine_chunks()))
        order, reasons = pair(first, second)
        if reasons:
            where = folder / "items.parquet"
            raise UserError(f"is no second evaluation of the base ({name}: {reasons[0]})", where=where, do="remove it")
        before, after = first["correct"].to_numpy(), second["correct"].take(order).to_numpy()
        lost, gained = stats.lost_gained(before, after)
        for key, number in (("items", len(order)), ("lost", lost), ("gained", gained)):
            floor[key] += number
        discordance = stats.discordance(before, after, stats.number_groups(first["item_group"]))
        moved = float(after.mean() - before.mean())
        floor["suites"][name] = {"items": len(order), "discordance": discordance, "change": moved}
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
