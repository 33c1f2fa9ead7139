"""TRL SFT of one arm."""

from __future__ import annotations

from pathlib import Path

from holdfast.params.finetune import Finetune
from holdfast.training import finetune


def main(arm: str) -> None:
    mixture, curves = Path(f"data/mixes/{arm}.parquet"), Path(f"reports/training/{arm}")
    finetune.main(Finetune.load(), arm, Path("models/manifest/base.json"), mixture, Path(f"models/{arm}"), curves)
