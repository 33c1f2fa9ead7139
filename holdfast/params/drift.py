"""The section `drift`: what is compared, and from where on it counts as moved."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from holdfast.params.base import Positive, Section


class Drift(Section):
    section: ClassVar[str] = "drift"

    rows: Positive = 2000  # texts of each set that the base embeds, and domain rows whose responses it scores
    # per-item scores. t_test asks whether means differ: on right-or-wrong scores it is the z test of two proportions, and it
    # takes graded ones from ten rows to millions; ks and cramer_von_mises look at whole distributions, dull where values tie
    score_method: Literal["t_test", "ks", "cramer_von_mises"] = "t_test"
    score_threshold: Annotated[float, Field(gt=0)] = (
        0.05  # p-value: one suite in twenty drifts by chance; a hint, no gate
    )
    # lengths and difficulty. wasserstein is how far they moved, in standard deviations of the reference; psi compares
    # histograms; a p-value (ks) would flag every small shift of many rows
    length_method: Literal["wasserstein", "psi", "ks"] = "wasserstein"
    length_threshold: Annotated[float, Field(gt=0)] = 0.1  # a tenth of a standard deviation: what a reader would notice
    difficulty_threshold: Annotated[float, Field(gt=0)] = 0.1  # the same, of the base's nats per token of the responses
    # clusters. jensenshannon is between histograms, bounded (0 to 0.83) and finite where a cluster is empty; psi is not
    cluster_method: Literal["jensenshannon", "psi", "hellinger"] = "jensenshannon"
    cluster_threshold: Annotated[float, Field(gt=0)] = 0.1  # Evidently's own
    # embeddings: ROC AUC of a linear classifier that tells the two sets apart; 0.5 is not at all. With 2,000 rows a side,
    # half of them held out, its standard error is 0.013 (Mann-Whitney): the threshold is four of them away
    embedding_threshold: Annotated[float, Field(gt=0.5, le=1)] = 0.55
