"""Reads the domain data, normalises it, splits off a test set where none is given, removes train/test overlap."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from holdfast.data import ingestion
from holdfast.params.ingest import Ingest


def main() -> None:
    params = Ingest.load()
    train, rejected = ingestion.read_split("train", params.train, params)
    test: list[ingestion.Conversation] = []
    if params.test:
        test, rejected_of_test = ingestion.read_split("test", params.test, params)
        rejected += rejected_of_test
    ingestion.require_group([*train, *test], params)
    if not params.test:
        train, test = ingestion.split_off_test(train, params.test_fraction, params.seed)
    read = len(train) + len(test) + len(rejected)

    train, overlapping = ingestion.remove_overlap(train, test, params.folder)
    rejected += overlapping
    assert len(train) + len(test) + len(rejected) == read, "a row got lost"
    ingestion.write_domain(Path("data/domain"), train, test, rejected)

    reasons = ", ".join(f"{reason} {n:,}" for reason, n in sorted(Counter(row.reason for row in rejected).items()))
    counts = f"{len(train):,} train, {len(test):,} test, {len(rejected):,} rejected"
    print(f"ingest: {read:,} rows read: {counts}" + (f" ({reasons})" if reasons else ""))
