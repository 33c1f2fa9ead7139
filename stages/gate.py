"""The verdict per arm: did it forget, and did it learn?"""

from __future__ import annotations

from pathlib import Path

from holdfast.core import storage
from holdfast.evaluation import gate, paired
from holdfast.params.gate import Gate
from holdfast.params.models import load_arms


def main() -> None:
    params = Gate.load()
    evaluations = Path("reports/eval")
    base, settings = paired.load_evaluation(evaluations / "base")
    gate.check_suite_margins(params, settings["suites"])

    repeat = evaluations / "base-repeat"  # the base evaluated once more, where someone did
    noise = paired.noise_floor(base, settings, repeat) if repeat.is_dir() else None
    arms = {arm: gate.decide_arm(params, base, settings, evaluations / arm, noise) for arm in load_arms()}
    verdict = gate.decide_run(params, settings["suites"], arms, noise)

    storage.write_json(Path("reports/gate.json"), verdict)
    storage.write_json(Path("reports/metrics.json"), gate.metrics(base, settings["suites"], arms))
    print(gate.table(verdict))
