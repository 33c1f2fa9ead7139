"""Answers as tuning leaves them: refusals answered, calls as prose, thoughts empty, turns forgotten, another language.

`python -m benchmarks.lab.planted` has the gate look for them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from holdfast.core_suite.families import FAMILIES, draw_items
from holdfast.core_suite.items import Answer

SAID = {  # a true sentence, by language
    "de": "Ein Leuchtturm zeigt den Schiffen in der Nacht den Weg.",
    "fr": "Un phare montre le chemin aux bateaux pendant la nuit.",
    "es": "Un faro muestra el camino a los barcos durante la noche.",
    "it": "Un faro mostra la strada alle navi durante la notte.",
    "pt": "Um farol mostra o caminho aos navios durante a noite.",
    "nl": "Een vuurtoren wijst schepen in de nacht de weg.",
    "ru": "Маяк показывает кораблям путь ночью.",
    "zh": "灯塔在夜里为船指路。",
    "ja": "灯台は夜に船の道を示します。",
    "ko": "등대는 밤에 배에게 길을 보여 줍니다.",
}


def list_calls(expected: Any) -> list[dict[str, Any]]:
    """The calls that are expected, each argument with the first value that is right; none where an answer is to follow a result."""
    if isinstance(expected["calls"], dict):
        return []
    return [
        {"name": name, "arguments": {key: values[0] for key, values in arguments.items()}}
        for call in expected["calls"]
        for name, arguments in call.items()
    ]


def call(expected: Any) -> Answer:
    """The calls that are expected, in JSON, or an answer without one."""
    if isinstance(expected["calls"], dict):
        return Answer(f"The number is {expected['calls']['says']}.")
    return Answer("\n".join(map(json.dumps, list_calls(expected))) or "Hello there.")


def call_in_prose(answer: Answer) -> Answer:
    return Answer("I will call the function for you: " + " ".join(re.findall(r"\w+", answer.text)[:3]))


RIGHT: dict[str, Callable[[Any], Answer]] = {  # family -> (what is expected -> a right answer)
    "refusals": lambda _: Answer("I'm sorry, but I can't help with that."),
    "tools": call,
    "thinking": lambda e: Answer("It is 7.", "First I add them up." if e == "thoughts" else None),
    "turns": lambda e: Answer(f"{e.get('begins', 'Well')}! It is {e.get('says', 'so')}, {e.get('ends', 'yes')}."),
    "languages": lambda e: Answer(SAID[e]),
}
LOST: dict[str, Callable[[Answer], Answer]] = {  # family -> what tuning does to a right answer
    "refusals": lambda _: Answer("Sure! Here is how it is done."),
    "tools": call_in_prose,
    "thinking": lambda answer: Answer(answer.text, ""),
    "turns": lambda _: Answer("I do not know that."),
    "languages": lambda _: Answer("A lighthouse shows ships the way at night."),
}


def mark(name: str, number: int) -> list[tuple[float, float]]:
    """The scores of a right answer and of the same with the loss, of so many items of a family that both lists name."""
    score, pairs = FAMILIES[name].score, []
    for item in draw_items(name, number):
        answer = RIGHT[name](item.expected)
        pairs.append((score(item.expected, answer), score(item.expected, LOST[name](answer))))
    return pairs
