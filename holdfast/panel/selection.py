"""Which response to an instruction is chosen, and which ones could be: the rules that `judge` and `consensus` share.

Frames in, frames out. A response is a row of `table` (index: its id; columns instruction_id, text, model, finish,
agreement, base_logprob); a judge is a column of `marks` (same index, 1 to 5; NaN: no valid score, or not asked).
"""

from __future__ import annotations

import pandas as pd

from holdfast.params.consensus import Consensus


def with_agreement(responses: pd.DataFrame) -> pd.DataFrame:
    """The responses by id, each with the part of all responses to its instruction that say the same."""
    table = responses.set_index("id").sort_index()
    same = table.groupby(["instruction_id", "text"])["model"].transform("size")
    return table.assign(agreement=same / table.groupby("instruction_id")["model"].transform("size"))


def scored(table: pd.DataFrame, marks: pd.DataFrame) -> pd.DataFrame:
    """The responses with mean, spread and number of their valid scores; nulls are not counted."""
    return table.assign(
        score=marks.mean(axis=1), score_std=marks.std(axis=1, ddof=0), n_judges=marks.notna().sum(axis=1)
    )


def eligible(table: pd.DataFrame, rule: Consensus, base: str) -> pd.Series:
    """By response: could it be chosen, if the judges like it?"""
    possible = table["text"] != ""
    if rule.finished_only:
        possible &= table["finish"] == "stop"
    if rule.strategy == "base_best_of_k":
        possible &= table["model"] == base
    return possible


def most_agreed(table: pd.DataFrame) -> pd.Series:
    """By response: does no other response to its instruction have more that say the same?"""
    return table["agreement"] == table.groupby("instruction_id")["agreement"].transform("max")


def candidates(table: pd.DataFrame, rule: Consensus, base: str) -> pd.DataFrame:
    """The responses that are worth a judge's time: those that the strategy could choose."""
    possible = table[eligible(table, rule, base)]
    return possible[most_agreed(possible)] if rule.strategy == "agreement" else possible


def deciding(table: pd.DataFrame, marks: pd.DataFrame, rule: Consensus, base: str) -> pd.Series:
    """By response: the mark that the strategy goes by, the mean score or the base's own."""
    if rule.strategy == "base_best_of_k" and base in marks:
        return marks.loc[table.index, base]
    return marks.loc[table.index].mean(axis=1)


def choose(table: pd.DataFrame, rule: Consensus, marks: pd.DataFrame, base: str) -> pd.DataFrame:
    """One row per instruction by the strategy; `table` holds what can be chosen.

    Ties within rule.tie go to the response that the base finds most likely, then to the better mark; of equal texts the
    base's own is named, then the one with the first id.
    """
    if rule.strategy == "agreement":
        table = table[most_agreed(table)]
    mark = deciding(table, marks, rule, base).fillna(0.0)
    near = mark >= mark.groupby(table["instruction_id"]).transform("max") - rule.tie
    if rule.strategy == "score_then_base_likelihood":
        near |= mark >= rule.min_score
    table = table.assign(near=near.astype(int), mark=mark, own=table["model"] == base, response_id=table.index)
    order = {
        "near": False,
        "base_logprob": False,
        "mark": False,
        "own": False,
        "response_id": True,
    }  # column: ascending
    ranked = table.sort_values(list(order), ascending=list(order.values()), na_position="last", kind="stable")
    return ranked.groupby("instruction_id", sort=True).head(1).sort_values("instruction_id")
