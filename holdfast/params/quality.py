"""The section `quality`: what must hold before training."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from holdfast.params.base import Fraction, Positive, Section

Quantile = Annotated[float, Field(gt=0, lt=1)]


Range = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]


class Quality(Section):
    section: ClassVar[str] = "quality"

    min_rows: Positive = 1
    """Critical: rows of the replay set, at least."""
    max_null_scores: Fraction = 0.2
    """Critical: part of all scores that may be null."""
    max_unfinished: Fraction = 0.5
    """Critical: part of raw instructions that may have run into the length limit."""
    min_clusters: Positive = 1
    """Critical: clusters that the replay set covers, at least."""
    max_model_share: Fraction = 0.95
    """Warning: part of the replay set that one panel member alone wrote, at most."""
    min_cluster_coverage: Fraction = 0.5
    """Warning: part of the clusters of kept instructions that the replay set covers, at least."""
    min_score_spread: Annotated[float, Field(ge=0)] = 0.05
    """Warning: standard deviation of a judge's scores (rubric points), at least; a judge below it does not tell
    responses apart."""
    length_quantiles: dict[Quantile, Range] = {0.05: [1, 2000], 0.5: [1, 4000], 0.95: [2, 8000]}
    """Warning: characters of instructions and of responses at a quantile: [least, most]."""
    max_instruction_chars: Positive = 8000
    """Critical: characters of a kept instruction, at most."""
    max_response_chars: Positive = 8000
    """Critical: characters of a response in the replay set, at most."""
    deny: list[str] = []
    """Critical: regular expressions that no replay text may match."""

    @field_validator("deny")
    @classmethod
    def compiles(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        return patterns
