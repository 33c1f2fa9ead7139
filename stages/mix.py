"""The training mixture of one arm, share counted in trained tokens."""

from __future__ import annotations

from pathlib import Path

from holdfast.data import mixing
from holdfast.params.mix import Mix


def main(arm: str) -> None:
    mixture = Path(f"data/mixes/{arm}.parquet")
    mixing.main(Mix.load(), arm, Path("models/manifest/base.json"), Path("data"), mixture, Path("reports"))
