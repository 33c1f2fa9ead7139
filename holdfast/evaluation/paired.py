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

from holdfast.core import records
from holdfast.core.errors import UserError
from holdfast.evaluation import settings, stats
from holdfast.params.gate import Gate

COLUMNS = ["suite", "item_id", *stats.KEY, "response", "correct"]  # no prompts: they are most of the bytes
TINY = 1e-9  # a change of exactly the margin is inside it, whatever its last bit says
SCORES = ("before", "after", "change", "low", "high", "bound", "items", "lost", "gained")  # of several suites together
EXTRAS = ("retention", "retention_low", "retention_high", "detectable")  # of the general suites only
ADJUSTED = ("before_adjusted", "after_adjusted", "change", "low", "high", "detectable")
SUITE = ("before", "after", *ADJUSTED, "lost", "gained", "mcnemar_p")
Items = Callable[[str], pa.Table]  # a suite's name -> its items; millions of them would not fit into memory together
Sides = tuple[str, str]
SIDES = ("base", "tuned")  # what reasons call the two evaluations
SAME = "one and the same answer to every item"


class Suite(NamedTuple):
    """One suite, measured. `broken` are the reasons why it cannot be compared; then numbers may be missing."""

    numbers: dict[str, Any]  # what gate.json says of it
    broken: list[str]
    failed: list[str]  # what it dropped by, where that is past its margin
    unsure: list[str]  # a drop far past its margin that so few items cannot prove
    notes: list[str]  # odd, and no ground for a verdict
    draws: stats.Floats | None = None  # chance-adjusted means before and after, (resamples, 2)
    discordance: float | None = None
    collapsed: bool = False  # the tuned model gives one and the same answer to every item


def load_evaluation(folder: Path) -> tuple[Items, dict[str, Any]]:
    """(one model's items, read a suite at a time, and the settings of its evaluation). Raises UserError where a file is
    missing or holds something else."""
    described, file = settings.read(folder), folder / "items.parquet"
    records.read_table(
        "items", file, ["suite"]
    )  # fails now rather than later where the file is missing or not one of items
    return partial(one_suite, file), described


def one_suite(file: Path, name: str) -> pa.Table:
    """Without the prompts, which are most of the bytes. Rows are sorted by suite, so little else is read."""
    return records.read_table("items", file, COLUMNS, [("suite", "==", name)])


def different_settings(base: dict[str, Any], tuned: dict[str, Any], sides: Sides = SIDES) -> list[str]:
    """Reasons not to compare: scores made with other settings belong to another test."""
    reason = f"evaluated with other settings than the {sides[0]} model"
    differing = settings.differences(base, tuned)
    return [f"{reason}: {part} ({', '.join(keys)})" for part, keys in differing.items()]


def margins(params: Gate, suites: dict[str, Any]) -> dict[str, float]:
    """The margin of every suite that has one: general suites, those of the self suite that decide, and what suite_margins names."""
    names = [*settings.of_role(suites, "general"), *settings.of_role(suites, "self")]
    return dict.fromkeys(names, params.suite_margin) | params.suite_margins


def confidences(params: Gate, suites: dict[str, Any]) -> tuple[float, float]:
    """Confidence at which the general drop, and at which one suite's drop, must be distinguished from none to make an arm fail.

    Bonferroni: half of 1 - confidence goes to the general score, the other half is divided evenly among the suites with
    a margin; the self score, and a domain score that may drop by so much (min_domain_gain below 0), count as one more
    each. So an arm with no true change fails with a probability of at most 1 - confidence, however many suites.
    """
    risk = (1 - params.confidence) / 2
    more = bool(settings.of_role(suites, "self")) + (-1 < params.min_domain_gain < 0)
    return 1 - risk, 1 - risk / max(1, len(margins(params, suites)) + more)


def measure_suite(
    params: Gate, name: str, suites: dict[str, Any], base: pa.Table, tuned: pa.Table, sides: Sides = SIDES
) -> Suite:
    """One suite, from both models' items of it; `suites` are those of the base's settings."""
    suite, margin = suites[name], margins(params, suites).get(name)
    numbers = {key: suite[key] for key in ("role", "chance", "items")} | dict.fromkeys(SUITE)
    numbers |= {"margin": margin, "verdict": "cannot-compare"}
    order, broken = stats.pair(base, tuned, sides)
    if not broken and len(order) != suite["items"]:
        broken.append(f"{len(order)} items, where the settings say {suite['items']}")
    if broken:
        return Suite(numbers, broken, [], [], [])
    before, after = base["correct"].to_numpy(), tuned["correct"].take(order).to_numpy()
    if not all(np.all((scores >= 0) & (scores <= 1)) for scores in (before, after)):  # NaN is not, either
        return Suite(numbers, ["a score is not between 0 and 1"], [], [], [])

    # the seed depends on the suite's name: one suite more does not move the intervals of the others
    rng = np.random.default_rng([params.seed, int(records.text_id(name), 16)])
    draws = stats.chance_adjusted(stats.resampled_means(before, after, params.resamples, rng), suite["chance"])
    old, new = (stats.chance_adjusted(float(scores.mean()), suite["chance"]) for scores in (before, after))
    lost, gained = stats.lost_gained(before, after)
    change = stats.change(old, new, draws, params.confidence)
    numbers |= {"before": float(before.mean()), "before_adjusted": old}
    numbers |= {"after": float(after.mean()), "after_adjusted": new}
    numbers |= {key: change[key] for key in ("change", "low", "high")}
    numbers |= {"lost": lost, "gained": gained, "mcnemar_p": stats.mcnemar(lost, gained)}

    # with many suites, one of them drops past its margin by chance; a drop counts only outside the noise of its items
    discordance, drop = stats.discordance(before, after), old - new
    one = [np.array([value], float) for value in (suite["items"], discordance, suite["chance"])]
    error = stats.standard_error(one[0], one[1], one[2])
    confidence = confidences(params, suites)[1]
    noise = stats.half_width(error, confidence)
    numbers["detectable"] = stats.detectable_drop(error, confidence)
    failed: list[str] = []
    unsure: list[str] = []
    notes: list[str] = []
    collapsed = constant(tuned)
    limit = float("inf") if margin is None else margin + TINY
    if drop > limit and drop > noise:
        hint = f", with {SAME}" if collapsed else ""
        failed.append(f"{name} by {in_points(drop)} (margin {in_points(limit)}, p = {numbers['mcnemar_p']:.2g}{hint})")
    elif drop > limit:
        noisy = f"{len(before)} items cannot tell a drop below {in_points(noise)} from chance"
        reason = f"{name} dropped by {in_points(drop)} points, past its margin of {in_points(limit)}, but {noisy}"
        # of many suites, chance takes some past their margin, and hardly any past twice that
        (unsure if drop > 2 * limit else notes).append(reason)
    if collapsed and not failed:  # a model that collapsed loses points; where it loses none, the suite does not measure
        broken.append(f"the {sides[1]} model gives {SAME}")
    # a base that knows nothing of the domain is what the domain is for
    if suite["role"] == "general":
        weak = f"{len(before)} items do not show that the {{}} model does better than guessing"
        guessed = [stats.guessing(x.sum() + TINY, len(x), suite["chance"]) for x in (before, after)]
        risk = 1 - confidences(params, suites)[0]
        if old < params.min_base:
            least = f"less than the {in_points(params.min_base)} points above chance that min_base asks for"
            broken.append(f"the {sides[0]} model has {least}: there is nothing to forget")
        elif guessed[0] > risk:
            broken.append(weak.format(sides[0]))
        elif guessed[1] > risk and not failed + unsure:  # all of a weak suite may be lost inside its margin
            unsure.append(f"{name}: {weak.format(sides[1])}")
    if suite["role"] == "general" and constant(base):
        broken.append(f"the {sides[0]} model gives {SAME}")
    numbers["verdict"] = "cannot-compare" if broken else "fail" if failed else "cannot-compare" if unsure else "pass"
    return Suite(numbers, broken, failed, unsure, notes, draws, discordance, collapsed)


def pool_suites(params: Gate, suites: list[Suite], margin: float) -> dict[str, Any] | None:
    """The score of several suites together; None where there are none, nulls where one of them has no numbers.

    Beside what gate.json holds: `error`, the standard error of the change if there were none, and `edge`, the one if
    it were `margin`.
    """
    if not suites:
        return None
    if any(suite.draws is None for suite in suites):
        return dict.fromkeys((*SCORES, *EXTRAS, "error", "edge"))
    by_suite = [suite.numbers for suite in suites]
    draws = stats.mean_over_suites([suite.draws for suite in suites])
    before, after = (
        float(np.mean([numbers[key] for numbers in by_suite])) for key in ("before_adjusted", "after_adjusted")
    )
    items, chances = (np.array([numbers[key] for numbers in by_suite], float) for key in ("items", "chance"))
    discordances = np.array([suite.discordance for suite in suites])
    error = stats.standard_error(items, discordances, chances)
    return {
        "before": before,
        "after": after,
        **stats.change(before, after, draws, params.confidence),
        **stats.retention(before, after, draws, params.confidence),
        **{key: sum(numbers[key] for numbers in by_suite) for key in ("items", "lost", "gained")},
        "detectable": stats.detectable_drop(error, params.confidence),
        "error": error,
        "edge": stats.standard_error(items, discordances, chances, margin),
    }


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


def in_points(value: float) -> str:
    """A score (0..1) as the report prints it: in points, 0 to 100, one decimal."""
    return f"{100 * value:.1f}".replace("-0.0", "0.0")


def constant(items: pa.Table) -> bool:
    """Whether all answers are the same, and that is not simply right. A dead endpoint looks like this."""
    if len(items) < 2:
        return False
    same_response, same_target = (bool(pc.all(pc.equal(column, column[0])).as_py()) for column in trim(items))
    return same_response and not (same_target and pc.min(items["correct"]).as_py() == 1)


def trim(items: pa.Table) -> list[pa.ChunkedArray]:
    return [pc.utf8_trim_whitespace(items[column]) for column in ("response", "target")]
