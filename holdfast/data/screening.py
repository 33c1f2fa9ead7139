"""Which instructions are worth answering: every other row is rejected, with a reason.

The steps of `curate`, cheapest first: checks of single rows, exact duplicates and words shared with evaluation
items, near-duplicates (MinHash), and last meaning (holdfast/data/clustering.py). What is close to an evaluation item is
rejected, so that retention is never training on the test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from holdfast.core.counts import list_counts
from holdfast.core.errors import UserError
from holdfast.data import filters, instructions, overlap
from holdfast.data.row_checks import Fault, RowChecker
from holdfast.params.curate import Curate

CHUNK = 8192  # rows at once
SELF = "self"  # in place of a suite's name: the instructions that are held out for the self suite
MAX_DETAIL = 200  # characters that are quoted of an evaluation item
ItemsBySuite = Mapping[str, Sequence[str]]  # suite -> the texts of its evaluation items


class EvaluationItem(NamedTuple):
    suite: str
    text: str


class Split(NamedTuple):
    """Every row that was read, in one of three tables."""

    kept: pa.Table  # instructions_kept
    held_out: pa.Table  # instructions_kept, too
    rejected: pa.Table  # instructions_rejected


class ScreenedRows:
    """Rows of instructions_raw with their normalised texts, and the reason for each rejected row.

    A row is named by its number. All columns but the text stay in Arrow: a million rows as Python objects would need
    five times the memory.
    """

    def __init__(self, raw: pa.Table) -> None:
        """`raw`: rows of instructions_raw."""
        texts = (
            text for batch in raw.select(["text"]).to_batches(max_chunksize=CHUNK) for text in batch[0].to_pylist()
        )
        self.texts = [instructions.normalise(text) for text in texts]
        self.columns = raw.drop_columns(["text"])
        self.ids: list[str] = raw["id"].to_pylist()
        self.faults: dict[int, Fault] = {}
        self.bait: set[int] = set()  # rows that ask for what deserves a refusal: replayed only where the base refuses
        self.held_out: set[int] = (
            set()
        )  # rows for the self suite, which no arm may train on (holdfast/data/holding_out.py)
        # Hash of the turns before a row, for kept rows that have any: only rows after the same turns are copies.
        self.context_keys: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self.texts)

    def reject(self, row: int, reason: str, detail: str) -> None:
        self.faults[row] = Fault(reason, detail)

    def reject_as_evaluation_item(self, row: int, suite: str, evidence: str) -> None:
        self.reject(row, "evaluation_overlap", f"{suite}: {evidence}"[:MAX_DETAIL])

    def kept_rows(self) -> list[int]:
        """The rows that are neither rejected nor held out, in order."""
        return [row for row in range(len(self)) if self.is_kept(row)]

    def is_kept(self, row: int) -> bool:
        return row not in self.faults and row not in self.held_out

    def iterate_kept(self, *columns: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """(row, its text and these columns) of each row that is kept when its turn comes."""
        row = 0
        for batch in self.columns.select(columns).to_batches(max_chunksize=CHUNK):
            for values in batch.to_pylist():
                if self.is_kept(row):
                    yield row, {**values, "text": self.texts[row]}
                row += 1

    def count_reasons(self) -> Counter[str]:
        """Rejected rows by reason."""
        return Counter(fault.reason for fault in self.faults.values())

    def split(self, clusters: Mapping[int, int]) -> Split:
        """`clusters`: the cluster of every row that is not rejected."""
        table = self.columns.append_column("text", pa.array(self.texts, pa.string()))

        def take(rows: list[int]) -> pa.Table:
            labels = pa.array([clusters[row] for row in rows], pa.int64())
            bait = pa.array([row in self.bait for row in rows], pa.bool_())
            chosen = table.take(pa.array(rows, pa.int64()))
            return chosen.append_column("cluster", labels).append_column("bait", bait)

        rejected = sorted(self.faults)
        bad = table.take(pa.array(rejected, pa.int64()))
        for name in Fault._fields:
            bad = bad.append_column(name, pa.array([getattr(self.faults[row], name) for row in rejected], pa.string()))
        split = Split(take(self.kept_rows()), take(sorted(self.held_out)), bad)
        assert sum(map(len, split)) == len(self), "a row got lost"
        return split


def reject_unfit_rows(rows: ScreenedRows, checker: RowChecker) -> None:
    """Reject rows with a fault of their own, whatever the other rows are."""
    for row, values in rows.iterate_kept("context", "finish_reason", "n_tokens"):
        if fault := checker.find_fault(values):
            rows.reject(row, *fault)


def mark_bait(rows: ScreenedRows, params: Curate) -> None:
    """Mark the prompts that were drawn to be refused, and with `refusal_bait` whatever else deserves a refusal."""
    for row, values in rows.iterate_kept("family"):
        if values["family"] == "refusals" or (params.refusal_bait and filters.is_bait(values["text"])):
            rows.bait.add(row)


def reject_copies_and_overlap(rows: ScreenedRows, items: ItemsBySuite, params: Curate) -> None:
    """Reject exact copies of an earlier row, and rows of which a user turn shares too many words with an evaluation item."""
    index = overlap.EvaluationIndex(items, params.overlap_ngram, params.overlap_common, params.overlap_coverage)
    row_by_key: dict[bytes, int] = {}
    for row, values in rows.iterate_kept("context"):
        text, context = values["text"], values["context"]
        key = instructions.key(text, context)
        if key in row_by_key:
            rows.reject(row, "duplicate", rows.ids[row_by_key[key]])
            continue
        if match := find_overlap(index, text, context):
            rows.reject_as_evaluation_item(row, *match)
            continue
        row_by_key[key] = row
        if context:
            rows.context_keys[row] = instructions.key("", context)


def find_overlap(
    index: overlap.EvaluationIndex, text: str, context: Sequence[Mapping[str, str]]
) -> tuple[str, str] | None:
    """(suite, evidence) of an evaluation item that one of a row's user turns is too close to, or None."""
    user_turns = [text, *(turn["content"] for turn in context if turn["role"] == "user")]
    return next(filter(None, map(index.match, user_turns)), None)


def reject_near_duplicates(rows: ScreenedRows, items: ItemsBySuite, params: Curate) -> None:
    """Reject rows that differ from an earlier row, or from an evaluation item, in a few words only (MinHash)."""
    flat, numbers = flatten(items), rows.kept_rows()
    if not numbers:
        return
    texts = [item.text for item in flat] + [rows.texts[row] for row in numbers]
    signatures = np.empty((len(texts), overlap.PERMUTATIONS), np.uint32)
    for start in range(0, len(texts), CHUNK):
        signatures[start : start + CHUNK] = overlap.signatures(map(overlap.words, texts[start : start + CHUNK]))

    # A row with a context is compared with the items by its text alone, with other rows only after the same turns.
    after_turns = [n for n, row in enumerate(numbers, len(flat)) if row in rows.context_keys]
    near_items: list[int | None] = []
    if after_turns:
        with_items = [*range(len(flat)), *after_turns]
        near_items = overlap.near_duplicates(
            signatures[with_items], [texts[n] for n in with_items], params.near_duplicate
        )[len(flat) :]
    for n in after_turns:  # signatures after unequal contexts then share nothing
        signatures[n] ^= np.frombuffer(rows.context_keys[numbers[n - len(flat)]], np.uint32)[0]
    near = overlap.near_duplicates(signatures, texts, params.near_duplicate)
    for n, near_item in zip(after_turns, near_items, strict=True):
        if near_item is not None and near_item < len(flat):
            near[n] = near_item

    for row, earlier in zip(numbers, near[len(flat) :], strict=True):
        if earlier is None:
            continue
        if earlier < len(flat):
            item = flat[earlier]
            rows.reject_as_evaluation_item(row, item.suite, f"nearly the item: {item.text}")
        else:
            rows.reject(row, "near_duplicate", rows.ids[numbers[earlier - len(flat)]])


def flatten(items: ItemsBySuite) -> list[EvaluationItem]:
    return [EvaluationItem(suite, text) for suite, texts in items.items() for text in texts]


def require_enough_rows(rows: ScreenedRows, min_kept: int) -> None:
    """Raise UserError when too few rows are left."""
    rows_left = len(rows.kept_rows())
    if rows_left >= min_kept:
        return
    reasons = rows.count_reasons().most_common(3)
    listed = list_counts(reasons) or "none"
    do = "raise reconstruct.samples, or open the filter that rejects most"
    if reasons and reasons[0][0] == "unfinished":
        do = (
            "the base does not end its turns: raise reconstruct.max_tokens, or see `holdfast template` for its stop "
            "strings"
        )
    what = f"only {rows_left:,} of {len(rows):,} instructions were kept, {min_kept:,} are needed (rejected: {listed})"
    raise UserError(what, where="curate", do=do)


def summarise(rows: ScreenedRows, clusters: Mapping[int, int], items: ItemsBySuite) -> dict[str, Any]:
    """The content of reports/curate.json."""
    kept_rows = rows.kept_rows()
    sizes = Counter(clusters[row] for row in kept_rows)
    overlapping = [fault for fault in rows.faults.values() if fault.reason == "evaluation_overlap"]
    close_to = Counter(fault.detail.split(": ")[0] for fault in overlapping)
    return {
        "schema": 1,
        "read": len(rows),
        "kept": len(kept_rows),
        "held_out": len(rows.held_out),
        "bait": sum(row in rows.bait for row in kept_rows),
        "rejected": dict(rows.count_reasons()),
        "evaluation_overlap": {suite: close_to[suite] for suite in (*items, *([SELF] if rows.held_out else []))},
        "clusters": len(sizes),
        "cluster_sizes": [sizes[cluster] for cluster in sorted(sizes)],
    }
