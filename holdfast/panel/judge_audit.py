"""What the judges of a panel are worth: agreement, independence, preferences, length bias, ties, what hangs on each.

Frames in, plain numbers out. A response is a row of `table` (index: its id; columns instruction_id, model, text, ...); a
judge is a column of `marks` (same index, 1 to 5 or NaN). What decides a choice is how a judge tells the responses to one
instruction apart, so correlations are taken within instructions: every score less its instruction's mean.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pandas as pd

Choose = Callable[[pd.DataFrame], pd.Series]  # scores by judge -> chosen response's id by instruction


def audit(table: pd.DataFrame, marks: pd.DataFrame, choose: Choose, tie: float) -> dict[str, dict]:
    """By judge: mean, spread, preferences, length bias, ties, and the choices that hang on it."""
    within = marks - marks.groupby(table["instruction_id"]).transform("mean")
    length = np.log1p(table["text"].str.len())
    length = length - length.groupby(table["instruction_id"]).transform("mean")
    chosen = choose(marks).map(table["text"])
    found = {}
    for judge in marks.columns:
        given = marks[judge]
        liked = preferences(table["model"], marks, judge)
        mine = liked.pop(judge, float("nan"))
        theirs = excess(marks, judge)[table["model"] != judge].mean()
        found[judge] = {
            "mean": finite(given.mean()),
            "std": finite(given.std(ddof=0)),
            "self_preference": finite(mine - theirs),
            "preference": {model: finite(value) for model, value in {**liked, judge: mine}.items()},
            "length_bias": finite(correlation(within[judge], length)),
            "ties": ties(table, given, tie),
            "changes": changes(chosen, choose, table, marks, judge),
        }
    return found


def excess(marks: pd.DataFrame, judge: str) -> pd.Series:
    """A judge's score less the mean of the other judges' scores of the same response."""
    return marks[judge] - marks.drop(columns=judge).mean(axis=1)


def preferences(models: pd.Series, marks: pd.DataFrame, judge: str) -> dict[str, float]:
    """One row of the preference matrix: the judge's mean excess over the other judges, by who wrote the response."""
    return {str(model): float(value) for model, value in excess(marks, judge).groupby(models).mean().items()}


def ties(table: pd.DataFrame, given: pd.Series, tie: float) -> int:
    """Instructions for which two or more different texts have the best score, give or take `tie`."""
    distinct = given.groupby([table["instruction_id"], table["text"]]).mean().dropna()
    best = distinct.groupby(level=0).transform("max")
    return int(((distinct >= best - tie).groupby(level=0).sum() > 1).sum())


def changes(chosen: pd.Series, choose: Choose, table: pd.DataFrame, marks: pd.DataFrame, judge: str) -> float | None:
    """Part of the instructions for which the panel without this judge chooses another text, or none."""
    rest = marks.drop(columns=judge)
    if rest.empty or not len(rest.columns) or not len(chosen):
        return None
    without = choose(rest).map(table["text"]).reindex(chosen.index)
    return finite(float((without != chosen).mean()))


def agreement(table: pd.DataFrame, marks: pd.DataFrame) -> dict:
    """Correlations between judges, and to how many independent judges the panel amounts.

    `pairs` are plain Pearson correlations; `within` those within instructions. With n judges whose mean correlation
    within instructions is r, the variance of their mean is that of n / (1 + (n - 1) r) independent ones (Kish 1965, the
    design effect). A judge that never tells two responses apart counts for none.
    """
    within = marks - marks.groupby(table["instruction_id"]).transform("mean")
    telling = [judge for judge in marks.columns if within[judge].std(ddof=0) > 1e-9]
    pairs = {f"{a}~{b}": correlation(marks[a], marks[b]) for a, b in combinations(marks.columns, 2)}
    inner = {f"{a}~{b}": correlation(within[a], within[b]) for a, b in combinations(telling, 2)}
    known = [r for r in inner.values() if np.isfinite(r)]
    r, n = max(0.0, float(np.mean(known))) if known else 0.0, len(telling)
    return {
        "pairs": {pair: finite(value) for pair, value in pairs.items()},
        "within": {pair: finite(value) for pair, value in inner.items()},
        "effective_judges": n / (1 + (n - 1) * r) if n else 0.0,
    }


def warnings(marks: pd.DataFrame) -> list[str]:
    """One sentence for every judge that decides nothing."""
    found = []
    for judge in marks.columns:
        valid = marks[judge].dropna()
        if valid.empty:
            found.append(f"judge '{judge}' gave no valid score: it has no say (see judge.min_mass and the rubric)")
        elif len(valid) > 1 and valid.std(ddof=0) < 1e-9:
            found.append(
                f"judge '{judge}' gave every response {valid.iloc[0]:.2f}: it tells nothing apart, leave it out"
            )
    return found


def correlation(a: pd.Series, b: pd.Series) -> float:
    """Pearson's r over the rows that both have, NaN where it is not defined."""
    both = a.notna() & b.notna()
    if both.sum() < 2 or a[both].std(ddof=0) < 1e-9 or b[both].std(ddof=0) < 1e-9:
        return float("nan")
    return float(np.corrcoef(a[both], b[both])[0, 1])


def finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
