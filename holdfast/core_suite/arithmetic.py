"""Sums, and word problems of one to four steps."""

from __future__ import annotations

import random
from typing import Any

from holdfast.core_suite.items import Answer, Family, Item, ask, last_number

PEOPLE = ("Ana", "Ben", "Chen", "Dina", "Emil", "Farah", "Goran", "Hana", "Ivo", "Julia", "Kofi", "Lena")
GOODS = ("apples", "pencils", "stamps", "marbles", "postcards", "buttons", "shells", "coins", "tickets", "beads")
NUMBER_ONLY = " Reply with the number only."
AT_THE_END = " Give the final number at the end."


def make_sum(level: int, rng: random.Random) -> tuple[str, int]:
    if level == 1:
        a, b = rng.randint(2, 19), rng.randint(2, 19)
        return (f"What is {a} + {b}?", a + b) if rng.random() < 0.6 else (f"What is {a + b} - {b}?", a)
    if level == 2:
        a, b, c = rng.randint(11, 99), rng.randint(3, 9), rng.randint(11, 99)
        return (
            (f"What is {a} * {b}?", a * b) if rng.random() < 0.5 else (f"What is {a} + {10 * b} - {c}?", a + 10 * b - c)
        )
    a, b, c = rng.randint(12, 49), rng.randint(12, 29), rng.randint(101, 499)
    return f"What is {a} * {b} + {c}?", a * b + c


def make_problem(level: int, rng: random.Random) -> tuple[str, int]:
    (one, other), goods = rng.sample(PEOPLE, 2), rng.choice(GOODS)
    a, b, c = rng.randint(12, 60), rng.randint(3, 11), rng.randint(2, 6)
    if level == 1:
        return f"{one} has {a} {goods} and gives {b} of them to {other}. How many {goods} does {one} have left?", a - b
    if level == 2:
        text = f"{one} buys {c} boxes with {a} {goods} each, and loses {b} of the {goods}. How many {goods} does {one} have now?"
        return text, c * a - b
    text = (
        f"{one} has {a} {goods}. {other} has {c} times as many. {other} gives {b} of them to {one} and sells {2 * b} more. "
        f"How many {goods} do {one} and {other} have together?"
    )
    return text, a + c * a - 2 * b


def make_item(level: int, rng: random.Random) -> Item:
    if rng.random() < 0.5:
        text, result = make_sum(level, rng)
        return Item(ask(text + NUMBER_ONLY), result)
    text, result = make_problem(level, rng)
    return Item(ask(text + (NUMBER_ONLY if level == 1 else AT_THE_END)), result)


def score_number(expected: Any, answer: Answer) -> float:
    """The last number of the answer."""
    return float(last_number(answer.text) == expected)


ARITHMETIC = Family(make_item, score_number, max_tokens=160)
