"""What an instruction is (a user turn and the turns before it), and what makes one unfit by itself or as a copy.

Used by `holdfast reconstruct`, which counts what is fit, by `holdfast curate`, which rejects the rest, and by `judge`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from holdfast.chat import encoding
from holdfast.data import filters
from holdfast.data.overlap import words
from holdfast.params.row_checks import RowChecks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Fault = tuple[str, str]  # reason, detail
# What is looked for in the turns that no user wrote: a short answer, or one that refuses, is a good answer
NOT_THE_USERS = ("template_leak", "control_characters", "broken_text", "personal_data", "repetition")


def normalised(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def same(text: str, context: encoding.Messages) -> bytes:
    """Equal for equal instructions, case and spacing aside: 64 bits; among a million two collide with a chance of 3e-8."""
    said = [f"{turn['role']}: {turn['content']}" for turn in context] + [text]
    plain = "\x1f".join(" ".join(part.casefold().split()) for part in said)
    return blake2b(plain.encode(), digest_size=8).digest()


def transcript(turns: encoding.Messages) -> str:
    """An instruction as one text: the user turn alone, or the conversation with its speakers."""
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns)


def checker(
    params: RowChecks, tokenizer: PreTrainedTokenizerBase, where: object
) -> Callable[[dict[str, Any]], Fault | None]:
    """A function from a row of instructions_raw to the first thing that is wrong with it by itself."""
    special = encoding.special_strings(tokenizer)
    built_in = encoding.pre_query(tokenizer, where).prefix
    for token in special:
        built_in = built_in.replace(token, "\n")
    checks = filters.lineup(params, special, built_in.splitlines())

    def fault(row: dict[str, Any]) -> Fault | None:
        if params.finished_only and row["finish"] != "stop":
            return "unfinished", f"{row['n_tokens']} tokens"
        text = normalised(row["text"])
        if found := next(((reason, why) for reason, check in checks.items() if (why := check(text))), None):
            return found
        for turn in row["context"]:
            asked = checks if turn["role"] == "user" else [r for r in NOT_THE_USERS if r in checks]
            if found := next(((r, f"earlier turn: {why}") for r in asked if (why := checks[r](turn["content"]))), None):
                return found
            if turn["role"] == "system" and (shared := filters.echo(text, [words(turn["content"])])):
                return "system_echo", shared
        return None

    return fault


class Fit:
    """Says what is wrong with a row by itself, or as an exact copy of one that was fit."""

    def __init__(self, checks: RowChecks, tokenizer: PreTrainedTokenizerBase, where: object) -> None:
        self.check, self.seen = checker(checks, tokenizer, where), set[bytes]()

    def fault(self, row: dict[str, Any]) -> str:
        """The reason, or "". What is fit is remembered."""
        if fault := self.check(row):
            return fault[0]
        key = same(row["text"], row["context"])
        if key in self.seen:
            return "duplicate"
        self.seen.add(key)
        return ""
