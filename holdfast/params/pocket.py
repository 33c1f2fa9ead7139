"""The section `pocket`: the recipe of the built-in lab."""

from __future__ import annotations

from typing import ClassVar

from holdfast.params.base import Name, Positive, Section, Seed


class Pocket(Section):
    section: ClassVar[str] = "pocket"

    examples: dict[Name, Positive] = {"base": 700_000, "abacus": 750_000, "lexicon": 750_000}  # training examples
    hidden: Positive = 128
    layers: Positive = 8
    heads: Positive = 4
    items: Positive = 240  # evaluation items per suite, at most
    development: Positive = 120  # further items per suite, to choose settings with
    domain_rows: Positive = 2400
    seed: Seed = 1
