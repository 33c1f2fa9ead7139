"""Values of a row as texts, names and JSON, or the reason why they are none."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

from holdfast.data.fields import field, unique_keys


class Unreadable(Exception):
    """A row that parses but is no conversation. The text is a fixed reason: it holds nothing from the row."""


NOT_UNICODE = "not valid Unicode"  # half a surrogate pair, which JSON can spell and UTF-8 cannot


def identifier(value: Any) -> str:
    """The name or id of a tool or call, which may be a number."""
    return text({"id": value}, "id")


def drop_nulls(value: Any) -> Any:
    """Without the fields that Parquet adds as nulls, because another row has them."""
    if isinstance(value, dict):
        return {key: drop_nulls(inner) for key, inner in value.items() if inner is not None}
    return [drop_nulls(inner) for inner in value] if isinstance(value, list) else value


def decode_json(value: Any, reason: str) -> Any:
    """What a text holds as JSON; anything else as it is. Raises Unreadable with the reason."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, object_pairs_hook=unique_keys) if value.strip() else None
    except (ValueError, RecursionError):
        raise Unreadable(reason) from None


def text(row: dict[str, Any], path: str) -> str:
    """A field as text. Numbers count as text (labels often are); a truth value, a list or nothing at all does not."""
    value = field(row, path)
    if value is None:
        raise Unreadable(f"no field '{path}'")
    if isinstance(value, str):
        return value
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    raise Unreadable(f"field '{path}' is not text")


def storable(value: str) -> str:
    """The value, unless it holds half a surrogate pair, which JSON can spell and UTF-8 cannot. Raises Unreadable."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Unreadable(NOT_UNICODE) from None
    return value
