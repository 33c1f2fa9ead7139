"""Turns of a conversation in one spelling: their roles, texts, thoughts, tool calls and weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from holdfast.data.fields import field
from holdfast.data.parts import parse_call, read_content, refuse_pictures
from holdfast.data.row_values import Unreadable, decode_json, identifier

Turn = dict[str, Any]
ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "customer", "client"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot", "chatbot", "ai", "agent"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "tool_response", "ipython"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "assistant"),  # ShareGPT: the text is the call
}
CALL_ROLES = ("function_call", "tool_call")
PLAIN_ROLES = {name: role for name, role in ROLES.items() if name not in (*CALL_ROLES, "tool")}  # text is all they have
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
CONTENTS = ("content", "value", "parts", "text")  # the first that a turn has
LOSS_MASKS = ("loss_mask", "train_mask")  # a weight where they are one number; else what is trained on within a turn
WEIGHTS = ("weight", "train", "training", "trainable", "loss", "loss_weight", *LOSS_MASKS)
MASKS = (
    "mask",
    "masked",
    *LOSS_MASKS,
    "train_detail",
    "mask_ranges",
)  # what else says what is trained on
PLAIN_TURNS = frozenset({("role", "content"), ("content", "role"), ("from", "value"), ("value", "from")})
CHANNELS = ("analysis", "commentary", "final")  # of the harmony format
EMPTY = "empty turn"
PRINTED = "turns as Python prints them, which is no JSON"
UNDESIRED = "its label is false: no answer to learn"
MASKED = (
    f"a field that says what is trained on in a way that is not read ({', '.join(MASKS)}): give weight: 0 at a turn"
)


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
        turns = decode_json(turns, PRINTED if turns.lstrip().startswith("[{'") else "no list of turns")
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
        parsed += parse_turn(turn, name, shapes, role_field, content_field)
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


def parse_turn(turn: Turn, name: str, shapes: list, role_field: str | None, content_field: str | None) -> list[Turn]:
    """One turn, or several where the user's holds what tools answered. Raises Unreadable."""
    refuse_pictures(turn)
    role = role_of(turn, role_field)
    if role is None:
        written = field(turn, role_field) if role_field else turn.get(role_name(turn))
        raise Unreadable("unknown role" if written is not None else f"no field '{role_field or 'role'}'")
    spelled_role = turn[role_name(turn)] if role_field is None else None
    content_name: str = content_field or next((key for key in CONTENTS if turn.get(key) is not None), "content")
    calls = decode_json(turn.get("tool_calls"), "tool calls that are no list")
    spoken = read_content(field(turn, content_name), f"{name}[].{content_name}", shapes)
    content = add_refusal(spoken.text, turn.get("refusal")) if role == "assistant" else spoken.text
    result: Turn = {"role": role, "content": content or ""}
    if spoken.calls:
        if calls or turn.get("function_call"):
            raise Unreadable("both tool_calls and a call among the parts of one turn")
        calls = spoken.calls
    if spelled_role in CALL_ROLES:
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
        add_thoughts(result, choose_thoughts([*(turn.get(key) for key in THOUGHTS), spoken.thoughts]))
        if calls:
            result["tool_calls"] = [parse_call(call) for call in calls] if isinstance(calls, list) else refuse_calls()
        if not is_trained(turn):
            result["train"] = False
        if channel == "analysis":
            result = read_analysis(result)
    elif calls:
        raise Unreadable("a tool call by another than the assistant")
    if spoken.results and role != "user":
        raise Unreadable("a tool's answer in a turn of another than the user")
    if role == "tool":
        result |= {key: identifier(turn[key]) for key in ("name", "tool_call_id") if turn.get(key) is not None}
    used = {role_field or role_name(turn), content_name, "tool_calls", "function_call", *WEIGHTS, *MASKS}
    used |= (
        {*THOUGHTS, "channel", "refusal"}
        if role == "assistant"
        else {"name", "tool_call_id"}
        if role == "tool"
        else set()
    )
    names = tuple(key for key in turn if turn[key] is not None)
    shapes.append((f"{name}[]", tuple(key if key in used else f"?{key}" for key in names)))
    if spoken.results:
        return [*spoken.results, *([result] if result["content"].strip() else [])]
    return [result]


def add_refusal(content: str | None, refusal: Any) -> str | None:
    """The text of a turn of OpenAI's: an answer, or in its place a refusal. Raises Unreadable for both."""
    if not refusal:
        return content
    if content or not isinstance(refusal, str):
        raise Unreadable("both a text and a refusal in one turn")
    return refusal


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


def is_trained(turn: dict[str, Any], keys: Iterable[str] = WEIGHTS) -> bool:
    """What weight, train or loss of a turn (or of a row) say. Raises Unreadable for a weight between."""
    for key in MASKS:
        value = read_weight(turn.get(key))
        if value is None or value == [] or (key in LOSS_MASKS and isinstance(value, int | float)):
            continue
        if key == "masked" and value in (0, 1):
            if value:
                return False
            continue
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
