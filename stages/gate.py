"""The verdict per arm: did it forget, and did it learn?"""

from __future__ import annotations

from pathlib import Path

from holdfast.core import storage
from holdfast.evaluation import gate, verdict
from holdfast.params.gate import Gate
from holdfast.params.models import load_arms


def main() -> None:
    content = gate.decide_all(Gate.load(), load_arms(), Path("reports/eval"))

    storage.write_json(Path("reports/gate.json"), content)
    storage.write_json(Path("reports/metrics.json"), verdict.compute_metrics(content["arms"]))
    print(verdict.table(content))
