"""Copying a text, and finding one line among many, up to the context of training (Kamradt's needle in a haystack, 2023)."""

from __future__ import annotations

import random
from typing import Any

from holdfast.core_suite.items import Answer, Family, Item, ask, has_phrase, normalise

WORDS = "river stone garden window candle bridge morning silver kitchen thunder marble basket lantern forest copper saddle harbour velvet meadow compass feather island mirror pepper tunnel anchor blanket chimney drawer engine flute glacier hammer insect jacket kettle ladder magnet needle orchard pencil quarry ribbon sailor temple umbrella valley walnut yogurt zipper".split()
NAMES = "Ana Ben Chen Dina Emil Farah Goran Hana Ivo Julia Kofi Lena Mira Nils Olga Pedro Quinn Rosa Sami Tara Umar Vera Wim Xenia Yusuf Zoe Anton Berta Carlo Dora Eva Felix Greta Hugo Ida Jonas Karin Leon Maria Noah Otto Paula Ralf Sofia Tom Ulla Viktor Wanda Yara Zeno".split()
COPIED = (4, 12, 28)  # words to copy, by level
LINES = (6, 20, 48)  # lines to search, by level; at the third at least
PARTS = (0.25, 0.5, 0.75, 1.0)  # of the context that the lines of the third level fill
LINE_TOKENS, OTHER_TOKENS = 13, 160  # of a line with a first and a last name; of question, answer and template
CONTEXT = 1024  # tokens


def count_lines(context: int) -> int:
    """Lines that a context of so many tokens holds, and at most as many as there are names."""
    return min(max(0, context - OTHER_TOKENS) // LINE_TOKENS, len(NAMES) * len(WORDS))


def draw_names(number: int, rng: random.Random) -> list[str]:
    if number <= len(NAMES):
        return rng.sample(NAMES, number)
    return rng.sample([f"{first} {last.title()}" for first in NAMES for last in WORDS], number)


def make_item(level: int, rng: random.Random, context: int = CONTEXT) -> Item:
    """`context`: tokens, about, of the longest item."""
    if rng.random() < 0.4:
        words = " ".join(rng.choices(WORDS, k=COPIED[level - 1]))
        text = f"{words} {rng.randint(100, 999)}"
        return Item(ask(f"Repeat the following text exactly, and write nothing else:\n{text}"), {"copy": text})
    longest = int(count_lines(context) * rng.choice(PARTS)) if level == 3 else 0
    names = draw_names(max(LINES[level - 1], longest), rng)
    codes = rng.sample(range(1000, 9999), len(names))
    lines = "\n".join(f"The code of {name} is {code}." for name, code in zip(names, codes, strict=True))
    place = rng.randrange(len(names))
    question = f"What is the code of {names[place]}? Reply with the code only."
    return Item(ask(f"{lines}\n\n{question}"), {"code": str(codes[place])})


def score_copy(expected: Any, answer: Answer) -> float:
    if "copy" in expected:
        return float(normalise(answer.text) == normalise(expected["copy"]))
    numbers = [word for word in normalise(answer.text).split() if word.isdigit() and len(word) == 4]
    return float(has_phrase(answer.text, expected["code"]) and len(set(numbers)) == 1)


COPYING = Family(make_item, score_copy, max_tokens=96)
