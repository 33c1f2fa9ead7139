"""The params file that `init` writes has no stray line: keys stand together, and a comment beside what it is about."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from holdfast.params.ingest import Columns
from holdfast.params.models import Model
from holdfast.planning.shapes import Shape
from holdfast.planning.survey import Survey
from holdfast.planning.tailor import tailor_params


@pytest.mark.parametrize("profile", ["qwen2.5-0.5b", "llama-3.1-8b", "paper"])
def test_no_key_follows_a_blank_line_and_no_comment_its_replacement(profile):
    chat = [{"role": "user", "content": "où?"}, {"role": "assistant", "content": "là"}]
    shape = Shape(500_000_000, 24, 896, 14, 2, 151_936, 4096)
    survey = Survey(
        form="columns",
        rows=101,
        rejected=Counter(),
        duplicates=0,
        conversations=[chat] * 100 + [[chat[0], {**chat[1], "content": "x" * 9000}]],
        lengths=[10] * 100 + [5000],
        answers=[5] * 101,
        languages=[("fr", 1.0)],
        remarks=[],
        encoding="cp1252",
        joined=True,
    )
    columns = Columns(prompt="QUESTION", response="final_decision")
    text, notes = tailor_params(profile, Model(path="b"), survey, shape, None, Path("d.csv"), Path("t.csv"), columns)
    lines = text.splitlines()
    assert not [line for before, line in pairwise(lines) if not before and line.startswith(" ")]
    assert "  columns:\n    prompt: QUESTION\n    response: final_decision\n" in text
    assert {"same_role: join", "encoding: cp1252", "max_chars: 9002"} <= {line.strip() for line in lines}
    assert "lookalikes:" in text and "calls are lost" not in text, "the comment of a key that went stays behind"
    assert any("read as cp1252, so that it says 'où?'" in note for note in notes)
