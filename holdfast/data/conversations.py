"""A row as a conversation: its turns in one spelling, whatever fields, roles and parts they were written in.

A turn has a role (system, user, assistant, tool) and content. An assistant's may have `reasoning_content` (its thoughts),
`tool_calls` (as OpenAI spells them, arguments as an object) and `train: False` (it is shown, and not trained on); a tool's
may have `name` and `tool_call_id`. Texts are kept letter by letter; what is changed is named in `Parsed.changes`.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from holdfast.data.fields import COLUMN_WEIGHTS, ROW_WEIGHTS, TURNS, Fields, field
from holdfast.data.parts import read_content, refuse_pictures
from holdfast.data.row_values import Unreadable, decode_json, drop_nulls, text
from holdfast.data.turn_order import UNTRAINED, normalise_turns
from holdfast.data.turns import MASKS, UNDESIRED, Turn, add_thoughts, is_trained, parse_turns, role_of
from holdfast.params.ingest import Columns

OTHER_PROMPT = "its prompt is not in its chosen side, which begins with a user's turn"
SPEAKER = re.compile(r"\n\n(Human|Assistant):")
JSON_TURNS = re.compile(r'\s*\[\s*\{\s*"(?:role|from|content|value)"\s*:')
MARKS = frozenset((*ROW_WEIGHTS, *MASKS))


class Parsed(NamedTuple):
    turns: list[Turn]
    tools: list[Any] | None
    changes: set[str]


def parse_row(row: Any, form: str, columns: Columns | None, same_role: str, fields: Fields) -> Parsed:
    """The conversation of one row. Counts its fields in `fields`. Raises Unreadable."""
    if not isinstance(row, dict):
        raise Unreadable("not a record of named fields")
    if columns is None:
        refuse_pictures(row)
        refuse_untrained(row)
    elif not COLUMN_WEIGHTS.isdisjoint(row) and not is_trained(row, COLUMN_WEIGHTS):
        raise Unreadable(UNTRAINED)
    shapes: list[tuple[str, tuple[str, ...]]] = []  # of its turns: what was used of them depends on the names alone
    turns = READERS[form](row, columns, fields, shapes)
    if (system := fields.first(row, "system")) is not None and (instruction := read_system(system)).strip():
        turns.insert(0, {"role": "system", "content": instruction})
    tools = parse_tools(row, fields)
    changes: set[str] = set()
    turns = normalise_turns(turns, same_role, changes)
    fields.count(row, shapes)
    return Parsed(turns, tools, changes)


def read_system(value: Any) -> str:
    """A system text; Anthropic and Gemini have it as a list of parts, or within an object. Raises Unreadable."""
    content = read_content(value.get("parts") if isinstance(value, dict) else value, "system", [])
    if content.thoughts or content.calls or content.results:
        raise Unreadable("field 'system' is not text")
    return content.text or ""


def refuse_untrained(row: dict[str, Any]) -> None:
    """Raises Unreadable for a row that is marked as one that is not to be learnt."""
    if MARKS.isdisjoint(row):
        return
    if is_false(row.get("kto_tag")) or row.get("kto_tag") == 0:
        raise Unreadable(UNDESIRED)
    if not is_trained(row, ROW_WEIGHTS[:-1]):
        raise Unreadable(UNTRAINED)


def is_false(value: Any) -> bool:
    """Whether a label says that the answer is a bad one; 0 may be the number of a class."""
    return value is False or (isinstance(value, str) and value.strip().lower() == "false")


# ---- formats -------------------------------------------------------------------------------------------------------


def read_messages(row: dict, columns: Columns | None, fields: Fields, shapes: list) -> list[Turn]:
    if is_false(row.get("label")):
        raise Unreadable(UNDESIRED)
    name, turns = fields.find_turns(row)
    return parse_turns(turns, name, shapes)


def read_alpaca(row: dict, columns: Columns | None, fields: Fields, shapes: list) -> list[Turn]:
    parts = [text(row, "instruction"), "" if row.get("input") is None else text(row, "input")]
    question = "\n\n".join(part for part in parts if part.strip())
    return [
        *read_history(row.get("history"), shapes),
        *ask(question, text(row, "output"), fields.first(row, "reasoning")),
    ]


def read_prompt_completion(row: dict, columns: Columns | None, fields: Fields, shapes: list) -> list[Turn]:
    if is_false(row.get("label")):
        raise Unreadable(UNDESIRED)
    row = split_prompt(row)
    row = {**row, "completion": decode_turns(row.get("completion"))}
    return read_sides(row, "prompt", "completion", fields, shapes)


def read_preference(row: dict, columns: Columns | None, fields: Fields, shapes: list) -> list[Turn]:
    chosen, row = split_transcript(decode_turns(row.get("chosen"))), split_prompt(row)
    if row.get("prompt") is None:  # LLaMA-Factory has the turns before the answer in `conversations`
        before = next((row[name] for name in ("conversations", *TURNS) if isinstance(row.get(name), list)), None)
        row = {**row, "prompt": before}
    if isinstance(chosen, dict | list):
        row = {**row, "chosen": [chosen] if isinstance(chosen, dict) else chosen}
    if isinstance(chosen, list) and any(isinstance(t, dict) and role_of(t) == "user" for t in chosen):
        return put_before(row, parse_turns(chosen, "chosen", shapes), shapes)
    return read_sides(row, "prompt", "chosen", fields, shapes)


def split_transcript(value: Any) -> Any:
    """The turns of a text "\\n\\nHuman: ...\\n\\nAssistant: ...", as hh-rlhf spells a conversation; anything else as it is."""
    if not isinstance(value, str) or not value.startswith(("\n\nHuman:", "Human:")) or "\n\nAssistant:" not in value:
        return value
    _, *parts = SPEAKER.split(value if value.startswith("\n") else f"\n\n{value}")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[name], "content": content.removeprefix(" ")}
        for name, content in zip(parts[::2], parts[1::2], strict=True)
    ]


def decode_turns(value: Any) -> Any:
    """The turns of a JSON text, as a CSV file holds them; anything else as it is."""
    return decode_json(value, "no list of turns") if isinstance(value, str) and JSON_TURNS.match(value) else value


def split_prompt(row: dict) -> dict:
    """The row, its prompt as turns where it is a transcript. The empty turn of the assistant at its end is the answer's place."""
    prompt = split_transcript(row.get("prompt"))
    if prompt is row.get("prompt"):
        return {**row, "prompt": decode_turns(prompt)} if isinstance(prompt, str) else row
    if prompt[-1]["role"] == "assistant" and not prompt[-1]["content"].strip():
        prompt = prompt[:-1]
    answer = {name: row[name].removeprefix(" ") for name in ("completion", "chosen") if isinstance(row.get(name), str)}
    return {**row, "prompt": prompt, **answer}


def put_before(row: dict, turns: list[Turn], shapes: list) -> list[Turn]:
    """The turns of a chosen side that holds its prompt, after what of the prompt it does not hold. Raises Unreadable."""
    if row.get("prompt") is None:
        return turns
    if not isinstance(row["prompt"], list):
        prompt = text(row, "prompt").strip()
        if not any(prompt in turn["content"] for turn in turns):
            raise Unreadable(OTHER_PROMPT)
        return turns
    before = parse_turns(row["prompt"], "prompt", shapes)
    if all(turn in turns for turn in before):
        return turns
    shared = next(n for n in range(min(len(before), len(turns)), -1, -1) if before[len(before) - n :] == turns[:n])
    return [*before, *turns[shared:]]


def read_sides(row: dict, before: str, after: str, fields: Fields, shapes: list) -> list[Turn]:
    turns: list[Turn] = []
    for name, role in ((before, "user"), (after, "assistant")):
        value = row.get(name)
        turns += (
            parse_turns(value, name, shapes)
            if isinstance(value, list)
            else [{"role": role, "content": text(row, name)}]
        )
    if not isinstance(row.get(after), list):
        add_thoughts(turns[-1], fields.first(row, "reasoning"))
    return turns


def read_columns(row: dict, columns: Columns | None, fields: Fields, shapes: list) -> list[Turn]:
    assert columns
    if columns.messages:
        return parse_turns(field(row, columns.messages), columns.messages, shapes, columns.role, columns.content)
    assert columns.prompt and columns.response
    context = join_passages(field(row, columns.context)) if columns.context else ""
    prompt = text(row, columns.prompt)
    question = "\n\n".join(filter(None, [context, prompt])) if prompt.strip() else ""  # a context alone asks nothing
    return ask(question, text(row, columns.response), fields.first(row, "reasoning"))


READERS = {
    "messages": read_messages,
    "sharegpt": read_messages,
    "alpaca": read_alpaca,
    "prompt_completion": read_prompt_completion,
    "preference": read_preference,
    "columns": read_columns,
}


def ask(question: str, answer: str, thoughts: Any = None) -> list[Turn]:
    turns: list[Turn] = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    add_thoughts(turns[-1], thoughts)
    return turns


def read_history(history: Any, shapes: list) -> list[Turn]:
    """Earlier turns of an Alpaca row: pairs of question and answer, or turns with roles."""
    history = decode_json(history, "history that is no list of [question, answer]")
    if not history:
        return []
    if isinstance(history, list) and all(isinstance(turn, dict) for turn in history):
        return parse_turns(history, "history", shapes)
    if not isinstance(history, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in history):
        raise Unreadable("history that is no list of [question, answer]")
    values = [value for pair in history for value in pair]
    roles = ["user", "assistant"] * len(history)
    return [{"role": role, "content": text({"history": v}, "history")} for role, v in zip(roles, values, strict=True)]


def parse_tools(row: dict[str, Any], fields: Fields) -> list[Any] | None:
    value = fields.first(row, "tools")
    tools = decode_json(value, "tools that are not JSON") if value else None
    if not tools:
        return None
    tools = [tools] if isinstance(tools, dict) else tools
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise Unreadable("tools that are no list of records")
    if not isinstance(value, str):
        tools = [drop_nulls(tool) for tool in tools]
    tools = [spell_tool(tool) for one in tools for tool in one.get("functionDeclarations", [one])]
    if not all(
        isinstance(tool, dict) and isinstance(tool["function"], dict) and isinstance(tool["function"].get("name"), str)
        for tool in tools
    ):
        raise Unreadable("a tool without a name")
    return tools


def spell_tool(tool: Any) -> Any:
    """A tool as OpenAI spells it. Anthropic's schema is called `input_schema`."""
    if not isinstance(tool, dict) or "function" in tool:
        return tool
    if "input_schema" in tool and "parameters" not in tool:
        tool = {"parameters" if key == "input_schema" else key: value for key, value in tool.items()}
    return {"type": "function", "function": tool}


def join_passages(context: Any) -> str:
    """One text, or a list of texts joined by blank lines; none at all where the row has no context."""
    parts = context if isinstance(context, list) else [] if context is None else [context]
    return "\n\n".join(filter(str.strip, (text({"context": part}, "context") for part in parts)))
