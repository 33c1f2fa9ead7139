"""The section `drift`: what is compared, and from where on it counts as moved."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from holdfast.params.base import Positive, Section


class Drift(Section):
    section: ClassVar[str] = "drift"

    rows: Positive = 2000
    """Texts of each set that the base embeds, and domain rows whose responses it scores."""
    score_method: Literal["t_test", "ks", "cramer_von_mises"] = "t_test"
    """Test on scores per item. t_test compares means: right for 0/1 scores (the z test of two proportions) and
    graded ones from ten rows to millions; ks and cramer_von_mises compare whole distributions and are dull
    where values tie."""
    score_threshold: Annotated[float, Field(gt=0)] = 0.05
    """p-value below which scores drift; at 0.05 one suite in twenty does by chance: a hint, not a gate."""
    length_method: Literal["wasserstein", "psi", "ks"] = "wasserstein"
    """Distance of lengths and of difficulty. wasserstein: how far they moved, in standard deviations of the
    reference; psi compares histograms; ks is a p-value, which flags every small shift of many rows."""
    length_threshold: Annotated[float, Field(gt=0)] = 0.1
    """Distance of lengths from which they drift; a tenth of a standard deviation is what a reader would notice."""
    difficulty_threshold: Annotated[float, Field(gt=0)] = 0.1
    """Distance of difficulty (the base's nats per token of the responses) from which it drifts."""
    cluster_method: Literal["jensenshannon", "psi", "hellinger"] = "jensenshannon"
    """Distance of cluster histograms. jensenshannon is bounded (0 to 0.83) and finite where a cluster is empty;
    psi is not."""
    cluster_threshold: Annotated[float, Field(gt=0)] = 0.1
    """Distance of cluster histograms from which they drift; the default is Evidently's own."""
    embedding_threshold: Annotated[float, Field(gt=0.5, le=1)] = 0.55
    """ROC AUC of a linear classifier between two sets from which they drift; 0.5 cannot tell them apart. With
    2,000 rows a side, half held out, its standard error is 0.013 (Mann-Whitney): the default is four of them
    away."""
