"""What stands before and after the user's text in a chat, and which tokens of a conversation are trained on.

Everything is derived from the tokenizer's own template (holdfast/chat/templates.py); a template that cannot be used gets a
UserError that says why.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.chat.spans import find_answer, find_calls, shows
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
from holdfast.chat.thinking import switch_thoughts
from holdfast.core.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_MARKERS = (  # what ends a turn or a text in one family of models or another; data are often copied with it
    *(
        "<|end|>",
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end_of_text|>",
        "<|endoftext|>",
        "<|end_of_turn|>",
        "<|eot|>",
        "<turn|>",
        "[|endofturn|]",
        "<seed:eos>",
        "</s>",
    ),
    *("<end_of_turn>", "<|return|>", "<|END_OF_TURN_TOKEN|>", "<eos>", "<\uff5cend\u2581of\u2581sentence\uff5c>"),
)
START_MARKERS = (
    *(
        "<s>",
        "<bos>",
        "<unk>",
        "<pad>",
        "<|begin_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|im_start|>",
    ),
    *("<start_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|START_OF_TURN_TOKEN|>", "[INST]", "[/INST]"),
)
PROBES = ("What", "a", "I", "1", "é")  # how user turns begin: do they melt into the prefix's last token?


@dataclass(frozen=True, slots=True)
class PreQuery:
    """The template around a lone user turn: prefix + user text + suffix, and then the assistant speaks."""

    prefix: str
    suffix: str
    prefix_ids: list[int]  # without a last blank that would be one token with the user's first word
    stop_ids: list[int]  # tokens that end the user's turn
    stop_strings: list[str]  # the same as text, for templates that end the turn with ordinary characters


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Messages,
    *,
    respond: bool,
    tools: list | None = None,
    thinking: bool | None = None,
) -> str:
    """The conversation as text; with `respond`, up to where the assistant speaks next. `thinking`: the template's switch for
    thoughts; None: as the template has it."""
    return switch_thoughts(template_of(tokenizer), thinking).render(messages, respond=respond, tools=tools)


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


def control_strings(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The special tokens that mean something in a conversation, longest first: those with a role of the tokenizer's (end of
    text, padding, ...), those that the template spells, and those that end turns elsewhere.

    Others are no danger in one's own data: somebody added them to the tokenizer so that texts can use them.
    """
    named = {str(token) for token in tokenizer.special_tokens_map.values() if isinstance(token, str)}
    template = tokenizer.get_chat_template() if tokenizer.chat_template else ""
    return [
        token
        for token in special_strings(tokenizer)
        if token in named or token in template or token in END_MARKERS or token in START_MARKERS
    ]


def escape_controls(controls: Sequence[str], value: Any) -> Any:
    """Data of one's own (a text, or turns, calls and tools that hold texts) in which none of the control tokens is spelled."""
    if isinstance(value, str):
        for token in controls:
            value = value.replace(token, f"{token[0]} {token[1:]}")
        return value
    if isinstance(value, dict):
        return {escape_controls(controls, key): escape_controls(controls, inner) for key, inner in value.items()}
    return [escape_controls(controls, inner) for inner in value] if isinstance(value, list) else value


def require_template(tokenizer: PreTrainedTokenizerBase, where: object) -> None:
    """Raises UserError where the tokenizer has no chat template, or several and none that counts."""
    templates = tokenizer.chat_template
    do = "use a chat (instruct) model, or put its chat_template.jinja beside the tokenizer"
    if not templates:
        raise UserError("has no chat template", where=where, do=do)
    if isinstance(templates, dict) and "default" not in templates:
        named = ", ".join(sorted(templates))
        what = f"has several chat templates ({named:.100}) and none called default"
        raise UserError(what, where=where, do="put the one to use beside the tokenizer as chat_template.jinja")


def advise_on(error: Exception) -> str:
    """What to do about a template that raised this."""
    if missing := re.search(r"'(\w+_token)' is undefined", str(error)):
        return f'add "{missing[1]}", which the template writes, to tokenizer_config.json'
    return "take chat_template.jinja and tokenizer_config.json from the model's page"


def find_pre_query(
    tokenizer: PreTrainedTokenizerBase,
    where: object,
    before: Sequence[dict[str, str]] = (),
    tools: list | None = None,
    thinking: bool | None = None,
) -> PreQuery:
    """Derives prefix and suffix from the template by rendering a sentinel as the only (or the last) user turn.

    `before` is what was said until then: a system turn, earlier turns; `tools` what the assistant may call. Raises UserError if there is no template, if it
    cannot render a user turn, if it drops or repeats the user's text, or if nothing stands before that text (a model
    cannot be asked to write a user turn then).
    """
    require_template(tokenizer, where)
    try:
        text = render(tokenizer, [*before, *turns(SENTINEL)], respond=True, tools=tools, thinking=thinking)
    except Exception as error:  # a template is a program: it may raise anything
        raise UserError(
            f"the chat template cannot render a lone user turn ({first_line(error)})",
            where=where,
            do=advise_on(error),
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


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, tools: list | None = None, thinking: bool | None = None
) -> list[int]:
    """Token ids of a conversation up to where the assistant speaks. Contents are taken as they are: see escape_messages."""
    return tokenise(tokenizer, render(tokenizer, messages, respond=True, tools=tools, thinking=thinking))


def render_conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, tools: list | None = None, thinking: bool | None = None
) -> tuple[str, list[tuple[int, int]]]:
    """(text, spans) of a finished conversation: where in the text the assistant's turns lie, with what ends them.

    A turn with `train: False` has no span. A last turn that the template leaves open is closed, or a model that is trained on
    it would never stop. Raises ValueError if the template does not show what the assistant wrote.
    """
    template, ends = switch_thoughts(template_of(tokenizer), thinking), assistant_end(tokenizer)
    text = template.render(messages, respond=False, tools=tools)
    spans: list[tuple[int, int]] = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant" or message.get("train") is False:
            continue
        find = find_calls if message.get("tool_calls") else find_answer
        start, end = find(template, ends, text, messages, i, tools)
        if not shows(text[start:end], message.get("reasoning_content", "")):
            raise ValueError("the chat template does not show the thoughts of a turn")
        if i + 1 == len(messages) and ends.added:
            text, end = text[:end] + ends.added, end + len(ends.added)
        spans.append((start, end))
    return text, spans


def encode(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, tools: list | None = None, thinking: bool | None = None
) -> tuple[list[int], list[int]]:
    """(token ids, loss mask) of a conversation: 1 on the assistant's tokens and on what ends its turns.

    Raises ValueError if the template does not show the assistant's text (see `render_conversation`).
    """
    text, spans = render_conversation(tokenizer, messages, tools, thinking)
    encoded: Any = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    mask = [0] * len(ids)
    for start, end in spans:
        for n, (a, b) in enumerate(offsets):
            if a < end and b > start and b > a:
                mask[n] = 1
    return ids, mask


def unroll(tokenizer: PreTrainedTokenizerBase, messages: Messages, tools: list | None = None) -> list[Messages]:
    """The conversation, and before it one more for each earlier turn whose thoughts the template leaves out of a history.

    Such a turn ends the one more, where its thoughts are shown and trained on; in the longer ones it is only shown, since a
    model that thinks would not have written it without them.
    """
    thinking = [
        i
        for i, m in enumerate(messages[:-1])
        if m["role"] == "assistant" and m.get("reasoning_content") and m.get("train") is not False
    ]
    if not thinking:
        return [messages]
    text = render(tokenizer, messages, respond=False, tools=tools)
    dropped = [i for i in thinking if not shows(text, messages[i]["reasoning_content"])]

    def mask(part: Messages, masked: Sequence[int]) -> Messages:
        return [{**m, "train": False} if i in masked else m for i, m in enumerate(part)]

    answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    alone = [mask(messages[: i + 1], [n for n in answers if n != i]) for i in dropped]
    whole = mask(messages, dropped)
    return [*alone, whole] if any(whole[i].get("train") is not False for i in answers) else alone
