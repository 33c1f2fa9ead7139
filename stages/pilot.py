"""Short runs that find the replay share of an arm with `share: auto`; for other arms it writes that none ran."""

from __future__ import annotations

from pathlib import Path

from holdfast.params.finetune import Finetune
from holdfast.params.mix import Mix
from holdfast.params.pilot import Pilot
from holdfast.training import pilot


def main(arm: str) -> None:
    sections = Pilot.load(), Mix.load(), Finetune.load()
    pilot.main(*sections, arm, Path("models/manifest/base.json"), Path("data"), Path(f"reports/pilot/{arm}.json"))
