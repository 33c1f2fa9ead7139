"""Tool calls in what a model wrote, whatever its template's spelling: read as data, never evaluated.

Known are JSON objects (Hermes, Qwen 2.5 and 3, Llama, Granite, Cohere), a name before its arguments in JSON (Mistral, Kimi,
DeepSeek), tags (Qwen 3 Coder and 3.5, Nemotron, Seed; with `invoke` DeepSeek 3.2), keys and values (GLM), Gemma 4's own, and
Python's (LFM2). `reads_calls` says whether those of a template are among them.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.chat import encoding
from holdfast.chat.templates import find_extras, template_of, turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tools = list[dict[str, Any]]


class Call(NamedTuple):
    name: str
    arguments: dict[str, Any]


TAG = r"(?:\uff5c?\w+[\uff5c:])?"  # a namespace before a tag's name
FUNCTION = re.compile(
    rf"<{TAG}(?:function=|invoke name=\"|function name=\")([\w.\-]+)\"?>(.*?)(?:</{TAG}(?:function|invoke)>|\Z)",
    re.DOTALL,
)
PARAMETER = re.compile(
    rf"<{TAG}parameter(?:=| name=\")([\w.\-]+)\"?(?: string=\"(?:true|false)\")?>((?:(?!<{TAG}parameter).)*?)</{TAG}parameter>",
    re.DOTALL,
)
KEYED = re.compile(r"(?<![\w.\-])([\w.\-]{1,128})\s*(?=<arg_key>)")
PAIR = re.compile(
    r"<arg_key>((?:(?!</?arg_).)*)</arg_key>\s*<arg_value>((?:(?!<arg_key>|</arg_value>).)*)</arg_value>\s*", re.DOTALL
)
GEMMA = re.compile(r"\bcall:([\w.\-]+)(?=\{)")
BEFORE_JSON = re.compile(
    r"(?<![A-Za-z0-9_.\-])(?:functions\.)?([A-Za-z_][\w.\-]{0,127})(?::\d{1,6})?(\[ARGS\]|<\|[^|<>]*\|>|<\uff5c[^\uff5c]*\uff5c>|\s*)(?:\s*```json)?\s*(?=\{)"
)
LONGEST = 50_000  # characters of an answer that are searched for calls
LONGEST_ARGUMENTS = 8_000  # characters of a call, as Gemma 4 writes one
MOST = 200  # calls of one answer, or texts that look like one and are none
NAMES, ARGUMENTS = ("name", "tool_name", "function"), ("arguments", "parameters", "args")


def parse_calls(text: str, tools: Tools) -> list[Call]:
    """The calls in an answer, in order; [] where there is none. Thoughts before it do not count, nor what is beyond LONGEST."""
    answer = text.rpartition("</think>")[2][:LONGEST]
    for read in (read_tags, read_keys, read_gemma, read_named_json, read_json, read_python):
        if calls := list(read(answer, tools)):
            return calls
    return []


def read_tags(text: str, tools: Tools) -> Iterator[Call]:
    for name, body in FUNCTION.findall(text):
        pairs = PARAMETER.findall(body)
        if not pairs and isinstance(value := decode(body.strip()), dict):
            yield Call(name, value)
        else:
            yield Call(name, {key: cast(value, name, key, tools) for key, value in pairs})


def read_keys(text: str, tools: Tools) -> Iterator[Call]:
    for match in KEYED.finditer(text):
        name, arguments, at = match[1], dict[str, Any](), match.end()
        while pair := PAIR.match(text, at):
            key, at = pair[1].strip(), pair.end()
            arguments[key] = cast(pair[2], name, key, tools)
        if arguments:
            yield Call(name, arguments)


def read_gemma(text: str, _tools: Tools) -> Iterator[Call]:
    for match in islice(GEMMA.finditer(text), MOST):
        written = (
            text[match.end() : match.end() + LONGEST_ARGUMENTS]
            .replace("\\", "\\\\")
            .replace('"', '\\"')
            .replace('<|\\"|>', '"')
        )
        strings = re.split(r'("(?:[^"\\]|\\.)*")', written)  # keys are quoted outside of strings only
        quoted = [
            part if n % 2 else re.sub(r"([{,]\s*)([\w.\-]+):", r'\1"\2":', part) for n, part in enumerate(strings)
        ]
        if isinstance(value := decode("".join(quoted)), dict):
            yield Call(match[1], value)


def read_named_json(text: str, tools: Tools) -> Iterator[Call]:
    known = names_of(tools)
    for match in BEFORE_JSON.finditer(text):
        name = match[1] if match[1] in known else match[1].removeprefix("functions.")
        if (name in known or match[2].startswith(("[", "<"))) and isinstance(
            value := decode(text[match.end() :]), dict
        ):
            yield Call(name, value)


def read_json(text: str, tools: Tools) -> Iterator[Call]:
    known = names_of(tools)
    for value in json_values(text):
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, dict):
                continue
            inner = one["function"] if isinstance(one.get("function"), dict) else one
            name = next((inner[key] for key in NAMES if isinstance(inner.get(key), str)), None)
            arguments: Any = next((inner[key] for key in ARGUMENTS if key in inner), {} if len(inner) == 1 else None)
            if isinstance(arguments, str):
                arguments = decode(arguments)
            if name and isinstance(arguments, dict):
                yield Call(name, arguments)
            elif len(one) == 1 and (only := next(iter(one))) in known and isinstance(one[only], dict):
                yield Call(only, one[only])


def read_python(text: str, tools: Tools) -> Iterator[Call]:
    for name in sorted(names_of(tools), key=len, reverse=True):
        for match in re.finditer(rf"(?<![\w.]){re.escape(name)}\(([^()]{{0,2000}})\)", text):
            try:
                node: Any = ast.parse(f"f({match[1]})", mode="eval").body
                arguments = {str(word.arg): ast.literal_eval(word.value) for word in node.keywords}
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue
            if not node.args and "None" not in arguments:  # nor **
                yield Call(name, arguments)


def json_values(text: str) -> Iterator[Any]:
    """The outermost JSON objects and lists in a text."""
    at = failures = 0
    decoder = json.JSONDecoder()
    while (
        failures < MOST
        and (start := min((p for p in (text.find("{", at), text.find("[", at)) if p >= 0), default=-1)) >= 0
    ):
        try:
            value, at = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            at, failures = start + 1, failures + 1
            continue
        yield value


def decode(text: str) -> Any:
    """The JSON value that a text begins with, or None."""
    try:
        return json.JSONDecoder().raw_decode(text.lstrip())[0]
    except (ValueError, RecursionError):
        return None


def fits_schema(call: Call, tools: Tools) -> bool:
    """Whether the arguments of a call are those that its function takes: none is missing or unknown, and each is of its type (JSON
    Schema). Raises KeyError where none of the tools has its name."""
    from jsonschema import Draft202012Validator
    from referencing import Registry

    parameters = {tool["name"]: tool["parameters"] for tool in (one.get("function", one) for one in tools)}[call.name]
    closed = {"additionalProperties": False} | parameters
    return Draft202012Validator(closed, registry=Registry()).is_valid(call.arguments)


def names_of(tools: Tools) -> set[str]:
    return {tool.get("function", tool)["name"] for tool in tools}


def cast(text: str, name: str, key: str, tools: Tools) -> Any:
    """A value that was written as text, as its type in the schema has it; text where there is none, or where it does not fit."""
    text = text.removeprefix("\n").removesuffix("\n")
    schemas = [tool.get("function", tool) for tool in tools]
    fields: Any = next((schema["parameters"]["properties"] for schema in schemas if schema["name"] == name), {})
    if fields.get(key, {}).get("type", "string") == "string":
        return text
    readers: tuple[Callable[[str], Any], ...] = (json.loads, ast.literal_eval)
    for read in readers:
        try:
            return read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


PROBE_TOOL = {
    "name": "find_train",
    "description": "Finds a train.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where to."},
            "seats": {"type": "integer", "description": "How many."},
            "quiet": {"type": "boolean", "description": "Whether it is quiet."},
        },
        "required": ["city", "seats", "quiet"],
    },
}
PROBE_CALL = Call("find_train", {"city": "S\u00e3o Paulo", "seats": 2, "quiet": True})


def reads_calls(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether this template shows tools and calls, and a call as the model writes it, without special tokens, is read back."""
    extras = find_extras(template_of(tokenizer))
    if not (extras.tools and extras.calls):
        return False
    function = {"name": PROBE_CALL.name, "arguments": PROBE_CALL.arguments}
    call = {"id": "qzCALLzq0", "type": "function", "function": function}
    chat = [*turns("Two seats to S\u00e3o Paulo, please."), {"role": "assistant", "content": "", "tool_calls": [call]}]
    tools = [{"type": "function", "function": PROBE_TOOL}]
    try:
        text, spans = encoding.render_conversation(tokenizer, chat, tools)
    except Exception:  # a template is a third-party program: it may raise anything
        return False
    written = text[slice(*spans[0])]
    for token in encoding.special_strings(tokenizer):
        written = written.replace(token, "")
    return parse_calls(written, tools) == [PROBE_CALL]
