"""What a model may write to break the readers of calls and thoughts: none raises, each is quick, and none reads what is not there."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from holdfast.chat import calls, thinking
from holdfast.chat.calls import Call
from holdfast.data.refusals import is_refusal

PROPERTIES = {"city": {"type": "string"}, "days": {"type": "integer"}, "more": {"type": "object"}}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": PROPERTIES}}}]
CALL = Call("f", {"city": "Oslo", "days": 2})
WRITTEN = json.dumps(CALL._asdict())
NESTED = {"city": '{"name": "g", "arguments": {}}', "more": {"name": "g", "arguments": {"a": [1, {"b": "}"}]}}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"```json\n{WRITTEN}\n```", [CALL]),
        (f"{WRITTEN}{WRITTEN}", [CALL, CALL]),
        (f"<tool_call>{WRITTEN}</tool_call><tool_call>{WRITTEN}</tool_call>", [CALL, CALL]),
        (f"[{WRITTEN}, {WRITTEN}]", [CALL, CALL]),
        (json.dumps({"name": "f", "arguments": NESTED}), [Call("f", NESTED)]),
        (json.dumps({"name": "f", "arguments": json.dumps(NESTED)}), [Call("f", NESTED)]),
        (f"<think>{WRITTEN}</think>Nothing to call.", []),
        (f"<tool_call>\n{WRITTEN[:-2]}\n</tool_call>", []),
        (
            '{"name": "f", "arguments": {"city": "\\ud83d\\ude00 Z\\u00fcrich", "days": 2}}',
            [Call("f", {"city": "\U0001f600 Z\u00fcrich", "days": 2})],
        ),
        (
            '{"name": "f", "arguments": {"city": "a\\"}</tool_call>{\\"b", "days": 2}}',
            [Call("f", {"city": 'a"}</tool_call>{"b', "days": 2})],
        ),
        ('{"name": ["f"], "arguments": {}}', []),
        ('{"name": "f", "arguments": [1]}', []),
        ('{"name": "f", "arguments": null}', []),
        ("f(**{'city': 'x'})", []),
        ("f(city=open('x'))", []),
        ("f(city=().__class__)", []),
    ],
)
def test_calls_in_odd_company_are_read_or_are_none(text: str, expected: list[Call]):
    assert calls.parse_calls(text, TOOLS) == expected


SIZE = 10**6
PARTS = {  # repeated to a megabyte
    "letters": "a",
    "brackets": "[",
    "braces": '{"a":',
    "glued": WRITTEN,
    "tags": "<function=f><parameter=city>",
    "keys": "f<arg_key>a</arg_key><arg_value>",
    "pairs": "f\n<arg_key>a</arg_key>\n<arg_value>b</arg_value>\n",
    "gemma": 'call:f{a:<|"|>',
    "python": "f(city=",
    "named": "f\n{",
    "thoughts": "<think>",
    "sorry": "I am sorry, it is not ",
    "digits": "1",
    "emoji": "\U0001f600",
}


@pytest.mark.parametrize("name", PARTS)
def test_a_megabyte_of_anything_is_read_in_seconds(name: str):
    """It takes about a tenth of a second; the quadratic ones of before took hours."""
    text = PARTS[name] * (SIZE // len(PARTS[name]))
    start = time.process_time()
    read: Any = calls.parse_calls(text, TOOLS), thinking.split_thoughts(text, True), is_refusal(text)
    assert read and time.process_time() - start < 5
