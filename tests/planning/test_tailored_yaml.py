"""The params file that `init` writes has no stray line: keys stand together, and a comment beside what it is about."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from holdfast.params.ingest import Columns
from holdfast.params.models import Model
from holdfast.params.whole import Params
from holdfast.planning.shapes import Shape
from holdfast.planning.survey import Survey
from holdfast.planning.tailor import tailor_params

CHAT = [{"role": "user", "content": "où?"}, {"role": "assistant", "content": "là"}]


def survey_of(conversations: list, **more: Any) -> Survey:
    n = len(conversations)
    return Survey(
        **{
            "form": "messages",
            "rows": n,
            "rejected": Counter(),
            "duplicates": 0,
            "conversations": conversations,
            "lengths": [10] * n,
            "answers": [5] * n,
            "languages": [("fr", 1.0)],
            "remarks": [],
            "encoding": "utf-8",
            "joined": False,
            **more,
        }
    )


@pytest.mark.parametrize("profile", ["qwen2.5-0.5b", "llama-3.1-8b", "paper"])
@pytest.mark.parametrize(("billions", "rank"), [(0.99, None), (1.0, 32), (8.0, 32)])
def test_a_base_of_a_billion_parameters_trains_adapters_at_their_own_rate(profile, billions, rank):
    shape = Shape(int(billions * 1e9), 32, 4096, 32, 8, 128_256, 8192)
    text, notes = tailor_params(
        profile, Model(path="b"), survey_of([CHAT] * 100), shape, None, Path("d.jsonl"), None, None
    )
    params = Params.from_text(text)
    arms = params.finetune.arms
    assert [arms[name].lora_rank for name in params.arms] == [rank, rank]
    assert params.finetune.learning_rate == (3e-4 if rank else 9e-5)
    assert any("LoRA" in note for note in notes) == bool(rank)
    if rank:
        assert params.finetune.processes.strategy == "ddp" and arms["holdfast"].kl_cache == "off"


@pytest.mark.parametrize("profile", ["qwen2.5-0.5b", "llama-3.1-8b", "paper"])
def test_no_key_follows_a_blank_line_and_no_comment_its_replacement(profile):
    shape = Shape(500_000_000, 24, 896, 14, 2, 151_936, 4096)
    long = [CHAT[0], {**CHAT[1], "content": "x" * 9000}]
    own = dict(form="columns", rows=101, lengths=[10] * 100 + [5000], encoding="cp1252", joined=True)
    survey = survey_of([CHAT] * 100 + [long], **own)
    columns = Columns(prompt="QUESTION", response="final_decision")
    text, notes = tailor_params(profile, Model(path="b"), survey, shape, None, Path("d.csv"), Path("t.csv"), columns)
    lines = text.splitlines()
    assert not [line for before, line in pairwise(lines) if not before and line.startswith(" ")]
    assert "  columns:\n    prompt: QUESTION\n    response: final_decision\n" in text
    assert {"same_role: join", "encoding: cp1252", "max_chars: 9002"} <= {line.strip() for line in lines}
    assert "  lookalikes:\n    share: 0.7\n" in text and "calls are lost" not in text, (
        "the comment of a key that went stays behind"
    )
    assert any("read as cp1252, so that it says 'où?'" in note for note in notes)


def test_conversations_are_asked_for_where_template_and_context_have_room(tokenizer):
    shape = Shape(500_000_000, 24, 896, 14, 2, 151_936, 4096)

    def reconstruct_of(shape: Shape, tokenizer: Any) -> tuple[Any, int]:
        text, _ = tailor_params(
            "qwen2.5-0.5b", Model(path="b"), survey_of([CHAT] * 100), shape, tokenizer, Path("d.jsonl"), None, None
        )
        assert "\n  turns:\n\n" not in text
        params = Params.from_text(text)
        return params.reconstruct, params.finetune.max_length

    params, length = reconstruct_of(shape, tokenizer)
    assert params.turns and params.turns.share == 0.3
    assert length >= 3 * params.max_tokens + 32, "two turns of the user and one between fit into the training length"
    assert reconstruct_of(shape, None)[0].turns is None
    short, short_length = reconstruct_of(replace(shape, context=500), tokenizer)
    assert short.turns and short.turns.max_tokens < 128 and short_length <= 500
    tokenizer.chat_template = "{% if messages | length > 2 %}{{ raise_exception('one turn') }}{% endif %}" + str(
        tokenizer.chat_template
    )
    assert reconstruct_of(shape, tokenizer)[0].turns is None
