"""Removes leakage, junk, duplicates and evaluation items; clusters the rest."""

from __future__ import annotations

from pathlib import Path

from holdfast.data import screening
from holdfast.params.curate import Curate
from holdfast.params.evaluate import Evaluate


def main() -> None:
    test, summary = Path("data/domain/test.parquet"), Path("reports/curate.json")
    models = Path("models/manifest/base.json"), Path("models/manifest/embedder.json")
    screening.main(Curate.load(), Evaluate.load(), *models, test, Path("data/instructions"), summary)
