"""The families of the core suite, and the items that a model's template can express."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.chat import calls, encoding, thinking
from holdfast.chat.templates import Template, template_of
from holdfast.core_suite import (
    arithmetic,
    calling,
    conversing,
    copying,
    formatting,
    instructing,
    knowing,
    reading_code,
    refusing,
    speaking,
    thinking_aloud,
)
from holdfast.core_suite.items import Family, Item, draw

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FAMILIES: dict[str, Family] = {
    "refusals": refusing.REFUSALS,
    "over_refusals": refusing.OVER_REFUSALS,
    "tools": calling.TOOLS,
    "instructions": instructing.INSTRUCTIONS,
    "formats": formatting.FORMATS,
    "languages": speaking.SPEAKING,
    "turns": conversing.TURNS,
    "thinking": thinking_aloud.THINKING,
    "arithmetic": arithmetic.ARITHMETIC,
    "facts": knowing.FACTS,
    "copying": copying.COPYING,
    "code": reading_code.CODE,
    "calibration": knowing.CALIBRATION,
}


class Question(NamedTuple):
    """An item as one model is asked it."""

    item: Item
    prompt: str  # rendered
    opened: bool  # the prompt opened the model's thoughts


@lru_cache(maxsize=64)
def draw_items(name: str, number: int) -> tuple[Item, ...]:
    return tuple(draw(name, FAMILIES[name].make, number))


def reason_to_leave_out(tokenizer: PreTrainedTokenizerBase, name: str) -> str:
    """Why a family says nothing about a model: what its template cannot express; "" where it can."""
    needs = FAMILIES[name].needs
    if needs == "tools" and not calls.reads_calls(tokenizer):
        return "the chat template shows no tools, or its calls cannot be read back"
    if needs == "thinking" and not thinks(tokenizer):
        return "the chat template has no switch for thoughts, and opens none"
    return ""


def thinks(tokenizer: PreTrainedTokenizerBase) -> bool:
    template = template_of(tokenizer)
    if thinking.find_switch(template):
        return True
    return thinking.opens_thought(template.render([{"role": "user", "content": "Hello"}], respond=True))


def pose(tokenizer: PreTrainedTokenizerBase, name: str, number: int) -> list[Question]:
    """The items of a family that this template can express."""
    template = template_of(tokenizer)
    questions = []
    for item in draw_items(name, number):
        try:
            questions.append(pose_item(tokenizer, template, item))
        except Exception:  # noqa: S112  (a template is a third-party program: it may refuse a system turn or a tool's)
            continue
    return questions


def pose_item(tokenizer: PreTrainedTokenizerBase, template: Template, item: Item) -> Question:
    controls = encoding.control_strings(tokenizer)
    messages, tools = (encoding.escape_controls(controls, part) for part in (item.messages, item.tools))
    switch = thinking.find_switch(template)
    more = {} if switch is None else switch.on if item.thinking else switch.off
    prompt = template.render(messages, respond=True, tools=tools, **more)
    return Question(item, prompt, thinking.opens_thought(prompt))


def describe(expected: Any) -> str:
    """What is expected, for a reader."""
    shown = expected["calls"] if isinstance(expected, dict) and "tools" in expected else expected
    return shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)


def texts(name: str, number: int) -> list[str]:
    """What the items of a family say, for decontamination: the whole, and the last turn where it is not all."""
    items = draw_items(name, number)
    return list(dict.fromkeys(text for item in items for text in (item.text(), str(item.messages[-1]["content"]))))
