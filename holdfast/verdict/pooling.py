"""The score of several suites together, and whether it may have dropped past a margin."""

from __future__ import annotations

from holdfast.params.gate import Gate, Margin, resolve_margin
from holdfast.verdict import precision
from holdfast.verdict.fields import EXTRAS, MEASURED_SCORE, SCORES, Json
from holdfast.verdict.precision import in_points


def pool(params: Gate, suites: list[Json], measured: Json, margin: Margin) -> Json | None:
    """The score of several suites together; None where there are none, nulls where one of them has no numbers.

    Beside what gate.json holds: `error`, the standard error of the change if there were none, and `edge`, the one if
    it were `margin`, and that margin, of which a per cent is one of the base's score here.
    """
    if not suites:
        return None
    if any(suite["change"] is None for suite in suites) or measured.get("bound") is None:
        return dict.fromkeys((*SCORES, *EXTRAS, "margin", "error", "edge"))
    before, after = (sum(s[f"{when}_adjusted"] for s in suites) / len(suites) for when in ("before", "after"))
    limit = resolve_margin(margin, before)
    error = standard_error(suites)
    return {
        **{key: measured.get(key) for key in MEASURED_SCORE},
        "before": before,
        "after": after,
        "change": after - before,
        "retention": after / before if measured.get("retention_low") is not None and before > 0 else None,
        **{key: sum(suite[key] for suite in suites) for key in ("items", "lost", "gained")},
        "detectable": precision.detectable_drop(error, params.confidence),
        "margin": limit,
        "error": error,
        "edge": standard_error(suites, limit),
    }


def standard_error(suites: list[Json], moved: float = 0.0) -> float:
    """Of the mean change of suites as gate.json holds them, were there none, or a drop of `moved`. No smaller than the noise of
    the base against itself, where it was evaluated twice."""
    items, chances = ([suite[key] for suite in suites] for key in ("items", "chance"))
    discordances = [max(suite["discordance"], suite["repeat_discordance"] or 0.0) for suite in suites]
    sizes, shifts = [suite["group_size"] or 1.0 for suite in suites], [suite["repeat_shift"] or 0.0 for suite in suites]
    return precision.standard_error(items, discordances, chances, moved, sizes, shifts)


def drop_reasons(name: str, score: Json, margin: float, confidence: float, alarm: float) -> tuple[list[str], list[str]]:
    """Reasons to fail and reasons to be unsure, for a score that may drop by less than `margin`. Neither: shown to hold.

    Shown twice: by the bootstrap's bound, and by a test of a drop of just the margin, which does not take a handful of
    lost items for certainty, as the bootstrap does. `alarm`: the confidence at which a drop is distinguished from none.
    """
    if score["change"] is None:
        return [], []
    drop, largest = -score["change"], -score["bound"]
    if largest < margin:
        largest = drop + precision.half_width(score["edge"], confidence)
    if largest < margin:
        return [], []
    reason = f"the {name} score {movement(score)}; with {confidence:.0%} confidence the drop may be {in_points(largest)}, past the "
    reason += f"margin of {in_points(margin)}"
    if drop > precision.half_width(score["error"], alarm):
        return [reason], []
    return [], [f"{reason}, yet {score['items']:,} items show no drop either: too few items"]


def movement(score: Json) -> str:
    """In words and points: 'fell by 2.4 points (from 86.1 to 83.7)'."""
    if in_points(score["change"]) == "0.0":
        return f"did not move (from {in_points(score['before'])} to {in_points(score['after'])})"
    word = "fell by" if score["change"] < 0 else "rose by"
    return f"{word} {in_points(abs(score['change']))} points (from {in_points(score['before'])} to {in_points(score['after'])})"


def adjust(accuracy: float, chance: float) -> float:
    """(accuracy - chance) / (1 - chance): 0 is guessing, 1 is perfect (arXiv 2510.17776)."""
    return (accuracy - chance) / (1 - chance)
