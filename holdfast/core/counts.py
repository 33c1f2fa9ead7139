"""Counts in words."""

from __future__ import annotations

from collections.abc import Iterable


def list_counts(counts: Iterable[tuple[str, int]]) -> str:
    """'1,200 duplicate, 3 too long': each number before what was counted."""
    return ", ".join(f"{n:,} {what}" for what, n in counts)
