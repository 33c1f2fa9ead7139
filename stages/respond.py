"""k responses of each panel member to each instruction."""

from __future__ import annotations

from pathlib import Path

from holdfast.panel import responses
from holdfast.params.respond import Respond


def main(model: str) -> None:
    kept, out = Path("data/instructions/kept.parquet"), Path(f"data/responses/{model}.parquet")
    responses.main(Respond.load(), Path(f"models/manifest/{model}.json"), kept, out)
