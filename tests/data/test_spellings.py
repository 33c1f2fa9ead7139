"""Rows in the spellings that other tools write: read for what they say, or rejected with the reason."""

from __future__ import annotations

import datetime
import decimal
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import SHARED

from holdfast.core.errors import UserError
from holdfast.data import ingestion
from holdfast.data.parts import HAS_PICTURES
from holdfast.data.row_values import Unreadable
from holdfast.data.template_fit import ENDS, TemplateFit
from holdfast.data.turn_order import CALLS, UNTRAINED
from holdfast.data.turns import MASKED, UNDESIRED
from holdfast.params.ingest import Ingest

USER = {"role": "user", "content": "Where is it?"}
ANSWER = {"role": "assistant", "content": "On shelf 4."}
SYSTEM = {"role": "system", "content": "Be brief."}
PAIR = [("user", "Where is it?"), ("assistant", "On shelf 4.")]
ASKED_IN_TURNS = {"messages": [{**USER, "content": "Which shelf?"}, ANSWER]}
CALLING = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "find", "arguments": "{}"}}]}
TRANSCRIPT = "\n\nHuman: Where is it?\n\nAssistant: On shelf 4." * 2
GEMINI_ANSWER = {"role": "model", "parts": [{"text": "On shelf 4."}]}
THINKING = {"role": "assistant", "channel": "analysis", "content": "Shelf 4 holds it."}
NO_TEXT, TOOLS_ANSWER = (
    "a part of the content that is no text",
    "a tool's answer in a turn of another than the user",
)
ASKED = {"instruction": "Where is it?", "output": "On shelf 4."}


def read(folder: Path, content: bytes | list[Any], file: str = "train.jsonl", **params: Any) -> ingestion.Split:
    content = content if isinstance(content, bytes) else "\n".join(map(json.dumps, content)).encode()
    (folder / file).write_bytes(content)
    settings = Ingest.model_validate({"folder": str(folder), "train": {"path": file}, "max_rejected": 1.0, **params})
    return ingestion.read_split("train", settings.train, settings, None)


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"messages": {"role": ["user", "assistant"], "content": ["Where is it?", "On shelf 4."]}}, PAIR),
        ({"messages": json.dumps([USER, ANSWER])}, PAIR),
        ({"messages": [{**USER, "role": " Human "}, {**ANSWER, "role": "Assistant"}]}, PAIR),
        ({"messages": [{**USER, "role": "customer"}, {**ANSWER, "role": "agent"}]}, PAIR),
        ({"messages": [{**USER, "content": {"type": "text", "text": "Where is it?"}}, ANSWER]}, PAIR),
        ({"messages": [{**USER, "content": ["Where ", "is it?"]}, ANSWER], "label": True, "kto_tag": True}, PAIR),
        ({**ASKED, "history": [USER, ANSWER]}, PAIR * 2),
        ({**ASKED, "history": [["Where is it?", "On shelf 4."]], "weight": 1}, PAIR * 2),
        ({"messages": " " + json.dumps([USER, ANSWER])}, PAIR),
        (
            {
                "messages": [
                    {"role": None, "from": "human", "content": None, "value": "Where is it?"},
                    {"role": None, "from": "gpt", "content": None, "value": "On shelf 4."},
                ]
            },
            PAIR,
        ),
        ({**ASKED, "weight": "1.0", "train": "TRUE", "trainable": ""}, PAIR),
        ({"prompt": "Where is it?", "chosen": [USER, ANSWER]}, PAIR),
        ({"prompt": [SYSTEM], "chosen": [USER, ANSWER]}, [("system", "Be brief."), *PAIR]),
        ({"prompt": [SYSTEM, USER], "chosen": [USER, ANSWER]}, [("system", "Be brief."), *PAIR]),
        ({"prompt": [USER], "chosen": [SYSTEM, USER, ANSWER]}, [("system", "Be brief."), *PAIR]),
        ({"chosen": TRANSCRIPT}, PAIR * 2),
        (
            {"chosen": TRANSCRIPT, "prompt": TRANSCRIPT.removesuffix(" On shelf 4.").removesuffix("\n\nAssistant:")},
            PAIR * 2,
        ),
        ({"prompt": TRANSCRIPT.removesuffix("\n\nAssistant: On shelf 4."), "chosen": "On shelf 4."}, PAIR * 2),
        ({"messages": [USER, {**ANSWER, "channel": "final"}], "training": True}, PAIR),
        ({"messages": [USER, {"role": "assistant", "content": None, "refusal": "On shelf 4."}]}, PAIR),
        ({"messages": [USER, {**ANSWER, "content": [{"type": "refusal", "refusal": "On shelf 4."}]}]}, PAIR),
        ({"messages": [USER, {**ANSWER, "refusal": None, "loss_mask": 1, "masked": False}]}, PAIR),
        ({"messages": [{"role": "user", "text": "Where is it?"}, {"role": "assistant", "text": "On shelf 4."}]}, PAIR),
        (
            {"contents": [{"role": "user", "parts": [{"text": "Where "}, {"text": "is it?"}]}, GEMINI_ANSWER]},
            PAIR,
        ),
        (
            {
                "systemInstruction": {"role": "system", "parts": [{"text": "Be brief."}]},
                "contents": [{"role": "user", "parts": {"text": "Where is it?"}}, GEMINI_ANSWER],
            },
            [("system", "Be brief."), *PAIR],
        ),
        (
            {"system": [{"type": "text", "text": "Be brief."}], "messages": [USER, ANSWER]},
            [("system", "Be brief."), *PAIR],
        ),
        ({"prompt": "\n\nHuman: Where is it?\n\nAssistant:", "completion": " On shelf 4."}, PAIR),
        ({"prompt": "Human: Where is it?\n\nAssistant: ", "chosen": "On shelf 4."}, PAIR),
    ],
)
def test_the_same_conversation_in_other_spellings(tmp_path, row, turns):
    split = read(tmp_path, [row])
    assert [(turn["role"], turn["content"]) for turn in split.kept[0].turns()] == turns
    assert not split.report["unused"]


@pytest.mark.parametrize("field", ["weight", "train", "training", "trainable", "loss", "loss_weight", "loss_mask"])
def test_a_turn_that_is_not_to_be_trained_on_is_masked_however_that_is_spelled(tmp_path, field):
    split = read(tmp_path, [{"messages": [USER, {**ANSWER, field: 0}, USER, ANSWER]}])
    assert [turn.get("train") for turn in split.kept[0].turns()] == [None, False, None, None]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**ASKED, "weight": 0}, UNTRAINED),
        ({**ASKED, "train": False}, UNTRAINED),
        ({**ASKED, "train": "FALSE"}, UNTRAINED),
        ({"messages": [USER, ANSWER], "training": False}, UNTRAINED),
        ({"prompt": "Where?", "completion": "There.", "weight": "0.0"}, UNTRAINED),
        ({"prompt": "Where?", "completion": "There.", "weight": 0.0}, UNTRAINED),
        ({"prompt": "Where?", "chosen": "There.", "rejected": "No.", "weight": "0"}, UNTRAINED),
        ({"prompt": "Where?", "completion": "There.", "weight": 0.5}, "a weight that is neither 0 nor 1"),
        ({"messages": [USER, ANSWER], "label": False}, UNDESIRED),
        ({"messages": [USER, ANSWER], "kto_tag": 0}, UNDESIRED),
        ({"conversations": [USER, ANSWER], "kto_tag": "false"}, UNDESIRED),
        ({"messages": [USER, {**ANSWER, "train_detail": [{"begin_offset": 0, "end_offset": 3}]}]}, MASKED),
        ({"messages": [USER, ANSWER], "loss_mask": [0, 1]}, MASKED),
        ({"messages": [USER, ANSWER], "loss_mask": 0}, UNTRAINED),
        ({"messages": [USER, {**ANSWER, "masked": True}]}, UNTRAINED),
        ({"messages": [USER, {**ANSWER, "mask": 0}]}, MASKED),
        ({"messages": [USER, {**ANSWER, "refusal": "No."}]}, "both a text and a refusal in one turn"),
        ({"messages": [USER, {"author": "bot", "content": "x"}]}, "no field 'role'"),
        ({"messages": [USER, {**ANSWER, "content": "\u200b\ufeff"}]}, "empty turn"),
        ({"messages": [USER, ANSWER], "suite": ["a"]}, "field 'suite' is not text"),
        ({"messages": str([USER, ANSWER])}, "turns as Python prints them, which is no JSON"),
        ({"messages": [USER, {**ANSWER, "content": [{"type": "tool_result", "content": "4"}]}]}, TOOLS_ANSWER),
        ({"messages": [USER, {**ANSWER, "content": [{"type": "redacted_thinking", "data": "x"}]}]}, NO_TEXT),
        ({"contents": [{"role": "user", "parts": [{"inlineData": {"data": "x"}}]}, GEMINI_ANSWER]}, HAS_PICTURES),
        ({"messages": [{**USER, "content": {"type": "image_url", "image_url": {"url": "x"}}}, ANSWER]}, HAS_PICTURES),
        ({"messages": {"role": ["user"], "content": []}}, "no list of turns"),
        ({**ASKED, "history": [["a", "b", "c"]]}, "history that is no list of [question, answer]"),
    ],
)
def test_a_row_that_teaches_what_cannot_be_read_is_rejected_with_the_reason(tmp_path, row, reason):
    plain = {
        key: value
        for key, value in row.items()
        if key not in ("weight", "train", "training", "label", "kto_tag", "loss_mask", "suite", "contents")
    }
    if not plain or "messages" in plain:
        plain["messages"] = [USER, ANSWER]
    split = read(tmp_path, [row, {**plain, "history": []} if "history" in plain else plain])
    assert [rejected.reason for rejected in split.rejected] == [reason]
    assert len(split.kept) == 1


def test_a_null_that_someone_wrote_stays_and_one_that_parquet_adds_goes(tmp_path):
    def row(question: str, arguments: Any, tools: Any) -> dict[str, Any]:
        call = {"id": 7, "function": {"name": "find", "arguments": arguments}}
        turns = [{**USER, "content": question}, {"role": "assistant", "content": None, "tool_calls": [call]}]
        return {"messages": [*turns, {"role": "tool", "tool_call_id": 7, "content": "4"}, ANSWER], "tools": tools}

    tool = {"name": "find", "default": None}
    split = read(tmp_path, [row("a", '{"x": null}', json.dumps([tool])), row("b", {"x": None}, [tool])])
    calls = [kept.turns()[1]["tool_calls"][0] for kept in split.kept]
    assert [call["function"]["arguments"] for call in calls] == [{"x": None}, {}]
    assert ["default" in json.loads(kept.tools)[0]["function"] for kept in split.kept] == [True, False]
    assert [call["id"] for call in calls] == [kept.turns()[2]["tool_call_id"] for kept in split.kept] == ["7", "7"]


@pytest.mark.parametrize(
    ("answer", "thoughts"),
    [
        ({**ANSWER, "reasoning_content": "", "thinking": "It was moved."}, "It was moved."),
        ({**ANSWER, "reasoning_content": "Moved.", "reasoning": "Moved."}, "Moved."),
        ({**ANSWER, "reasoning_content": "Moved.", "reasoning": "Not moved."}, None),
        ({**ANSWER, "reasoning": "Moved.", "content": [{"type": "thinking", "thinking": "No."}, "On shelf 4."]}, None),
    ],
)
def test_of_several_thoughts_none_is_lost_without_a_word(tmp_path, answer, thoughts):
    split = read(tmp_path, [{"messages": [USER, answer]}, ASKED_IN_TURNS])
    if thoughts:
        assert split.kept[0].turns()[-1]["reasoning_content"] == thoughts
    else:
        assert [row.reason for row in split.rejected] == ["two thoughts of one turn that differ"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"prompt": "Be brief.", "chosen": [USER, ANSWER]},
            "its prompt is not in its chosen side, which begins with a user's turn",
        ),
        (
            {"messages": [USER, {**CALLING, "function_call": {"name": "put", "arguments": "{}"}}, ANSWER]},
            "both tool_calls and a function_call in one turn",
        ),
    ],
)
def test_a_row_of_which_a_part_would_be_dropped_is_rejected(tmp_path, row, reason):
    good = {"prompt": "Where?", "chosen": "There."} if "chosen" in row else ASKED_IN_TURNS
    split = read(tmp_path, [row, good])
    assert [rejected.reason for rejected in split.rejected] == [reason] and len(split.kept) == 1


@pytest.mark.parametrize("value", [datetime.date(2026, 1, 5), b"x", decimal.Decimal("1.5"), float("nan")])
def test_what_json_does_not_have_is_a_reason_and_no_traceback(tmp_path, value):
    call = {"function": {"name": "find", "arguments": {"x": value}}}
    result = {"role": "tool", "content": "4"}
    turns = [[USER, {"role": "assistant", "content": "", "tool_calls": [call]}, result, ANSWER], [USER, ANSWER]]
    tools = [[{"name": "find", "default": value}], None]
    for column in ({"messages": turns}, {"messages": [[USER, ANSWER], [USER, ANSWER]], "tools": tools}):
        with io.BytesIO() as file:
            pq.write_table(pa.table(column), file)
            split = read(tmp_path, file.getvalue(), "train.parquet")
        reason = "a tool or a call with a value that JSON does not have"
        assert [row.reason for row in split.rejected] == [reason]


def test_a_row_nested_too_deeply_for_the_reader_is_rejected(tmp_path):
    tools = '[{"name": "f", "x": ' + "[" * 480 + "]" * 480 + "}]"
    row = {"messages": [USER, ANSWER], "tools": json.loads(tools)}
    split = read(tmp_path, [row, ASKED_IN_TURNS])
    assert [row.reason for row in split.rejected] == ["nested too deeply"] and len(split.kept) == 1


def test_class_0_of_a_prompt_is_no_bad_answer(tmp_path):
    assert len(read(tmp_path, [{"prompt": "Where?", "completion": "There.", "label": 0}]).kept) == 1


@pytest.mark.parametrize(
    ("content", "file", "says", "do"),
    [
        (b'{"question": "q", "answer": "a"}', "a.jsonl", "fit no known format", "(such as prompt: question, response: answer)"),
        ('{"prompt": "q"}'.encode("utf-16-le"), "a.jsonl", "UTF-16 without a byte order mark", "ingest.encoding: utf-16-le"),
        ("prompt,completion\n".encode("utf-16-be"), "a.csv", "UTF-16 without a byte order mark", "ingest.encoding: utf-16-be"),
        (b'prompt,completion\na,b\n"c,d\ne,f\n', "a.csv", "not valid CSV", "fix the quotes of the row that begins there"),
        (b"Question ,Answer\nq,a\n", "a.csv", "fit no known format", "(such as prompt: Question , response: Answer)"),
        (b"prompt;completion\n'q;1';a\n", "a.csv", "no row is a record of named fields", "as many cells"),
        (
            json.dumps({"messages": [USER, {**ANSWER, "content": [{"type": "tool"}]}]}).encode(), "a.jsonl",
            "a part of the content that is no text", "leave them out of the file",
        ),
        (b'{"question": "q", "chosen": "a"}', "a.jsonl", "no field 'prompt'", "ingest.format: columns"),
        (b'{"messages": [{"role": "visitor", "content": "q"}]}', "a.jsonl", "unknown role", "spell roles as one of system,"),
        (
            json.dumps({"messages": [USER, USER, ANSWER]}).encode(), "a.jsonl",
            "two turns of one role in a row", "set ingest.same_role: join",
        ),
    ],
)  # fmt: skip
def test_the_second_line_of_an_error_names_what_to_change(tmp_path, content, file, says, do):
    with pytest.raises(UserError) as caught:
        read(tmp_path, content, file)
    assert says in caught.value.what
    assert do in caught.value.do
    assert len(str(caught.value).splitlines()) <= 3


def test_analysis_of_the_harmony_format_is_a_thought_and_no_answer(tmp_path):
    call = {**CALLING, "channel": "commentary"}
    tool = {"role": "tool", "content": None}
    rows = [
        {"messages": [USER, THINKING, {**ANSWER, "channel": "final"}]},
        {"messages": [USER, THINKING, THINKING, call, tool, THINKING, ANSWER]},
        {"messages": [USER, {**THINKING, "tool_calls": CALLING["tool_calls"]}, tool, ANSWER]},
    ]
    split = read(tmp_path, rows)
    assert [[turn.get("reasoning_content") for turn in row.turns()] for row in split.kept] == [
        [None, "Shelf 4 holds it."],
        [None, "Shelf 4 holds it.\nShelf 4 holds it.", None, "Shelf 4 holds it."],
        [None, "Shelf 4 holds it.", None, None],
    ]
    assert {turn["content"] for row in split.kept for turn in row.turns()} == {USER["content"], "", ANSWER["content"]}


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([USER, THINKING], "a turn of the channel analysis that no answer follows"),
        ([USER, THINKING, USER, ANSWER], "a turn of the channel analysis that no answer follows"),
        ([USER, THINKING, {**ANSWER, "thinking": "x"}], "a turn of the channel analysis that no answer follows"),
        ([USER, {**THINKING, "thinking": "x"}, ANSWER], "two thoughts of one turn that differ"),
        ([USER, {**THINKING, "weight": 0}, ANSWER], "a turn of the channel analysis that has a weight of its own"),
        ([USER, {**ANSWER, "channel": "aside"}], "a channel that is none of analysis, commentary, final"),
        ([{**USER, "content": None}, ANSWER], "empty turn"),
    ],
)
def test_what_a_channel_says_is_never_dropped(tmp_path, turns, reason):
    split = read(tmp_path, [{"messages": turns}, {"messages": [USER, ANSWER]}])
    assert [row.reason for row in split.rejected] == [reason]


FIND = {"name": "find", "description": "Finds a box."}
SCHEMA = {"type": "object", "properties": {"box": {"type": "integer"}}}
CALL = {"type": "function", "function": {"name": "find", "arguments": {"box": 4}}}


@pytest.mark.parametrize(
    ("row", "more"),
    [
        (
            {
                "messages": [
                    USER,
                    {
                        "role": "assistant",
                        "content": [
                            {"type": "text", "text": "I look."},
                            {"type": "tool_use", "id": "t1", "name": "find", "input": {"box": 4}},
                        ],
                    },
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "Shelf 4"}]},
                    ANSWER,
                ],
                "tools": [{**FIND, "input_schema": SCHEMA}],
            },
            {"tool_call_id": "t1"},
        ),
        (
            {
                "contents": [
                    {"role": "user", "parts": [{"text": "Where is it?"}]},
                    {
                        "role": "model",
                        "parts": [{"text": "I look."}, {"functionCall": {"name": "find", "args": {"box": 4}}}],
                    },
                    {"role": "user", "parts": [{"functionResponse": {"name": "find", "response": "Shelf 4"}}]},
                    GEMINI_ANSWER,
                ],
                "tools": [{"functionDeclarations": [{**FIND, "parameters": SCHEMA}]}],
            },
            {"name": "find"},
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Where is it?"},
                    {
                        "from": "gpt",
                        "value": 'I look.\n<tool_call>\n{"name": "find", "arguments": {"box": 4}}\n</tool_call>',
                    },
                    {"from": "tool", "value": "<tool_response>\nShelf 4\n</tool_response>"},
                    {"from": "gpt", "value": "On shelf 4."},
                ],
                "tools": json.dumps({**FIND, "parameters": SCHEMA}),
            },
            {},
        ),
    ],
    ids=["Anthropic", "Gemini", "Hermes"],
)
def test_calls_and_answers_of_tools_however_they_are_spelled(tmp_path, row, more):
    split = read(tmp_path, [row])
    assert not split.report["unused"] and split.report["changed"].keys() <= {CALLS}
    (kept,) = split.kept
    call = {**CALL, "id": "t1"} if "tool_call_id" in more else CALL
    answer = '"Shelf 4"' if "name" in more else "Shelf 4"
    assert kept.turns() == [
        USER,
        {"role": "assistant", "content": "I look.", "tool_calls": [call]},
        {"role": "tool", "content": answer, **more},
        ANSWER,
    ]
    assert json.loads(kept.tools) == [{"type": "function", "function": {**FIND, "parameters": SCHEMA}}]


def test_a_call_of_the_role_tool_call_and_one_in_the_text_alone(tmp_path):
    written = '{"name": "find", "arguments": {"box": 4}}'
    as_role = [USER, {"role": "tool_call", "content": written}, {"role": "tool_response", "content": "4"}, ANSWER]
    as_text = [USER, {**ANSWER, "content": f"<tool_call>{written}</tool_call>"}]  # no tool answers: a text like others
    split = read(tmp_path, [{"messages": as_role}, {"messages": as_text}])
    assert split.kept[0].turns()[1]["tool_calls"] == [CALL]
    assert split.kept[1].turns() == as_text


def test_the_turns_before_a_chosen_answer_may_have_a_field_of_their_own(tmp_path):
    row = {
        "conversations": [{"from": "human", "value": "Where is it?"}],
        "chosen": {"from": "gpt", "value": "On shelf 4."},
        "rejected": {"from": "gpt", "value": "No."},
    }
    split = read(tmp_path, [row], format="preference")
    assert [(turn["role"], turn["content"]) for turn in split.kept[0].turns()] == PAIR
    assert split.report["unused"] == {"rejected": 1}


@pytest.mark.parametrize("answer", ["<think>It was moved.</think>", "<think>It was", "<think>\n</think>\n\n"])
def test_thoughts_without_an_answer_are_no_answer(tmp_path, tokenizer, answer):
    with pytest.raises(Unreadable, match="thoughts without an answer"):
        TemplateFit(tokenizer).adjust([USER, {**ANSWER, "content": answer}], None, set())


@pytest.mark.parametrize("end", ["<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<turn|>", "<|eot|>", "[|endofturn|]"])
def test_what_ends_a_turn_in_another_family_of_models_is_taken_off(tokenizer, end):
    changes: set[str] = set()
    (_, answer) = TemplateFit(tokenizer).adjust([USER, {**ANSWER, "content": f"On shelf 4.\n{end}"}], None, changes)
    assert answer == ANSWER and changes == {ENDS}


def test_sides_that_are_turns_as_json_text_are_turns(tmp_path):
    row = {"prompt": json.dumps([SYSTEM, USER]), "completion": json.dumps([ANSWER])}
    other = {"prompt": json.dumps([{"from": "human", "value": "Where is it?"}]), "chosen": json.dumps([USER, ANSWER])}
    turns = read(tmp_path, [row]).kept[0].turns()
    assert turns == [SYSTEM, USER, ANSWER]
    assert read(tmp_path, [other]).kept[0].turns() == [USER, ANSWER]
    text = {"prompt": '[{"box": 4}] What is this?', "completion": "[1, 2]"}
    assert [turn["content"] for turn in read(tmp_path, [text]).kept[0].turns()] == list(text.values())


def test_a_weight_counts_where_columns_are_mapped_too(tmp_path):
    rows = [{"q": "a", "r": "b", "weight": 0}, {"q": "c", "r": "d", "weight": "1.0"}]
    split = read(tmp_path, rows, format="columns", columns={"prompt": "q", "response": "r"})
    assert [row.reason for row in split.rejected] == [UNTRAINED] and not split.report["unused"]


def test_a_group_may_be_a_number(tmp_path):
    split = read(tmp_path, [{**ASKED_IN_TURNS, "suite": 3}])
    assert split.kept[0].group == "3"


def test_a_json_file_with_one_conversation_is_one_row(tmp_path):
    split = read(tmp_path, json.dumps({"id": 7, "messages": [USER, ANSWER]}).encode(), "a.json")
    assert [(turn["role"], turn["content"]) for turn in split.kept[0].turns()] == PAIR
    split = read(tmp_path, json.dumps({"turns": [ASKED, {**ASKED, "instruction": "When?"}]}).encode(), "a.json")
    assert len(split.kept) == 2


@pytest.mark.parametrize("line", ["sep=;\n", '"sep=;"\r\n', "\ufeffsep=;\n"])
def test_the_line_that_excel_puts_first_names_the_delimiter(tmp_path, line):
    split = read(tmp_path, (line + "prompt;completion\nWhere, is it?;On shelf 4.\nx;y;z\n").encode(), "a.csv")
    assert [(row.source, row.turns()[0]["content"]) for row in split.kept] == [("a.csv:3", "Where, is it?")]
    assert [row.source for row in split.rejected] == ["a.csv:4"]


def test_the_row_with_an_open_quote_is_named_and_not_the_end_of_the_file(tmp_path):
    with pytest.raises(UserError) as caught:
        read(tmp_path, b'prompt,completion\na,b\n"c,d\ne,f\ng,h\n', "a.csv")
    assert caught.value.where.endswith("a.csv:3")


@pytest.mark.parametrize("file", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_a_pointer_of_git_lfs_is_named_as_such(tmp_path, file):
    with pytest.raises(UserError, match="is a pointer of Git LFS") as caught:
        read(tmp_path, b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n", file)
    assert "git lfs pull" in caught.value.do


def test_a_turn_that_the_template_leaves_out_is_said_and_the_row_refused(tokenizer):
    tokenizer.chat_template = "{% set messages = messages[-2:] %}" + tokenizer.chat_template
    fit = TemplateFit(tokenizer)
    assert fit.find_fault(("user", "assistant")) == ""
    fault = fit.find_fault(("user", "assistant", "user", "assistant"))
    assert fault == "the base's chat template does not show the turn of role 'user'"


@pytest.mark.skipif(not (SHARED / "templates").is_dir(), reason="../shared with real templates is not there")
def test_a_real_template_that_leaves_out_the_system_turn(tokenizer):
    tokenizer.chat_template = (SHARED / "templates" / "axolotl__pixtral.jinja").read_text(encoding="utf-8")
    assert "does not show the turn of role 'system'" in TemplateFit(tokenizer).find_fault(
        ("system", "user", "assistant")
    )
