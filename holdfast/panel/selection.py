"""Which response to an instruction is selected, and which ones could be: the rules that `judge` and `consensus` share.

Frames in, frames out. A response is a row of `table` (index: its id; columns instruction_id, text, model, finish_reason,
agreement, base_logprob); a judge is a column of `scores` (same index, 1 to 5; NaN: no valid score, or not asked).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from holdfast.params.consensus import SelectionRule, Strategy


@dataclass(frozen=True, slots=True)
class Ranking:
    """How the responses to an instruction are ranked."""

    strategy: Strategy
    tie: float  # scores at most this far below the best are tied with it
    min_score: float  # for score_then_base_likelihood: all scores from here on are tied too


def add_agreement(responses: pd.DataFrame) -> pd.DataFrame:
    """The responses by id, with `agreement`: the part of all responses to their instruction that have the same text."""
    table = responses.set_index("id").sort_index()
    same = table.groupby(["instruction_id", "text"])["model"].transform("size")
    return table.assign(agreement=same / table.groupby("instruction_id")["model"].transform("size"))


def add_scores(table: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """The responses with mean, spread and number of their valid scores; nulls are not counted."""
    return table.assign(
        score=scores.mean(axis=1), score_std=scores.std(axis=1, ddof=0), n_judges=scores.notna().sum(axis=1)
    )


def asks_judges(rule: SelectionRule) -> bool:
    """Whether scores have a say."""
    return rule.strategy != "first"


def eligible(table: pd.DataFrame, rule: SelectionRule, base: str) -> pd.Series:
    """By response: whether it could be selected, whatever the judges say."""
    possible = (table["text"] != "") & ~table["finish_reason"].isin(("unreadable", "misfit"))
    if rule.finished_only:
        possible &= table["finish_reason"] == "stop"
    if rule.strategy in ("base_best_of_k", "first"):
        possible &= table["model"] == base
    return possible


def selectable(table: pd.DataFrame, rule: SelectionRule, base: str) -> pd.Series:
    """By response, with its scores: whether it is eligible and has scores of enough judges, where judges are asked."""
    needed = rule.min_judges if asks_judges(rule) else 0
    return eligible(table, rule, base) & (table["n_judges"] >= needed)


def most_agreed(table: pd.DataFrame) -> pd.Series:
    """By response: whether no other text of its instruction has a higher agreement."""
    return table["agreement"] == table.groupby("instruction_id")["agreement"].transform("max")


def candidates(table: pd.DataFrame, rule: SelectionRule, base: str) -> pd.DataFrame:
    """The responses that are worth a judge's time: those that the strategy could select."""
    possible = table[eligible(table, rule, base)]
    return possible[most_agreed(possible)] if rule.strategy == "agreement" else possible


def deciding_scores(table: pd.DataFrame, scores: pd.DataFrame, strategy: Strategy, base: str) -> pd.Series:
    """By response: the score that the strategy goes by, the mean or the base's own."""
    if strategy == "base_best_of_k" and base in scores:
        return scores.loc[table.index, base]
    return scores.loc[table.index].mean(axis=1)


def select_responses(table: pd.DataFrame, scores: pd.DataFrame, ranking: Ranking, base: str) -> pd.DataFrame:
    """One row per instruction, sorted by instruction, with the columns response_id and deciding_score added.

    `table` holds what can be selected. Ties go to the response that the base finds most likely, then to the better
    score; of equal texts the base's own is named, then the one with the first id.
    """
    if ranking.strategy == "agreement":
        table = table[most_agreed(table)]
    if ranking.strategy == "first":
        first = table.sort_values(["sample"], kind="stable").groupby("instruction_id", sort=True).head(1)
        return first.assign(deciding_score=np.nan, response_id=first.index).sort_values("instruction_id")
    deciding = deciding_scores(table, scores, ranking.strategy, base).fillna(0.0)
    tied = deciding >= deciding.groupby(table["instruction_id"]).transform("max") - ranking.tie
    if ranking.strategy == "score_then_base_likelihood":
        tied |= deciding >= ranking.min_score
    table = table.assign(
        tied=tied.astype(int), deciding_score=deciding, own=table["model"] == base, response_id=table.index
    )
    order = ["tied", "base_logprob", "deciding_score", "own", "response_id"]
    ascending = [False, False, False, False, True]
    ranked = table.sort_values(order, ascending=ascending, na_position="last", kind="stable")
    return ranked.groupby("instruction_id", sort=True).head(1).sort_values("instruction_id")
