"""Instructions by what they mean: clusters of embeddings, and neighbours in meaning.

The last and most expensive step of `curate`. The embeddings are the base's own, or another model's (`embedder`).
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from holdfast.data import overlap
from holdfast.data.screening import CHUNK, EvaluationItem, ItemsBySuite, ScreenedRows, flatten
from holdfast.engines.embedder import Embed
from holdfast.params.curate import Curate

MAX_WIDTH = 256  # wider embeddings are projected: a million rows take 1 GB
DISTINCT_ROWS = 20_000  # rows among which distinct points are counted
MIN_SHARED_WORDS = 0.5  # weighted Jaccard similarity that confirms a neighbour in meaning


def cluster_by_meaning(rows: ScreenedRows, items: ItemsBySuite, embed: Embed, params: Curate) -> dict[int, int]:
    """Reject neighbours in meaning, where params ask for it, and return the cluster of every row that was left before.

    Cluster 0 is the largest. A neighbour has a cosine above the threshold and half of its words, by weight, in common: a
    base that is no embedding model puts "the river of Tresa" beside "the river of Drosa".
    """
    numbers = rows.kept_rows()
    vectors = embed_texts(embed, [rows.texts[row] for row in numbers], params.seed)  # (N, D)
    centre = vectors.mean(0)  # hidden states share a large common direction that says nothing
    vectors -= centre
    clusters = dict(zip(numbers, cluster_vectors(vectors, params.clusters, params.seed), strict=True))
    if params.overlap_meaning == params.near_meaning == 1:
        return clusters

    scale_to_unit_length(vectors)
    rarity = overlap.Rarity()
    for row in numbers:
        rarity.add(overlap.words(rows.texts[row]))
    if params.overlap_meaning < 1 and (flat := flatten(items)):
        others = embed_texts(embed, [item.text for item in flat], params.seed) - centre  # (M, D)
        scale_to_unit_length(others)
        reject_reworded_items(rows, numbers, vectors, flat, others, rarity, params.overlap_meaning)
    if params.near_meaning < 1:
        reject_reworded_rows(rows, numbers, vectors, clusters, rarity, params.near_meaning)
    return clusters


def embed_texts(embed: Embed, texts: list[str], seed: int) -> np.ndarray:
    """Embeddings (N, D) in float32; wider ones by a random projection, which keeps distances (Johnson-Lindenstrauss)."""
    vectors, projection = np.empty((0, 0), np.float32), None
    for start in range(0, len(texts), CHUNK):
        part = embed(texts[start : start + CHUNK])
        if part.shape[1] > MAX_WIDTH:
            if projection is None:
                normal = np.random.default_rng(seed).standard_normal((part.shape[1], MAX_WIDTH), dtype=np.float32)
                projection = normal / np.sqrt(MAX_WIDTH, dtype=np.float32)
            part = part @ projection
        if not start:
            vectors = np.empty((len(texts), part.shape[1]), np.float32)
        vectors[start : start + CHUNK] = part
    return vectors


def cluster_vectors(vectors: np.ndarray, k: int, seed: int) -> list[int]:
    """The cluster of each vector (N, D) by mini-batch k-means with at most k clusters, 0 the largest."""
    from sklearn.cluster import MiniBatchKMeans

    k = min(k, len(np.unique(vectors[:DISTINCT_ROWS], axis=0)))  # k-means refuses more clusters than points
    labels = MiniBatchKMeans(k, random_state=seed, n_init=3, batch_size=1024).fit_predict(vectors).tolist()
    by_size = sorted(Counter(labels).items(), key=lambda label_size: (-label_size[1], label_size[0]))
    rank = {label: n for n, (label, _) in enumerate(by_size)}
    return [rank[label] for label in labels]


def scale_to_unit_length(vectors: np.ndarray) -> None:
    """In place; vectors (N, D)."""
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def reject_reworded_items(
    rows: ScreenedRows,
    numbers: list[int],
    vectors: np.ndarray,  # (N, D), of the rows `numbers`
    items: list[EvaluationItem],
    others: np.ndarray,  # (M, D), of the items
    rarity: overlap.Rarity,
    threshold: float,
) -> None:
    """Reject rows that ask what an evaluation item asks, in other words."""
    for row, close in zip(numbers, overlap.nearest(vectors, others, threshold), strict=True):
        for n in close:
            if share_words(rarity, rows.texts[row], items[n].text):
                rows.reject_as_evaluation_item(row, items[n].suite, f"means the item: {items[n].text}")
                break


def reject_reworded_rows(
    rows: ScreenedRows,
    numbers: list[int],
    vectors: np.ndarray,  # (N, D), of the rows `numbers`
    clusters: dict[int, int],
    rarity: overlap.Rarity,
    threshold: float,
) -> None:
    """Reject rows that ask what an earlier row of their cluster asks, after the same turns, in other words."""
    for cluster in range(max(clusters.values(), default=-1) + 1):
        places = [n for n, row in enumerate(numbers) if clusters[row] == cluster and row not in rows.faults]
        members = [numbers[n] for n in places]
        for row, close in zip(members, overlap.earlier_neighbours(vectors[places], threshold), strict=True):
            for earlier in (members[n] for n in close):
                if (
                    rows.context_keys.get(earlier) == rows.context_keys.get(row)
                    and earlier not in rows.faults
                    and share_words(rarity, rows.texts[row], rows.texts[earlier])
                ):
                    rows.reject(row, "near_meaning", rows.ids[earlier])
                    break


def share_words(rarity: overlap.Rarity, one: str, other: str) -> bool:
    """Whether the texts have half of their words, by weight, in common."""
    return rarity.similarity(overlap.words(one), overlap.words(other)) >= MIN_SHARED_WORDS
