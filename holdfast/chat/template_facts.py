"""What can be found out about a chat template by rendering probes: system turn, thoughts, switches, who writes BOS."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

from holdfast.chat import encoding, templates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHAPED = re.compile(r"<[^<>\s]{1,48}>|\[[^\[\]\s]{1,48}\]")  # how control tokens look, where no tokenizer tells


def name_tokens(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[dict[str, Any]]:
    return [{"id": i, "token": str(tokenizer.convert_ids_to_tokens(i))} for i in ids]


def describe_beginning(tokenizer: PreTrainedTokenizerBase, query: encoding.PreQuery) -> dict[str, Any]:
    """Who writes the token that begins a sequence: the template, the tokenizer, both (then it must not be doubled)."""
    token, bos = tokenizer.bos_token, tokenizer.bos_token_id
    ids: list[int] = tokenizer("a")["input_ids"]  # type: ignore[assignment]
    return {
        "token": token,
        "template": token is not None and query.prefix.startswith(token),
        "tokenizer": bos is not None and ids[:1] == [bos],
    }


def describe_system_turn(
    template: templates.Template, dialect: templates.Dialect, query: encoding.PreQuery
) -> dict[str, Any]:
    """Whether a system turn is understood, and whether one is there unasked: text before the first user turn's header.

    A header is what comes back before a second user turn. A built-in turn may be empty: then the words that introduce
    a system turn stand in the prefix all the same.
    """
    bos = str(dict(template.tokens).get("bos_token", ""))
    before = query.prefix.removeprefix(bos)
    try:
        talk = template.render(templates.turns(templates.SENTINEL, templates.ANSWER, templates.NEXT), respond=True)
        between = talk.partition(templates.ANSWER)[2].partition(templates.NEXT)[0]
    except Exception:  # a template of one turn: all that it writes counts as the header
        between = before
    header = templates.shared_start(before[::-1], between[::-1])[::-1]
    extra = before[: len(before) - len(header)]
    has_words = len(re.findall(r"\w+", SHAPED.sub(" ", extra))) > 1  # one word is the name of the role
    introduction, is_kept = "", False
    if dialect.system:
        prompted = template.render(
            [{"role": "system", "content": templates.SYSTEM}, *templates.turns(templates.SENTINEL)], respond=True
        )
        introduction = prompted.partition(templates.SYSTEM)[0].removeprefix(bos)
        is_kept = has_words and extra.strip() in prompted
    empty = bool(introduction.strip()) and before.startswith(introduction) and before != introduction
    built_in = has_words or (empty and bool(extra.strip()))
    return {
        # none: Holdfast puts the system text before the first user's text
        "role": "shown" if dialect.system else "none",
        "built_in": built_in,
        "text": extra if built_in else "",
        "kept": is_kept,  # beside a system text that is given; otherwise that one takes its place
    }


def describe_thoughts(template: templates.Template, query: encoding.PreQuery) -> dict[str, Any] | None:
    """What becomes of an assistant's thoughts (message field reasoning_content), None if the template shows none."""
    thought, dialect = templates.THOUGHT, templates.find_dialect(template)

    def render(*messages: dict[str, str]) -> str:
        try:
            return template.render_raw(dialect.form(list(messages)), respond=False, tools=dialect.tools())
        except Exception:
            return ""

    user, answer, again = templates.turns(templates.SENTINEL, templates.ANSWER, templates.NEXT)
    text = render(user, {**answer, "reasoning_content": thought}).partition(templates.SENTINEL)[2]
    opening, match, closing = text.partition(thought)
    close = closing.partition(templates.ANSWER)[0].strip()
    if not match or templates.ANSWER not in closing:
        return None
    plain = render(user, answer).partition(templates.SENTINEL)[2].partition(templates.ANSWER)[0]
    opened, closed = query.suffix.strip() == opening.strip(), bool(close) and query.suffix.strip().endswith(close)
    # What ended the user's turn may be what ends thoughts too, so only what follows the prompt is looked at
    same = re.sub(
        r"[<\[][^<>\[\]\s]*$", "", templates.shared_start(plain, query.suffix)
    )  # whole tokens: not the "<" of "</think>"
    beyond = plain if closed else plain[len(same) :]
    return {
        "prompt": "opened" if opened else "closed" if closed else "left to the model",
        "answer_without": "an empty block" if close and close in beyond else "no block",
        "history": "kept" if thought in render(user, {**answer, "reasoning_content": thought}, again) else "dropped",
    }


def find_switches(template: templates.Template, query: encoding.PreQuery) -> list[dict[str, Any]]:
    """Variables of the template that change the prompt when they are true or false, enable_thinking for example."""
    from jinja2 import meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from transformers.utils.chat_template_utils import _compile_jinja_template  # its environment knows the extensions

    environment: ImmutableSandboxedEnvironment = _compile_jinja_template(template.source).environment
    names = meta.find_undeclared_variables(environment.parse(template.source))
    ours = {"messages", "tools", "documents", "add_generation_prompt", *dict(template.tokens)}
    switches = []
    for name in sorted(names - ours):
        for value in (True, False):
            text = ""
            with contextlib.suppress(Exception):  # it may want something else than a truth value
                switch: dict[str, Any] = {name: value}
                text = template.render(templates.turns(templates.SENTINEL), respond=True, **switch)
            prefix, _, suffix = text.partition(templates.SENTINEL)
            changed = text and (prefix, suffix) != (query.prefix, query.suffix)
            if changed and text.count(str(value)) == (query.prefix + query.suffix).count(str(value)):
                switches.append({"name": name, "value": value, "prefix": prefix != query.prefix, "suffix": suffix})
    return switches
