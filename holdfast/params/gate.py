"""The section `gate`: what passes."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from holdfast.params.base import Fraction, Name, Section, Seed


def check_percent(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,2}(\.[0-9]+)? ?%", text) or not float(text.rstrip(" %")):
        raise ValueError(f"{text[:40]!r} is no per cent between 0 and 100, such as 5%")
    return text


Margin = (
    Annotated[float, Field(gt=0, lt=1)] | Annotated[str, AfterValidator(check_percent)]
)  # of the scale, or of the base's score


def resolve_margin(margin: Margin, base: float) -> float:
    """A margin as a fraction of the scale; a per cent is one of the base's score above chance, 0 to 1."""
    return margin if isinstance(margin, int | float) else float(margin.rstrip(" %")) / 100 * max(base, 0.0)


class Gate(Section):
    section: ClassVar[str] = "gate"

    margin: Margin = 0.03
    """Largest acceptable drop of the general score, as a fraction: 0.03 is 3 points; or as a part of the base's own score
    above chance: 5% is 3 points where the base has 60."""
    suite_margin: Margin = 0.1
    """Largest acceptable drop of one suite's score, general or of the self suite, as a fraction or a per cent of the base's."""
    suite_margins: dict[str, Margin] = {}
    """Exceptions to suite_margin, by suite, each as a fraction or a per cent of the base's."""
    watched: list[str] = []
    """Suites that are measured and shown, and decide nothing: part of no score, without a margin."""
    self_margin: Margin = 0.05
    """Largest acceptable drop of the self score, as a fraction or a per cent of the base's: the mean of self_likelihood and self_chat."""
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
