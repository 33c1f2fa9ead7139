"""Thoughts: there when they are switched on, closed, not empty and not cut; absent when they are switched off."""

from __future__ import annotations

import random
from typing import Any

from holdfast.core_suite.arithmetic import make_problem
from holdfast.core_suite.facts import list_facts
from holdfast.core_suite.items import Answer, Family, Item, ask

FEWEST_WORDS = 3  # of thoughts that are not empty


def make_item(level: int, rng: random.Random) -> Item:
    text = make_problem(level, rng)[0] if rng.random() < 0.5 else rng.choice(list_facts(level))[0]
    on = rng.random() < 0.5
    return Item(ask(text), "thoughts" if on else "no thoughts", thinking=on)


def score_thoughts(expected: Any, answer: Answer) -> float:
    if not answer.text:  # thoughts that never end leave no answer
        return 0.0
    words = len((answer.thoughts or "").split())
    return float(words >= FEWEST_WORDS if expected == "thoughts" else words == 0)


THINKING = Family(make_item, score_thoughts, max_tokens=128, needs="thinking")
