"""Whether parsed calls are those that were expected, by the rules of the Berkeley leaderboard's AST check (BFCL, Patil et al. 2025).

An expected call names, for each argument, the values that are right; a value "" among them says that the argument may be left
out. Numbers are compared by value, texts without case, blanks and punctuation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from holdfast.chat.calls import Call

Expected = dict[str, dict[str, list[Any]]]  # name -> argument -> right values


def match_calls(calls: Sequence[Call], expected: Sequence[Expected]) -> bool:
    """Whether each expected call was made, in any order, and no other."""
    left = list(calls)
    for wanted in expected:
        place = next((n for n, call in enumerate(left) if match_call(call, wanted)), None)
        if place is None:
            return False
        left.pop(place)
    return not left


def match_call(call: Call, expected: Expected) -> bool:
    ((name, arguments),) = expected.items()
    if call.name != name or not set(call.arguments) <= set(arguments):
        return False
    return all(
        any(same_value(call.arguments[key], value) for value in values) if key in call.arguments else "" in values
        for key, values in arguments.items()
    )


def same_value(value: Any, right: Any) -> bool:
    if isinstance(right, bool) or isinstance(value, bool):
        return value is right
    if isinstance(right, int | float) and isinstance(value, int | float):
        return abs(value - right) <= 1e-9 * max(1.0, abs(right))
    if isinstance(right, str) and isinstance(value, str):
        return standard(value) == standard(right)
    if isinstance(right, list) and isinstance(value, list):
        return len(value) == len(right) and all(map(same_value, value, right))
    if isinstance(right, dict) and isinstance(value, dict):
        if not set(value) <= set(right):
            return False
        return all(
            same_in(value[key], inner) if key in value else isinstance(inner, list) and "" in inner
            for key, inner in right.items()
        )
    return value is None and right is None


def same_in(value: Any, right: Any) -> bool:
    """BFCL lists the right values of a nested argument, too."""
    options = right if isinstance(right, list) else [right]
    return same_value(value, right) or any(same_value(value, option) for option in options)


def standard(text: str) -> str:
    return re.sub(r"[ ,./\-_*^'\"]", "", text).casefold()
