"""The section `gate`: what passes."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from holdfast.params.base import Fraction, Name, Section, Seed


class Gate(Section):
    section: ClassVar[str] = "gate"

    margin: Annotated[float, Field(gt=0, lt=1)] = 0.03  # largest acceptable drop of the general score (0..1)
    suite_margin: Annotated[float, Field(gt=0, lt=1)] = 0.1  # largest acceptable drop of one suite
    suite_margins: dict[str, Annotated[float, Field(gt=0, lt=1)]] = {}  # exceptions by suite
    # smallest acceptable gain of the domain score; below 0 the largest acceptable drop, -1: whatever
    min_domain_gain: Annotated[float, Field(ge=-1, le=1)] = 0.0
    control: Name | None = None  # arm whose failure is expected: it does not turn the exit code red
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    resamples: Annotated[int, Field(ge=200)] = 10_000  # of the paired bootstrap
    min_base: Fraction = 0.1  # chance-adjusted base score below which a general suite cannot be compared
    seed: Seed = 0
