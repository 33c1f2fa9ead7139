"""The section `consensus`: which response is chosen."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from holdfast.params.base import Positive, Section


class SelectionRule(Section):
    """What could be chosen at all: the part of `consensus` that `judge` asks by too."""

    section: ClassVar[str] = "consensus"
    partial: ClassVar[bool] = True

    # mean_score: the best mean (Ding & Wang); score_then_base_likelihood: of all good enough the one that the base finds
    # most likely; agreement: the answer that most responses give; base_best_of_k: the base's own, by its own score
    strategy: Literal["mean_score", "score_then_base_likelihood", "agreement", "base_best_of_k"] = "mean_score"
    finished_only: bool = True  # responses that their model did not end itself cannot be chosen
    min_judges: Positive = 1  # responses with fewer valid scores are rejected


class Consensus(SelectionRule):
    partial: ClassVar[bool] = False

    min_score: Annotated[float, Field(ge=1, le=5)] = 3.0  # mean score below which the best response is rejected
    # mean scores closer than this are tied; then the base's likelihood decides
    tie: Annotated[float, Field(ge=0)] = 0.05
