"""Plain facts, asked in words; and choices among four, scored by how probable the right one is (calibration)."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from holdfast.core_suite import facts
from holdfast.core_suite.calibration import brier_score, normalise
from holdfast.core_suite.items import Answer, Family, Item, ask, has_phrase

FIRST_WORDS = 25  # of an answer: a list of all capitals is no answer
LETTERS = ("A", "B", "C", "D")


def make_fact(level: int, rng: random.Random) -> Item:
    question, right = rng.choice(facts.list_facts(level))
    return Item(ask(f"{question} Answer in one short sentence."), right)


def score_fact(expected: list[str], answer: Answer) -> float:
    beginning = " ".join(answer.text.split()[:FIRST_WORDS])
    return float(any(has_phrase(beginning, right) for right in expected))


def make_choice(level: int, rng: random.Random) -> Item:
    """Four answers to a question, all of its own kind."""
    n = level - 1
    kinds: tuple[tuple[str, str], ...] = (
        ("What is the capital of {}?", facts.CAPITALS[n]),
        ("What is the chemical symbol of {}?", facts.SYMBOLS[n]),
        ("What is the opposite of '{}'?", facts.OPPOSITES[n]),
    )
    form, listed = rng.choice(kinds)
    (key, right), *others = rng.sample(facts.pairs(listed), 4)
    options = [right[0], *(other[0] for _, other in others)]
    rng.shuffle(options)
    lines = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))
    text = f"{form.format(key)}\n{lines}\nAnswer with the letter of the right answer only."
    return Item(ask(text), LETTERS[options.index(right[0])], choices=LETTERS)


def score_probabilities(expected: Any, answer: Answer) -> float:
    """1 - Brier / 2 (Brier 1950, over the four choices): 1 for certainty that is right, 0 for certainty that is wrong, 0.625 for
    none at all."""
    probabilities = np.array([normalise(answer.likelihoods)])
    return 1 - brier_score(probabilities, np.array([LETTERS.index(expected)])) / 2


FACTS = Family(make_fact, score_fact, max_tokens=40)
CALIBRATION = Family(make_choice, score_probabilities, max_tokens=1, chance=0.625)
