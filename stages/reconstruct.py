"""Samples user turns from the base's pre-query prefix, and adds prompts of corpora."""

from __future__ import annotations

from pathlib import Path

from holdfast.params.reconstruct import Reconstruct
from holdfast.params.row_checks import RowChecks
from holdfast.reconstruction import user_turns


def main() -> None:
    raw, summary = Path("data/instructions/raw.parquet"), Path("reports/reconstruct.json")
    user_turns.main(
        Reconstruct.load(),
        RowChecks.load(),
        Path("models/manifest/base.json"),
        Path("models/manifest/embedder.json"),
        raw,
        summary,
    )
