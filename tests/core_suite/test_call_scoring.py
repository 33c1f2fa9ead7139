"""The scorer of tool calls against the Berkeley leaderboard's items: right answers are accepted, planted faults refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import SHARED

from holdfast.chat.calls import Call, parse_calls
from holdfast.core_suite.call_scoring import match_calls, same_value

BFCL = SHARED / "data" / "bfcl"
KINDS = {"simple_python": 400, "multiple": 200}


def read(name: str) -> list[dict[str, Any]]:
    if not BFCL.is_dir():
        pytest.skip("BFCL is not here")
    return [json.loads(line) for line in (BFCL / name).read_text(encoding="utf-8").splitlines()]


def choose(right: Any) -> Any:
    """A right value; nested ones list theirs as well."""
    if isinstance(right, dict):
        return {key: choose(values[0]) for key, values in right.items() if "" not in values}
    return [choose(one) for one in right] if isinstance(right, list) else right


def right_call(expected: dict[str, Any]) -> Call:
    ((name, arguments),) = expected.items()
    return Call(name, {key: choose(values[0]) for key, values in arguments.items() if values[0] != ""})


def faults(call: Call, expected: dict[str, Any]) -> Iterator[tuple[str, Call]]:
    yield "another function", Call(call.name + "_2", call.arguments)
    yield "an argument that there is not", Call(call.name, {**call.arguments, "invented_": 1})
    for key, values in expected[call.name].items():
        if "" not in values:
            yield "a missing argument", Call(call.name, {k: v for k, v in call.arguments.items() if k != key})
            yield "another value", Call(call.name, {**call.arguments, key: "qz 123456"})


@pytest.mark.parametrize("kind", KINDS)
def test_right_calls_are_accepted_and_planted_faults_refused(kind: str):
    items, answers = read(f"BFCL_v4_{kind}.json"), read(f"answers/BFCL_v4_{kind}.json")
    assert len(items) == len(answers) == KINDS[kind]
    planted = 0
    for item, answer in zip(items, answers, strict=True):
        assert item["id"] == answer["id"]
        expected = answer["ground_truth"]
        call = right_call(expected[0])
        assert match_calls([call], expected), item["id"]
        for fault, wrong in faults(call, expected[0]):
            planted += 1
            assert not match_calls([wrong], expected), (item["id"], fault)
        assert not match_calls([], expected) and not match_calls([call, call], expected)
        text = json.dumps({"name": call.name, "arguments": call.arguments})
        assert match_calls(parse_calls(f"<tool_call>\n{text}\n</tool_call>", item["function"]), expected), item["id"]
    assert planted > 4 * KINDS[kind]


def test_where_no_function_fits_an_answer_is_right_and_any_call_wrong():
    items = read("BFCL_v4_irrelevance.json")
    assert len(items) == 240
    for item in items:
        assert match_calls(parse_calls("None of these functions can do that.", item["function"]), [])
        name = item["function"][0]["name"]
        assert not match_calls(parse_calls(json.dumps({"name": name, "arguments": {}}), item["function"]), [])


@pytest.mark.parametrize(
    ("value", "right", "same"),
    [
        (2, 2.0, True),
        (True, 1, False),
        ("2", 2, False),
        ("New-York", "new york", True),
        (["a", "b"], ["b", "a"], False),
        ({"a": 1}, {"a": [1, 2]}, True),
        ({"a": 3}, {"a": [1, 2]}, False),
        ({}, {"a": [1, ""]}, True),
        (None, "", False),
    ],
)
def test_values_are_compared_by_what_they_say(value: Any, right: Any, same: bool):
    assert same_value(value, right) is same


SPELLINGS = [
    '<tool_call>\n{"name": "f", "arguments": {"city": "Oslo", "days": 2}}\n</tool_call>',
    '{"name": "f", "parameters": {"city": "Oslo", "days": 2}}',
    '[{"name": "f", "arguments": "{\\"city\\": \\"Oslo\\", \\"days\\": 2}"}]',
    '[TOOL_CALLS]f[ARGS]{"city": "Oslo", "days": 2}',
    'functions.f:0{"city": "Oslo", "days": 2}',
    "<function=f>\n<parameter=city>\nOslo\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>",
    '<function=f>{"city": "Oslo", "days": 2}</function>',
    '<\uff5cDSML\uff5cinvoke name="f">\n<\uff5cDSML\uff5cparameter name="city" string="true">Oslo</\uff5cDSML\uff5cparameter>\n'
    '<\uff5cDSML\uff5cparameter name="days" string="false">2</\uff5cDSML\uff5cparameter>\n</\uff5cDSML\uff5cinvoke>',
    "f\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n",
    'call:f{city:<|"|>Oslo<|"|>,days:2}',
    '[f(city="Oslo", days=2)]',
    '<think>\nI will call f(city="Rome", days=1).\n</think>\n{"name": "f", "arguments": {"city": "Oslo", "days": 2}}',
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {"properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
        },
    }
]


@pytest.mark.parametrize("text", SPELLINGS)
def test_a_call_is_read_in_every_spelling(text: str):
    assert parse_calls(text, TOOLS) == [Call("f", {"city": "Oslo", "days": 2})]


@pytest.mark.parametrize(
    "text",
    ["", "I would call f for Oslo.", "f(os.system('x'))", "[" * 3000, "{" * 3000, 'f{"city": ', "f(" + "(" * 500 + ")"],
)
def test_what_is_no_call_is_none(text: str):
    assert parse_calls(text, TOOLS) == []
