"""Data as people have them: every folder of ../shared/cases gives the right conversations, or the exact refusal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, SHARED

from holdfast.core import manifest
from holdfast.core.errors import UserError
from holdfast.data import ingestion, splitting
from holdfast.data.ingestion import Split
from holdfast.data.template_fit import ENDS, ESCAPED, INLINE, TemplateFit
from holdfast.data.turn_order import BLANK, CUT, JOINED
from holdfast.params.ingest import Ingest

CASES = SHARED / "cases"
SCHEMA = [{"type": "function", "function": {"name": "shelf", "parameters": {"type": "object", "properties": {}}}}]
NO_TOOLS = "it has tools, and the base's chat template shows none"
NO_CALLS = "it has tool calls, and the base's chat template shows none"


@pytest.fixture(scope="module")
def pocket() -> Any:
    return manifest.load_tokenizer(ROOT / "models/pocket/base")


@pytest.fixture(scope="module")
def qwen() -> Any:
    folder = SHARED / "tokenizers" / "qwen2.5-0.5b-instruct"
    if not folder.is_dir():
        pytest.skip("real tokenizers are not here")
    return manifest.load_tokenizer(folder)


def read(case: str, tokenizer: Any, file: str | None = None, **params: Any) -> Split:
    folder = CASES / case
    if not folder.is_dir():
        pytest.skip("the cases are not here")
    path = file or next(f.name for f in sorted(folder.iterdir(), reverse=True) if f.name.startswith(("train", "data")))
    settings = Ingest.model_validate({"folder": str(folder), "train": {"path": path}, "max_rejected": 1.0, **params})
    split = ingestion.read_split("train", settings.train, settings, TemplateFit(tokenizer))
    report = split.report
    assert report["fields"] == sum(report["used"].values()) + sum(report["unused"].values())
    assert len(split.kept) + len(split.rejected) == report["read"]
    return split


def first_turns(split: Split) -> list[tuple[Any, ...]]:
    """role and content of each turn of the first row, and whatever else it holds."""
    return [(*(m[key] for key in ("role", "content")), *list(m.values())[2:]) for m in split.kept[0].turns()]


ASKED, SHELF = ("user", "Which shelf holds box 0?"), ("assistant", "Shelf 0")
PLAIN = [ASKED, SHELF]
WITH_SYSTEM = [("system", "You know the depot."), *PLAIN]


@pytest.mark.parametrize(
    ("case", "turns", "changed", "params"),
    [
        ("bom_crlf", PLAIN, {}, {}),
        ("conversation_field", PLAIN, {}, {}),
        ("conversation_field", PLAIN, {}, {"format": "columns", "columns": {"messages": "conversation"}}),
        ("conversations_role_content", PLAIN, {}, {}),
        ("messages_from_value", PLAIN, {}, {}),
        ("parts", PLAIN, {}, {}),
        ("role_developer", WITH_SYSTEM, {}, {}),
        ("system_turns", WITH_SYSTEM, {}, {}),
        ("gz", PLAIN, {}, {}),
        ("shards", PLAIN, {}, {}),
        ("parquet", PLAIN, {}, {}),
        ("jsonl_named_json", PLAIN, {}, {}),
        ("utf16", PLAIN, {}, {}),
        ("utf16_csv", PLAIN, {}, {}),
        ("preference", PLAIN, {}, {}),
        ("semicolon_csv", [("user", "Which shelf, please, holds box 0?"), SHELF], {}, {}),
        ("csv_floats", [("user", 'Shelf of "box" 0?\nAnswer briefly.'), ("assistant", "0.0")], {}, {}),
        ("latin1_csv", [("user", "Où est la boîte 0?"), ("assistant", "Étagère 0")], {}, {"encoding": "cp1252"}),
        ("last_user", PLAIN, {CUT}, {}),
        (
            "sharegpt_two_users",
            [("user", "Hello\n\nWhich shelf holds box 0?"), SHELF],
            {JOINED},
            {"same_role": "join"},
        ),
        ("eos_in_answers", PLAIN, {ENDS}, {}),
        (
            "special_in_text",
            [("user", "What does <|end|> mean in line 0?"), ("assistant", "<|end|> closes turn 0")],
            {ENDS, ESCAPED},
            {},
        ),
        (
            "alpaca_history",
            [
                ("system", "You know the depot."),
                ("user", "Which shelf holds box 3?"),
                ("assistant", "Shelf 3"),
                ("user", "And box 0?"),
                SHELF,
            ],
            {},
            {},
        ),
        (
            "weight_zero",
            [
                ASKED,
                ("assistant", "No idea, go away.", False),
                ("user", "Please be polite and tell me about box 0."),
                SHELF,
            ],
            {},
            {},
        ),
        ("reasoning_content", [ASKED, (*SHELF, "Box 0: 0 mod 7 is 0.")], {INLINE}, {}),
        ("think_inline", [ASKED, ("assistant", "<think>\n0 mod 7 is 0\n</think>\n\nShelf 0")], {}, {}),
    ],
)  # every row of a case is alike
def test_a_case_gives_the_right_conversation(case, turns, changed, params, pocket):
    split = read(case, pocket, **params)
    assert first_turns(split) == turns
    assert set(split.report["changed"]) == set(changed)
    assert set(split.report["changed"].values()) <= {len(split.kept)}
    assert {row.reason for row in split.rejected} <= {"duplicate"}
    unused = {"preference": {"rejected": len(split.kept)}}
    assert split.report["unused"] == unused.get(case, {})


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("tool_calls", NO_TOOLS),
        ("tool_call_with_text", NO_TOOLS),
        ("sharegpt_function_call", NO_CALLS),
        ("sharegpt_two_users", "two turns of one role in a row"),
    ],
)
def test_a_row_that_this_base_cannot_be_taught_is_refused_with_the_reason(case, reason, pocket):
    with pytest.raises(UserError, match="empty domain set: no row can be used") as caught:
        read(case, pocket)
    assert re.search(rf"\(\d+ {re.escape(reason)}[,)]", str(caught.value))


@pytest.mark.parametrize(
    ("case", "roles", "calls"),
    [
        ("tool_calls", ["user", "assistant", "tool", "assistant"], {"box": 0}),
        ("tool_call_with_text", ["user", "assistant"], {"box": 0}),
        ("sharegpt_function_call", ["user", "assistant", "tool", "assistant"], {"box": 0}),
    ],
)
def test_tool_calls_are_kept_where_the_template_shows_them(case, roles, calls, qwen):
    split = read(case, qwen)
    assert not split.rejected and split.report["unused"] == {}
    turns = split.kept[0].turns()
    assert [turn["role"] for turn in turns] == roles
    assert turns[1]["tool_calls"][0]["function"] == {"name": "shelf", "arguments": calls}
    tools = json.loads(split.kept[0].tools) if split.kept[0].tools else None
    assert (tools is None) == (case == "sharegpt_function_call")


def test_nan_is_rejected_and_the_other_labels_are_text(pocket):
    split = read("nan", pocket)
    assert first_turns(split)[1] == ("assistant", "0")
    assert {row.reason for row in split.rejected} == {"field 'completion' is not text"}
    assert 0 < len(split.rejected) < split.report["read"]


def test_latin_1_without_its_encoding_is_refused_with_the_param_that_helps(pocket):
    with pytest.raises(UserError, match=r"not UTF-8 text[\s\S]*ingest.encoding: cp1252"):
        read("latin1_csv", pocket)


def test_what_was_found_out_about_a_csv_file_is_reported(pocket):
    report = read("semicolon_csv", pocket).report
    assert report["files"]["train.csv"] == {"delimiter": ";", "header": "prompt, completion"}


def test_escaped_tokens_are_counted_and_one_row_is_shown(pocket):
    report = read("special_in_text", pocket).report
    rows = report["kept"] if "kept" in report else report["read"]
    assert report["tokens"]["escaped"] == {"<|end|>": rows}
    assert "< |end|>" in report["tokens"]["example"]["trained_on"]


@pytest.mark.parametrize("case", ["thanks", "follow_ups", "second_turn", "long_prompts", "colours"])
def test_chats_that_share_follow_ups_or_a_long_prompt_are_split_and_none_is_thrown_away(case, pocket):
    split = read(case, pocket)
    settings = Ingest.model_validate({"folder": ".", "train": {"path": "x.jsonl"}})
    train, test = ingestion.split_off_test(split.kept, settings)
    assert not split.rejected
    assert 0.05 * len(split.kept) <= len(test) <= 0.1 * len(split.kept) + 1
    kept, overlapping = ingestion.remove_overlap(train, test, "")
    assert not overlapping and len(kept) + len(test) == len(split.kept)


def test_indentation_survives_and_blank_space_at_the_end_is_counted(tmp_path: Path, pocket):
    rows = [("Write it.", "    y = 0\n    return y\n"), ("Again.", "\n \n\tx = 1"), ("Plain.", "z")]
    lines = [json.dumps({"prompt": prompt, "completion": answer}) for prompt, answer in rows]
    (tmp_path / "d.jsonl").write_text("\n".join(lines), encoding="utf-8")
    settings = Ingest.model_validate({"folder": str(tmp_path), "train": {"path": "d.jsonl"}})
    split = ingestion.read_split("train", settings.train, settings, TemplateFit(pocket))
    assert [row.turns()[1]["content"] for row in split.kept] == ["    y = 0\n    return y", "\tx = 1", "z"]
    assert split.report["changed"] == {BLANK: 2}


def test_near_duplicates_and_rows_of_one_customer_stay_on_one_side():
    base = "The pump in hall {} makes a grinding noise since the filter was changed on Monday and the pressure drops"
    texts = [base.format(i) + f" to {i} bar by noon" for i in range(5)]  # each twice, once with another word
    rows = [text.replace("noise", word) for text in texts for word in ("noise", "sound")]
    others = [f"Entirely other matter number {i} about {i * 7} crates of apples {i}" for i in range(40)]
    asked = [(n,) for n in range(len(rows) + len(others))]
    groups = splitting.find_groups(asked, [""] * len(asked), iter([*rows, *others]), 0.7)
    together = {i: n for n, group in enumerate(groups) for i in group}
    assert all(together[2 * i] == together[2 * i + 1] for i in range(5))
    assert len(groups) >= 40
    keys = ["a", "b"] * (len(asked) // 2)
    assert len(splitting.find_groups(asked, keys, iter(()), 1.0)) == 2


def test_near_duplicates_across_a_training_and_a_test_file_are_left_out_and_counted(tmp_path: Path, pocket):
    asked = (
        "The pump in hall {0} makes a grinding noise since the {1} was changed on Monday and pressure drops to {0} bar"
    )
    parts = ["filter", "valve", "gasket", "hose", "motor"]

    def write(name: str, questions: list[str]) -> None:
        rows = [{"prompt": question, "completion": f"Look at part {n} first."} for n, question in enumerate(questions)]
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    write("test.jsonl", [asked.format(n, part) for n, part in enumerate(parts)])
    others = [
        f"Which shelf holds order {n}, which the {part} team packed in bay {n * 7}?" for n, part in enumerate(parts)
    ]
    write("train.jsonl", [asked.format(n, part) + ", please" for n, part in enumerate(parts[:3])] + others)
    params = {"folder": str(tmp_path), "train": {"path": "train.jsonl"}, "test": {"path": "test.jsonl"}}
    settings = Ingest.model_validate(params)
    sides = [
        ingestion.read_split(s, getattr(settings, s), settings, TemplateFit(pocket)).kept for s in ("train", "test")
    ]
    kept, rejected = ingestion.remove_overlap(*sides, "", settings.near_duplicates)
    assert len(kept) == len(others)
    assert [row.reason for row in rejected] == [ingestion.NEAR_COPY] * 3
    kept, rejected = ingestion.remove_overlap(*sides, "", 1.0)
    assert not rejected
