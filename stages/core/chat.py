"""Chat templates: what stands before and after the user's text, and which tokens of a conversation bear loss.

Nothing here knows a model family. Everything is derived by rendering the tokenizer's own template and looking at the
result; templates that cannot be used get a UserError that says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SENTINEL = "qzHOLDFASTzq"  # no blanks (templates strip) and nothing a template would compare with
Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class PreQuery:
    """The template around a lone user turn: prefix + user text + suffix, and then the assistant speaks."""

    prefix: str
    suffix: str
    prefix_ids: list[int]
    stop_ids: list[int]  # tokens that end the user's turn
    stop_strings: list[str]  # the same as text, for templates that end the turn with ordinary characters


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, *, respond: bool) -> str:
    """The conversation as text; with `respond`, up to where the assistant speaks next."""
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=respond)  # type: ignore[return-value]


def tokenise(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of rendered text. The template writes BOS itself where it wants one, so none is added."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[return-value]


def special_strings(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Every text that the tokenizer turns into one control token, longest first."""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted({*added, *tokenizer.all_special_tokens} - {""}, key=lambda t: (-len(t), t))


def neutral(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Untrusted text in which no control token is spelled any more: a blank goes after its first character."""
    for token in special_strings(tokenizer):
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def pre_query(tokenizer: PreTrainedTokenizerBase, where: object) -> PreQuery:
    """Derives prefix and suffix from the template by rendering a sentinel as the only user turn.

    Raises UserError if there is no template, if it cannot render a user turn, if it drops or repeats the user's text,
    or if nothing stands before that text (a model cannot be asked to write a user turn then).
    """
    if not tokenizer.chat_template:
        raise UserError(
            "the tokenizer has no chat template",
            where=where,
            do="use a chat (instruct) model, or put its chat_template.jinja beside the tokenizer",
        )
    try:
        text = render(tokenizer, [{"role": "user", "content": SENTINEL}], respond=True)
    except Exception as error:  # a template is a program of somebody else: it may raise anything
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
    special = set(special_ids(tokenizer))
    turn_end = [i for i in tokenise(tokenizer, suffix) if i in special][:1]
    # A turn that ends with ordinary characters (" [/INST]", perhaps before a control token) is stopped by their text.
    written = suffix[
        : min([suffix.find(token) for token in special_strings(tokenizer) if token in suffix], default=len(suffix))
    ]
    strings = written.strip().splitlines()[:1]
    stop = dict.fromkeys([*turn_end, *([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])])
    return PreQuery(prefix, suffix, tokenise(tokenizer, prefix), list(stop), strings)


def first_line(error: Exception) -> str:
    """What an exception says, short enough for one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [i for i, token in tokenizer.added_tokens_decoder.items() if token.special] + list(tokenizer.all_special_ids)


def assistant_stop_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end the assistant's turn: EOS, and the control token that the template writes after the content."""
    turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": SENTINEL}]
    after = render(tokenizer, turn, respond=False).partition(SENTINEL)[2]
    special = set(special_ids(tokenizer))
    ends = [i for i in tokenise(tokenizer, after) if i in special][:1]
    return list(dict.fromkeys([*ends, *([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])]))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    """Token ids of a conversation up to where the assistant speaks."""
    return tokenise(tokenizer, render(tokenizer, messages, respond=True))


def encode(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> tuple[list[int], list[int]]:
    """(token ids, loss mask) of a conversation: 1 on the assistant's tokens and on the token that ends its turn.

    No {% generation %} markers are needed: where an assistant's text begins is seen by rendering the conversation with
    a sentinel in its place. What the template itself writes after the generation prompt is the assistant's too (an empty
    block of thought, say). Raises ValueError if the template does not show the assistant's text as it stands.
    """
    text = render(tokenizer, messages, respond=False)
    spans: list[tuple[int, int]] = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        marked = render(tokenizer, [*messages[:i], {**message, "content": SENTINEL}, *messages[i + 1 :]], respond=False)
        content, begin = message["content"].strip(), len(marked.partition(SENTINEL)[0])
        at = text.find(content, begin)
        if SENTINEL not in marked or at < 0 or text[begin:at].strip() or text[:begin] != marked[:begin]:
            raise ValueError("the chat template does not show the assistant's text as it stands")
        prompt = render(tokenizer, messages[:i], respond=True)
        spans.append((len(prompt) if text.startswith(prompt) else begin, at + len(content)))
    encoded: Any = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    mask, ends = [0] * len(ids), set(assistant_stop_ids(tokenizer))
    for start, end in spans:
        for n, (a, b) in enumerate(offsets):
            if a < end and b > start and b > a:
                mask[n] = 1
        # The control token that ends the turn must be learnt, or the model never stops. Only blanks may stand before it.
        after = next((n for n, (a, _) in enumerate(offsets) if a >= end), len(ids))
        close = next((n for n in range(after, len(ids)) if text[slice(*offsets[n])].strip()), len(ids))
        if close < len(ids) and ids[close] in ends:
            mask[after : close + 1] = [1] * (close + 1 - after)
    return ids, mask
