"""The section `judge`: how responses are scored."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from holdfast.params.base import Fraction, Positive, Section, Seed


class Judge(Section):
    section: ClassVar[str] = "judge"

    rubric: str
    """File with the judge's prompt; {instruction} and {response} are replaced in one pass, so that neither can
    inject the other."""
    shard: Positive = 2048
    """Responses per unit of work and of caching."""
    batch: Positive = 256
    """Responses at once on the device."""
    min_mass: Fraction = 0.5
    """Probability on the tokens 1..5 below which a score is null: the model did not judge."""
    attempts: Positive = 3
    """Attempts at a score that has to be read from generated text; then it is null."""
    adaptive: bool = True
    """Ask the next judge only while the outcome could still change; false: every judge scores everything."""
    audit: Positive = 600
    """Instructions, drawn at random, that every judge scores: for the thresholds of adaptive and for the audit."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.99
    """Confidence, as a fraction, that adaptive finds the outcome of the whole panel."""
    level: Annotated[float, Field(ge=1, le=5)] = 3.0
    """Mean score (rubric points) whose side must be sure too: near consensus.min_score."""
    seed: Seed = 0
    """Seed of the audit's draw and of generated scores."""
