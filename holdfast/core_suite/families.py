"""The families of the core suite, and the items that a model's template can express."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache, partial
from pathlib import Path
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
    public,
    refusing,
    sandbox,
    speaking,
    thinking_aloud,
    writing_code,
)
from holdfast.core_suite.items import Family, Item, draw
from holdfast.params.evaluate import CORE, Evaluate

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
    "code": writing_code.WRITING_CODE,
    "calibration": knowing.CALIBRATION,
}


class Question(NamedTuple):
    """An item as one model is asked it."""

    item: Item
    prompt: str  # rendered
    opened: bool  # the prompt opened the model's thoughts


@lru_cache(maxsize=64)
def draw_items(name: str, number: int, context: int = copying.CONTEXT) -> tuple[Item, ...]:
    """The first items of a family. `context`: tokens, about, of the longest."""
    make = FAMILIES[name].make
    assert make
    if name == "copying":
        make = partial(copying.make_item, context=context)
    return tuple(draw(name, make, number))


def find_family(suite: str) -> Family:
    """The family that a suite is: "core/tools", "xstest/safe"."""
    return FAMILIES[suite.removeprefix(f"{CORE}/")] if suite.startswith(f"{CORE}/") else public.SUITES[suite]


def list_items(suite: str, params: Evaluate, context: int = 0) -> tuple[Item, ...]:
    """The items of a suite as params ask for it. `context`: tokens that the model reads, at most; 0: unknown. Raises UserError where
    the files of a public suite cannot be had."""
    if suite in public.SUITES:
        return public.read_items(suite, Path(params.tasks))[: params.limit]
    longest = min(params.core.context, context or params.core.context)
    return draw_items(suite.removeprefix(f"{CORE}/"), params.own_suites()[suite], longest)


def find_reason_to_leave_out(tokenizer: PreTrainedTokenizerBase, suite: str) -> str:
    """Why a suite says nothing about a model: what its template, or this system, cannot do; "" where it can."""
    needs = find_family(suite).needs
    if needs == "tools" and not calls.reads_calls(tokenizer):
        return "the chat template shows no tools, or its calls cannot be read back"
    if needs == "thinking" and not thinks(tokenizer):
        return "the chat template has no switch for thoughts, and opens none"
    if needs == "sandbox" and not sandbox.is_available():
        return "this system cannot confine what a model wrote: that takes Linux with seccomp, on x86-64 or ARM64"
    return ""


def thinks(tokenizer: PreTrainedTokenizerBase) -> bool:
    template = template_of(tokenizer)
    if thinking.find_switch(template):
        return True
    return thinking.opens_thought(template.render([{"role": "user", "content": "Hello"}], respond=True))


def pose(tokenizer: PreTrainedTokenizerBase, items: Iterable[Item]) -> list[Question]:
    """Those of the items that this template can express."""
    template = template_of(tokenizer)
    questions = []
    for item in items:
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


def list_texts(suite: str, params: Evaluate) -> list[str]:
    """What the items of a suite say, for decontamination: the whole, and the last turn where it is not all."""
    items = list_items(suite, params)
    return list(dict.fromkeys(text for item in items for text in (item.text(), str(item.messages[-1]["content"]))))
