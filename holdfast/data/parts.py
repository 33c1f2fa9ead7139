"""What a turn says: a text, or parts of several kinds (texts, thoughts, calls, what a tool answered), as OpenAI, Anthropic and
Gemini spell them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from holdfast.data.row_values import Unreadable, decode_json, drop_nulls, identifier, text

PICTURES = {
    "images",
    "image",
    "image_url",
    "input_image",
    "video",
    "videos",
    "video_url",
    "audio",
    "audios",
    "input_audio",
    "inlineData",
    "inline_data",
    "fileData",
    "file_data",
}
HAS_PICTURES = "holds images, video or audio: only text is trained on"
CALL_KEYS, RESULT_KEYS = ("functionCall", "function_call"), ("functionResponse", "function_response")  # of Gemini


@dataclass
class Content:
    """What a turn's parts hold. `results`: turns of tools, which Anthropic and Gemini put into one of the user's."""

    text: str | None = None
    thoughts: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)


def refuse_pictures(row: dict[str, Any]) -> None:
    if not PICTURES.isdisjoint(row) and any(row[name] for name in PICTURES & row.keys()):
        raise Unreadable(HAS_PICTURES)


def read_content(value: Any, place: str, shapes: list) -> Content:
    """A turn's content. Adds to `shapes` what each part has, under `place`. Raises Unreadable."""
    if value is None:
        return Content()
    value = [value] if isinstance(value, dict) else value
    if not isinstance(value, list):
        return Content(text({"content": value}, "content"))
    content, written, thoughts = Content(), list[str](), list[str]()
    for part in value:
        if isinstance(part, str):
            written.append(part)
            continue
        kind = part.get("type") if isinstance(part, dict) else 0
        if kind is not None and not isinstance(kind, str):
            raise Unreadable("a part of the content that is no text")
        refuse_pictures(part)
        if kind in PICTURES:
            raise Unreadable(HAS_PICTURES)
        names = tuple(key for key in part if part[key] is not None)
        if kind in ("thinking", "reasoning") or (kind is None and part.get("thought") is True):
            used = {"type", "thinking", "reasoning", "text", "thought"}
            thoughts.append(text(part, next((key for key in ("thinking", "reasoning") if key in part), "text")))
        elif kind in ("text", "input_text", "output_text") or (kind is None and "text" in names):
            written.append(text(part, "text"))
            used = {"type", "text", "thought"}
        elif kind == "refusal":
            written.append(text(part, "refusal"))
            used = {"type", "refusal"}
        elif kind == "tool_use":
            content.calls.append(
                parse_call({"id": part.get("id"), "name": part.get("name"), "arguments": part.get("input")})
            )
            used = {"type", "id", "name", "input"}
        elif kind == "tool_result":
            content.results.append(
                read_result(part.get("content"), "tool_call_id", part.get("tool_use_id"), place, shapes)
            )
            used = {"type", "tool_use_id", "content"}
        elif name := next((key for key in CALL_KEYS if key in names), None):
            content.calls.append(parse_call({**decode_record(part[name]), "arguments": part[name].get("args")}))
            used = {"type", name}
        elif name := next((key for key in RESULT_KEYS if key in names), None):
            answer = decode_record(part[name])
            response = json.dumps(answer.get("response"), ensure_ascii=False, default=str)
            content.results.append(read_result(response, "name", answer.get("name"), place, shapes))
            used = {"type", name}
        else:
            raise Unreadable("a part of the content that is no text")
        shapes.append((f"{place}[]", tuple(key if key in used else f"?{key}" for key in names)))
    content.text, content.thoughts = "".join(written), "\n".join(thoughts)
    return content


def decode_record(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unreadable("a part of the content that is no text")
    return value


def read_result(value: Any, key: str, id: Any, place: str, shapes: list) -> dict[str, Any]:
    """The turn of a tool. Raises Unreadable."""
    answer = read_content(value, f"{place}[].content", shapes)
    if answer.thoughts or answer.calls or answer.results:
        raise Unreadable("a tool's answer that is no text")
    turn = {"role": "tool", "content": answer.text or ""}
    return turn if id is None else {**turn, key: identifier(id)}


def parse_call(call: Any) -> dict[str, Any]:
    """A tool call as OpenAI spells it, its arguments as an object."""
    inner = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str) or not inner["name"]:
        raise Unreadable("a tool call without a name")
    arguments = inner.get("arguments", inner.get("parameters"))
    if isinstance(arguments, str):  # a null in there was written by someone, and not by Parquet
        arguments = decode_json(arguments, "arguments of a tool call that are not JSON")
    else:
        arguments = drop_nulls(arguments)
    if arguments is not None and not isinstance(arguments, dict):
        raise Unreadable("arguments of a tool call that are no object")
    parsed = {"type": "function", "function": {"name": inner["name"], "arguments": arguments or {}}}
    return parsed if call.get("id") is None else {**parsed, "id": identifier(call["id"])}
