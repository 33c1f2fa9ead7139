"""The section `pilot`: short runs that choose a share of replay, or a learning rate."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from holdfast.params.base import Positive, Section, Seed


class Pilot(Section):
    """Short runs that find the share of an arm that says `share: auto`, and the rate of one that says `learning_rate: auto`. They
    train on a part of its rows and are measured on rows of both sources that they have not seen."""

    section: ClassVar[str] = "pilot"

    retention_target: Annotated[float, Field(gt=0, lt=1)] = 0.98
    """Retention to keep, as a fraction: 1 - total variation distance between base and tuned on held-out replay
    answers, mean over tokens; see docs/training.md."""
    shares: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=2)] = [0.05, 0.2, 0.5]
    """Shares of replay that are tried, as fractions."""
    parts: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)] = [0.1, 0.3]
    """Lengths of the runs, as parts of the arm's whole one."""
    learning_rates: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] = [1.0]
    """Learning rates that are tried, as multiples of the arm's own; others than 1 are fitted too, and reported."""
    rate_factors: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2)] = [1.0, 3.0, 10.0]
    """Learning rates that are tried for learning_rate: auto, as multiples of the usual one for the base's width and the
    method, full or LoRA (docs/training.md); their runs are as long as the longest of parts."""
    held_out: Positive = 300
    """Rows of each source to measure on, at most a fifth of them."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.8
    """Confidence, as a fraction, that the share meets the target, by the bootstrap of the fit."""
    max_share: Annotated[float, Field(gt=0, lt=1)] = 0.83
    """Largest share that is chosen, whatever the target."""
    seed: Seed = 0
    """Seed of the runs and of the bootstrap."""
