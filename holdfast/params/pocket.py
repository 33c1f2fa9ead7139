"""The section `pocket`: the recipe of the built-in lab."""

from __future__ import annotations

from typing import ClassVar

from holdfast.params.base import Name, Positive, Section, Seed


class Pocket(Section):
    section: ClassVar[str] = "pocket"

    examples: dict[Name, Positive] = {"base": 700_000, "abacus": 750_000, "lexicon": 750_000}
    """Training examples of each built-in model."""
    hidden: Positive = 128
    """Width of the models' hidden states."""
    layers: Positive = 8
    """Layers of the models."""
    heads: Positive = 4
    """Attention heads of a layer."""
    items: Positive = 240
    """Evaluation items per suite, at most."""
    development: Positive = 120
    """Further items per suite, to choose settings with."""
    domain_rows: Positive = 2400
    """Rows of the built-in domain."""
    seed: Seed = 1
    """Seed of the models and of the data."""
