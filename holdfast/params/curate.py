"""The section `curate`: which instructions are kept."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from holdfast.params.base import Positive, Seed
from holdfast.params.row_checks import RowChecks


class Curate(RowChecks):
    section: ClassVar[str] = "curate"
    partial: ClassVar[bool] = False

    near_duplicate: Annotated[float, Field(gt=0, le=1)] = 0.8  # Jaccard similarity of word 3-grams; 1 = exact only
    near_meaning: Annotated[float, Field(gt=0, le=1)] = 1.0  # cosine of embeddings, with the same rare words; 1 = off
    overlap_ngram: Positive = 8  # words in a row that a row and an evaluation item share
    overlap_common: Positive = 5  # an n-gram in more evaluation items than this is phrasing, not content
    overlap_coverage: Annotated[float, Field(gt=0, le=1)] = 0.5  # part of an item, by weight, whose sharing is too much
    overlap_meaning: Annotated[float, Field(gt=0, le=1)] = 1.0  # as near_meaning, against evaluation items
    clusters: Positive = 24  # k of mini-batch k-means on the base's mean-pooled hidden states
    batch: Positive = 256
    min_kept: Positive = 1  # fewer kept rows stop the pipeline
    seed: Seed = 0
