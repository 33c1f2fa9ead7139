"""The section `consensus`: which response is chosen."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from holdfast.params.base import Positive, Section

Strategy = Literal["mean_score", "score_then_base_likelihood", "agreement", "base_best_of_k", "first"]


class SelectionRule(Section):
    """Which responses could be selected at all: the part of `consensus` that `judge` depends on too."""

    section: ClassVar[str] = "consensus"
    partial: ClassVar[bool] = True

    strategy: Strategy = "mean_score"
    """Which response wins. mean_score: the best mean score (Ding & Wang); score_then_base_likelihood: of all good
    enough the one that the base finds most likely; agreement: the answer that most responses give;
    base_best_of_k: the base's own best, by its own score; first: the base's own first finished answer, no judge is
    asked. Where replay rows have the KL, first keeps as much as the others (docs/log.md)."""
    finished_only: bool = True
    """Exclude responses that ran into max_tokens instead of ending by themselves. Arms with cross-entropy on replay
    rows need it; the KL does not, since up to the cut the words are the base's."""
    min_judges: Positive = 1
    """Valid scores that a response needs; one with fewer is rejected."""


class Consensus(SelectionRule):
    partial: ClassVar[bool] = False

    min_score: Annotated[float, Field(ge=1, le=5)] = 3.0
    """Mean score (rubric points) below which even the best response is rejected."""
    tie: Annotated[float, Field(ge=0)] = 0.05
    """Mean scores (rubric points) closer than this are tied; the base's likelihood then decides."""
