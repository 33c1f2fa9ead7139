"""Importance resampling: of other people's prompts as many of each kind as the base itself wrote.

The kinds are clusters of embeddings, fitted on what the base wrote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from holdfast.chat import encoding
from holdfast.core import manifest, records
from holdfast.core.errors import UserError
from holdfast.core.rows import RawInstruction
from holdfast.data.instructions import family_of, normalise
from holdfast.data.row_checks import FitRows
from holdfast.engines import embedder
from holdfast.engines.embedder import Embed
from holdfast.params.reconstruct import Reconstruct
from holdfast.reconstruction.drawing import Drawn, split_among_sources
from holdfast.reconstruction.prompt_files import Prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 8192  # texts at once
MAX_FITTED = 20_000  # texts that the clusters are fitted on


class Clusters:
    """Clusters of meaning of what the base wrote itself, and how its texts spread over them."""

    def __init__(self, embed: Embed, texts: Sequence[str], k: int, seed: int) -> None:
        from sklearn.cluster import MiniBatchKMeans

        fitted = sorted(range(len(texts)), key=lambda i: records.text_id(seed, "fit", i))[:MAX_FITTED]
        vectors = np.concatenate([embed(part) for part in chunks([texts[i] for i in sorted(fitted)])])  # (N, D)
        self.embed, self.centre = embed, vectors.mean(0)  # hidden states share a large direction that says nothing
        vectors = vectors - self.centre
        self.k = min(k, len(np.unique(vectors, axis=0)))  # k-means refuses more clusters than points
        self.means = MiniBatchKMeans(self.k, random_state=seed, n_init=3, batch_size=1024).fit(vectors)
        self.histogram = self.shares(self.of(texts))

    def of(self, texts: Sequence[str]) -> np.ndarray:
        """The cluster of each text, (N,)."""
        labels = [self.means.predict(self.embed(part) - self.centre) for part in chunks(texts)]
        return np.concatenate([np.empty(0, np.int64), *labels])

    def shares(self, labels: np.ndarray) -> np.ndarray:
        """The part of the labels that each cluster has, (k,)."""
        return np.bincount(labels, minlength=self.k) / max(1, len(labels))


def chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    return (texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK))


def draw_from_corpora(
    params: Reconstruct,
    corpora: list[Prompts],
    own: Drawn,
    base: manifest.Manifest,
    embedder_manifest: manifest.Manifest,
    fit: FitRows,
) -> list[Drawn]:
    """Rows of each corpus, resampled to the histogram of what the base wrote that is fit (`own`).

    Raises UserError where the base wrote nothing that is fit.
    """
    assert params.corpus
    if not own.fit_rows:
        what = "the base wrote nothing that is fit, so there is no histogram for the corpus to match"
        raise UserError(what, where="reconstruct", do="raise reconstruct.max_tokens, or remove reconstruct.corpus")
    tokenizer = manifest.load_tokenizer(base.folder())
    embed = embedder.load_embedder(embedder_manifest, params.batch)
    texts = [normalise(row["text"]) for row in own.fit_rows]
    clusters = Clusters(embed, texts, params.corpus.clusters, params.seed)

    assert params.samples != "auto", "amount.fill_in has put a number there"
    budgets = split_among_sources(params.keep or params.samples, params)[1:]
    drawn: list[Drawn] = []
    following = len(own.rows)  # the number of the next row
    for budget, prompts in zip(budgets, corpora, strict=True):
        drawn.append(resample(params, budget, prompts, clusters, tokenizer, fit, following))
        following += len(drawn[-1].rows)
    return drawn


def resample(
    params: Reconstruct,
    budget: int,
    prompts: Prompts,
    clusters: Clusters,
    tokenizer: PreTrainedTokenizerBase,
    fit: FitRows,
    first: int,
) -> Drawn:
    """At most `budget` prompts of a corpus, in the proportions of `clusters`. `first`: the number of the first row."""
    assert params.corpus
    usable: list[RawInstruction] = []
    rejected: Counter[str] = Counter()
    for row in rows_of(prompts, params.seed, tokenizer):
        # what the base could not have written either
        if reason := "too_long" if row["n_tokens"] > params.max_tokens else fit.reason_against(row):
            rejected[reason] += 1
        else:
            usable.append(row)
    pool = sorted(usable, key=lambda row: row["id"])[: params.corpus.pool]
    labels = clusters.of([row["text"] for row in pool])
    taken = order_in_proportion(labels, clusters.histogram, [row["id"] for row in pool])[:budget]
    rows: list[RawInstruction] = [
        {**pool[i], "id": f"{number:08d}-{pool[i]['id']}"} for number, i in enumerate(taken, first)
    ]
    details = {
        "read": prompts.read,
        "unreadable": prompts.unreadable,
        "usable": len(usable),
        "embedded": len(pool),
        "unlike": int((clusters.histogram[labels] == 0).sum()),  # in a cluster that the base wrote nothing of
        "revision": prompts.revision,
        "distance_of_all": total_variation(clusters.shares(labels), clusters.histogram),
        "distance": total_variation(clusters.shares(labels[taken]), clusters.histogram),
    }
    return Drawn(f"corpus {prompts.name}", rows, rows, budget, rejected, details)


def rows_of(prompts: Prompts, seed: int, tokenizer: PreTrainedTokenizerBase) -> Iterator[RawInstruction]:
    """The prompts as rows of instructions_raw, with an id that does not number them."""
    for prompt in prompts.prompts:
        yield {
            "id": records.text_id(seed, prompts.revision, prompt.sample, prompt.text),
            "family": family_of(prompt.context),
            "context": prompt.context,
            "text": prompt.text,
            "finish_reason": "stop",
            "n_tokens": len(encoding.tokenise(tokenizer, prompt.text)),
            "temperature": None,
            "top_p": None,
            "sample": prompt.sample,
            "seed": seed,
            "model": prompts.name,
            "revision": prompts.revision,
        }


def order_in_proportion(labels: np.ndarray, wanted: np.ndarray, keys: Sequence[str]) -> list[int]:
    """Row numbers in an order of which every beginning has the wanted histogram, as near as whole rows can.

    Importance resampling without replacement: the r-th row of cluster c (r = 0, 1, ... in the order of `keys`) comes at
    (r + 1/2) / wanted[c], which is Webster's rule for dividing seats. A cluster that has run out leaves its part to the
    others, in proportion; clusters that are not wanted are left out.
    """
    position: dict[int, tuple[float, str]] = {}
    ranks: Counter[int] = Counter()
    for i in sorted(range(len(labels)), key=lambda i: keys[i]):
        label = int(labels[i])
        if wanted[label] > 0:
            position[i] = (ranks[label] + 0.5) / float(wanted[label]), keys[i]
            ranks[label] += 1
    return sorted(position, key=lambda i: position[i])


def total_variation(one: np.ndarray, other: np.ndarray) -> float:
    """Total variation distance of two histograms, 0 to 1."""
    return float(np.abs(one - other).sum() / 2)
