"""What makes an instruction unfit by itself: the part of `curate` that `reconstruct` counts by too."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from holdfast.params.base import Positive, Section

Language = Literal["en", "de", "fr", "es", "it", "pt", "nl", "ru", "el", "ar", "he", "hi", "th", "ja", "ko", "zh"]


class RowChecks(Section):
    """What makes a row unfit by itself. `reconstruct` counts by these towards `keep`, and `curate` rejects by them."""

    section: ClassVar[str] = "curate"
    partial: ClassVar[bool] = True

    finished_only: bool = True
    """Reject user turns that the base did not end by itself."""
    min_chars: Annotated[int, Field(ge=0)] = 4
    """Characters of an instruction, at least."""
    max_chars: Positive = 8000
    """Characters of an instruction, at most."""
    personal_data: bool = True
    """Reject e-mail addresses, phone and card numbers, keys and the like."""
    refusal_bait: bool = True
    """Reject instructions that invite a refusal; false: replay also keeps the base's refusals."""
    languages: list[Language] = []
    """Languages to keep: rows recognised as another one are rejected; an empty list keeps all."""
    max_repetition: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Part of a text that one repeated 3-gram, or a loop, may cover, at most."""
