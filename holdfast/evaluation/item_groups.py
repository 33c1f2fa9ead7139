"""Which items belong together: those about one passage are right or wrong together, and are resampled so (docs/verdict.md)."""

from __future__ import annotations

import hashlib
from typing import Any

GROUP_FIELDS = ("group", "passage", "context", "article", "story", "paragraph")  # what several items may be about


def find_group(doc: dict[str, Any]) -> str | None:
    """What an item shares with others, by which they are right or wrong together; None: nothing known."""
    for field in GROUP_FIELDS:
        if isinstance(value := doc.get(field), str | int) and str(value).strip():
            return digest(str(value))
    return None


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
