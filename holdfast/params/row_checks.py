"""What makes an instruction unfit by itself: the part of `curate` that `reconstruct` counts by too."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from holdfast.params.base import Positive, Section

Language = Literal["en", "de", "fr", "es", "it", "pt", "nl", "ru", "el", "ar", "he", "hi", "th", "ja", "ko", "zh"]


REFUSAL_PROMPTS = "refusals.txt"  # below reconstruct.folder, one prompt per line


class Refusals(Section):
    """How many refusals there are to be: the part of `curate` that `balance` depends on too."""

    section: ClassVar[str] = "curate"
    partial: ClassVar[bool] = True

    refusals: Annotated[float, Field(ge=0, lt=1)] | Positive = 0.0
    """Refusals in the replay set, at least: below 1 a share of its rows, from 1 a number of rows; 0: as many as come by
    themselves. Where they are too few, the base is asked what deserves a refusal (refusals.txt in reconstruct.folder), and
    what it refuses is replayed; a base that refuses nothing adds none."""

    @field_validator("refusals", mode="before")
    @classmethod
    def share_or_number(cls, value: Any) -> Any:
        share = isinstance(value, float) and 0 <= value < 1
        if not share and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise ValueError(f"{str(value)[:40]!r} is neither a share below 1 nor a number of rows")
        return value or 0.0


class RowChecks(Refusals):
    """What makes a row unfit by itself. `reconstruct` counts by these towards `keep`, and `curate` rejects by them."""

    finished_only: bool = True
    """Reject user turns that the base did not end by itself."""
    min_chars: Annotated[int, Field(ge=0)] = 4
    """Characters of an instruction, at least."""
    max_chars: Positive = 8000
    """Characters of an instruction, at most."""
    personal_data: bool = True
    """Reject e-mail addresses, phone and card numbers, keys and the like."""
    refusal_bait: bool = True
    """Replay attempts to switch rules off, and requests that deserve a refusal, only where the base refuses them; false:
    also where it obeys."""
    languages: list[Language] = []
    """Languages to keep: rows recognised as another one are rejected; an empty list keeps all."""
    max_repetition: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Part of a text that one repeated 3-gram, or a loop, may cover, at most."""
