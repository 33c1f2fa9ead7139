"""The functions that `core/code` asks for: what each returns, in words and as a rule of ours."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import accumulate, groupby
from typing import Any, NamedTuple


class Task(NamedTuple):
    """One function. Its text and its rule may use the numbers a and b and the letter c, which an item draws."""

    name: str
    parameters: (
        str  # what each argument is, one letter for each: n number, s text of some words, l list of numbers, w one word
    )
    returns: str
    rule: Callable[..., Any]  # (a, b, c, *arguments) -> what is right


def is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


def to_base(n: int, base: int) -> str:
    digits = ""
    while n:
        n, digit = divmod(n, base)
        digits = str(digit) + digits
    return digits or "0"


def shift(text: str, by: int) -> str:
    return "".join(chr((ord(c) - 97 + by) % 26 + 97) if "a" <= c <= "z" else c for c in text)


def count_steps(n: int) -> int:
    steps = 0
    while n > 1:
        n, steps = n // 2 if n % 2 == 0 else 3 * n + 1, steps + 1
    return steps


TASKS: tuple[tuple[Task, ...], ...] = (
    (
        Task("add", "n", "n plus {a}", lambda a, b, c, n: n + a),
        Task("scale", "n", "n times {a}, minus {b}", lambda a, b, c, n: n * a - b),
        Task("larger", "nn", "the larger of n and m, plus {a}", lambda a, b, c, n, m: max(n, m) + a),
        Task("remainder", "n", "the remainder of n divided by {a}", lambda a, b, c, n: n % a),
        Task("divides", "n", "True if n is divisible by {b}, and False otherwise", lambda a, b, c, n: n % b == 0),
        Task("is_above", "n", "True if n is greater than {a}, and False otherwise", lambda a, b, c, n: n > a),
        Task("size", "s", "the number of characters of text plus {a}", lambda a, b, c, s: len(s) + a),
        Task("beginning", "s", "the first {b} characters of text", lambda a, b, c, s: s[:b]),
        Task(
            "shout",
            "s",
            "text in upper case with {b} exclamation marks at its end",
            lambda a, b, c, s: s.upper() + "!" * b,
        ),
        Task("repeat", "w", "word repeated {b} times", lambda a, b, c, w: w * b),
        Task("total", "l", "the sum of the list numbers plus {a}", lambda a, b, c, x: sum(x) + a),
        Task("last", "l", "the last element of the list numbers plus {a}", lambda a, b, c, x: x[-1] + a),
        Task("count_letter", "s", "how many times the letter '{c}' occurs in text", lambda a, b, c, s: s.count(c)),
    ),
    (
        Task(
            "sum_of_multiples",
            "l",
            "the sum of those elements of the list numbers that are divisible by {b}",
            lambda a, b, c, x: sum(n for n in x if n % b == 0),
        ),
        Task(
            "count_above",
            "l",
            "how many elements of the list numbers are greater than {a}",
            lambda a, b, c, x: sum(n > a for n in x),
        ),
        Task(
            "long_words",
            "s",
            "how many words of text have more than {b} letters",
            lambda a, b, c, s: sum(len(w) > b for w in s.split()),
        ),
        Task(
            "words_with",
            "s",
            "a list of those words of text that contain the letter '{c}', in their order",
            lambda a, b, c, s: [w for w in s.split() if c in w],
        ),
        Task(
            "replace_letter",
            "s",
            "text with every letter '{c}' replaced by the digit {b}",
            lambda a, b, c, s: s.replace(c, str(b)),
        ),
        Task(
            "every_nth",
            "l",
            "a list of every {b}th element of the list numbers, beginning with the first",
            lambda a, b, c, x: x[::b],
        ),
        Task(
            "sorted_above",
            "l",
            "a list of those elements of the list numbers that are greater than {a}, in descending order",
            lambda a, b, c, x: sorted((n for n in x if n > a), reverse=True),
        ),
        Task(
            "position",
            "l",
            "the index of the first element of the list numbers that is greater than {a}, or -1 if there is none",
            lambda a, b, c, x: next((i for i, n in enumerate(x) if n > a), -1),
        ),
        Task(
            "reverse_words",
            "s",
            "text with its words in reverse order, joined by single spaces",
            lambda a, b, c, s: " ".join(reversed(s.split())),
        ),
        Task(
            "power_sum",
            "n",
            "the sum of i to the power of {b} for all i from 1 to n",
            lambda a, b, c, n: sum(i**b for i in range(1, n + 1)),
        ),
        Task(
            "unique",
            "l",
            "a list of the elements of the list numbers without repetitions, in the order of their first appearance",
            lambda a, b, c, x: list(dict.fromkeys(x)),
        ),
        Task(
            "initials",
            "s",
            "the first letters of the words of text, joined by '{c}'",
            lambda a, b, c, s: c.join(w[0] for w in s.split()),
        ),
    ),
    (
        Task(
            "pairs_with_sum",
            "l",
            "how many pairs of positions i < j in the list numbers have elements that add up to {a}",
            lambda a, b, c, x: sum(x[i] + x[j] == a for i in range(len(x)) for j in range(i + 1, len(x))),
        ),
        Task(
            "primes_up_to",
            "n",
            "a list of all prime numbers that are greater than {b} and at most n",
            lambda a, b, c, n: [p for p in range(b + 1, n + 1) if is_prime(p)],
        ),
        Task(
            "in_base",
            "n",
            "the representation of the positive number n in base {b}, as a string",
            lambda a, b, c, n: to_base(n, b),
        ),
        Task(
            "rotate",
            "l",
            "the list numbers rotated to the left by {b} places",
            lambda a, b, c, x: x[b % len(x) :] + x[: b % len(x)],
        ),
        Task(
            "caesar",
            "s",
            "text with every letter from a to z moved {b} places further in the alphabet, from z back to a, and all else left as it is",
            lambda a, b, c, s: shift(s, b),
        ),
        Task(
            "run_lengths",
            "w",
            "a list of [letter, length] for each run of equal letters in word, in order",
            lambda a, b, c, w: [[k, len(list(g))] for k, g in groupby(w)],
        ),
        Task(
            "most_common",
            "w",
            "the letter that occurs most often in word + '{c}{c}'; of several the one that occurs first",
            lambda a, b, c, w: Counter(w + c + c).most_common(1)[0][0],
        ),
        Task(
            "digit_root",
            "n",
            "the number that is left when the digits of n + {a} are added up again and again until one digit is left",
            lambda a, b, c, n: (n + a - 1) % 9 + 1,
        ),
        Task(
            "largest_sum",
            "l",
            "the largest sum of {b} neighbouring elements of the list numbers",
            lambda a, b, c, x: max(sum(x[i : i + b]) for i in range(len(x) - b + 1)),
        ),
        Task(
            "steps",
            "n",
            "how many steps n + {a} takes to reach 1 if an even number is halved and an odd one is tripled and increased by 1",
            lambda a, b, c, n: count_steps(n + a),
        ),
        Task(
            "running_total",
            "l",
            "a list of the sums of the first 1, 2, 3 and so on elements of the list numbers, without those that are divisible by {b}",
            lambda a, b, c, x: [s for s in accumulate(x) if s % b],
        ),
        Task(
            "chunks",
            "s",
            "a list of pieces of text of {b} characters each, in order; the last may be shorter",
            lambda a, b, c, s: [s[i : i + b] for i in range(0, len(s), b)],
        ),
        Task(
            "by_length",
            "s",
            "the words of text joined by '{c}', shorter ones first, and words of equal length in alphabetical order",
            lambda a, b, c, s: c.join(sorted(s.split(), key=lambda w: (len(w), w))),
        ),
    ),
)
