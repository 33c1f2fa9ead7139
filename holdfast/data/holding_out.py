"""Sets instructions aside for the self suite: they are evaluation items from here on, so no arm trains on one or near one."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.core import records
from holdfast.data import overlap
from holdfast.data.screening import SELF, ScreenedRows, find_overlap
from holdfast.params.curate import Curate

MAX_PART = 0.2  # of the kept rows, at most: where there are few, most of them are needed for replay


def hold_out(rows: ScreenedRows, clusters: Mapping[int, int], wanted: int, params: Curate) -> None:
    """Hold out `wanted` of the kept rows, or a fifth where that is less, and reject rows that overlap with one of them.

    Every cluster gives its proportional part: systematic sampling of the rows in the order of (cluster, hash of the id).
    What deserves a refusal is not held out: those rows are few, and the replay set needs them.
    Copies, near-duplicates and neighbours in meaning of a held-out row are gone already; this adds the overlap that
    counts between a row and an evaluation item.
    """
    fair = [row for row in rows.kept_rows() if row not in rows.bait]
    ordered = sorted(fair, key=lambda row: (clusters[row], records.text_id(SELF, rows.ids[row])))
    number = min(wanted, int(MAX_PART * len(ordered)))
    rows.held_out |= {ordered[n * len(ordered) // number] for n in range(number)}
    texts = [rows.texts[row] for row in sorted(rows.held_out)]
    index = overlap.EvaluationIndex({SELF: texts}, params.overlap_ngram, params.overlap_common, params.overlap_coverage)
    for row, values in rows.iterate_kept("context"):
        if match := find_overlap(index, values["text"], values["context"]):
            rows.reject_as_evaluation_item(row, *match)
