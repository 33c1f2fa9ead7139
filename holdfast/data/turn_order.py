"""The order that turns may have: [system,] user, assistant, [tool, assistant,] ... assistant."""

from __future__ import annotations

import re
from itertools import pairwise

from holdfast.data.row_values import Unreadable
from holdfast.data.turns import EMPTY, Turn

BLANK_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")
UNTRAINED = "nothing of it is trained on (weight 0)"
CUT, JOINED = "last turn not by the assistant cut", "turns of one role joined"
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
        if not content and not turn.get("tool_calls") and turn["role"] != "tool":
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
        check_tool_turns(result)
    if all(turn.get("train") is False for turn in result if turn["role"] == "assistant"):
        raise Unreadable(UNTRAINED)
    return result


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
