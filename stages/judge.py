"""The panel scores responses from 1 to 5, one judge after the other, while the choice could still change."""

from __future__ import annotations

from pathlib import Path

from holdfast.panel import scoring
from holdfast.params.consensus import SelectionRule
from holdfast.params.judge import Judge
from holdfast.params.models import load_panel


def main() -> None:
    scoring.main(Judge.load(), SelectionRule.load(), load_panel(), Path("models/manifest"), Path("data"))
