"""How a chat template wants to be spoken to, and how it ends a turn: found by rendering probes.

Nothing here knows a model family. A template is a third-party program; it runs in transformers' immutable sandbox,
with a clock that stands still.
"""

from __future__ import annotations

import itertools
import json
import os.path
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from holdfast.chat.template_limits import limit_rendering

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SENTINEL = "qzHOLDFASTzq"  # the user's text in a probe: no blanks (templates strip), nothing a template compares with
ANSWER, SYSTEM, NEXT = "qzANSWERzq", "qzSYSTEMzq", "qzNEXTzq"  # the assistant's, the system's, and a second user turn's
THOUGHT = "qzTHOUGHTzq"  # the assistant's, before its answer
Messages = list[dict[str, Any]]  # role and content; more of it: see holdfast/data/conversations.py
THOUGHT_FIELDS = ("reasoning_content", "thinking")  # what templates call the thoughts before an answer

# Templates that print today's date would give other prompts, other cache keys and other results on every day, so their
# clock stands still: a macro shadows the function that the sandbox offers.
CLOCK = {
    "%Y": "2025",
    "%y": "25",
    "%m": "01",
    "%-m": "1",
    "%B": "January",
    "%b": "Jan",
    "%d": "01",
    "%-d": "1",
    "%e": " 1",
    "%A": "Wednesday",
    "%a": "Wed",
    "%j": "001",
    "%F": "2025-01-01",
    "%H": "00",
    "%I": "12",
    "%p": "AM",
    "%M": "00",
    "%S": "00",
    "%T": "00:00:00",
}
_STOPPED = "".join(f"|replace('{directive}', '{value}')" for directive, value in CLOCK.items())
STOPPED_CLOCK = "{% macro strftime_now(format) %}{{ format" + _STOPPED + " }}{% endmacro %}\n"


@dataclass(frozen=True, slots=True)
class Template:
    """A chat template and the special tokens it may name."""

    source: str  # Jinja
    tokens: tuple[tuple[str, Any], ...]  # bos_token -> "<s>", ...

    def render_raw(
        self, messages: list[dict[str, Any]], *, respond: bool, tools: list | None = None, **more: Any
    ) -> str:
        """The template's own answer, whatever it is. Raises what the template raises, and RunawayError where it loops or writes
        without end."""
        from transformers.utils.chat_template_utils import render_jinja_template

        # A list in Template.tokens is a tuple, so that it can be hashed
        named = {name: list(value) if isinstance(value, tuple) else value for name, value in self.tokens}
        with limit_rendering(messages) as check_length:
            rendered: Any = render_jinja_template(
                [messages], tools, chat_template=self.source, add_generation_prompt=respond, **{**named, **more}
            )
            check_length(rendered[0][0])
        return rendered[0][0]

    def render(self, messages: Messages, *, respond: bool, tools: list | None = None, **more: Any) -> str:
        """The conversation as text, asked for in the way that this template understands."""
        dialect = find_dialect(self)
        if tools or any(len(message) > 2 for message in messages):
            extras = find_extras(self)
            messages = [extras.spell(message) for message in messages]
        if (
            not dialect.system
            and len(messages) > 1
            and messages[0]["role"] == "system"
            and messages[1]["role"] == "user"
        ):
            both = f"{messages[0]['content']}\n\n{messages[1]['content']}"  # as templates do that know a system text
            messages = [{**messages[1], "content": both}, *messages[2:]]
        text = self.render_raw(dialect.form(messages), respond=respond, tools=tools or dialect.tools(), **more)
        return text + dialect.header if respond else text


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a template wants to be spoken to, found by trying."""

    parts: bool = False  # content is a list of parts; plain strings are dropped or refused
    listed: bool = False  # tools must be a list, be it empty
    system: bool = False  # a system turn is shown; otherwise its text goes before the first user's text
    prompt: str = (
        "asked"  # the generation prompt is written when "asked" for, "always" (or part of the turn), or "never"
    )
    header: str = ""  # what stands before the assistant's text, where the template never writes it as a prompt

    def form(self, messages: Messages) -> list[dict[str, Any]]:
        if not self.parts:
            return list(messages)
        return [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]

    def tools(self) -> list | None:
        return [] if self.listed else None


@dataclass(frozen=True, slots=True)
class Extras:
    """How a template takes what is more than a role and a text, found by trying."""

    thoughts: str = (
        ""  # field of a turn; "": it knows none, so thoughts stand in the text, between <think> and </think>
    )
    calls: str = ""  # arguments of tool calls as "objects" or as "text"; "": it shows no tool calls
    results: bool = False  # a tool's turn is shown
    tools: bool = False  # the tools that may be called are shown

    def spell(self, message: dict[str, Any]) -> dict[str, Any]:
        """A turn as this template wants it."""
        spelled = {key: value for key, value in message.items() if key not in ("train", "reasoning_content")}
        if thoughts := message.get("reasoning_content"):
            if self.thoughts:
                spelled[self.thoughts] = thoughts
            else:
                spelled["content"] = f"<think>\n{thoughts}\n</think>\n\n{message['content']}"
        if self.calls == "text" and "tool_calls" in message:
            spelled["tool_calls"] = [arguments_as_text(call) for call in message["tool_calls"]]
        return spelled


def arguments_as_text(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


@lru_cache(maxsize=256)
def find_extras(template: Template) -> Extras:
    """Tries thoughts, tool calls, a tool's turn and a list of tools."""
    dialect = find_dialect(template)

    def show(messages: Messages, tools: list | None = None) -> str:
        try:
            return template.render_raw(dialect.form(messages), respond=False, tools=tools or dialect.tools())
        except Exception:  # a template is a third-party program: it may raise anything
            return ""

    user, answer = turns(SENTINEL, ANSWER)
    thoughts = next((key for key in THOUGHT_FIELDS if THOUGHT in show([user, {**answer, key: THOUGHT}])), "")
    schema = {"name": "qzTOOLzq", "description": "-", "parameters": {"type": "object", "properties": {}}}
    tools = [{"type": "function", "function": schema}]
    function = {"name": "qzTOOLzq", "arguments": {"qzKEYzq": "qzVALUEzq"}}
    call = {"id": "qzCALLzq0", "type": "function", "function": function}
    called = {"role": "assistant", "content": ""}
    result = {"role": "tool", "content": "qzRESULTzq", "name": "qzTOOLzq", "tool_call_id": "qzCALLzq0"}
    shown = {
        way: show([user, {**called, "tool_calls": [call if way == "objects" else arguments_as_text(call)]}], tools)
        for way in ("objects", "text")
    }
    of_tools = show([user], tools).count("qzTOOLzq")
    seen = [
        way
        for way, text in shown.items()
        if "qzVALUEzq" in text and "qzKEYzq" in text and text.count("qzTOOLzq") > of_tools
    ]
    # Python's spelling of a dict, or JSON within a JSON string, is not what a model is to learn
    good = [way for way in seen if "'qzKEYzq'" not in shown[way] and '\\"qzKEYzq' not in shown[way]]
    calls = next(iter([*good, *seen]), "")
    as_wanted = arguments_as_text(call) if calls == "text" else call
    whole = show([user, {**called, "tool_calls": [as_wanted]}, result, answer], tools)
    return Extras(thoughts, calls, "qzRESULTzq" in whole, of_tools > 0)


def turns(*contents: str) -> Messages:
    """A conversation in which user and assistant take turns."""
    return [{"role": role, "content": text} for role, text in zip(itertools.cycle(("user", "assistant")), contents)]


def shared_start(one: str, other: str) -> str:
    return os.path.commonprefix([one, other])  # noqa: RUF071  (texts, not paths)


def alternatives(strings: Sequence[str]) -> str:
    """A regular expression that finds any of the strings, longest first; nothing if there are none."""
    return "|".join(map(re.escape, strings)) or r"(?!)"


@lru_cache(maxsize=256)
def find_dialect(template: Template) -> Dialect:
    """Tries plain strings, lists of parts and an empty list of tools. Raises what the template raises on every try."""

    def show(dialect: Dialect, messages: Messages, respond: bool) -> str:
        return template.render_raw(dialect.form(messages), respond=respond, tools=dialect.tools())

    errors: list[Exception] = []
    shown: list[tuple[int, Dialect]] = []
    for parts, listed in itertools.product((False, True), (False, True)):
        dialect = Dialect(parts, listed)
        try:
            once = show(dialect, turns(SENTINEL), True).count(SENTINEL) == 1
        except Exception as error:  # a template is a third-party program: it may raise anything
            errors.append(error)
            continue
        try:
            both = show(dialect, turns(SENTINEL, ANSWER), False).count(ANSWER) == 1
        except Exception:
            both = False
        shown.append((2 * once + both, dialect))
    if not shown:
        raise errors[0]
    dialect = max(shown, key=lambda scored: scored[0])[1]  # the first of the best
    try:
        system = SYSTEM in show(dialect, [{"role": "system", "content": SYSTEM}, *turns(SENTINEL)], True)
    except Exception:
        system = False
    prompt, header = "asked", ""
    try:
        prompted, unprompted = (show(dialect, turns(SENTINEL), respond) for respond in (True, False))
        before = show(dialect, turns(SENTINEL, ANSWER), False).partition(ANSWER)[0]
        silent = (
            prompted == unprompted or not prompted.partition(SENTINEL)[2].strip()
        )  # nothing says that the assistant is next
        if silent and before.startswith(prompted):
            missing = before[len(prompted) :].rstrip(" ")
            prompt, header = ("never", missing) if missing.strip() else ("always", "")
    except Exception:  # it cannot show an answer, or not without a prompt: encode() will say so
        prompt, header = "asked", ""
    return Dialect(dialect.parts, dialect.listed, system, prompt, header)


def template_of(tokenizer: PreTrainedTokenizerBase) -> Template:
    source = tokenizer.get_chat_template()
    if "strftime_now" in source:
        source = STOPPED_CLOCK + source
    # transformers 5 no longer hands the list of further special tokens to templates, and some index into it
    more = tuple(map(str, getattr(tokenizer, "extra_special_tokens", None) or ()))
    extra = (("additional_special_tokens", more),) if more else ()
    return Template(source, (*sorted(tokenizer.special_tokens_map.items()), *extra))


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """How a template ends the assistant's turn; "" where it writes nothing that ends one."""

    last: str  # the last turn of a conversation
    inner: str  # a turn that the user answers
    added: str  # what is added to a last turn that no control token ends, so that a model learns to stop
    stops: tuple[str, ...]  # control tokens that end it when text is generated


@lru_cache(maxsize=256)
def find_turn_end(template: Template, special: tuple[str, ...], eos: str | None) -> TurnEnd:
    """Found by comparing what follows the assistant's text at the end of a conversation and before a user's turn."""
    prompt = template.render(turns(SENTINEL), respond=True)
    whole = template.render(turns(SENTINEL, ANSWER), respond=False)
    after = whole.partition(ANSWER)[2]
    try:
        longer = template.render(turns(SENTINEL, ANSWER, NEXT), respond=False)
        inner = longer.partition(ANSWER)[2].partition(NEXT)[0] if NEXT in longer else ""
    except Exception:  # one turn is all that some templates know
        inner = after
    control, suffix = re.compile(alternatives(special)), prompt.partition(SENTINEL)[2]
    head = re.compile(rf"\s*(?:{control.pattern})")

    def find_first(text: str) -> str:
        match = head.match(text)
        return match[0] if match else ""

    shared = shared_start(after, inner)
    # Only whole tokens count: "<|e" is shared by <|end|> and <|eot_id|>.
    tokens = [match for match in control.finditer(inner) if match.end() <= len(shared)]
    if tokens and find_first(after):
        # A template may go on after the last turn (the next prompt, a closing system turn), and then that opening is shared
        # too. It stands after a user's turn as well: its first token ends turns, and the rest opens the next one.
        unprompted = template.render(turns(SENTINEL), respond=False)
        again = len(after) - len(shared_start(after[::-1], unprompted[::-1]))
        repeated = [] if inner.startswith(after.rstrip()) else [match for match in tokens if match.start() >= again]
        last = shared[: (repeated or tokens[-1:])[0].end()]
        ends = TurnEnd(last, last, "", ())
    elif find_first(after) or find_first(inner):
        mid = find_first(inner)
        # A token that opens turns ends none, unless it is what ends the user's turn as well.
        if mid.strip() in suffix and not suffix.lstrip().startswith(mid.strip()):
            mid = ""
        ends = TurnEnd(find_first(after), mid, "" if find_first(after) else mid or (eos or ""), ())
    else:
        word = shared.rstrip()  # ordinary characters ("</assistant>"): no token to stop at
        ends = TurnEnd(word, word, eos or "", ())
    # What the model writes between the prompt and its answer, or between its thoughts and its answer, ends no turn.
    opening = whole.partition(ANSWER)[0][len(shared_start(prompt, whole)) :]
    try:
        user, answer = turns(SENTINEL, ANSWER)
        thinking = template.render([user, {**answer, "reasoning_content": THOUGHT}], respond=False)
        opening += thinking.partition(THOUGHT)[2].partition(ANSWER)[0]
    except Exception:  # noqa: S110  (it knows no thoughts)
        pass
    stops: list[str] = []
    for text in (ends.last, ends.inner, ends.added):
        match = [token for token in control.findall(text) if token not in opening]
        stops += match[:1] + match[-1:]
    stops = stops or control.findall(ends.last)[-1:]
    return TurnEnd(ends.last, ends.inner, ends.added, tuple(dict.fromkeys(stops)))
