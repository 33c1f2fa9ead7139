"""Keeps the instructions worth answering: every other row goes to a file beside them, with its reason.

holdfast curate        (writes data/instructions/{kept,rejected}.parquet and reports/curate.json)

Filters run from cheap to dear: a look at the text, exact duplicates, words shared with evaluation items, MinHash, and
last embeddings (the base's own, or another model's), by which the kept rows are also clustered (mini-batch k-means). Whatever is close to an
evaluation item goes, so that retention is never training on the test.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa

from holdfast.core import manifest, records
from holdfast.core.errors import UserError
from holdfast.data import instructions, overlap
from holdfast.engines import embedder
from holdfast.evaluation import suites
from holdfast.params.curate import Curate
from holdfast.params.evaluate import Evaluate

CHUNK = 8192  # rows at once
WIDTH = 256  # wider embeddings are projected: a million rows take 1 GB
SAMPLE = 20_000  # rows among which distinct points are counted
SAME_WORDS = 0.5  # weighted Jaccard similarity that confirms a neighbour in meaning
Faults = dict[int, tuple[str, str]]  # row -> (reason, detail)
Asked = dict[str, list[str]]  # suite -> evaluation items
Contexts = dict[int, bytes]  # row -> hash of the turns before it, for rows that have any: only equal ones are compared


def main(
    params: Curate, evaluate: Evaluate, model: Path, embeds: Path, domain_test: Path, folder: Path, summary: Path
) -> None:
    raw = records.read_table("instructions_raw", folder / "raw.parquet")  # Python rows would need five times the memory
    entry = manifest.load(model)
    asked = suites.prompts(evaluate, domain_test)
    texts, contexts, faults = read_through(raw, params, entry, asked)
    rows, ids = raw.drop_columns(["text"]), raw["id"].to_pylist()
    del raw
    near_duplicates(params, ids, texts, contexts, faults, asked)
    enough(params, len(texts), faults)
    labels = by_meaning(params, ids, embedder.load(manifest.load(embeds), params.batch), texts, contexts, faults, asked)
    enough(params, len(texts), faults)

    kept = [i for i in range(len(texts)) if i not in faults]
    rows = rows.append_column("text", pa.array(texts, pa.string()))
    good = rows.take(pa.array(kept, pa.int64())).append_column(
        "cluster", pa.array([labels[i] for i in kept], pa.int64())
    )
    bad = rows.take(pa.array(sorted(faults), pa.int64()))
    for n, name in enumerate(("reason", "detail")):
        bad = bad.append_column(name, pa.array([faults[i][n] for i in sorted(faults)], pa.string()))
    assert len(good) + len(bad) == len(texts)
    records.write_table("instructions_kept", folder / "kept.parquet", good)
    records.write_table("instructions_rejected", folder / "rejected.parquet", bad)
    reasons = Counter(reason for reason, _ in faults.values())
    close_to = Counter(detail.split(": ")[0] for reason, detail in faults.values() if reason == "evaluation_overlap")
    sizes = Counter(labels[i] for i in kept)
    records.write_json(
        summary,
        {
            "schema": 1,
            "read": len(texts),
            "kept": len(kept),
            "rejected": dict(reasons),
            "evaluation_overlap": {suite: close_to[suite] for suite in asked},
            "clusters": len(sizes),
            "cluster_sizes": [sizes[c] for c in sorted(sizes)],
        },
    )
    print(
        f"kept {len(kept):,} of {len(texts):,} instructions; rejected: "
        + ", ".join(f"{r} {n:,}" for r, n in reasons.most_common())
    )


def read_through(
    raw: pa.Table, params: Curate, entry: manifest.Manifest, asked: Asked
) -> tuple[list[str], Contexts, Faults]:
    """The normalised texts, and what is wrong with a row by itself, as a copy, or beside an evaluation item."""
    check = instructions.checker(params, manifest.tokenizer(entry.folder()), entry.name)
    index = overlap.EvaluationIndex(asked, params.overlap_ngram, params.overlap_common, params.overlap_coverage)
    texts: list[str] = []
    contexts: Contexts = {}
    faults: Faults = {}
    seen: dict[bytes, int] = {}
    for batch in raw.select(["context", "text", "finish", "n_tokens"]).to_batches(max_chunksize=CHUNK):
        for row in batch.to_pylist():
            i, text = len(texts), instructions.normalised(row["text"])
            texts.append(text)
            if row["context"]:
                contexts[i] = instructions.same("", row["context"])
            if fault := check(row):
                faults[i] = fault
                continue
            same = instructions.same(text, row["context"])
            asked_too = [turn["content"] for turn in row["context"] if turn["role"] == "user"]
            if same in seen:
                faults[i] = "duplicate", raw["id"][seen[same]].as_py()
            elif match := next(filter(None, map(index.match, [text, *asked_too])), None):
                faults[i] = "evaluation_overlap", f"{match[0]}: {match[1]}"[:200]
            else:
                seen[same] = i
    return texts, contexts, faults


def near_duplicates(
    params: Curate, ids: list[str], texts: list[str], contexts: Contexts, faults: Faults, asked: Asked
) -> None:
    """Marks rows that are an earlier row, or an evaluation item, but for a few words (MinHash)."""
    items = [(suite, text) for suite, members in asked.items() for text in members]
    rows = [i for i in range(len(texts)) if i not in faults]
    if not rows:
        return
    compared = [text for _, text in items] + [texts[i] for i in rows]
    marks = np.empty((len(compared), overlap.PERMUTATIONS), np.uint32)
    for start in range(0, len(compared), CHUNK):
        part = [overlap.words(text) for text in compared[start : start + CHUNK]]
        marks[start : start + CHUNK] = overlap.signatures(part)
    later = [n for n, i in enumerate(rows, len(items)) if i in contexts]
    both = [*range(len(items)), *later]
    to_items = overlap.near_duplicates(marks[both], [compared[n] for n in both], params.near_duplicate) if later else []
    for n in later:  # signatures of unequal contexts then share nothing
        marks[n] ^= np.frombuffer(contexts[rows[n - len(items)]], np.uint32)[0]
    found = overlap.near_duplicates(marks, compared, params.near_duplicate)
    for n, j in zip(later, to_items[len(items) :], strict=True):
        found[n] = j if j is not None and j < len(items) else found[n]
    for i, j in zip(rows, found[len(items) :], strict=True):
        if j is not None and j < len(items):
            faults[i] = "evaluation_overlap", f"{items[j][0]}: nearly the item: {items[j][1]}"[:200]
        elif j is not None:
            faults[i] = "near_duplicate", ids[rows[j - len(items)]]


def by_meaning(
    params: Curate,
    ids: list[str],
    embed: embedder.Embed,
    texts: list[str],
    contexts: Contexts,
    faults: Faults,
    asked: Asked,
) -> dict[int, int]:
    """Clusters the remaining rows by their embeddings (label 0 is the largest) and marks neighbours in meaning.

    A neighbour has a cosine above the threshold and half of its words, by weight, in common: a base that is no
    embedding model puts "the river of Tresa" beside "the river of Drosa". Rows are compared within their cluster only.
    """
    from sklearn.cluster import MiniBatchKMeans

    rows = [i for i in range(len(texts)) if i not in faults]
    items = [(suite, text) for suite, members in asked.items() for text in members] * (params.overlap_meaning < 1)
    vectors = embedded(embed, [texts[i] for i in rows], params.seed)  # (N, D)
    centre = vectors.mean(0)  # hidden states share a large common direction that says nothing
    vectors -= centre
    k = min(params.clusters, len(np.unique(vectors[:SAMPLE], axis=0)))  # k-means refuses more clusters than points
    found = MiniBatchKMeans(k, random_state=params.seed, n_init=3, batch_size=1024).fit_predict(vectors)
    order = {
        label: n for n, (label, _) in enumerate(sorted(Counter(found.tolist()).items(), key=lambda x: (-x[1], x[0])))
    }
    labels = {i: order[label] for i, label in zip(rows, found.tolist(), strict=True)}
    if params.overlap_meaning == params.near_meaning == 1:
        return labels

    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    rarity = overlap.Rarity()
    for i in rows:
        rarity.add(overlap.words(texts[i]))
    alike = lambda a, b: rarity.similarity(overlap.words(a), overlap.words(b)) >= SAME_WORDS  # noqa: E731
    if items:
        others = embedded(embed, [text for _, text in items], params.seed) - centre
        others /= np.maximum(np.linalg.norm(others, axis=1, keepdims=True), 1e-12)
        for i, close in zip(rows, overlap.nearest(vectors, others, params.overlap_meaning), strict=True):
            if (j := next((j for j in close if alike(texts[i], items[j][1])), None)) is not None:
                faults[i] = "evaluation_overlap", f"{items[j][0]}: means the item: {items[j][1]}"[:200]
    if params.near_meaning < 1:
        for label in range(len(order)):
            at = [n for n, i in enumerate(rows) if labels[i] == label and i not in faults]
            members = [rows[n] for n in at]
            for i, close in zip(members, overlap.earlier_neighbours(vectors[at], params.near_meaning), strict=True):
                peers = (members[j] for j in close if contexts.get(members[j]) == contexts.get(i))
                j = next((j for j in peers if j not in faults and alike(texts[i], texts[j])), None)
                if j is not None:
                    faults[i] = "near_meaning", ids[j]
    return labels


def embedded(embed: embedder.Embed, texts: list[str], seed: int) -> np.ndarray:
    """Embeddings (N, D) in float32; wider ones by a random projection, which keeps distances (Johnson-Lindenstrauss)."""
    found, projection = np.empty((0, 0), np.float32), None
    for start in range(0, len(texts), CHUNK):
        part = embed(texts[start : start + CHUNK])
        if part.shape[1] > WIDTH:
            if projection is None:
                drawn = np.random.default_rng(seed).standard_normal((part.shape[1], WIDTH), dtype=np.float32)
                projection = drawn / np.sqrt(WIDTH, dtype=np.float32)
            part = part @ projection
        if not start:
            found = np.empty((len(texts), part.shape[1]), np.float32)
        found[start : start + CHUNK] = part
    return found


def enough(params: Curate, read: int, faults: Faults) -> None:
    """Raises UserError when too few rows are left."""
    if (kept := read - len(faults)) < params.min_kept:
        rejected = Counter(reason for reason, _ in faults.values()).most_common(3)
        most = ", ".join(f"{reason} {n:,}" for reason, n in rejected) or "none"
        unended = rejected[:1] and rejected[0][0] == "unfinished"
        raise UserError(
            f"only {kept:,} of {read:,} instructions were kept, {params.min_kept:,} are needed (rejected: {most})",
            where="curate",
            do="the base does not end its turns: raise reconstruct.max_tokens, or see `holdfast template` for its stop strings"
            if unended
            else "raise reconstruct.samples, or open the filter that rejects most",
        )
