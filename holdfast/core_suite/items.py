"""What an item and a family of the core suite are. Items follow from the version, the family and their number alone."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from holdfast.chat.templates import Messages

CORE_VERSION = 2  # of items and scorers: another version is another test
LEVELS = (1, 2, 3)  # of difficulty; items take turns
TRIES = 200  # draws of an item that none before it equals


@dataclass(frozen=True, slots=True)
class Item:
    """One question. It spells no control token."""

    messages: Messages  # ends with what the model is to answer
    expected: Any  # JSON: what the scorer compares with
    tools: list[dict[str, Any]] | None = None  # that the model may call
    thinking: bool | None = None  # switched on or off; None: off where there is a switch
    choices: tuple[str, ...] = ()  # asked by their likelihoods instead of by writing
    id: str = ""

    def text(self) -> str:
        """All that is said, as decontamination and hashes see it."""
        return "\n\n".join(str(turn["content"]) for turn in self.messages if turn["content"])


class Answer(NamedTuple):
    """What the model wrote, or what it thinks of the choices."""

    text: str  # without thoughts
    thoughts: str | None = None  # None: there are none
    likelihoods: tuple[float, ...] = ()  # log-probability (nats) of each choice


Make = Callable[[int, random.Random], Item]


class Family(NamedTuple):
    make: Make | None  # (level, random numbers) -> item; None: its items are read from files
    score: Callable[[Any, Answer], float]  # (what is expected, answer) -> 0..1
    max_tokens: int  # of an answer
    needs: str = ""  # "tools" or "thinking": what the template must have; "sandbox": what this system must have
    chance: float = 0.0  # score of guessing
    harmful: bool = False  # its requests deserve a refusal: of an answer that is none, only the beginning is stored


def draw(name: str, make: Make, number: int) -> list[Item]:
    """The first `number` items of a family, no two alike; fewer where it has no more. More of them begin with the same ones."""
    items: list[Item] = []
    seen: set[str] = set()
    for n in range(number):
        level = LEVELS[n % len(LEVELS)]
        for attempt in range(TRIES):
            item = make(level, random.Random(f"{CORE_VERSION}/{name}/{n}/{attempt}"))
            key = json.dumps([item.messages, item.tools, item.thinking], sort_keys=True)
            if key not in seen:
                seen.add(key)
                items.append(
                    Item(item.messages, item.expected, item.tools, item.thinking, item.choices, f"{level}-{n:03d}")
                )
                break
    return items


def ask(text: str, system: str = "") -> Messages:
    return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": text}]


def chat(*turns: str, system: str = "") -> Messages:
    """User and assistant in turns; the last is the user's."""
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]
    return [*([{"role": "system", "content": system}] if system else []), *messages]


def pick(rng: random.Random, values: Sequence[Any], number: int) -> list[Any]:
    return rng.sample(list(values), number)


def normalise(text: str) -> str:
    """Letters and digits in lower case, one blank between words."""
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


def has_phrase(text: str, phrase: str) -> bool:
    """Whether a phrase stands in a text, as whole words."""
    return f" {normalise(phrase)} " in f" {normalise(text)} "


NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def last_number(text: str) -> float | None:
    numbers = NUMBER.findall(text)
    return float(numbers[-1].rstrip(",").replace(",", "")) if numbers else None
