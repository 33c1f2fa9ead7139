"""Answers beside tools, and with a template's switch for thoughts on or off: from any engine that goes on from token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.chat import encoding
from holdfast.chat.templates import Messages
from holdfast.engines.interface import Completion, Engine, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Prompt(NamedTuple):
    """A chat that ends with the user's turn, and how its prompt is rendered."""

    chat: Messages
    tools: list[Any] | None = None  # that may be called
    thinking: bool | None = None  # the switch for thoughts; None: as the template has it

    def as_it_is(self) -> bool:
        """Whether the engine's own `answer` renders it."""
        return not self.tools and self.thinking is None


def answer_chats(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase | None,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    sampling: Sampling,
) -> list[Completion]:
    """The assistant's next turn of each chat. `tokenizer`: the model's; None where it is not here: then the engine renders every
    chat, and none may have tools."""
    answers: dict[int, Completion] = {}
    plain = [n for n, one in enumerate(prompts) if tokenizer is None or one.as_it_is()]
    if plain:
        done = engine.answer([prompts[n].chat for n in plain], [seeds[n] for n in plain], sampling)
        answers |= zip(plain, done, strict=True)
    others = [n for n in range(len(prompts)) if n not in answers]
    if others and tokenizer is not None:
        ids = [
            encoding.prompt_ids(
                tokenizer, encoding.escape_messages(tokenizer, prompts[n].chat), prompts[n].tools, prompts[n].thinking
            )
            for n in others
        ]
        ends = replace(sampling, stop_ids=encoding.assistant_stop_ids(tokenizer))
        answers |= zip(others, engine.complete(ids, [seeds[n] for n in others], ends), strict=True)
    return [answers[n] for n in range(len(prompts))]
