"""Importance resampling: of somebody else's prompts as many of each kind as the base itself wrote.

Used by `holdfast reconstruct`. The kinds are clusters of embeddings, fitted on what it wrote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from holdfast.core import records
from holdfast.data.instructions import Fit
from holdfast.params.reconstruct import Reconstruct
from holdfast.reconstruction.prompt_files import Prompts

CHUNK = 8192  # texts at once
FITTED = 20_000  # self-written rows that the clusters are fitted on, at most
Embed = Callable[[Sequence[str]], np.ndarray]  # texts -> (N, D)


class Clusters:
    """Clusters of meaning of what the base wrote itself, and how its texts spread over them."""

    def __init__(self, embed: Embed, texts: Sequence[str], k: int, seed: int) -> None:
        from sklearn.cluster import MiniBatchKMeans

        drawn = sorted(range(len(texts)), key=lambda i: records.text_id(seed, "fit", i))[:FITTED]
        vectors = np.concatenate([embed(part) for part in chunks([texts[i] for i in sorted(drawn)])])
        self.embed, self.centre = embed, vectors.mean(0)  # hidden states share a large direction that says nothing
        vectors = vectors - self.centre
        self.k = min(k, len(np.unique(vectors, axis=0)))  # k-means refuses more clusters than points
        self.means = MiniBatchKMeans(self.k, random_state=seed, n_init=3, batch_size=1024).fit(vectors)
        self.histogram = self.shares(self.of(texts))

    def of(self, texts: Sequence[str]) -> np.ndarray:
        """The cluster of each text, (N,)."""
        found = [self.means.predict(self.embed(part) - self.centre) for part in chunks(texts)]
        return np.concatenate([np.empty(0, np.int64), *found])

    def shares(self, labels: np.ndarray) -> np.ndarray:
        """The part of the labels that each cluster has, (k,)."""
        return np.bincount(labels, minlength=self.k) / max(1, len(labels))


def chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    return (texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK))


def in_proportion(labels: np.ndarray, wanted: np.ndarray, keys: Sequence[str]) -> list[int]:
    """Row numbers in an order of which every beginning has the wanted histogram, as near as whole rows can.

    Importance resampling without replacement: the r-th row of cluster c (r = 0, 1, ... in the order of `keys`) comes at
    (r + 1/2) / wanted[c], which is Webster's rule for dividing seats. A cluster that has run out leaves its part to the
    others, in proportion; clusters that are not wanted are left out.
    """
    place: dict[int, tuple[float, str]] = {}
    ranks: Counter[int] = Counter()
    for i in sorted(range(len(labels)), key=lambda i: keys[i]):
        label = int(labels[i])
        if wanted[label] > 0:
            place[i] = (ranks[label] + 0.5) / float(wanted[label]), keys[i]
            ranks[label] += 1
    return sorted(place, key=lambda i: place[i])


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Total variation distance of two histograms, 0 to 1."""
    return float(np.abs(one - other).sum() / 2)


def resampled(
    params: Reconstruct, budget: int, prompts: Prompts, clusters: Clusters, length: Callable[[str], int], fit: Fit
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """At most `budget` rows of a source, as rows of instructions_raw, and what to report. `length`: tokens of a text."""
    assert params.corpus
    usable: list[dict[str, Any]] = []
    rejected: Counter[str] = Counter()
    for row in prompts.rows:
        origin = dict(seed=params.seed, model=prompts.name, revision=prompts.revision, temperature=None, top_p=None)
        key = records.text_id(params.seed, prompts.revision, row["sample"], row["text"])
        row = dict(**row, **origin, id=key, finish="stop", n_tokens=length(row["text"]))
        # what the base could not have written either
        if reason := "too_long" if row["n_tokens"] > params.max_tokens else fit.fault(row):
            rejected[reason] += 1
        else:
            usable.append(row)
    pool = sorted(usable, key=lambda row: row["id"])[: params.corpus.pool]
    labels = clusters.of([row["text"] for row in pool])
    taken = in_proportion(labels, clusters.histogram, [row["id"] for row in pool])[:budget]
    before, after = (clusters.shares(part) for part in (labels, labels[taken]))
    return [pool[i] for i in taken], {
        "read": prompts.read, "unreadable": prompts.unreadable, "rejected": rejected, "usable": len(usable), "embedded": len(pool),
        "unlike": int((clusters.histogram[labels] == 0).sum()),  # in a cluster that the base wrote nothing of
        "budget": budget, "rows": len(taken), "fit": len(taken), "revision": prompts.revision,
        "distance_of_all": distance(before, clusters.histogram), "distance": distance(after, clusters.histogram),
    }  # fmt: skip
