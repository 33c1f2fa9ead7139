"""The verdict per arm: did it forget, and did it learn?"""

from __future__ import annotations

from pathlib import Path

from holdfast.core import storage
from holdfast.params.gate import Gate
from holdfast.params.models import load_trainings
from holdfast.verdict import gate, summary


def main() -> None:
    content = gate.decide_all(Gate.load(), load_trainings(), Path("reports/eval"))

    storage.write_json(Path("reports/gate.json"), content)
    storage.write_json(Path("reports/metrics.json"), summary.compute_metrics(content["arms"]))
    print(summary.table(content))
