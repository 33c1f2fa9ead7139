"""The verdict per arm."""

from __future__ import annotations

from pathlib import Path

from holdfast.evaluation import gate
from holdfast.params.gate import Gate
from holdfast.params.models import load_arms


def main() -> None:
    gate.main(Gate.load(), load_arms(), Path("reports/eval"), Path("reports/gate.json"), Path("reports/metrics.json"))
