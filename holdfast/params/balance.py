"""The section `balance`: which instructions the replay set holds."""

from __future__ import annotations

from typing import ClassVar, Literal

from holdfast.params.base import Fraction, Positive, Section, Seed


class Balance(Section):
    section: ClassVar[str] = "balance"

    rows: Positive
    """Rows of the replay set, at most."""
    temperature: Fraction = 0.0
    """How the rows spread over cells of cluster x difficulty: 0 all cells equal, 1 as they were reconstructed."""
    difficulty: Literal["base_likelihood", "instruction_following", "disagreement"] = "base_likelihood"
    """What difficulty bins are quantiles of: the base's negative log-likelihood of the response, how little the
    instruction helps it, or the standard deviation of the judges' scores."""
    difficulty_bins: Positive = 4
    """Bins of difficulty per cluster."""
    seed: Seed = 0
    """Seed of the draw of rows."""
