"""Chooses rows so that semantic clusters x difficulty bins are even."""

from __future__ import annotations

from pathlib import Path

from holdfast.data import balancing
from holdfast.params.balance import Balance


def main() -> None:
    balancing.main(Balance.load(), Path("models/manifest/base.json"), Path("data/replay"), Path("reports/balance.json"))
