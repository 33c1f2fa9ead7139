"""What an instruction is: a user turn and the turns before it. What makes one unfit is in holdfast/data/row_checks.py."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from holdfast.core.rows import Family

if TYPE_CHECKING:
    from holdfast.chat.encoding import Messages


def normalise(text: str) -> str:
    """The text in NFC, without outer whitespace."""
    return unicodedata.normalize("NFC", text).strip()


def messages(row: Mapping[str, Any]) -> Messages:
    """The chat of a row of instructions_raw, instructions_kept or instructions_rejected: its context, then its text."""
    return [*row["context"], {"role": "user", "content": row["text"]}]


def needs_base(row: Mapping[str, Any]) -> bool:
    """Whether only the base answers this row, and no judge is asked: beside tools, and with thoughts."""
    return bool(row.get("tools") or row.get("thinking"))


def transcript(turns: Messages) -> str:
    """An instruction as one text: the user turn alone, or the conversation with its speakers."""
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns)


def family_of(context: Messages) -> Family:
    """What an instruction after these turns is to keep."""
    roles = {turn["role"] for turn in context}
    return "turns" if "user" in roles else "system" if "system" in roles else "plain"


def key(text: str, context: Messages) -> bytes:
    """Eight bytes that are equal for equal instructions, case and spacing aside.

    Two different ones among a million collide with a probability of 3e-8.
    """
    turns = [f"{turn['role']}: {turn['content']}" for turn in context] + [text]
    plain = "\x1f".join(" ".join(turn.casefold().split()) for turn in turns)
    return blake2b(plain.encode(), digest_size=8).digest()
