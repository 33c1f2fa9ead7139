"""Small Python functions: the model writes one, the sandbox runs it, and what it returns is compared."""

from __future__ import annotations

import random
import re
from typing import Any

from holdfast.core_suite import sandbox
from holdfast.core_suite.copying import WORDS
from holdfast.core_suite.functions import TASKS
from holdfast.core_suite.items import Answer, Family, Item, ask

CASES = 6  # calls of a function; the first is shown
BLOCK = re.compile(r"```(?:[Pp]ython\d?|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
BEGINNING = re.compile(r"^(?:def|from|import|@|class)\b", re.MULTILINE)
ARGUMENTS = {"n": ("n", "m"), "s": ("text",), "l": ("numbers",), "w": ("word",)}


def draw_argument(kind: str, rng: random.Random) -> Any:
    if kind == "n":
        return rng.randint(10, 60)
    if kind == "l":
        return [rng.randint(1, 30) for _ in range(rng.randint(8, 12))]
    if kind == "s":
        return " ".join(rng.sample(WORDS, rng.randint(3, 6)))
    return "".join(rng.choice("abc") * rng.randint(1, 3) for _ in range(rng.randint(3, 6)))


def make_item(level: int, rng: random.Random) -> Item:
    task = rng.choice(TASKS[level - 1])
    numbers = rng.randint(11, 29), rng.randint(2, 7), rng.choice("aeioutrns")
    results: list[Any] = []
    while len(set(map(str, results))) < 2:  # no constant is right
        calls = [[draw_argument(kind, rng) for kind in task.parameters] for _ in range(CASES)]
        results = [task.rule(*numbers, *call) for call in calls]
    names = [ARGUMENTS[kind][task.parameters[:n].count(kind)] for n, kind in enumerate(task.parameters)]
    returns = task.returns.format(a=numbers[0], b=numbers[1], c=numbers[2])
    shown = f"{task.name}({', '.join(map(repr, calls[0]))}) returns {results[0]!r}"
    text = f"Write a Python function {task.name}({', '.join(names)}) that returns {returns}. For example, {shown}. Reply with the code only."
    return Item(ask(text), {"name": task.name, "calls": calls, "results": results})


def find_source(text: str) -> str:
    """The code in an answer: its code blocks, or what begins like a program."""
    if blocks := BLOCK.findall(text):
        return "\n".join(blocks)
    start = BEGINNING.search(text)
    return text[start.start() :] if start else ""


def score_function(expected: Any, answer: Answer) -> float:
    """Whether the function returns what is right for every call."""
    source = find_source(answer.text[: sandbox.LONGEST_SOURCE])
    if expected["name"] not in source:
        return 0.0
    return float(sandbox.call_function(source, expected["name"], expected["calls"]) == expected["results"])


WRITING_CODE = Family(make_item, score_function, max_tokens=128, needs="sandbox")
