"""The section `curate`: which instructions are kept."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from holdfast.params.base import Positive, Seed
from holdfast.params.row_checks import RowChecks


class Curate(RowChecks):
    section: ClassVar[str] = "curate"
    partial: ClassVar[bool] = False

    near_duplicate: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Jaccard similarity of word 3-grams from which two instructions are duplicates; 1 means exact copies only."""
    near_meaning: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Cosine of embeddings from which two instructions with the same rare words are duplicates; 1 turns it off."""
    overlap_ngram: Positive = 8
    """Words in a row that an instruction and an evaluation item must share to overlap."""
    overlap_common: Positive = 5
    """An n-gram in more evaluation items than this is phrasing, not content, and is ignored."""
    overlap_coverage: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Part of an evaluation item, by weight, whose sharing rejects an instruction."""
    overlap_meaning: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Cosine of embeddings from which an instruction counts as an evaluation item (see near_meaning); 1 turns it
    off."""
    clusters: Positive = 24
    """Clusters of meaning: k of mini-batch k-means on the base's mean-pooled hidden states, or on the embedder's
    embeddings."""
    batch: Positive = 256
    """Rows at once on the device."""
    min_kept: Positive = 1
    """Kept instructions below which the pipeline stops."""
    seed: Seed = 0
    """Seed of the clustering."""
