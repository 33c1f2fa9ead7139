"""Keeps the instructions worth answering: every other row goes to a file beside them, with its reason.

holdfast curate        (writes data/instructions/{kept,rejected}.parquet and reports/curate.json)

Filters run from cheap to dear. Whatever is close to an evaluation item goes, so that retention is never training on the
test. The rest is embedded with the base's own mean-pooled hidden states and clustered (mini-batch k-means).
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np

from stages.core import chat, manifest, overlap, records, suites
from stages.core.errors import UserError
from stages.core.params import Curate, Evaluate
from stages.engines import local


def main(params: Curate, evaluate: Evaluate, model: Path, domain_test: Path, folder: Path, summary: Path) -> None:
    raw = records.read("instructions_raw", folder / "raw.parquet")
    entry = manifest.load(model)
    tokenizer = manifest.tokenizer(entry.folder())
    asked = suites.prompts(evaluate, domain_test)
    index = overlap.EvaluationIndex(asked, params.overlap_ngram, params.overlap_common)
    leaks = chat.special_strings(tokenizer)

    kept: list[dict] = []
    rejected: list[dict] = []
    close_to: Counter[str] = Counter()
    seen: dict[str, str] = {}
    for row in raw:
        text = row["text"] = unicodedata.normalize("NFC", row["text"]).strip()
        if fault := reject(row, params, leaks):
            rejected.append({**row, "reason": fault[0], "detail": fault[1]})
        elif (same := " ".join(text.casefold().split())) in seen:
            rejected.append({**row, "reason": "duplicate", "detail": seen[same]})
        elif match := index.match(text):
            close_to[match[0]] += 1
            rejected.append({**row, "reason": "evaluation_overlap", "detail": f"{match[0]}: {match[1]}"[:200]})
        else:
            seen[same] = row["id"]
            kept.append(row)
    near = overlap.near_duplicates([row["text"] for row in kept], params.near_duplicate)
    rejected += [
        {**row, "reason": "near_duplicate", "detail": kept[j]["id"]}
        for row, j in zip(kept, near, strict=True)
        if j is not None
    ]
    kept = [row for row, j in zip(kept, near, strict=True) if j is None]
    reasons = Counter(row["reason"] for row in rejected)
    if len(kept) < params.min_kept:
        most = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common(3))
        raise UserError(
            f"only {len(kept):,} of {len(raw):,} instructions were kept, {params.min_kept:,} are needed (rejected: {most})",
            where="curate",
            do="raise reconstruct.samples, or open the filter that rejects most",
        )

    clusters = cluster(params, entry, [row["text"] for row in kept])
    for row, label in zip(kept, clusters, strict=True):
        row["cluster"] = int(label)
    assert len(kept) + len(rejected) == len(raw)
    records.write("instructions_kept", folder / "kept.parquet", kept)
    records.write("instructions_rejected", folder / "rejected.parquet", rejected)
    sizes = Counter(clusters)
    records.write_json(
        summary,
        {
            "schema": 1,
            "read": len(raw),
            "kept": len(kept),
            "rejected": dict(reasons),
            "evaluation_overlap": {suite: close_to[suite] for suite in asked},
            "clusters": len(sizes),
            "cluster_sizes": [sizes[c] for c in sorted(sizes)],
        },
    )
    print(
        f"kept {len(kept):,} of {len(raw):,} instructions; rejected: "
        + ", ".join(f"{r} {n:,}" for r, n in reasons.most_common())
    )


def reject(row: dict, params: Curate, leaks: list[str]) -> tuple[str, str] | None:
    """(reason, detail) of the first cheap filter that a row fails, or None."""
    text = row["text"]
    if params.finished_only and row["finish"] != "stop":
        return "unfinished", f"{row['n_tokens']} tokens"
    if len(text) < params.min_chars:
        return "too_short", f"{len(text)} characters"
    if len(text) > params.max_chars:
        return "too_long", f"{len(text)} characters"
    if leak := next((token for token in leaks if token in text), None):
        return "template_leak", leak
    if bad := next((c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn") and c not in "\n\t"), None):
        return "control_characters", f"U+{ord(bad):04X}"
    if "\N{REPLACEMENT CHARACTER}" in text:
        return "broken_text", "U+FFFD"
    if (part := overlap.repetition(text)) > params.max_repetition:
        return "repetition", f"{part:.2f}"
    return None


def cluster(params: Curate, entry: manifest.Manifest, texts: list[str]) -> list[int]:
    """Cluster labels by mini-batch k-means on the base's embeddings; label 0 is the largest cluster."""
    from sklearn.cluster import MiniBatchKMeans

    vectors = local.Engine(entry, params.batch).embed(texts)
    vectors -= vectors.mean(0)  # hidden states share a large common direction that says nothing
    k = min(params.clusters, len(np.unique(vectors, axis=0)))
    labels = MiniBatchKMeans(k, random_state=params.seed, n_init=3, batch_size=1024).fit_predict(vectors)
    rank = {
        label: i for i, (label, _) in enumerate(sorted(Counter(labels.tolist()).items(), key=lambda x: (-x[1], x[0])))
    }
    return [rank[label] for label in labels.tolist()]
