"""What the judges of a panel are worth: correlations, independence, preferences, length bias, ties, what each one changes.

Frames in, plain numbers out. A response is a row of `table` (index: its id; columns instruction_id, model, text, ...); a
judge is a column of `scores` (same index, 1 to 5 or NaN). What decides a selection is how a judge tells the responses to
one instruction apart, so correlations are taken within instructions: every score less its instruction's mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd


def audit_judges(
    table: pd.DataFrame, scores: pd.DataFrame, selected: pd.Series, without: Mapping[str, pd.Series], tie: float
) -> dict[str, dict[str, Any]]:
    """By judge: mean, spread, preferences, length bias, ties, and the part of the selections that it changes.

    `selected`: by instruction, the text that the panel selects; `without`: by judge, what the panel without it selects.
    """
    within = scores - scores.groupby(table["instruction_id"]).transform("mean")
    length = np.log1p(table["text"].str.len())
    length = length - length.groupby(table["instruction_id"]).transform("mean")
    audit = {}
    for judge in scores.columns:
        preference = preferences(table["model"], scores, judge)
        own = preference.pop(judge, float("nan"))
        others = excess(scores, judge)[table["model"] != judge].mean()
        audit[judge] = {
            "mean": finite_or_none(scores[judge].mean()),
            "std": finite_or_none(scores[judge].std(ddof=0)),
            "self_preference": finite_or_none(own - others),
            "preference": {model: finite_or_none(value) for model, value in {**preference, judge: own}.items()},
            "length_bias": finite_or_none(correlation(within[judge], length)),
            "ties": ties(table, scores[judge], tie),
            "changes": changes(selected, without.get(judge)),
        }
    return audit


def excess(scores: pd.DataFrame, judge: str) -> pd.Series:
    """A judge's score less the mean of the other judges' scores of the same response."""
    return scores[judge] - scores.drop(columns=judge).mean(axis=1)


def preferences(models: pd.Series, scores: pd.DataFrame, judge: str) -> dict[str, float]:
    """One row of the preference matrix: the judge's mean excess over the other judges, by who wrote the response."""
    return {str(model): float(value) for model, value in excess(scores, judge).groupby(models).mean().items()}


def ties(table: pd.DataFrame, scores: pd.Series, tie: float) -> int:
    """Instructions for which two or more different texts have the best score, give or take `tie`."""
    distinct = scores.groupby([table["instruction_id"], table["text"]]).mean().dropna()
    best = distinct.groupby(level=0).transform("max")
    return int(((distinct >= best - tie).groupby(level=0).sum() > 1).sum())


def changes(selected: pd.Series, without: pd.Series | None) -> float | None:
    """Part of the instructions for which the panel without a judge selects another text, or none. None for a panel of one."""
    if without is None or not len(selected):
        return None
    return finite_or_none(float((without.reindex(selected.index) != selected).mean()))


def correlate_judges(table: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Any]:
    """Correlations between judges, and to how many independent judges the panel amounts.

    `pairs` are plain Pearson correlations; `within` those within instructions. With n judges whose mean correlation
    within instructions is r, the variance of their mean is that of n / (1 + (n - 1) r) independent ones (Kish 1965, the
    design effect). A judge that never tells two responses apart counts for none.
    """
    within = scores - scores.groupby(table["instruction_id"]).transform("mean")
    telling = [judge for judge in scores.columns if within[judge].std(ddof=0) > 1e-9]
    pairs = {f"{a}~{b}": correlation(scores[a], scores[b]) for a, b in combinations(scores.columns, 2)}
    inner = {f"{a}~{b}": correlation(within[a], within[b]) for a, b in combinations(telling, 2)}
    known = [r for r in inner.values() if np.isfinite(r)]
    r, n = max(0.0, float(np.mean(known))) if known else 0.0, len(telling)
    return {
        "pairs": {pair: finite_or_none(value) for pair, value in pairs.items()},
        "within": {pair: finite_or_none(value) for pair, value in inner.items()},
        "effective_judges": n / (1 + (n - 1) * r) if n else 0.0,
    }


def warnings(scores: pd.DataFrame) -> list[str]:
    """One sentence for every judge that decides nothing."""
    sentences = []
    for judge in scores.columns:
        valid = scores[judge].dropna()
        if valid.empty:
            sentences.append(f"judge '{judge}' gave no valid score: it has no say (see judge.min_mass and the rubric)")
        elif len(valid) > 1 and valid.std(ddof=0) < 1e-9:
            sentences.append(
                f"judge '{judge}' gave every response {valid.iloc[0]:.2f}: it tells nothing apart, leave it out"
            )
    return sentences


def correlation(a: pd.Series, b: pd.Series) -> float:
    """Pearson's r over the rows that both have, NaN where it is not defined."""
    both = a.notna() & b.notna()
    if both.sum() < 2 or a[both].std(ddof=0) < 1e-9 or b[both].std(ddof=0) < 1e-9:
        return float("nan")
    return float(np.corrcoef(a[both], b[both])[0, 1])


def finite_or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
