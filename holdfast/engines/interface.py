"""What every engine offers, so that a stage need not know where a model runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

import numpy as np

from holdfast.chat.templates import Messages

SCORES = "12345"


@dataclass(frozen=True, slots=True)
class Completion:
    text: str
    finish_reason: str  # "stop": the model ended its turn; "length": it ran into max_tokens
    n_tokens: int  # without the token that ended it; from an endpoint, as the server counts


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn, and where they end: at `max_tokens`, a stop token or a stop string, whatever comes first.

    A row's seed is not part of it: each row has its own.
    """

    temperature: float | Sequence[float]  # of all rows, or one of each; 0 is greedy
    top_p: float  # 1: every token may be drawn
    max_tokens: int
    stop_ids: Sequence[int] = ()
    stop_strings: Sequence[str] = ()
    min_p: float = 0.0  # tokens less probable than this part of the most probable one are never drawn

    def temperatures(self, rows: int) -> list[float]:
        """The temperature of each row. Raises ValueError where it has as many as there are rows, or one for all."""
        if isinstance(self.temperature, (int, float)):
            return [float(self.temperature)] * rows
        if len(self.temperature) != rows:
            raise ValueError(f"{len(self.temperature)} temperatures for {rows} rows")
        return list(self.temperature)


class Engine(Protocol):
    """One model, wherever it runs. Every method takes any number of rows and returns one result per row, in order.

    Chats end with the user's turn. Their contents, answers and texts are untrusted: the engine escapes its own special tokens in
    them, and callers do not. Only `complete` takes token ids as they are.
    """

    def complete(self, prompts: Sequence[list[int]], seeds: Sequence[int], sampling: Sampling) -> list[Completion]:
        """Goes on from token ids as they are, with no template around them."""

    def answer(self, chats: Sequence[Messages], seeds: Sequence[int], sampling: Sampling) -> list[Completion]:
        """The assistant's next turn of each chat. It ends where the template ends it: `sampling` names no stops of its own."""

    def scores(self, chats: Sequence[Messages], attempts: int = 3) -> np.ndarray:
        """Probability that the assistant begins with "1" .. "5", (N, 5); a row of NaN where it could not be learnt.

        `attempts`: at a score that has to be read from generated text.
        """

    def lengths(self, chats: Sequence[Messages]) -> list[int] | list[None]:
        """Tokens of each chat as a prompt; None where the tokenizer is not here."""

    def likelihood(
        self, chats: Sequence[Messages], answers: Sequence[str], thinking: bool | None = None
    ) -> list[float]:
        """Mean log-probability (nats) per token of each answer, with the token that ends it. `thinking`: the template's switch
        for thoughts; None: as the template has it."""

    def escape_special_tokens(self, text: str) -> str:
        """Untrusted text as the engine reads it: no control token is spelled any more. Idempotent."""


def seed_of(*parts: object) -> int:
    """A row's own seed: 63 bits of the hash of the parts."""
    return int.from_bytes(blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()) >> 1
