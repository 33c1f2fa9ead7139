"""Evidently: before against after, reconstructed against kept, replayed and domain."""

from __future__ import annotations

from pathlib import Path

from holdfast.evaluation import drift
from holdfast.params.drift import Drift
from holdfast.params.models import load_arms


def main() -> None:
    drift.main(
        Drift.load(),
        load_arms(),
        Path("models/manifest/base.json"),
        Path("data"),
        Path("reports/eval"),
        Path("reports/drift"),
    )
