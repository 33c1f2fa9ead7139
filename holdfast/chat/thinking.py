"""The switch by which a template turns thinking on and off, found by trying the names that templates use."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from holdfast.chat.templates import SENTINEL, Template, turns

SWITCHES = ("enable_thinking", "thinking")
OPENINGS = ("<think>", "<|START_THINKING|>", "[THINK]", "<seed:think>")
CLOSINGS = ("</think>", "<|END_THINKING|>", "[/THINK]", "</seed:think>")


class Switch(NamedTuple):
    """What to hand to the template, beside the messages, for thoughts and for none."""

    on: dict[str, Any]
    off: dict[str, Any]


@lru_cache(maxsize=256)
def find_switch(template: Template) -> Switch | None:
    """None where the template has no switch: nothing in its prompt changes with it."""
    for name in SWITCHES:
        more: tuple[dict[str, Any], ...] = ({name: True}, {name: False})
        try:
            shown = [template.render(turns(SENTINEL), respond=True, tools=None, **value) for value in more]
        except Exception:  # noqa: S112  (a template is a third-party program: it may raise anything)
            continue
        if shown[0] != shown[1] and all(SENTINEL in text for text in shown):
            return Switch(*more)
    return None


def switch_thoughts(template: Template, on: bool | None) -> Template:
    """The template with its switch on or off; as it is with None, or where it has none."""
    switch = None if on is None else find_switch(template)
    if switch is None:
        return template
    return replace(template, tokens=(*template.tokens, *(switch.on if on else switch.off).items()))


def opens_thought(prompt: str) -> bool:
    """Whether a prompt leaves the model within its thoughts: they were opened, and not closed."""
    tail = prompt.rstrip()[-200:]
    return any(tail.endswith(opening) for opening in OPENINGS)


def split_thoughts(text: str, opened: bool) -> tuple[str | None, str]:
    """(thoughts, answer) of what a model wrote; thoughts are None where there are none. `opened`: the prompt opened them.
    Thoughts that are never closed are all there is: the answer is empty."""
    body = text
    for opening in OPENINGS:
        if body.lstrip().startswith(opening):
            body, opened = body.lstrip()[len(opening) :], True
            break
    for closing in CLOSINGS:
        if closing in body:
            thoughts, _, answer = body.partition(closing)
            return thoughts.strip(), answer.strip()
    return (body.strip(), "") if opened else (None, body.strip())
