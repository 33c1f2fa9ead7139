"""What stands before and after the user's text in a chat, and which tokens of a conversation are trained on.

Everything is derived from the tokenizer's own template (holdfast/chat/templates.py); a template that cannot be used gets a
UserError that says why.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.chat.templates import (
    ANSWER,
    SENTINEL,
    Messages,
    TurnEnd,
    alternatives,
    find_turn_end,
    shared_start,
    template_of,
    turns,
)
from holdfast.core.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBES = ("What", "a", "I", "1", "é")  # how user turns begin: do they melt into the prefix's last token?


@dataclass(frozen=True, slots=True)
class PreQuery:
    """The template around a lone user turn: prefix + user text + suffix, and then the assistant speaks."""

    prefix: str
    suffix: str
    prefix_ids: list[int]  # without a last blank that would be one token with the user's first word
    stop_ids: list[int]  # tokens that end the user's turn
    stop_strings: list[str]  # the same as text, for templates that end the turn with ordinary characters


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, *, respond: bool) -> str:
    """The conversation as text; with `respond`, up to where the assistant speaks next."""
    return template_of(tokenizer).render(messages, respond=respond)


def tokenise(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of rendered text. The template writes BOS itself where it wants one, so none is added."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[return-value]


def special_strings(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Every text that the tokenizer turns into one control token, longest first."""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted({*added, *tokenizer.all_special_tokens} - {""}, key=lambda t: (-len(t), t))


def special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [i for i, token in tokenizer.added_tokens_decoder.items() if token.special] + list(tokenizer.all_special_ids)


def escape_special_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Untrusted text in which no control token is spelled any more: a blank goes after its first character.

    Escaping twice changes no more than escaping once.
    """
    for token in special_strings(tokenizer):
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def escape_messages(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> Messages:
    """The conversation with escaped contents: what a model or a data set wrote, as a template may be given it."""
    return [{**turn, "content": escape_special_tokens(tokenizer, turn["content"])} for turn in messages]


def find_pre_query(
    tokenizer: PreTrainedTokenizerBase, where: object, before: Sequence[dict[str, str]] = ()
) -> PreQuery:
    """Derives prefix and suffix from the template by rendering a sentinel as the only (or the last) user turn.

    `before` is what was said until then: a system turn, earlier turns. Raises UserError if there is no template, if it
    cannot render a user turn, if it drops or repeats the user's text, or if nothing stands before that text (a model
    cannot be asked to write a user turn then).
    """
    if not tokenizer.chat_template:
        raise UserError(
            "the tokenizer has no chat template",
            where=where,
            do="use a chat (instruct) model, or put its chat_template.jinja beside the tokenizer",
        )
    try:
        text = render(tokenizer, [*before, *turns(SENTINEL)], respond=True)
    except Exception as error:  # a template is a program: it may raise anything
        raise UserError(
            f"the chat template cannot render a lone user turn ({first_line(error)})",
            where=where,
            do="check chat_template.jinja",
        ) from None
    if text.count(SENTINEL) != 1:
        raise UserError(
            f"the chat template shows the user's text {text.count(SENTINEL)} times, not once",
            where=where,
            do="check chat_template.jinja",
        )
    prefix, suffix = text.split(SENTINEL)
    if not prefix:
        raise UserError(
            "the chat template puts nothing before the user's text, so the base cannot write user turns",
            where=where,
            do="use a model whose template marks the user's turn",
        )
    # A turn ends with a control token, or with ordinary characters (" [/INST]", "\nASSISTANT:"): then by their text.
    control = re.search(alternatives(special_strings(tokenizer)), suffix)
    written = suffix[: control.start()] if control else suffix
    strings = [] if not written.strip() else [find_end_of_turn(tokenizer, written)]
    ends = tokenise(tokenizer, control[0])[-1:] if control and not strings else []
    return PreQuery(prefix, suffix, tokenise_prefix(tokenizer, prefix), append_eos(tokenizer, ends), strings)


def find_end_of_turn(tokenizer: PreTrainedTokenizerBase, written: str) -> str:
    """What of the text after a user's turn is sure to come: its first line, no more than finished turns have too."""
    first = written.strip().splitlines()[0]
    try:
        finished = render(tokenizer, turns(SENTINEL, ANSWER), respond=False)
    except Exception:  # it renders no answers; the prompt alone must do
        return first
    after = finished.partition(SENTINEL)[2].partition(ANSWER)[0]
    return shared_start(first, after.strip()).strip() or first


def tokenise_prefix(tokenizer: PreTrainedTokenizerBase, prefix: str) -> list[int]:
    """Token ids of a prefix that text can follow: "[INST] " and "What" are no tokens of "[INST] What" ("▁What" is)."""
    ids = tokenise(tokenizer, prefix)
    if prefix.endswith(" ") and prefix.strip():
        continued = [tokenise(tokenizer, prefix + probe) for probe in PROBES]
        if any(whole[: len(ids)] != ids for whole in continued):
            return tokenise(tokenizer, prefix.rstrip(" "))
    return ids


def append_eos(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    eos = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    return list(dict.fromkeys([*ids, *eos]))


def assistant_end(tokenizer: PreTrainedTokenizerBase) -> TurnEnd:
    return find_turn_end(template_of(tokenizer), tuple(special_strings(tokenizer)), tokenizer.eos_token)


def assistant_stop_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end the assistant's turn: the control tokens that the template writes after the content, and EOS."""
    ends: Any = tokenizer.convert_tokens_to_ids(list(assistant_end(tokenizer).stops))
    return append_eos(tokenizer, ends)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    """Token ids of a conversation up to where the assistant speaks. Contents are taken as they are: see escape_messages."""
    return tokenise(tokenizer, render(tokenizer, messages, respond=True))


def render_conversation(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> tuple[str, list[tuple[int, int]]]:
    """(text, spans) of a finished conversation: where in the text the assistant's turns lie, with what ends them.

    No {% generation %} markers are needed: what changes when the assistant's text is replaced by a sentinel is the
    assistant's, and so is what the template itself writes after the generation prompt (an empty block of thought, say).
    A last turn that the template leaves open is closed, or a model that is trained on it would never stop. Raises
    ValueError if the template does not show the assistant's text.
    """
    template, ends = template_of(tokenizer), assistant_end(tokenizer)
    text = template.render(messages, respond=False)
    spans: list[tuple[int, int]] = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        marked = template.render([*messages[:i], {**message, "content": ANSWER}, *messages[i + 1 :]], respond=False)
        prompt = template.render(messages[:i], respond=True) if i else ""
        if marked.count(ANSWER) != 1:
            raise ValueError("the chat template does not show the assistant's text as it stands")
        begin = marked.index(ANSWER)
        after = marked[begin + len(ANSWER) :]
        same = min(begin, len(shared_start(text, marked)))  # less than begin if the text holds thoughts
        known = min(begin, len(shared_start(prompt, marked)))
        start = len(prompt) if text.startswith(prompt) else same
        end = len(text) - len(after)
        last_line = message["content"].strip().splitlines()[-1:]
        if same < known or end < start or not text.endswith(after) or not all(t in text[start:end] for t in last_line):
            raise ValueError("the chat template does not show the assistant's text as it stands")
        final = i + 1 == len(messages)
        close = ends.last if final else ends.inner
        if text.startswith(close, end):
            end += len(close)
        if final and ends.added:
            text, end = text[:end] + ends.added, end + len(ends.added)
        spans.append((start, end))
    return text, spans


def encode(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> tuple[list[int], list[int]]:
    """(token ids, loss mask) of a conversation: 1 on the assistant's tokens and on what ends its turns.

    Raises ValueError if the template does not show the assistant's text (see `render_conversation`).
    """
    text, spans = render_conversation(tokenizer, messages)
    encoded: Any = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    mask = [0] * len(ids)
    for start, end in spans:
        for n, (a, b) in enumerate(offsets):
            if a < end and b > start and b > a:
                mask[n] = 1
    return ids, mask
