"""When may a panel stop? After each judge: for which instructions would the outcome stay the same with the whole panel?

A random sample of instructions is judged by the whole panel. There it is known which outcomes changed after the first,
the second ... judge, and how far from changing each one looked at that time (`certainty`). `bar` is the least certainty
beyond which so few of them changed that, for instructions drawn alike, the chance of stopping too early is at most `risk`:
conformal risk control (Angelopoulos et al., arXiv 2208.02814, theorem 1), which assumes nothing about the judges. The
risk is shared by the stops, so that it holds for all of them together (union bound).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from holdfast.core import records
from holdfast.panel import selection
from holdfast.params.consensus import SelectionRule
from holdfast.params.judge import Judge

LARGEST_TIE = 0.25  # in units of the score; the judge stage does not know consensus.tie, and provides for this much


class Pair(NamedTuple):
    """What a judge is asked about. Equal responses to one instruction are one pair: they get equal scores."""

    instruction_id: str
    response: str


class Judgement(NamedTuple):
    score: float | None  # 1 to 5; None: no valid score
    mass: float | None  # probability on the five score tokens; None: no score could be read
    logprob: float | None  # mean log-probability (nats) per token of the response; of the base only
    tokens: int | None  # of the judge's prompt, where they can be counted here


class Stop(NamedTuple):
    """What is still open after some of the judges."""

    judges: int  # that were asked so far
    open_instructions: int
    bar: float  # certainty, in units of the score, at or below which an instruction stays open


class Round(NamedTuple):
    judge: str
    pairs: list[Pair]  # sorted; none of them was put to this judge before
    stop: Stop | None  # what was found before this round; None as long as the sample is being judged


class Panel:
    """Says whom to ask about what, round by round, and holds the judgements.

    Take the rounds one by one, and add the judgements of each before the next one is taken.
    """

    def __init__(
        self, responses: pd.DataFrame, judges: list[str], audited: set[str], rule: SelectionRule, params: Judge
    ) -> None:
        """`responses`: by id, with their agreement. `judges`: the base first. `audited`: ids of the sampled instructions."""
        self.responses, self.judges, self.audited = responses, judges, audited
        self.rule, self.params = rule, params
        self.pairs = pairs(responses)  # one for each response, in order
        self.judgements: dict[str, dict[Pair, Judgement]] = {judge: {} for judge in judges}

    def rounds(self) -> Iterator[Round]:
        """The base is asked about all candidates, the others in turn about those of instructions that are still open, and
        every judge about all responses to the audited instructions. None where no score has a say."""
        if not selection.asks_judges(self.rule):
            return
        base, *others = self.judges
        instruction = self.responses["instruction_id"]
        audited = instruction.isin(self.audited)
        eligible = selection.candidates(self.responses, self.rule, base).index
        candidate = pd.Series(self.responses.index.isin(eligible), self.responses.index)

        yield Round(base, self.unjudged_pairs(base, audited | candidate), None)
        for judge in reversed(others):  # backwards: the one that goes on below is then still in memory
            yield Round(judge, self.unjudged_pairs(judge, audited), None)

        table = self.responses.assign(base_logprob=self.column(base, "logprob"))
        still_open = candidate & ~audited  # what was closed is not opened again
        if not still_open.any():
            return
        known = candidate & audited
        limits = bars(table[known], self.scores(self.judges)[known], self.rule, self.params, base)
        for n, limit in enumerate(limits, start=1):
            certain = certainty(table[still_open], self.scores(self.judges[:n]), self.rule, self.params, base)
            still_open &= instruction.isin(certain.index[~(certain > limit)])
            stop = Stop(n, int(instruction[still_open].nunique()), limit)
            yield Round(self.judges[n], self.unjudged_pairs(self.judges[n], still_open), stop)

    def add(self, judge: str, judgements: Mapping[Pair, Judgement]) -> None:
        self.judgements[judge] |= judgements

    def unjudged_pairs(self, judge: str, which: pd.Series) -> list[Pair]:
        """The pairs of the responses in the mask `which` that the judge has not judged yet, sorted."""
        return sorted(set(pairs(self.responses[which])) - self.judgements[judge].keys())

    def scores(self, judges: list[str]) -> pd.DataFrame:
        """By response and judge; NaN: no valid score, or not asked."""
        return pd.DataFrame({judge: self.column(judge, "score") for judge in judges}, self.responses.index)

    def column(self, judge: str, field: str) -> list[float]:
        judgements = (self.judgements[judge].get(pair) for pair in self.pairs)
        values = (None if one is None else getattr(one, field) for one in judgements)
        return [math.nan if value is None else value for value in values]

    def rows(self, judge: str) -> list[dict[str, Any]]:
        """The judge's rows of `scores`: one for each response of a pair that it judged."""
        judged = self.judgements[judge]
        return [
            dict(
                id=id,
                instruction_id=pair.instruction_id,
                judge=judge,
                audit=pair.instruction_id in self.audited,
                **judged[pair]._asdict(),
            )
            for id, pair in zip(self.responses.index, self.pairs, strict=True)
            if pair in judged
        ]


def pairs(responses: pd.DataFrame) -> list[Pair]:
    return [Pair(*row) for row in zip(responses["instruction_id"], responses["text"], strict=True)]


def draw_sample(instruction_ids: list[str], size: int, seed: int) -> set[str]:
    """`size` instructions at random: those with the smallest hashes, so that another instruction changes little."""
    return set(sorted(instruction_ids, key=lambda id: (records.text_id(seed, id), id))[:size])


def certainty(table: pd.DataFrame, scores: pd.DataFrame, rule: SelectionRule, params: Judge, base: str) -> pd.Series:
    """By instruction: by how much (in units of the score) means would have to move before the outcome changed.

    The outcome is which candidate of `table` is selected, and whether its mean reaches params.level. A candidate that the
    base finds more likely than the leader would win a tie, so LARGEST_TIE is taken off its distance. Minus infinity where
    a candidate has fewer valid scores than rule.min_judges.
    """
    deciding, instruction = selection.deciding_scores(table, scores, rule.strategy, base), table["instruction_id"]
    by_likelihood = rule.strategy == "score_then_base_likelihood"  # then all that are good enough count alike
    counts = deciding.clip(upper=params.level) if by_likelihood else deciding
    order = table.sort_index().assign(deciding_score=deciding, counts=counts)
    order = order.sort_values(["counts", "base_logprob"], ascending=False, na_position="last", kind="stable")
    leader = order.groupby("instruction_id").head(1).set_index("instruction_id")
    wins_ties = ~(table["base_logprob"] <= instruction.map(leader["base_logprob"]))
    behind = instruction.map(leader["counts"]) - counts - LARGEST_TIE * wins_ties
    rivals = table["text"] != instruction.map(leader["text"])
    if by_likelihood:  # who is good enough already and less likely wins only if the leader falls
        rivals &= deciding < params.level
    to_level = (leader["deciding_score"] - params.level).abs()
    to_rival = behind[rivals].groupby(instruction[rivals]).min().reindex(to_level.index, fill_value=np.inf)
    unjudged = scores.loc[table.index].notna().sum(axis=1) < rule.min_judges
    distance = np.minimum(to_level, to_rival).mask(unjudged.groupby(instruction).any(), -np.inf)
    return distance.fillna(-np.inf).sort_index()


def outcomes(table: pd.DataFrame, scores: pd.DataFrame, rule: SelectionRule, params: Judge, base: str) -> pd.DataFrame:
    """By instruction: the selected text without and with ties, and whether its score reaches params.level."""
    columns = {}
    for tie in (0.0, LARGEST_TIE):
        ranking = selection.Ranking(rule.strategy, tie, params.level)
        best = selection.select_responses(table, scores, ranking, base).set_index("instruction_id")
        columns[f"text, ties within {tie}"] = best["text"]
        columns[f"good, ties within {tie}"] = best["deciding_score"] >= params.level
    return pd.DataFrame(columns).sort_index()


def bar(certain: np.ndarray, changed: np.ndarray, risk: float) -> float:
    """Stop where certainty is above this: then n R + 1 <= risk (n + 1), R the part of the n that stop and change.

    Infinity where the sample is too small for the risk; minus infinity where no bar is needed.
    """
    allowed = math.floor(risk * (len(certain) + 1) - 1 + 1e-9)
    wrong = np.sort(certain[changed])[::-1]
    if allowed < 0:
        return math.inf
    return float(wrong[allowed]) if len(wrong) > allowed else -math.inf


def bars(table: pd.DataFrame, scores: pd.DataFrame, rule: SelectionRule, params: Judge, base: str) -> list[float]:
    """The bar after the first, the second ... judge but the last, from candidates that every judge (column) was asked
    about."""
    panel = list(scores.columns)
    if rule.strategy == "base_best_of_k":  # the base's scores alone decide
        return [-math.inf] * (len(panel) - 1)
    final, risk = outcomes(table, scores, rule, params, base), (1 - params.confidence) / max(1, len(panel) - 1)
    limits = []
    for n in range(1, len(panel)):
        so_far = scores[panel[:n]]
        changed = (outcomes(table, so_far, rule, params, base) != final).any(axis=1)
        certain = certainty(table, so_far, rule, params, base)
        limits.append(bar(certain.to_numpy(), changed.to_numpy(), risk))
    return limits
