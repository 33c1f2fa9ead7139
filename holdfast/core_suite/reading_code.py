"""What a short Python program prints. The model reads code; none that it wrote is ever run."""

from __future__ import annotations

import random
from typing import Any

from holdfast.core_suite.items import Answer, Family, Item, ask, last_number

WORDS = ("river", "stone", "window", "candle", "bridge", "silver", "forest", "garden", "lantern", "kettle")


def make_program(level: int, rng: random.Random) -> tuple[str, int]:
    """(the program, the number that it prints)"""
    a, b, c = rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, 5)
    word = rng.choice(WORDS)
    if level == 1:
        programs = (
            (f"x = {a}\ny = {b}\nprint(x + y)", a + b),
            (f"x = {a}\nx = x + {b}\nprint(x)", a + b),
            (f"print(len('{word}') + {a})", len(word) + a),
            (f"numbers = [{a}, {b}, {c}]\nprint(numbers[{a % 3}])", (a, b, c)[a % 3]),
        )
    elif level == 2:
        programs = (
            (
                f"total = {a}\nfor n in range(1, {c + 1}):\n    total = total + n\nprint(total)",
                a + sum(range(1, c + 1)),
            ),
            (f"x = {a}\nif x > {b}:\n    x = x - {b}\nelse:\n    x = x * {c}\nprint(x)", a - b if a > b else a * c),
            (f"numbers = [{a}, {b}, {a + c}]\nprint(max(numbers) - min(numbers))", max(a, b, a + c) - min(a, b)),
            (f"print('{word}'.count('{word[a % len(word)]}') + {b})", word.count(word[a % len(word)]) + b),
        )
    else:
        steps, value = 0, a * b
        while value > c:
            value, steps = value // 2, steps + 1
        programs = (
            (f"def f(n):\n    return n * {a} + {b}\n\nprint(f(f({c})))", (c * a + b) * a + b),
            (
                f"total = 0\nfor n in range({a}, {a + c + 2}):\n    if n % 2 == 0:\n        total += n\nprint(total)",
                sum(n for n in range(a, a + c + 2) if n % 2 == 0),
            ),
            (f"x, steps = {a * b}, 0\nwhile x > {c}:\n    x = x // 2\n    steps += 1\nprint(steps)", steps),
            (f"print(sum(n * n for n in range({c + 1})) - {a})", sum(n * n for n in range(c + 1)) - a),
        )
    return rng.choice(programs)


def make_item(level: int, rng: random.Random) -> Item:
    program, result = make_program(level, rng)
    return Item(
        ask(f"What does this Python program print? Reply with the output only.\n```python\n{program}\n```"), result
    )


def score_output(expected: Any, answer: Answer) -> float:
    """The last number of the answer."""
    return float(last_number(answer.text) == expected)


CODE = Family(make_item, score_output, max_tokens=48)
