"""Removes leakage, junk, duplicates and evaluation items from the instructions; clusters the rest by meaning.

A part of the rest is held out for the self suite: no arm trains on it.
"""

from __future__ import annotations

from pathlib import Path

from holdfast.core import manifest, records, storage
from holdfast.core.counts import list_counts
from holdfast.data import clustering, holding_out, screening
from holdfast.data.row_checks import RowChecker
from holdfast.engines import embedder
from holdfast.evaluation import suites
from holdfast.params.curate import Curate
from holdfast.params.evaluate import Evaluate


def main() -> None:
    params = Curate.load()
    rows = screening.ScreenedRows(records.read_table("instructions_raw", Path("data/instructions/raw.parquet")))
    base = manifest.load(Path("models/manifest/base.json"))
    evaluation = Evaluate.load()
    items = suites.prompts(evaluation, Path("data/domain/test.parquet"))

    screening.reject_unfit_rows(rows, RowChecker(params, manifest.load_tokenizer(base.folder()), base.name))
    screening.mark_bait(rows, params)
    screening.reject_copies_and_overlap(rows, items, params)
    screening.reject_near_duplicates(rows, items, params)
    screening.require_enough_rows(rows, params.min_kept)

    embed = embedder.load_embedder(manifest.load(Path("models/manifest/embedder.json")), params.batch)
    clusters = clustering.cluster_by_meaning(rows, items, embed, params)
    holding_out.hold_out(rows, clusters, evaluation.self_suite.rows, params)
    screening.require_enough_rows(rows, params.min_kept)

    kept_rows, held_out, rejected = rows.split(clusters)
    records.write_table("instructions_kept", Path("data/instructions/kept.parquet"), kept_rows)
    records.write_table("instructions_kept", Path("data/instructions/held_out.parquet"), held_out)
    records.write_table("instructions_rejected", Path("data/instructions/rejected.parquet"), rejected)
    storage.write_json(Path("reports/curate.json"), screening.summarise(rows, clusters, items))
    reasons = list_counts(rows.count_reasons().most_common())
    counts = f"kept {len(kept_rows):,} of {len(rows):,} instructions, held out {len(held_out):,}"
    print(f"{counts}; rejected: {reasons}")
