"""User turns in the form of the domain's: what the form is, and how turns are drawn in it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from helpers import run_stage, set_params

from holdfast.core import records, storage
from holdfast.params.reconstruct import Reconstruct
from holdfast.reconstruction import lookalikes, user_turns


def row(text: object, **more: object) -> dict:
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": "label"}]
    return {"id": "a", "messages": turns, "group": "", "source": "x:1", **more}


def test_openings_are_what_many_rows_begin_with_and_no_names(tokenizer):
    texts = ["How long?"] * 50 + ["Why?"] * 2 + ["Rumpelstiltskin sorts it"] + ["sort it"] * 47
    form = lookalikes.describe_form([row(text) for text in texts], tokenizer)
    assert form["openings"] == {"How": 0.5, "sort": 0.47, "Why?": 0.02}


def test_the_length_is_the_upper_quartile_in_steps_of_four_tokens(tokenizer):
    def tokens(text):
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    texts = ["sort it"] * 75 + ["sort it " * 40] * 25
    assert (
        lookalikes.describe_form([row(text) for text in texts], tokenizer)["tokens"] == -(-tokens("sort it") // 4) * 4
    )


def test_a_system_turn_is_not_the_users(tokenizer):
    messages = [{"role": "system", "content": "Obey."}, *row("sort it")["messages"]]
    assert lookalikes.describe_form([row("", messages=messages)] * 3, tokenizer)["openings"] == {"sort": 1.0}


@pytest.mark.parametrize("text", ["<|user|> sort", "<|end|>", "", " \n", "a" * 25, "\u202esort it"])
def test_no_control_token_and_no_long_or_invisible_word_becomes_an_opening(tokenizer, text):
    assert lookalikes.describe_form([row(text)] * 5, tokenizer)["openings"] == {}


def test_every_opening_has_its_part_of_the_draws():
    form = lookalikes.Form({"How": 0.5, "Why": 0.25}, 8)
    assert [form.draw_opening(drawn) for drawn in (0.0, 0.49, 0.5, 0.74, 0.75, 0.99)] == ["How"] * 2 + ["Why"] * 2 + [
        ""
    ] * 2


def test_turns_are_drawn_in_the_form_and_counted(project: Path, base: Path):
    storage.write_json(
        project / "reports/amount.json",
        {"schema": 1, "instructions": None, "form": {"openings": {"sort": 1.0}, "tokens": 8}},
    )
    set_params(project, reconstruct={"samples": 60, "max_tokens": 12, "folder": ".", "lookalikes": {"share": 0.5}})
    run_stage("reconstruct")
    rows = records.read("instructions_raw", project / "data/instructions/raw.parquet")
    drawn = [row for row in rows if row["family"] == "lookalikes"]
    assert 15 < len(drawn) < 45
    assert all(row["text"].startswith("sort") and row["n_tokens"] <= 8 and not row["context"] for row in drawn)
    assert max(row["n_tokens"] for row in rows) > 8
    counts = storage.read_json(project / "reports/reconstruct.json")["sources"]["self"]["lookalikes"]
    assert counts["rows"] == len(drawn) >= counts["fit"]


def test_of_a_conversation_the_last_turn_is_a_lookalike():
    """Rows that do not go on, and the conversations that end early, are as without `turns`."""
    params = Reconstruct(samples=1, max_tokens=50, lookalikes={"share": 0.5}, turns={"share": 0.5, "extra": 2})
    parts = user_turns.PromptParts([], {}, form=lookalikes.Form({"How": 1.0}, 8))
    first = [user_turns.draw_settings(sample, params, parts) for sample in range(400)]
    wanted = [user_turns.find_kind(params, turn.seed) == "lookalikes" for turn in first]
    goes_on = [user_turns.goes_on(params, turn.seed) for turn in first]
    assert [(turn.kind, turn.opening, turn.max_tokens) for turn in first] == [
        ("lookalikes", "How", 8) if wanted and not goes_on else ("", "", 50)
        for wanted, goes_on in zip(wanted, goes_on, strict=True)
    ]
    last = [user_turns.take_form(turn, params, parts.form) for turn in first]
    assert [(turn.kind, turn.opening, turn.max_tokens) for turn in last] == [
        ("lookalikes", "How", 8) if wanted else ("", "", 50) for wanted in wanted
    ]
    counts = Counter(zip(wanted, goes_on, strict=True))
    assert len(counts) == 4 and min(counts.values()) > 60


def test_shares_of_kinds_are_not_more_than_all():
    with pytest.raises(ValueError, match="more than 1 together"):
        Reconstruct(samples=10, lookalikes={"share": 0.6}, thinking={"share": 0.5})
    Reconstruct(
        samples=10,
        lookalikes={"share": 0.7},
        tools={"share": 0.1},
        thinking={"share": 0.1},
        languages={"share": 0.1, "codes": ["de"]},
    )
