"""holdfast/panel/early_stopping.py on made-up judges: bars by hand, what is asked of whom, and how often the choice is the panel's."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from holdfast.panel import early_stopping, selection
from holdfast.params.consensus import Consensus
from holdfast.params.judge import Judge

PANEL = ["base", "second", "third"]
QUESTIONS = 6000


def responses(answers: dict[str, list[tuple[str, str]]]) -> pd.DataFrame:
    """{instruction: [(model, text)]} as the stages read it."""
    rows = [
        dict(id=f"{question}/{n}", instruction_id=question, model=model, text=text, finish="stop")
        for question, given in answers.items()
        for n, (model, text) in enumerate(given)
    ]
    return selection.with_agreement(pd.DataFrame(rows))


def settings(**changes) -> Judge:
    return Judge(**{"rubric": "-", **changes})


class Panel:
    """Judges that see one hidden quality per response, with noise of their own; records who was asked about what."""

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
        marks = np.clip(quality[:, None] + rng.normal(0, noise, (len(pairs), len(PANEL))), 1, 5)
        self.answers = {
            name: {pair: dict(score=float(m), logprob=float(p) if name == "base" else None) for pair, m, p in zip(pairs, column, lp, strict=True)}
            for name, column, lp in zip(PANEL, marks.T, rng.normal(-1, 0.3, (len(PANEL), len(pairs))), strict=True)
        }  # fmt: skip
        self.asked: list[tuple[str, list[early_stopping.Pair]]] = []

    def ask(self, name: str, pairs: list[early_stopping.Pair]) -> list[dict]:
        self.asked.append((name, pairs))
        return [self.answers[name][pair] for pair in pairs]

    def run(self, params: Judge, **rule) -> tuple[dict, set[str]]:
        sampled = early_stopping.sample(sorted(set(self.table["instruction_id"])), params.audit, params.seed)
        return early_stopping.in_turn(self.table, PANEL, sampled, Consensus(**rule), params, self.ask), sampled

    def chosen(self, given: dict, rule: Consensus) -> pd.DataFrame:
        pairs = early_stopping.pairs(self.table)
        marks = pd.DataFrame(
            {n: [given[n].get(p, {}).get("score") for p in pairs] for n in PANEL}, self.table.index, dtype=float
        )
        table = self.table.assign(base_logprob=[self.answers["base"][pair]["logprob"] for pair in pairs])
        best = selection.choose(table[marks.notna().any(axis=1)], rule, marks, "base").set_index("instruction_id")
        return pd.DataFrame({"text": best["text"], "good": best["mark"] >= rule.min_score})


@pytest.mark.parametrize("tie", [0.0, 0.05, 0.25])
@pytest.mark.parametrize("strategy", ["mean_score", "agreement", "score_then_base_likelihood"])
def test_the_choice_is_the_full_panel_s_at_less_than_half_the_calls(strategy, tie):
    """Whatever consensus.tie is: the stage does not know it."""
    panel, rule = Panel(), Consensus(strategy=strategy, tie=tie)
    given, _ = panel.run(settings(), strategy=strategy)
    difference = panel.chosen(given, rule) != panel.chosen(panel.answers, rule)
    assert difference.any(axis=1).mean() <= 0.02
    assert sum(map(len, given.values())) <= sum(map(len, panel.answers.values())) / 2


def test_judges_who_contradict_the_first_are_all_asked():
    """The first judge's marks say nothing about the panel's: no margin is safe, so nothing is saved, and nothing is lost."""
    panel, rule = Panel(), Consensus()
    rng = np.random.default_rng(2)
    for name in PANEL[1:]:
        for answer in panel.answers[name].values():
            answer["score"] = float(rng.uniform(1, 5))
    given, _ = panel.run(settings())
    difference = panel.chosen(given, rule) != panel.chosen(panel.answers, rule)
    assert difference.any(axis=1).mean() <= 0.02
    assert len(given["second"]) > 0.9 * len(panel.answers["second"])


def test_the_sample_is_judged_whole_and_the_base_judges_every_candidate():
    panel = Panel()
    given, sampled = panel.run(settings(audit=500), strategy="agreement")
    assert len(sampled) == 500
    whole = {pair for pair in early_stopping.pairs(panel.table) if pair[0] in sampled}
    assert all(whole <= set(given[name]) for name in PANEL)
    assert len(given["base"]) > len(given["second"]) > len(given["third"])
    assert len({pair[0] for pair in given["base"]}) == QUESTIONS


def test_no_pair_is_asked_twice_and_models_are_changed_as_seldom_as_can_be():
    panel = Panel()
    panel.run(settings())
    for name in PANEL:
        asked = [pair for who, pairs in panel.asked for pair in pairs if who == name]
        assert len(asked) == len(set(asked))
    assert [name for name, _ in panel.asked] == ["base", "third", "second", "second", "third"]


def test_with_agreement_only_what_most_say_is_asked_about():
    answers = [("base", "42"), ("base", "42"), ("second", "41"), ("third", "40")]
    table = responses({f"q{n}": answers for n in range(4)})
    asked: dict[str, set] = {name: set() for name in PANEL}

    def ask(name, pairs):
        asked[name] |= set(pairs)
        return [dict(score=4.5, logprob=-1.0) for _ in pairs]

    early_stopping.in_turn(table, PANEL, {"q0"}, Consensus(strategy="agreement"), settings(), ask)
    assert asked["base"] == {("q0", t) for t in ("40", "41", "42")} | {(f"q{n}", "42") for n in (1, 2, 3)}


def test_the_base_s_own_best_needs_no_other_judge():
    panel = Panel()
    given, sampled = panel.run(settings(audit=100), strategy="base_best_of_k")
    assert {pair[0] for pair in given["second"]} == {pair[0] for pair in given["third"]} == sampled


def test_what_has_too_few_valid_scores_goes_to_the_next_judge():
    panel = Panel(most=2)
    silent = [pair for n, pair in enumerate(panel.answers["base"]) if n % 10 == 0]
    for pair in silent:
        panel.answers["base"][pair]["score"] = None
    given, _ = panel.run(settings())
    assert set(silent) <= set(given["second"])
    assert len(given["second"]) < QUESTIONS / 2
    given, _ = panel.run(settings(), min_judges=3)
    assert all(len(given[name]) == QUESTIONS for name in PANEL)


def test_a_sample_too_small_for_the_confidence_asks_everybody():
    panel = Panel()
    given, _ = panel.run(settings(audit=30))
    assert {name: len(pairs) for name, pairs in given.items()} == {name: len(panel.table) for name in PANEL}


def test_the_same_seed_draws_the_same_sample_in_any_order_and_another_seed_another():
    ids = [f"q{n}" for n in range(1000)]
    assert early_stopping.sample(ids, 100, 1) == early_stopping.sample(ids[::-1], 100, 1)
    assert len(early_stopping.sample(ids, 100, 1) & early_stopping.sample(ids, 100, 2)) < 30
    assert (
        len(early_stopping.sample(ids, 100, 1) - early_stopping.sample(ids[:990], 100, 1)) <= 10
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
    table = responses({
        "alone": [("base", "x")], "clear": [("base", "x"), ("base", "y")], "tie": [("base", "x"), ("base", "y")],
        "same": [("base", "x"), ("base", "x")], "null": [("base", "x"), ("base", "y")],
    }).assign(base_logprob=-1.0)  # fmt: skip
    table.loc["tie/1", "base_logprob"] = -0.5
    score = {
        "alone/0": 4.0,
        "clear/0": 5.0,
        "clear/1": 3.5,
        "tie/0": 5.0,
        "tie/1": 3.5,
        "same/0": 2.0,
        "same/1": 2.0,
        "null/0": 4.0,
    }
    marks = pd.DataFrame({"base": pd.Series(score).reindex(table.index)})
    found = early_stopping.certainty(table, marks, Consensus(), settings(level=3.0), "base").to_dict()
    assert found == {"alone": 1.0, "clear": 1.5, "tie": 1.25, "same": 1.0, "null": -math.inf}
    rule = Consensus(strategy="score_then_base_likelihood")
    found = early_stopping.certainty(table, marks, rule, settings(level=3.0), "base").to_dict()
    assert found == {"alone": 1.0, "clear": 2.0, "tie": 0.5, "same": 1.0, "null": -math.inf}
    found = early_stopping.certainty(table, marks, rule, settings(level=4.0), "base").to_dict()
    assert found == {"alone": 0.0, "clear": 0.5, "tie": 0.25, "same": 2.0, "null": -math.inf}
