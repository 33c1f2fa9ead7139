"""Means, selection, threshold, judge audit."""

from __future__ import annotations

from pathlib import Path

from holdfast.panel import consensus
from holdfast.params.consensus import Consensus
from holdfast.params.models import load_panel


def main() -> None:
    consensus.main(Consensus.load(), load_panel(), Path("data"), Path("reports/consensus.json"))
