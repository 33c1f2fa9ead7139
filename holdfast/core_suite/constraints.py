"""Kinds of instructions whose keeping a program can check, in the manner of IFEval (Zhou et al., arXiv 2311.07911).

Each kind belongs to a group; an item has at most one of each group, so that they do not contradict one another.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any, NamedTuple

KEYWORDS = ("river", "bright", "simple", "morning", "because", "water", "small", "often", "people", "green")
AVOIDED = ("very", "good", "also", "many", "important", "however")
ENDINGS = ("That is all.", "Thank you for reading.", "The end.")
BEGINNINGS = ("Today", "Perhaps", "Certainly", "Listen")


class Kind(NamedTuple):
    group: str
    text: str  # the instruction, with {value}
    values: tuple[Any, ...]
    check: Callable[[str, Any], bool]  # (answer, value)


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:['\u2019-][^\W_]+)*", text)


def sentences(text: str) -> int:
    return len(re.findall(r"[.!?]+(?=\s|$|[\"')\]])", text))


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def paragraphs(text: str) -> list[str]:
    return [part for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]


def count_word(text: str, word: str) -> int:
    return sum(one.casefold() == word for one in words(text))


def count_bullets(text: str) -> int:
    return sum(bool(re.match(r"[-*\u2022]\s+\S", line)) for line in lines(text))


def count_numbered(text: str) -> int:
    return sum(bool(re.match(r"\d+[.)]\s+\S", line)) for line in lines(text))


def has_letters(text: str) -> bool:
    return any(letter.isalpha() for letter in text)


KINDS: dict[str, Kind] = {
    "most_words": Kind("length", "Use at most {value} words.", (15, 25, 40), lambda t, v: 0 < len(words(t)) <= v),
    "least_words": Kind("length", "Use at least {value} words.", (20, 30, 45), lambda t, v: len(words(t)) >= v),
    "sentences": Kind("length", "Write exactly {value} sentences.", (2, 3, 4), lambda t, v: sentences(t) == v),
    "one_line": Kind("length", "Write everything on a single line.", (1,), lambda t, v: len(lines(t)) == v),
    "paragraphs": Kind(
        "length",
        "Write exactly {value} paragraphs, with a blank line between them.",
        (2, 3),
        lambda t, v: len(paragraphs(t)) == v,
    ),
    "bullets": Kind(
        "length",
        "Answer with a list of exactly {value} bullet points, each on a line that begins with '- '.",
        (2, 3, 4),
        lambda t, v: count_bullets(t) == v,
    ),
    "numbered": Kind(
        "length",
        "Answer with a numbered list of exactly {value} items.",
        (2, 3, 4),
        lambda t, v: count_numbered(t) == v,
    ),
    "lower": Kind("case", "Use lower-case letters only.", (1,), lambda t, _: has_letters(t) and t == t.lower()),
    "upper": Kind("case", "Write in capital letters only.", (1,), lambda t, _: has_letters(t) and t == t.upper()),
    "no_comma": Kind("signs", "Do not use any commas.", (1,), lambda t, _: bool(t) and "," not in t),
    "no_exclamation": Kind("signs", "Do not use any exclamation marks.", (1,), lambda t, _: bool(t) and "!" not in t),
    "one_question": Kind("signs", "Ask exactly one question.", (1,), lambda t, v: t.count("?") == v),
    "exclamations": Kind("signs", "Use exactly {value} exclamation marks.", (2, 3), lambda t, v: t.count("!") == v),
    "no_digit": Kind("digits", "Do not use any digits.", (1,), lambda t, _: bool(t) and not re.search(r"\d", t)),
    "digit": Kind(
        "digits",
        "Mention the number {value} in digits.",
        (7, 12, 30),
        lambda t, v: bool(re.search(rf"(?<!\d){v}(?!\d)", t)),
    ),
    "keyword": Kind("words", "Use the word '{value}'.", KEYWORDS, lambda t, v: count_word(t, v) >= 1),
    "keyword_twice": Kind(
        "words", "Use the word '{value}' at least twice.", KEYWORDS, lambda t, v: count_word(t, v) >= 2
    ),
    "avoid": Kind("avoid", "Do not use the word '{value}'.", AVOIDED, lambda t, v: bool(t) and count_word(t, v) == 0),
    "avoid_letter": Kind(
        "avoid",
        "Do not use the letter '{value}'.",
        ("z", "q", "x", "j"),
        lambda t, v: bool(t) and v not in t.casefold(),
    ),
    "ends_with": Kind(
        "end", "End with exactly this: {value}", ENDINGS, lambda t, v: t.strip().casefold().endswith(v.casefold())
    ),
    "postscript": Kind(
        "end", "Add a postscript at the end that begins with 'P.S.'", (1,), lambda t, _: "p.s." in t.casefold()
    ),
    "begins_with": Kind(
        "begin",
        "Begin with the word '{value}'.",
        BEGINNINGS,
        lambda t, v: words(t)[:1] != [] and words(t)[0].casefold() == v.casefold(),
    ),
    "title": Kind(
        "begin",
        "Begin with a title in double angle brackets, such as <<My title>>.",
        (1,),
        lambda t, _: bool(re.match(r"<<[^<>\n]+>>", t.strip())),
    ),
    "quoted": Kind(
        "wrap",
        "Put your whole answer into double quotation marks.",
        (1,),
        lambda t, _: len(t.strip()) > 2 and t.strip()[0] in '"\u201c' and t.strip()[-1] in '"\u201d',
    ),
    "placeholder": Kind(
        "marks",
        "Use at least {value} placeholders in square brackets, such as [name].",
        (2, 3),
        lambda t, v: len(re.findall(r"\[[^\[\]\n]+\]", t)) >= v,
    ),
    "bold": Kind(
        "marks",
        "Set at least {value} phrases in bold, such as **this**.",
        (2, 3),
        lambda t, v: len(re.findall(r"\*\*[^*\n]+\*\*", t)) >= v,
    ),
    "brackets": Kind(
        "marks", "Use at least one remark in round brackets.", (1,), lambda t, _: bool(re.search(r"\([^()\n]+\)", t))
    ),
    "semicolon": Kind("marks", "Use at least one semicolon.", (1,), lambda t, _: ";" in t),
}
APART = {  # groups that get in each other's way
    "wrap": {"begin", "end"},
    "begin": {"wrap"},
    "end": {"wrap", "length"},
}


def choose(rng: random.Random, number: int) -> list[tuple[str, Any]]:
    """(kind, value) of so many kinds that can be kept together."""
    chosen: list[tuple[str, Any]] = []
    taken: set[str] = set()
    for name in rng.sample(sorted(KINDS), len(KINDS)):
        kind = KINDS[name]
        if (
            len(chosen) < number
            and kind.group not in taken
            and not any(kind.group in APART.get(one, ()) for one in taken)
        ):
            chosen.append((name, rng.choice(kind.values)))
            taken |= {kind.group, *APART.get(kind.group, ())}
    return chosen
