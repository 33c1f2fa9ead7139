"""The section `balance`: which instructions the replay set holds."""

from __future__ import annotations

from typing import ClassVar, Literal

from holdfast.params.base import Fraction, Positive, Section, Seed


class Balance(Section):
    section: ClassVar[str] = "balance"

    rows: Positive  # rows of the replay set, at most
    temperature: Fraction = 0.0  # 0: every cell of cluster x difficulty equal; 1: as reconstructed
    # what bins are quantiles of: the base's negative log-likelihood of the response, how little the instruction helps it,
    # or the standard deviation of the judges' scores
    difficulty: Literal["base_likelihood", "instruction_following", "disagreement"] = "base_likelihood"
    difficulty_bins: Positive = 4
    seed: Seed = 0
