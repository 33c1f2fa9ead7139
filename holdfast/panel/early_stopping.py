"""When may a panel stop? After each judge, for which instructions the outcome would stay the same with the whole panel.

A random sample of instructions is judged by the whole panel. There it is known which outcomes changed after the first,
the second ... judge, and how far from changing each one looked at that time (`certainty`). `bar` is the least certainty
beyond which so few of them changed that, for instructions drawn alike, the chance of stopping too early is at most `risk`:
conformal risk control (Angelopoulos et al., arXiv 2208.02814, theorem 1), which assumes nothing about the judges. The risk is shared
by the stops, so that it holds for all of them together (union bound).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from holdfast.core import records
from holdfast.panel import selection
from holdfast.params.consensus import Consensus
from holdfast.params.judge import Judge

TIE = 0.25  # values of consensus.tie up to this one are provided for: the judge stage does not know it

Pair = tuple[
    str, str
]  # instruction id, response: equal answers to one instruction get equal scores, and are asked once
Ask = Callable[
    [str, list[Pair]], list[dict[str, Any]]
]  # judge, pairs -> what it said of each: score, base's logprob, ...


def in_turn(
    table: pd.DataFrame, panel: list[str], sampled: set[str], rule: Consensus, params: Judge, ask: Ask
) -> dict[str, dict[Pair, dict[str, Any]]]:
    """What each judge said, by pair. The base, first in `panel`, is asked about all candidates, the others in turn about
    those of instructions that are still open, and everybody about all responses to the `sampled` instructions."""
    instruction, base, everyone = table["instruction_id"], panel[0], pairs(table)
    known = instruction.isin(sampled)
    given: dict[str, dict[Pair, dict[str, Any]]] = {name: {} for name in panel}

    def more(name: str, which: pd.Series) -> None:
        asked = sorted(set(pairs(table[which])) - given[name].keys())
        given[name] |= zip(asked, ask(name, asked), strict=True)

    def said(name: str, what: str) -> list[float]:
        return [math.nan if (v := given[name].get(pair, {}).get(what)) is None else v for pair in everyone]

    def marks(names: list[str]) -> pd.DataFrame:
        return pd.DataFrame({name: said(name, "score") for name in names}, table.index)

    candidate = pd.Series(table.index.isin(selection.candidates(table, rule, base).index), table.index)
    more(base, known | candidate)
    for name in reversed(panel[1:]):  # backwards: the one that goes on below is then still in memory
        more(name, known)
    table = table.assign(base_logprob=said(base, "logprob"))
    still = candidate & ~known  # who once stopped is not taken up again
    test = known & candidate
    limits = bars(table[test], marks(panel)[test], rule, params, base) if still.any() else []
    for n, limit in enumerate(limits, start=1):
        certain = certainty(table[still], marks(panel[:n]), rule, params, base)
        still &= instruction.isin(certain.index[~(certain > limit)])
        print(
            f"after {n} of {len(panel)} judges {instruction[still].nunique():,} instructions are open (bar {limit:.2f})"
        )
        more(panel[n], still)
    return given


def pairs(table: pd.DataFrame) -> list[Pair]:
    return list(zip(table["instruction_id"], table["text"], strict=True))


def sample(instructions: list[str], size: int, seed: int) -> set[str]:
    """`size` instructions at random: those with the smallest hashes, so that another instruction changes little."""
    return set(sorted(instructions, key=lambda id: (records.text_id(seed, id), id))[:size])


def certainty(table: pd.DataFrame, marks: pd.DataFrame, rule: Consensus, params: Judge, base: str) -> pd.Series:
    """By instruction: by how much (in units of the score) means would have to move before the outcome changed.

    The outcome is which candidate of `table` is chosen, and whether its mean reaches params.level. A candidate that the
    base finds more likely than the leader would win a tie, so TIE is taken off its distance. Minus infinity where a
    candidate has fewer valid scores than rule.min_judges.
    """
    mark, instruction = selection.deciding(table, marks, rule, base), table["instruction_id"]
    by_likelihood = rule.strategy == "score_then_base_likelihood"  # then all that are good enough count alike
    counts = mark.clip(upper=params.level) if by_likelihood else mark
    order = table.sort_index().assign(mark=mark, counts=counts)
    order = order.sort_values(["counts", "base_logprob"], ascending=False, na_position="last", kind="stable")
    leader = order.groupby("instruction_id").head(1).set_index("instruction_id")
    wins_ties = ~(table["base_logprob"] <= instruction.map(leader["base_logprob"]))
    behind = instruction.map(leader["counts"]) - counts - TIE * wins_ties
    rivals = table["text"] != instruction.map(leader["text"])
    if by_likelihood:  # who is good enough already and less likely wins only if the leader falls
        rivals &= mark < params.level
    found = (leader["mark"] - params.level).abs()
    found = np.minimum(found, behind[rivals].groupby(instruction[rivals]).min().reindex(found.index, fill_value=np.inf))
    unjudged = marks.loc[table.index].notna().sum(axis=1) < rule.min_judges
    return found.mask(unjudged.groupby(instruction).any(), -np.inf).fillna(-np.inf).sort_index()


def outcomes(table: pd.DataFrame, marks: pd.DataFrame, rule: Consensus, params: Judge, base: str) -> pd.DataFrame:
    """By instruction: the chosen text without and with ties, and whether its mark reaches params.level."""
    found = {}
    for tie in (0.0, TIE):
        settled = rule.model_copy(update={"tie": tie, "min_score": params.level})
        best = selection.choose(table, settled, marks, base).set_index("instruction_id")
        found[f"text, ties within {tie}"], found[f"good, ties within {tie}"] = (
            best["text"],
            best["mark"] >= params.level,
        )
    return pd.DataFrame(found).sort_index()


def bar(certain: np.ndarray, changed: np.ndarray, risk: float) -> float:
    """Stop where certainty is above this: then n R + 1 <= risk (n + 1), R the part of the n that stop and change.

    Infinity where the sample is too small for the risk; minus infinity where no bar is needed.
    """
    allowed = math.floor(risk * (len(certain) + 1) - 1 + 1e-9)
    wrong = np.sort(certain[changed])[::-1]
    if allowed < 0:
        return math.inf
    return float(wrong[allowed]) if len(wrong) > allowed else -math.inf


def bars(table: pd.DataFrame, marks: pd.DataFrame, rule: Consensus, params: Judge, base: str) -> list[float]:
    """The bar after the first, the second ... judge but the last, from candidates that every judge (column) was asked about."""
    panel = list(marks.columns)
    if rule.strategy == "base_best_of_k":  # the base's scores alone decide
        return [-math.inf] * (len(panel) - 1)
    final, risk = outcomes(table, marks, rule, params, base), (1 - params.confidence) / max(1, len(panel) - 1)
    found = []
    for n in range(1, len(panel)):
        so_far = marks[panel[:n]]
        changed = (outcomes(table, so_far, rule, params, base) != final).any(axis=1)
        certain = certainty(table, so_far, rule, params, base)
        found.append(bar(certain.to_numpy(), changed.to_numpy(), risk))
    return found
