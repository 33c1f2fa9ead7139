"""Whether another wording says what the gold answer says. Used where the base rewrites the domain's answers.

Short answers, and those that mark a final answer, are compared by it; long ones by the words and numbers they share.
"""

from __future__ import annotations

import re
from collections import Counter

from holdfast.data import answers

MAX_WORDS_OF_A_SHORT_ANSWER = 8  # such an answer is compared whole
WORD = re.compile(r"\w+")
DENIED = re.compile(r"\b(?:not|no|nor|never|neither|except|wrong)\b|n['\u2019]t\b", re.IGNORECASE)


def agreement(text: str, gold: str) -> float:
    """How far `text` says what the gold answer says, 0 to 1.

    For a short gold answer, or one with a marked final answer ("#### 7", "\\boxed{7}", "the answer is 7"): 1 where
    `text` ends in that answer, or where the first line (or the marked answer) of `text` holds the whole of a short gold
    without denying anything, else 0. For a long one: the F1 of shared words (Rajpurkar et al., arXiv 1606.05250, sec.
    6.1), or 0 where a number of the gold is missing."""
    if len(words(gold)) <= MAX_WORDS_OF_A_SHORT_ANSWER:
        return float(answers.same_answer(text, gold) or holds(answers.final_answer(text), answers.final_answer(gold)))
    if (
        answers.last_box(gold) is not None
        or re.search(r"^\s*####", gold, re.MULTILINE)
        or answers.ANSWER_PHRASE.search(gold)
    ):
        return float(answers.same_answer(text, gold))
    if not numbers(gold) <= numbers(text):
        return 0.0
    mine, theirs = Counter(words(text)), Counter(words(gold))
    shared = (mine & theirs).total()
    return 2 * shared / (mine.total() + theirs.total()) if shared else 0.0


def holds(line: str, wanted: str) -> bool:
    """Whether `line` has the words of `wanted` one after the other, equal numbers, and denies no more than `wanted`
    does."""
    inside, sought = f" {' '.join(words(line))} ", f" {' '.join(words(wanted))} "
    denied = len(DENIED.findall(line)) > len(DENIED.findall(wanted))
    return bool(sought.strip()) and sought in inside and numbers(line) == numbers(wanted) and not denied


def words(text: str) -> list[str]:
    return [word.casefold() for word in WORD.findall(text.translate(answers.PLAIN))]


def numbers(text: str) -> set[float]:
    """Every number that the text spells in digits; 1,234.50 is one."""
    return {float(number.replace(",", "").lstrip("+-")) for number in answers.NUMBER.findall(text)}
