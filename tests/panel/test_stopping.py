"""holdfast/panel/early_stopping.py on made-up judges: bars by hand, what is asked of whom, and how often the outcome is the full panel's."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from holdfast.panel import early_stopping, selection
from holdfast.panel.early_stopping import Judgement, Pair, Panel, Round
from holdfast.params.consensus import SelectionRule
from holdfast.params.judge import Judge

JUDGES = ["base", "second", "third"]
QUESTIONS = 6000
MIN_SCORE = 3.0  # consensus.min_score, which the judge stage does not know

Judgements = dict[str, dict[Pair, Judgement]]  # by judge


def responses(answers: dict[str, list[tuple[str, str]]]) -> pd.DataFrame:
    """{instruction: [(model, text)]} as the stages read it."""
    rows = [
        dict(id=f"{question}/{n}", instruction_id=question, model=model, text=text, finish_reason="stop")
        for question, texts in answers.items()
        for n, (model, text) in enumerate(texts)
    ]
    return selection.add_agreement(pd.DataFrame(rows))


def settings(**changes) -> Judge:
    return Judge(**{"rubric": "-", **changes})


class MadeUpJudges:
    """Judges that see one hidden quality per response, with noise of their own."""

    def __init__(self, noise: float = 0.4, seed: int = 1, most: int = 4) -> None:
        rng = np.random.default_rng(seed)
        sizes = rng.integers(1, most, QUESTIONS)
        self.table = responses(
            {f"q{n:04d}": [("base", f"text {k}") for k in range(size)] for n, size in enumerate(sizes)}
        )
        pairs = early_stopping.pairs(self.table)
        first = np.array(
            [text == "text 0" for _, text in pairs]
        )  # the best one; of the others one in ten comes near it
        quality = np.where(
            first, rng.choice([1.5, 4.6], len(pairs), p=[0.1, 0.9]), rng.choice([1.5, 4.2], len(pairs), p=[0.9, 0.1])
        )
        scores = np.clip(quality[:, None] + rng.normal(0, noise, (len(pairs), len(JUDGES))), 1, 5)
        logprobs = rng.normal(-1, 0.3, (len(JUDGES), len(pairs)))
        self.judgements: Judgements = {
            name: {
                pair: Judgement(float(score), 0.9, float(logprob) if name == "base" else None, 20)
                for pair, score, logprob in zip(pairs, column, row, strict=True)
            }
            for name, column, row in zip(JUDGES, scores.T, logprobs, strict=True)
        }

    def panel(self, params: Judge, **rule) -> Panel:
        audited = early_stopping.draw_sample(sorted(set(self.table["instruction_id"])), params.audit, params.seed)
        return Panel(self.table, JUDGES, audited, SelectionRule(**rule), params)

    def answer(self, panel: Panel, asked: Round) -> None:
        panel.add(asked.judge, {pair: self.judgements[asked.judge][pair] for pair in asked.pairs})

    def run(self, params: Judge, **rule) -> Panel:
        """The panel after all its rounds."""
        panel = self.panel(params, **rule)
        for asked in panel.rounds():
            self.answer(panel, asked)
        return panel

    def outcome(self, judgements: Judgements, strategy: str = "mean_score", tie: float = 0.05) -> pd.DataFrame:
        """By instruction: the selected text, and whether it is good enough, by these judgements."""
        pairs = early_stopping.pairs(self.table)
        scores = pd.DataFrame(
            {n: [one.score if (one := judgements[n].get(pair)) else None for pair in pairs] for n in JUDGES},
            self.table.index,
            dtype=float,
        )
        table = self.table.assign(base_logprob=[self.judgements["base"][pair].logprob for pair in pairs])
        ranking = selection.Ranking(strategy, tie, MIN_SCORE)
        best = selection.select_responses(table[scores.notna().any(axis=1)], scores, ranking, "base")
        best = best.set_index("instruction_id")
        return pd.DataFrame({"text": best["text"], "good": best["deciding_score"] >= MIN_SCORE})


@pytest.mark.parametrize("tie", [0.0, 0.05, 0.25])
@pytest.mark.parametrize("strategy", ["mean_score", "agreement", "score_then_base_likelihood"])
def test_the_outcome_is_the_full_panel_s_at_less_than_half_the_calls(strategy, tie):
    """Whatever consensus.tie is: the stage does not know it."""
    judges = MadeUpJudges()
    panel = judges.run(settings(), strategy=strategy)
    difference = judges.outcome(panel.judgements, strategy, tie) != judges.outcome(judges.judgements, strategy, tie)
    assert difference.any(axis=1).mean() <= 0.02
    assert sum(map(len, panel.judgements.values())) <= sum(map(len, judges.judgements.values())) / 2


def test_judges_who_contradict_the_first_are_all_asked():
    """The first judge's scores say nothing about the panel's: no margin is safe, so nothing is saved, and nothing is lost."""
    judges = MadeUpJudges()
    rng = np.random.default_rng(2)
    for name in JUDGES[1:]:
        for pair, judgement in judges.judgements[name].items():
            judges.judgements[name][pair] = judgement._replace(score=float(rng.uniform(1, 5)))
    panel = judges.run(settings())
    difference = judges.outcome(panel.judgements) != judges.outcome(judges.judgements)
    assert difference.any(axis=1).mean() <= 0.02
    assert len(panel.judgements["second"]) > 0.9 * len(judges.judgements["second"])


def test_the_sample_is_judged_whole_and_the_base_judges_every_candidate():
    judges = MadeUpJudges()
    panel = judges.run(settings(audit=500), strategy="agreement")
    assert len(panel.audited) == 500
    whole = {pair for pair in panel.pairs if pair.instruction_id in panel.audited}
    asked = panel.judgements
    assert all(whole <= set(asked[name]) for name in JUDGES)
    assert len(asked["base"]) > len(asked["second"]) > len(asked["third"])
    assert len({pair.instruction_id for pair in asked["base"]}) == QUESTIONS


@pytest.mark.parametrize("strategy", ["mean_score", "agreement", "score_then_base_likelihood", "base_best_of_k"])
def test_no_pair_is_asked_twice_and_models_are_changed_as_seldom_as_can_be(strategy):
    judges = MadeUpJudges()
    panel, rounds = judges.panel(settings(), strategy=strategy), []
    for asked in panel.rounds():
        rounds.append(asked)
        judges.answer(panel, asked)
    for name in JUDGES:
        pairs = [pair for asked in rounds if asked.judge == name for pair in asked.pairs]
        assert len(pairs) == len(set(pairs))
        assert set(pairs) == set(panel.judgements[name])
    assert [asked.judge for asked in rounds] == ["base", "third", "second", "second", "third"]


def test_the_order_in_which_judgements_arrive_changes_nothing():
    """The first rounds, up to the last about the sample, do not depend on each other's answers."""
    judges = MadeUpJudges()
    in_order, mixed = judges.run(settings()), judges.panel(settings())
    rounds = mixed.rounds()
    for asked in reversed([next(rounds) for _ in JUDGES]):
        judges.answer(mixed, asked._replace(pairs=asked.pairs[::-1]))
    for asked in rounds:
        judges.answer(mixed, asked._replace(pairs=asked.pairs[::-1]))
    assert mixed.judgements == in_order.judgements
    assert all(mixed.rows(name) == in_order.rows(name) for name in JUDGES)


def test_what_is_open_after_each_judge_is_told_with_the_next_round():
    judges = MadeUpJudges()
    panel, rounds = judges.panel(settings()), []
    for asked in panel.rounds():
        rounds.append(asked)
        judges.answer(panel, asked)
    assert [asked.stop is None for asked in rounds] == [True, True, True, False, False]
    for n, asked in enumerate(rounds[3:], start=1):
        assert asked.stop is not None
        open_instructions = {pair.instruction_id for pair in asked.pairs}
        assert (asked.stop.judges, asked.stop.open_instructions) == (n, len(open_instructions))
        assert not open_instructions & panel.audited
    assert {p.instruction_id for p in rounds[4].pairs} <= {p.instruction_id for p in rounds[3].pairs}


def test_with_agreement_only_what_most_say_is_asked_about():
    answers = [("base", "42"), ("base", "42"), ("second", "41"), ("third", "40")]
    table = responses({f"q{n}": answers for n in range(4)})
    panel = Panel(table, JUDGES, {"q0"}, SelectionRule(strategy="agreement"), settings())
    for judge, pairs, _ in panel.rounds():
        panel.add(judge, {pair: Judgement(4.5, 0.9, -1.0, 20) for pair in pairs})
    assert set(panel.judgements["base"]) == {("q0", t) for t in ("40", "41", "42")} | {
        (f"q{n}", "42") for n in (1, 2, 3)
    }


def test_the_base_s_own_best_needs_no_other_judge():
    panel = MadeUpJudges().run(settings(audit=100), strategy="base_best_of_k")
    for name in ("second", "third"):
        assert {pair.instruction_id for pair in panel.judgements[name]} == panel.audited


def test_what_has_too_few_valid_scores_goes_to_the_next_judge():
    judges = MadeUpJudges(most=2)
    by_base = judges.judgements["base"]
    silent = [pair for n, pair in enumerate(by_base) if n % 10 == 0]
    for pair in silent:
        by_base[pair] = by_base[pair]._replace(score=None)
    panel = judges.run(settings())
    assert set(silent) <= set(panel.judgements["second"])
    assert len(panel.judgements["second"]) < QUESTIONS / 2
    panel = judges.run(settings(), min_judges=3)
    assert all(len(panel.judgements[name]) == QUESTIONS for name in JUDGES)


def test_a_sample_too_small_for_the_confidence_asks_everybody():
    panel = MadeUpJudges().run(settings(audit=30))
    calls = {name: len(judgements) for name, judgements in panel.judgements.items()}
    assert calls == dict.fromkeys(JUDGES, len(panel.responses))


def test_the_same_seed_draws_the_same_sample_in_any_order_and_another_seed_another():
    ids = [f"q{n}" for n in range(1000)]
    assert early_stopping.draw_sample(ids, 100, 1) == early_stopping.draw_sample(ids[::-1], 100, 1)
    assert len(early_stopping.draw_sample(ids, 100, 1) & early_stopping.draw_sample(ids, 100, 2)) < 30
    assert (
        len(early_stopping.draw_sample(ids, 100, 1) - early_stopping.draw_sample(ids[:990], 100, 1)) <= 10
    )  # ten fewer change ten at most


def test_the_bar_by_hand():
    """n = 99, risk 0.02: n R + 1 <= 2, so one of the changed may lie above; risk 0.009 allows nothing."""
    certain = np.linspace(0, 4.9, 99)
    changed = np.isin(np.arange(99), [10, 40, 70])
    assert early_stopping.bar(certain, changed, 0.02) == certain[40]
    assert early_stopping.bar(certain, changed, 0.04) == -math.inf
    assert early_stopping.bar(certain, changed, 0.01) == certain[70]
    assert early_stopping.bar(certain, changed, 0.009) == math.inf


def test_certainty_by_hand():
    table = responses(
        {
            "alone": [("base", "x")],
            "clear": [("base", "x"), ("base", "y")],
            "tie": [("base", "x"), ("base", "y")],
            "same": [("base", "x"), ("base", "x")],
            "null": [("base", "x"), ("base", "y")],
        }
    ).assign(base_logprob=-1.0)
    table.loc["tie/1", "base_logprob"] = -0.5
    score_of = {
        "alone/0": 4.0,
        "clear/0": 5.0,
        "clear/1": 3.5,
        "tie/0": 5.0,
        "tie/1": 3.5,
        "same/0": 2.0,
        "same/1": 2.0,
        "null/0": 4.0,
    }
    scores = pd.DataFrame({"base": pd.Series(score_of).reindex(table.index)})
    by_instruction = early_stopping.certainty(table, scores, SelectionRule(), settings(level=3.0), "base").to_dict()
    assert by_instruction == {"alone": 1.0, "clear": 1.5, "tie": 1.25, "same": 1.0, "null": -math.inf}
    rule = SelectionRule(strategy="score_then_base_likelihood")
    by_instruction = early_stopping.certainty(table, scores, rule, settings(level=3.0), "base").to_dict()
    assert by_instruction == {"alone": 1.0, "clear": 2.0, "tie": 0.5, "same": 1.0, "null": -math.inf}
    by_instruction = early_stopping.certainty(table, scores, rule, settings(level=4.0), "base").to_dict()
    assert by_instruction == {"alone": 0.0, "clear": 0.5, "tie": 0.25, "same": 2.0, "null": -math.inf}
