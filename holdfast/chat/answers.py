"""What a model wrote after its prompt, as the turn that its template writes back, byte for byte.

An answer beside tools is kept as a turn with calls, so that the markers around a call are always the template's and never
text that somebody wrote; whatever the template would write otherwise is no such turn.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from holdfast.chat import encoding
from holdfast.chat.calls import PROBE_CALL, PROBE_TOOL, Call, Tools, names_of, parse_calls, reads_calls
from holdfast.chat.templates import Messages
from holdfast.chat.thinking import CLOSINGS, find_switch, opens_thought, split_thoughts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WRITTEN_ID = re.compile(r'"id": ?"([^"]{1,64})"')  # of a call, where a template shows it
PROBE_ID = "call00001"  # nine letters and digits, as Mistral's templates want them


def read_answer(
    tokenizer: PreTrainedTokenizerBase,
    chat: Messages,
    written: str,
    tools: Tools | None = None,
    thinking: bool | None = None,
) -> dict[str, Any] | None:
    """The assistant's turn after `chat` (escaped), without blanks at its end, beside `tools` and with the switch for thoughts as
    `thinking` says: its text, thoughts and calls. None where a call cannot be read or names none of the tools, where thoughts
    that are switched on are missing, empty or never end, where the text spells a control token that is no part of a call, and
    where the template would write the turn otherwise."""
    prompt = encoding.render(tokenizer, chat, respond=True, tools=tools, thinking=thinking)
    written = written.rstrip()
    thoughts, answer = split_thoughts(written, opens_thought(prompt))
    if thinking and not (thoughts and answer):
        return None
    calls = parse_calls(answer, tools) if tools else []
    if any(call.name not in names_of(tools or []) for call in calls):
        return None
    opening = find_call_opening(tokenizer, tools) if tools else ""
    if not calls and opening and opening in answer:
        return None
    for thoughts_of, text in [(thoughts, answer)] if thinking else dict.fromkeys([(thoughts, answer), (None, written)]):
        for turn in spell_turns(text, thoughts_of, calls, opening):
            safe = encoding.escape_controls(encoding.special_strings(tokenizer), turn)
            if safe == turn and writes_back(tokenizer, [*chat, turn], tools, thinking, prompt + written):
                return turn
    return None


def spell_turns(text: str, thoughts: str | None, calls: list[Call], opening: str) -> list[dict[str, Any]]:
    """The turns that this text may be: without calls one, with calls one for each way to name them."""
    turn: dict[str, Any] = {"role": "assistant", "content": text}
    if thoughts:
        turn["reasoning_content"] = thoughts
    if not calls:
        return [turn]
    turn["content"] = text.partition(opening)[0].strip() if opening and opening in text else ""
    written_ids = WRITTEN_ID.findall(text)
    ways = [
        written_ids if len(written_ids) == len(calls) else [],
        [f"call{n:05d}" for n in range(1, len(calls) + 1)],
        [f"functions.{call.name}:{n}" for n, call in enumerate(calls)],
    ]
    return [
        {
            **turn,
            "tool_calls": [
                {"id": id, "type": "function", "function": call._asdict()} for id, call in zip(ids, calls, strict=True)
            ],
        }
        for ids in ways
        if ids
    ]


def writes_back(
    tokenizer: PreTrainedTokenizerBase, chat: Messages, tools: Tools | None, thinking: bool | None, whole: str
) -> bool:
    """Whether the rendered conversation is `whole`, a prompt and what the model wrote, and an end of the last turn."""
    try:
        text, spans = encoding.render_conversation(tokenizer, chat, tools, thinking)
    except Exception:  # a template is a third-party program: it may raise anything
        return False
    return text.startswith(whole) and text[len(whole) : spans[-1][1]].strip() in ("", *list_ends(tokenizer))


def find_call_opening(tokenizer: PreTrainedTokenizerBase, tools: Tools) -> str:
    """What this template writes before the name of a call, its first line: "<tool_call>"; "" where that is nothing."""
    name = tools[0].get("function", tools[0])["name"]
    call = {"id": PROBE_ID, "type": "function", "function": {"name": name, "arguments": {}}}
    chat = [*encoding.turns("-"), {"role": "assistant", "content": "", "tool_calls": [call]}]
    try:
        text, spans = encoding.render_conversation(tokenizer, chat, tools)
    except Exception:  # a template is a third-party program: it may raise anything
        return ""
    before = text[slice(*spans[-1])].partition(name)[0]
    for closing in CLOSINGS:
        before = before.rpartition(closing)[2]
    return next(iter(before.strip().splitlines()), "").strip()


def keeps_calls(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether this template shows tools, and a call that a model wrote as it does becomes a turn again, with thoughts or without."""
    if not reads_calls(tokenizer):
        return False
    tools = [{"type": "function", "function": PROBE_TOOL}]
    chat = encoding.turns("Two seats to S\u00e3o Paulo, please.")
    prompt = encoding.render(tokenizer, chat, respond=True, tools=tools)
    for turn in (*spell_turns("", None, [PROBE_CALL], ""), *spell_turns("", "A train.", [PROBE_CALL], "")):
        written = spell_written(tokenizer, chat, turn, tools, prompt)
        if written and read_answer(tokenizer, chat, written, tools) == turn:
            return True
    return False


def keeps_thoughts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether this template has a switch for thoughts, and what a model wrote with it on, and off, becomes a turn again."""
    if find_switch(encoding.template_of(tokenizer)) is None:
        return False
    chat = encoding.turns("How many seats are left?")
    on = {"role": "assistant", "content": "Two.", "reasoning_content": "Four less two."}
    off = {"role": "assistant", "content": "Two."}
    for turn, thinking in ((on, True), (off, False)):
        prompt = encoding.render(tokenizer, chat, respond=True, thinking=thinking)
        written = spell_written(tokenizer, chat, turn, None, prompt, thinking)
        if not written or read_answer(tokenizer, chat, written, None, thinking) != turn:
            return False
    return True


def spell_written(
    tokenizer: PreTrainedTokenizerBase,
    chat: Messages,
    turn: dict[str, Any],
    tools: Tools | None,
    prompt: str,
    thinking: bool | None = None,
) -> str:
    """What a model writes after the prompt for the template's own spelling of this turn; "" where that does not go on from it."""
    try:
        text, spans = encoding.render_conversation(tokenizer, [*chat, turn], tools, thinking)
    except Exception:  # a template is a third-party program: it may raise anything
        return ""
    if not text.startswith(prompt):
        return ""
    written = text[len(prompt) : spans[-1][1]]
    for end in sorted(list_ends(tokenizer), key=len, reverse=True):
        if written.rstrip().endswith(end):
            return written.rstrip().removesuffix(end)
    return written


def list_ends(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What may end the assistant's turn, without blanks."""
    ends = encoding.assistant_end(tokenizer)
    return [end.strip() for end in (ends.last, ends.inner, ends.added) if end.strip()]
