"""The params file that `init` writes has no stray line: keys stand together, and a comment beside what it is about."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from holdfast.core import manifest
from holdfast.params.ingest import Columns
from holdfast.params.models import Model
from holdfast.params.reconstruct import Reconstruct
from holdfast.params.whole import Params
from holdfast.planning.profiles import find_profile
from holdfast.planning.replay_kinds import fit_conversations
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


def test_conversations_are_asked_for_where_template_context_and_device_have_room(tokenizer, monkeypatch):
    def ask(context: int) -> Any:
        content: Any = YAML().load(find_profile("qwen2.5-0.5b").read_text(encoding="utf-8"))
        content["reconstruct"]["max_tokens"], content["respond"]["max_tokens"] = 200, 30
        content["finetune"]["max_length"] = 300
        shape = Shape(500_000_000, 24, 896, 14, 2, 151_936, context)
        assert bool(fit_conversations(content, shape, tokenizer)) == ("turns" in content["reconstruct"])
        Reconstruct.model_validate(content["reconstruct"])
        return content

    assert "turns" not in ask(4096)["reconstruct"], "on a CPU"
    monkeypatch.setattr(manifest, "find_device", lambda: torch.device("cuda"))
    content = ask(4096)
    assert content["reconstruct"]["turns"] == {"share": 0.3, "max_tokens": 200}
    assert list(content["reconstruct"])[-1] == "seed", "the blank line after the section stays there"
    assert content["finetune"]["max_length"] >= 3 * 200 + 30, "two turns of the user and one between fit into it"
    assert "turns" not in ask(600)["reconstruct"]
    tokenizer.chat_template = "{% if messages | length > 2 %}{{ raise_exception('one turn') }}{% endif %}" + str(
        tokenizer.chat_template
    )
    assert "turns" not in ask(4096)["reconstruct"]
