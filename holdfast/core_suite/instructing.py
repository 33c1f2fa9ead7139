"""Short texts under one to three constraints that a program can check (constraints.py)."""

from __future__ import annotations

import random
from typing import Any

from holdfast.core_suite.constraints import KINDS, choose
from holdfast.core_suite.items import Answer, Family, Item, ask

SUBJECTS = "the sea;a rainy day;bread;the moon;a train journey;friendship;a garden in spring;bicycles;music;the desert;a busy market;snow;books;a lighthouse;coffee;a mountain lake;kites;an old clock;bees;a football match".split(
    ";"
)
TASKS = ("Write a short text about {}.", "Tell me something about {}.", "Describe {} to a friend.")


def make_item(level: int, rng: random.Random) -> Item:
    chosen = choose(rng, level)
    rules = " ".join(KINDS[name].text.format(value=value) for name, value in chosen)
    return Item(ask(f"{rng.choice(TASKS).format(rng.choice(SUBJECTS))} {rules}"), [list(one) for one in chosen])


def score_rules(expected: Any, answer: Answer) -> float:
    """The part of the constraints that is kept."""
    return sum(KINDS[name].check(answer.text, value) for name, value in expected) / len(expected)


INSTRUCTIONS = Family(make_item, score_rules, max_tokens=128)
