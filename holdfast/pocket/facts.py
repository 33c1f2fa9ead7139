"""The invented world's names and facts, and what every question of it consists of."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class Item:
    """One question with its only right answer, and answers that are wrong in ways a model gets wrong."""

    skill: str
    prompt: str
    answer: str
    near: tuple[str, ...]  # near misses: the right kind of answer, but not the answer
    key: str  # what decides training or evaluation: the operands, or the fact


def is_held_out(key: str, one_in: int = 7) -> bool:
    """True if items with these operands are kept for evaluation (about one in `one_in`)."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest()) % one_in == 0


ONSETS = "b d f g k l m n p r s t v z br dr kl pl st tr".split()
VOWELS = "a e i o u".split()
CODAS = ["", "", "", "n", "l", "r", "s", "m"]


@cache
def names(kind: str, count: int, syllables: int) -> tuple[str, ...]:
    """`count` distinct invented words; `kind` seeds them, so that no two kinds share a word by design of the seed."""
    rng = random.Random(f"names/{kind}")
    words: dict[str, None] = {}
    while len(words) < count:
        words[invent_word(rng, syllables)] = None
    return tuple(words)


def invent_word(rng: random.Random, syllables: int) -> str:
    return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(syllables)) + rng.choice(CODAS)


def proper_names(kind: str, count: int, syllables: int) -> tuple[str, ...]:
    return tuple(word.capitalize() for word in names(kind, count, syllables))


COUNTRIES = proper_names("country", 44, 2)
RELATIONS = ("capital", "currency", "river", "ruler", "export")
EXPORTS = "salt wool tea glass silk iron honey paper amber cork tin rope".split()

FACT_TRAIN = (
    "What is the {r} of {c}?",
    "Name the {r} of {c}.",
    "Tell me the {r} of {c}.",
    "Please name the {r} of {c}.",
    "{c}: {r}?",
    "In {c}, what is the {r}?",
    "Which {r} does {c} have?",
    "{c} has which {r}?",
    "I want to know the {r} of {c}.",
    "Think of {c}. What is its {r}?",
    "About {c}: give me its {r}.",
    "Give the {r} that is known in {c}.",
    "Now tell me which {r} {c} has.",
    "The {r} of {c}, please.",
)
FACT_EVAL = ("Please give the {r} that {c} has.", "Now {c}. Tell me its {r}.", "Please tell me: {c} has what {r}?")


@cache
def facts() -> dict[tuple[str, str], str]:
    """(country, relation) -> value: 220 facts."""
    rng = random.Random("facts")
    table: dict[tuple[str, str], str] = {}
    for relation in RELATIONS:
        if relation == "export":
            values = [rng.choice(EXPORTS) for _ in COUNTRIES]
        else:
            values = list(proper_names(relation, len(COUNTRIES), 2))
        table.update({(c, relation): v for c, v in zip(COUNTRIES, values, strict=True)})
    return table


def fact(rng: random.Random, evaluation: bool) -> Item:
    country, relation = rng.choice(COUNTRIES), rng.choice(RELATIONS)
    wording = rng.choice(FACT_EVAL if evaluation else FACT_TRAIN)
    answer = facts()[country, relation]
    others = [facts()[c, relation] for c in rng.sample(COUNTRIES, 3)] + [facts()[country, rng.choice(RELATIONS)]]
    return Item("facts", wording.format(r=relation, c=country), answer, wrong(others, answer), f"{country}/{relation}")


def wrong(candidates: list[str], answer: str) -> tuple[str, ...]:
    return tuple(c for c in candidates if c != answer)
