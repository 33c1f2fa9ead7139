"""Does the base's chat template show what a row teaches? And what of its texts would be read as control tokens?

The last look of `ingest` at a row. A template that cannot show tool calls, thoughts or a role would drop them without a
word; such a row is refused with that reason.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from holdfast.chat import encoding, templates
from holdfast.chat.spans import leaves, shows
from holdfast.core.errors import first_line
from holdfast.data.row_values import Unreadable
from holdfast.data.turns import Turn

ENDS = "end-of-turn text at the end of an answer removed"
THOUGHTS = "thoughts in <think> taken out of the text and given to the template"
INLINE = "thoughts put into the text between <think> and </think>: the template has no field for them"
UNROLLED = "an earlier turn's thoughts, which the template leaves out of a history, trained on in a row of their own"
ESCAPED = "special tokens of the base spelled in a text escaped"
NO_ANSWER = "thoughts without an answer"
UNCLOSED = re.compile(r"\A\s*<think>(?!.*</think>).*\Z", re.DOTALL)
THINK = re.compile(r"\A\s*<think>\n?(.*?)\n?</think>\s*(.*)\Z", re.DOTALL)


class TemplateFit:
    """What the base's template and tokenizer make of rows."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.template = tokenizer, encoding.template_of(tokenizer)
        ends = encoding.assistant_end(tokenizer)
        marks = {*encoding.END_MARKERS, *ends.stops, *(text.strip() for text in (ends.last, ends.inner, ends.added))}
        any_end = encoding.alternatives(sorted(marks - {""}, key=len, reverse=True))
        self.ends = re.compile(rf"(?:\s*(?:{any_end}))+\s*\Z")
        self.last_characters = frozenset(mark[-1] for mark in marks if mark)
        self.controls = encoding.control_strings(tokenizer)
        others = [token for token in encoding.special_strings(tokenizer) if token not in self.controls]
        self.control = re.compile(encoding.alternatives(self.controls))
        self.other = re.compile(encoding.alternatives(others))
        self.first_characters = sorted({token[0] for token in [*self.controls, *others]})
        self.spelled_in_json = all(first.isprintable() and first not in '"\\' for first in self.first_characters)
        self.extras = templates.find_extras(self.template)
        self.known: dict[
            tuple[str, ...], str
        ] = {}  # roles in their order -> why the template cannot render them, or ""
        self.escaped: Counter[str] = Counter()  # rows by the control token that a text spells
        self.kept: Counter[str] = Counter()  # rows by another special token, which stays one
        self.example: tuple[str, str] | None = None  # of an escaped text: (as it was, as it is trained on)

    def adjust(self, turns: list[Turn], tools: list[Any] | None, changes: set[str]) -> list[Turn]:
        """The turns as they are trained on. Adds to `changes` what was changed. Raises Unreadable where the template does not
        show them."""
        for i, turn in enumerate(turns):
            if turn["role"] != "assistant":
                continue
            content = turn["content"]
            if content[-1:] in self.last_characters and (end := self.ends.search(content)):
                if not content[: end.start()].strip() and not turn.get("tool_calls"):
                    raise Unreadable("empty turn")
                turns[i] = turn = {**turn, "content": content[: end.start()]}
                changes.add(ENDS)
            if "<think>" not in content:
                continue
            thought = THINK.match(turn["content"])
            if not (thought[2] if thought else UNCLOSED.sub("", turn["content"])) and "tool_calls" not in turn:
                raise Unreadable(NO_ANSWER)
            if (
                thought
                and thought[1].strip()
                and thought[2]
                and self.extras.thoughts
                and "reasoning_content" not in turn
            ):
                turns[i] = {**turn, "content": thought[2], "reasoning_content": thought[1]}
                changes.add(THOUGHTS)
        roles = tuple([turn["role"] for turn in turns])
        if tools or "tool" in roles or max(map(len, turns)) > 2:
            self.check_extras(turns, tools, changes)
        elif fault := self.find_fault(roles):
            raise Unreadable(fault)
        return turns

    def find_fault(self, roles: tuple[str, ...]) -> str:
        """Why the template cannot show a conversation of these roles, each turn of it; '' where it can."""
        if roles not in self.known:
            words = [f"word{place:04d}" for place in range(len(roles))]
            talk = [{"role": role, "content": word} for role, word in zip(roles, words, strict=True)]
            try:
                text = self.template.render(talk, respond=False)
                lost = [role for role, word in zip(roles, words, strict=True) if not shows(text, word)]
                self.known[roles] = (
                    f"the base's chat template does not show the turn of role '{lost[0]}'" if lost else ""
                )
            except Exception as error:  # a template is a program: no system role, no second turn, ...
                self.known[roles] = f"the base's chat template cannot render it ({first_line(error)})"
        return self.known[roles]

    def check_extras(self, turns: list[Turn], tools: list[Any] | None, changes: set[str]) -> None:
        if tools and not self.extras.tools:
            raise Unreadable("it has tools, and the base's chat template shows none")
        if any("tool_calls" in turn for turn in turns) and not self.extras.calls:
            raise Unreadable("it has tool calls, and the base's chat template shows none")
        if any(turn["role"] == "tool" for turn in turns) and not self.extras.results:
            raise Unreadable("it has a tool's turn, and the base's chat template shows none")
        try:
            parts = encoding.unroll(self.tokenizer, turns, tools)
            shown = [encoding.render_conversation(self.tokenizer, part, tools)[0] for part in parts]
        except ValueError as error:  # our own words
            raise Unreadable(str(error)) from None
        except Exception as error:
            raise Unreadable(f"the base's chat template cannot render it ({first_line(error)})") from None
        whole = shown[-1]
        if not all(tool["function"]["name"] in whole for tool in tools or ()):
            raise Unreadable("the base's chat template does not show every tool")
        if not all(shows(whole, turn["content"]) for turn in turns if turn["role"] == "tool"):
            raise Unreadable("the base's chat template does not show what a tool answered")
        if len(parts) > 1:
            changes.add(UNROLLED)
        if not self.extras.thoughts and any("reasoning_content" in turn for turn in turns):
            changes.add(INLINE)

    def may_spell(self, json: str) -> bool:
        """Whether a special token can be in the texts of a row, given as JSON without escapes of what is no ASCII."""
        return not self.spelled_in_json or any(map(json.__contains__, self.first_characters))

    def count_special(self, turns: list[Turn], tools: list[Any] | None, changes: set[str]) -> None:
        """Counts a row that is kept, where it spells special tokens; adds to `changes` what `mix` will change."""
        controls, others = set[str](), set[str]()
        for turn in turns:
            texts = [turn["content"]] if len(turn) == 2 else [str(leaf) for leaf in leaves(turn)]
            for text in texts:
                controls.update(spelled := self.control.findall(text))
                others.update(self.other.findall(text))
                if spelled and self.example is None:
                    at = max(0, text.index(spelled[0]) - 40)
                    excerpt = text[at : at + 120]
                    self.example = excerpt, encoding.escape_controls(self.controls, excerpt)
        for text in map(str, leaves(tools)) if tools else ():
            controls.update(self.control.findall(text))
        if others:
            self.kept.update(others)
        if controls:
            self.escaped.update(controls)
            changes.add(ESCAPED)
