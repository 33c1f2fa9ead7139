"""Turns of a conversation in one spelling: their roles, texts, thoughts, tool calls and weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.data.fields import field
from holdfast.data.row_values import Unreadable, decode_json, drop_nulls, identifier, text

Turn = dict[str, Any]
ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "customer", "client"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot", "chatbot", "ai", "agent"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "tool_response", "ipython"), "tool"),
    "function_call": "assistant",  # ShareGPT: the text is the call
}
PLAIN_ROLES = {
    name: role for name, role in ROLES.items() if name not in ("function_call", "tool")
}  # text is all they have
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
WEIGHTS = ("weight", "train", "training", "trainable", "loss", "loss_weight")
MASKS = (
    "mask",
    "masked",
    "loss_mask",
    "train_mask",
    "train_detail",
    "mask_ranges",
)  # what else says what is trained on
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
}
PLAIN_TURNS = frozenset({("role", "content"), ("content", "role"), ("from", "value"), ("value", "from")})
CHANNELS = ("analysis", "commentary", "final")  # of the harmony format
EMPTY = "empty turn"
HAS_PICTURES = "holds images, video or audio: only text is trained on"
UNDESIRED = "its label is false: no answer to learn"
MASKED = (
    f"a field that says what is trained on in a way that is not read ({', '.join(MASKS)}): give weight: 0 at a turn"
)


def refuse_pictures(row: dict[str, Any]) -> None:
    if not PICTURES.isdisjoint(row) and any(row[name] for name in PICTURES & row.keys()):
        raise Unreadable(HAS_PICTURES)


def add_thoughts(turn: Turn, thoughts: Any) -> None:
    if thoughts is None:
        return
    if not isinstance(thoughts, str):
        raise Unreadable("thoughts that are not text")
    if thoughts.strip():
        turn["reasoning_content"] = thoughts


def parse_turns(
    turns: Any, name: str, shapes: list, role_field: str | None = None, content_field: str | None = None
) -> list[Turn]:
    """`name`: of the field that holds the turns. Adds to `shapes` what each turn has. Raises Unreadable."""
    if isinstance(turns, str) and turns.lstrip().startswith("["):
        turns = decode_json(turns, "no list of turns")
    if isinstance(turns, dict):
        turns = transpose(turns)
    if not isinstance(turns, list) or not turns:
        raise Unreadable("no list of turns")
    parsed, place, channels = [], f"{name}[]", False
    for turn in turns:
        if not isinstance(turn, dict):
            raise Unreadable("a turn that is not a record of named fields")
        named = tuple(turn)
        if role_field is None and content_field is None and named in PLAIN_TURNS:  # the usual case, made fast
            role, content = (turn["role"], turn["content"]) if "role" in turn else (turn["from"], turn["value"])
            if isinstance(content, str) and (known := PLAIN_ROLES.get(role) if isinstance(role, str) else None):
                parsed.append({"role": known, "content": content})
                shapes.append((place, named))
                continue
        parsed.append(parse_turn(turn, name, shapes, role_field, content_field))
        channels = channels or "channel" in turn
    return move_analysis(parsed) if channels else parsed


def move_analysis(turns: list[Turn]) -> list[Turn]:
    """Turns of the channel `analysis` (the harmony format of gpt-oss) as thoughts of the answer or call after them."""
    result, thoughts = list[Turn](), list[str]()
    for turn in turns:
        if "analysis" in turn:
            thoughts += filter(str.strip, [turn["analysis"]])
            continue
        if thoughts:
            if turn["role"] != "assistant" or "reasoning_content" in turn:
                raise Unreadable("a turn of the channel analysis that no answer follows")
            turn, thoughts = {**turn, "reasoning_content": "\n".join(thoughts)}, []
        result.append(turn)
    if thoughts:
        raise Unreadable("a turn of the channel analysis that no answer follows")
    return result


def transpose(fields: dict[str, Any]) -> Any:
    """Turns out of lists of their fields, as `datasets` gives a sequence of records; anything else as it is."""
    lists = list(fields.values())
    if not lists or not all(isinstance(values, list) and len(values) == len(lists[0]) for values in lists):
        return fields
    return [dict(zip(fields, values, strict=True)) for values in zip(*lists, strict=True)]


def role_of(turn: Turn, role_field: str | None = None) -> str | None:
    role = field(turn, role_field) if role_field else turn.get(role_name(turn))
    return ROLES.get(role.strip().lower()) if isinstance(role, str) else None


def role_name(turn: Turn) -> str:
    """The field that says who speaks. Parquet gives each turn the fields of all, as nulls."""
    return "from" if turn.get("role") is None and turn.get("from") is not None else "role"


def parse_turn(turn: Turn, name: str, shapes: list, role_field: str | None, content_field: str | None) -> Turn:
    refuse_pictures(turn)
    role = role_of(turn, role_field)
    if role is None:
        raise Unreadable("unknown role")
    spelled_role = turn[role_name(turn)] if role_field is None else None
    by_value = turn.get("content") is None and "value" in turn
    content_name: str = content_field or ("value" if by_value else "content")
    calls = decode_json(turn.get("tool_calls"), "tool calls that are no list")
    content, thoughts = read_content(field(turn, content_name), name, shapes)
    result: Turn = {"role": role, "content": content or ""}
    if spelled_role == "function_call":
        calls, result["content"] = decode_json(content, "a function call that is not JSON"), ""
        calls = calls if isinstance(calls, list) else [calls]
    elif turn.get("function_call"):
        if calls:
            raise Unreadable("both tool_calls and a function_call in one turn")
        calls = [decode_json(turn["function_call"], "a function call that is not JSON")]
    elif content is None and not calls and role != "tool":  # a tool may have nothing to say
        raise Unreadable(EMPTY if content_name in turn else f"no field '{content_name}'")
    channel = turn.get("channel") if role == "assistant" else None
    if channel not in (None, "", *CHANNELS):
        raise Unreadable(f"a channel that is none of {', '.join(CHANNELS)}")
    if role == "assistant":
        add_thoughts(result, choose_thoughts([*(turn.get(key) for key in THOUGHTS), thoughts]))
        if calls:
            result["tool_calls"] = [parse_call(call) for call in calls] if isinstance(calls, list) else refuse_calls()
        if not is_trained(turn):
            result["train"] = False
        if channel == "analysis":
            result = read_analysis(result)
    elif calls:
        raise Unreadable("a tool call by another than the assistant")
    if role == "tool":
        result |= {key: identifier(turn[key]) for key in ("name", "tool_call_id") if turn.get(key) is not None}
    used = {role_field or role_name(turn), content_name, "tool_calls", "function_call", *WEIGHTS}
    used |= {*THOUGHTS, "channel"} if role == "assistant" else {"name", "tool_call_id"} if role == "tool" else set()
    names = tuple(key for key in turn if turn[key] is not None)
    shapes.append((f"{name}[]", tuple(key if key in used else f"?{key}" for key in names)))
    return result


def read_analysis(turn: Turn) -> Turn:
    """A turn of the channel `analysis`: its text is a thought, of its calls or (`analysis`) of the turn after it."""
    if "reasoning_content" in turn:
        raise Unreadable("two thoughts of one turn that differ")
    if "tool_calls" in turn:
        return {**turn, "content": "", "reasoning_content": turn["content"]}
    if turn.get("train") is False:
        raise Unreadable("a turn of the channel analysis that has a weight of its own")
    return {"role": turn["role"], "content": "", "analysis": turn["content"]}


def choose_thoughts(several: Sequence[Any]) -> Any:
    """The one thought that fields and parts hold, or None. Raises Unreadable where they hold different ones."""
    thoughts = [one for one in several if one is not None and (not isinstance(one, str) or one.strip())]
    if any(other != thoughts[0] for other in thoughts):
        raise Unreadable("two thoughts of one turn that differ")
    return thoughts[0] if thoughts else None


def refuse_calls() -> Any:
    raise Unreadable("tool calls that are no list")


def read_content(value: Any, name: str, shapes: list) -> tuple[str | None, str]:
    """(text, thoughts) of a turn's content: a text, or a list of parts."""
    if value is None:
        return None, ""
    value = [value] if isinstance(value, dict) else value
    if not isinstance(value, list):
        return text({"content": value}, "content"), ""
    written, thoughts = [], []
    for part in value:
        if isinstance(part, str):
            written.append(part)
            continue
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in PICTURES or (isinstance(part, dict) and any(part.get(key) for key in PICTURES & part.keys())):
            raise Unreadable(HAS_PICTURES)
        if kind in ("text", "input_text", "output_text"):
            written.append(text(part, "text"))
            used = {"type", "text"}
        elif kind in ("thinking", "reasoning"):
            used = {"type", "thinking", "reasoning", "text"}
            thoughts.append(text(part, next((key for key in ("thinking", "reasoning") if key in part), "text")))
        else:
            raise Unreadable("a part of the content that is no text")
        names = tuple(key for key in part if part[key] is not None)
        shapes.append((f"{name}[].content[]", tuple(key if key in used else f"?{key}" for key in names)))
    return "".join(written), "\n".join(thoughts)


def is_trained(turn: dict[str, Any], keys: Sequence[str] = WEIGHTS) -> bool:
    """What weight, train or loss of a turn (or of a row) say. Raises Unreadable for a weight between."""
    if any(turn.get(key) for key in MASKS):
        raise Unreadable(MASKED)
    for key in keys:
        value = read_weight(turn.get(key))
        if value is None:
            continue
        if value in (0, False):
            return False
        if value not in (1, True):
            raise Unreadable(f"a {key} that is neither 0 nor 1")
    return True


def read_weight(value: Any) -> Any:
    """A weight that is text, as in a CSV file ("0.0", "TRUE", an empty cell), as the number or truth value that it spells."""
    if not isinstance(value, str):
        return value
    word = value.strip().lower()
    try:
        return {"": None, "true": True, "false": False}[word] if word in ("", "true", "false") else float(word)
    except ValueError:
        return value


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
