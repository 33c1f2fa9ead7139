"""The order that turns may have: [system,] user, assistant, [tool, assistant,] ... assistant."""

from __future__ import annotations

import re
from itertools import pairwise

from holdfast.data.parts import parse_call
from holdfast.data.row_values import Unreadable, decode_json
from holdfast.data.turns import EMPTY, Turn

BLANK_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")
UNTRAINED = "nothing of it is trained on (weight 0)"
CUT, JOINED = "last turn not by the assistant cut", "turns of one role joined"
CALLS = "calls in <tool_call> and answers in <tool_response> taken out of the text and given to the template"
CALL = re.compile(r"\s*<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
RESPONSE = re.compile(r"\s*<tool_response>\n?(.*?)\n?</tool_response>\s*", re.DOTALL)
UNSEEN = "\u00ad\u180e\u200b\u200c\u200d\u2060\ufeff \t\n"  # characters that show nothing
BLANK = "blank space removed at the end or in blank lines before the text"


def normalise_turns(turns: list[Turn], same_role: str, changes: set[str]) -> list[Turn]:
    """[system,] user, assistant, [tool, assistant,] ... assistant. Adds to `changes` what was changed. Raises Unreadable."""
    result: list[Turn] = []
    for turn in turns:
        content = turn["content"]
        if content.strip() != content:
            content = trim(turn["content"])
            if content != turn["content"]:
                changes.add(BLANK)
            turn = {**turn, "content": content}
        if not content and turn["role"] == "system":
            continue
        if not content.strip(UNSEEN) and not turn.get("tool_calls") and turn["role"] != "tool":
            raise Unreadable(EMPTY)
        if result and result[-1]["role"] == turn["role"] != "tool":
            turn = join_turns(result.pop(), turn, same_role)
            changes.add(JOINED)
        result.append(turn)
    while result and result[-1]["role"] != "assistant":
        result.pop()
        changes.add(CUT)
    if not result:
        raise Unreadable("no turn of the assistant")
    roles = [turn["role"] for turn in result]
    dialogue = roles[1:] if roles[0] == "system" else roles
    if "system" in dialogue:
        raise Unreadable("a system turn that is not the first")
    if dialogue[0] != "user":
        raise Unreadable("does not begin with the user")
    if "tool" in dialogue:
        result = [take_out_calls(turn, changes) for turn in result]
        check_tool_turns(result)
    if all(turn.get("train") is False for turn in result if turn["role"] == "assistant"):
        raise Unreadable(UNTRAINED)
    return result


def take_out_calls(turn: Turn, changes: set[str]) -> Turn:
    """A turn whose calls, or whose answer of a tool, stand in the text as Hermes writes them: as the fields of a call. Other
    turns as they are. Raises Unreadable."""
    content = turn["content"]
    if turn["role"] == "tool" and (answer := RESPONSE.fullmatch(content)) and "<tool_response>" not in answer[1]:
        changes.add(CALLS)
        return {**turn, "content": answer[1]}
    if turn["role"] != "assistant" or "tool_calls" in turn or not (written := CALL.findall(content)):
        return turn
    changes.add(CALLS)
    calls = [parse_call(decode_json(call, "a call in <tool_call> that is not JSON")) for call in written]
    return {**turn, "content": CALL.sub("", content).rstrip(), "tool_calls": calls}


def join_turns(one: Turn, other: Turn, same_role: str) -> Turn:
    if same_role == "reject":
        raise Unreadable("two turns of one role in a row")
    if one.keys() != {"role", "content"} or other.keys() != {"role", "content"}:
        raise Unreadable("two turns of one role in a row that cannot be joined")
    return {"role": one["role"], "content": f"{one['content']}\n\n{other['content']}"}


def check_tool_turns(turns: list[Turn]) -> None:
    for one, other in pairwise(turns):
        if other["role"] == "tool" and one["role"] != "tool" and not one.get("tool_calls"):
            raise Unreadable("a tool's turn that no call stands before")
        if one["role"] == "tool" and other["role"] == "user":
            raise Unreadable("a tool's turn that the assistant does not answer")


def trim(content: str) -> str:
    """Without blank lines before the text and blank space at its end. The first line keeps its indentation."""
    return BLANK_LINES.sub("", content).rstrip()
