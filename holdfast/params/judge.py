"""The section `judge`: how responses are scored."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from holdfast.params.base import Fraction, Positive, Section, Seed


class Judge(Section):
    section: ClassVar[str] = "judge"

    rubric: str  # file; {instruction} and {response} are replaced in one pass, so that neither can inject the other
    shard: Positive = 2048
    batch: Positive = 256
    min_mass: Fraction = 0.5  # probability on the tokens 1..5 below which the score is null: the model did not judge
    attempts: Positive = 3  # at a score that has to be read from generated text; then it is null
    adaptive: bool = (
        True  # ask the next judge only while the outcome could still change; false: everybody judges everything
    )
    audit: Positive = (
        600  # instructions, drawn at random, that every judge scores whole: for the bars and for the audit
    )
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.99  # that the outcome is the whole panel's
    level: Annotated[float, Field(ge=1, le=5)] = 3.0  # mean score whose side must be sure too: near consensus.min_score
    seed: Seed = 0
