"""Reads the domain data, normalises, splits, removes train/test overlap."""

from __future__ import annotations

from pathlib import Path

from holdfast.data import ingestion
from holdfast.params.ingest import Ingest


def main() -> None:
    ingestion.main(Ingest.load(), Path("data/domain"))
