"""Where in a rendered conversation a turn of the assistant lies: from the end of its prompt to what ends the turn.

No {% generation %} markers are needed: what changes when the assistant's text is replaced by a sentinel is the assistant's,
and so is what the template itself writes after the generation prompt (an empty block of thought, say).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from holdfast.chat.templates import ANSWER, Messages, Template, TurnEnd, shared_start

Span = tuple[int, int]
NOT_SHOWN = "the chat template does not show the assistant's text as it stands"


def find_answer(
    template: Template, ends: TurnEnd, text: str, messages: Messages, i: int, tools: list | None = None
) -> Span:
    """The span of turn `i` in the rendered `text`, a turn without tool calls. Raises ValueError where it is not shown."""
    message = messages[i]
    changed = [*messages[:i], {**message, "content": ANSWER}, *messages[i + 1 :]]
    marked = template.render(changed, respond=False, tools=tools)
    prompt = template.render(messages[:i], respond=True, tools=tools) if i else ""
    if marked.count(ANSWER) != 1:
        raise ValueError(NOT_SHOWN)
    begin = marked.index(ANSWER)
    after = marked[begin + len(ANSWER) :]
    same = min(begin, len(shared_start(text, marked)))  # less than begin if the text holds thoughts
    known = min(begin, len(shared_start(prompt, marked)))
    start = len(prompt) if text.startswith(prompt) else same
    end = len(text) - len(after)
    if same < known or end < start or not text.endswith(after) or not shows(text[start:end], message["content"]):
        raise ValueError(NOT_SHOWN)
    close = ends.last if i + 1 == len(messages) else ends.inner
    return start, end + len(close) if text.startswith(close, end) else end


def find_calls(
    template: Template, ends: TurnEnd, text: str, messages: Messages, i: int, tools: list | None = None
) -> Span:
    """The span of turn `i`, a turn with tool calls. Raises ValueError where a call or the text beside it is not shown."""
    prompt = template.render(messages[:i], respond=True, tools=tools)
    start = len(shared_start(text, prompt))  # shorter than the prompt where a history has no thoughts
    close = ends.last if i + 1 == len(messages) else ends.inner
    end = find_end_of_calls(template, close, text, start, messages, i, tools)
    written = text[start:end]
    if not shows_calls(written, messages[i]["tool_calls"]) or not shows(text[:start], messages[i - 1]["content"]):
        raise ValueError("the chat template does not show tool calls")
    if not shows(written, messages[i]["content"]):
        raise ValueError("the chat template does not show the text beside a tool call")
    return start, end


def find_end_of_calls(
    template: Template, close: str, text: str, start: int, messages: Messages, i: int, tools: list | None
) -> int:
    """Where the turn ends that begins at `start`: the conversation up to here has the same text, or what follows it has."""
    until = template.render(messages[: i + 1], respond=False, tools=tools)
    shared = shared_start(text, until)  # a tool's turn may stand within the assistant's
    if shows_calls(shared[start:], messages[i]["tool_calls"]):
        at = shared.rfind(close, start) if close else -1
        return at + len(close) if at >= 0 else len(shared.rstrip())
    other = {"type": "function", "id": "qzCALLzq0", "function": {"name": ANSWER, "arguments": {}}}
    changed = [*messages[:i], {**messages[i], "tool_calls": [other]}, *messages[i + 1 :]]
    marked = template.render(changed, respond=False, tools=tools)
    after = len(text) - len(shared_start(text[::-1], marked.rpartition(ANSWER)[2][::-1]))
    at = text.find(close, after) if close else -1
    return at + len(close) if at >= 0 else after


def shows(written: str, content: str) -> bool:
    """Whether the last line of the content is there: a template may strip a text, and no more."""
    return all(line in written for line in content.strip().splitlines()[-1:])


def shows_calls(written: str, calls: list[dict[str, Any]]) -> bool:
    """Whether the name and every argument of every call are there, as they are or as JSON spells them."""
    return all(
        any(spelling in written for spelling in (str(value), json.dumps(value, ensure_ascii=False), json.dumps(value)))
        for call in calls
        for value in (call["function"]["name"], *leaves(call["function"]["arguments"]))
    )


def leaves(value: Any) -> Iterator[Any]:
    """Keys and values of nested arguments."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    else:
        yield value
