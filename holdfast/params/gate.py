"""The section `gate`: what passes."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from holdfast.params.base import Fraction, Name, Section, Seed


class Gate(Section):
    section: ClassVar[str] = "gate"

    margin: Annotated[float, Field(gt=0, lt=1)] = 0.03
    """Largest acceptable drop of the general score, as a fraction: 0.03 is 3 points."""
    suite_margin: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Largest acceptable drop of one suite's score, general or of the self suite, as a fraction."""
    suite_margins: dict[str, Annotated[float, Field(gt=0, lt=1)]] = {}
    """Exceptions to suite_margin, by suite, as fractions."""
    watched: list[str] = []
    """Suites that are measured and shown, and decide nothing: part of no score, without a margin."""
    self_margin: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Largest acceptable drop of the self score, as a fraction: the mean of self_likelihood and self_chat."""
    min_domain_gain: Annotated[float, Field(ge=-1, le=1)] = 0.0
    """Smallest acceptable gain of the domain score, as a fraction; below 0 the largest acceptable drop; -1 accepts
    any."""
    control: Name | None = None
    """Arm that is expected to fail: it does not decide the exit code; null: none."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Confidence of the intervals, as a fraction."""
    resamples: Annotated[int, Field(ge=200)] = 10_000
    """Resamples of the paired bootstrap."""
    min_base: Fraction = 0.1
    """Chance-adjusted base score, as a fraction, below which a general suite cannot be compared."""
    seed: Seed = 0
    """Seed of the bootstrap."""
