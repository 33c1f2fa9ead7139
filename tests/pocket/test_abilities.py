"""The further stage of the pocket recipe: plain chats render as before, and what it teaches is what the template writes and reads."""

from __future__ import annotations

import random
from typing import Any

import pytest
from helpers import ROOT

from holdfast.chat import answers, encoding
from holdfast.core import manifest
from holdfast.data.refusals import is_refusal
from holdfast.pocket import abilities, ability_world


@pytest.fixture(scope="module")
def tokenizers() -> tuple[Any, Any]:
    before, after = (manifest.load_tokenizer(ROOT / "models" / "pocket" / "base") for _ in range(2))
    after.chat_template = abilities.CHAT_TEMPLATE
    return before, after


def test_plain_chats_are_rendered_as_before(tokenizers: tuple[Any, Any]):
    before, after = tokenizers
    chat = [{"role": "system", "content": "Be brief."}, *encoding.turns("Hi", "Hello", "2 + 2 =")]
    for part in (chat[1:2], chat[1:3], chat[:2], chat):
        for respond in (True, False):
            assert encoding.render(after, part, respond=respond) == encoding.render(before, part, respond=respond)
    assert encoding.render(after, chat, respond=True, thinking=False) == encoding.render(before, chat, respond=True)
    assert answers.keeps_calls(after) and answers.keeps_thoughts(after) and not answers.keeps_calls(before)


def test_what_is_taught_is_what_the_template_writes_and_holdfast_reads_back(tokenizers: tuple[Any, Any]):
    tokenizer = tokenizers[1]
    examples = list(ability_world.draw_examples(random.Random(1), 60, abilities.SHARES))
    assert {bool(one.functions) for one in examples} == {one.thinking for one in examples} == {True, False}
    for example, (ids, _) in zip(examples, abilities.encode(tokenizer, examples), strict=True):
        tools, chat = [function.tool() for function in example.functions] or None, encoding.turns(example.asked)
        turn = answers.read_answer(tokenizer, chat, example.answer, tools, example.thinking)
        assert turn is not None, example
        assert encoding.encode(tokenizer, [*chat, turn], tools, example.thinking)[0] == ids


def test_what_is_asked_was_never_taught():
    taught = {one.asked for one in ability_world.draw_examples(random.Random(2), 5000, abilities.SHARES)}
    for ability in ("refusals", "over_refusals", "tools", "thinking_on"):
        asked = ability_world.evaluation_examples(ability, 40, "test")
        plain = {one.asked for one in asked if not (one.functions and "<tool_call>" not in one.answer)}
        assert len(asked) == 40 and not plain & taught
    assert all(is_refusal(one.answer) for one in ability_world.evaluation_examples("refusals", 5, "test"))
