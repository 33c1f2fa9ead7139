"""The suites with lm-eval on the base or on one arm, and the outcome of every item.

`holdfast run evaluate base-repeat` asks the base once more, in batches of half the size: the noise floor of the gate.
"""

from __future__ import annotations

from pathlib import Path

from holdfast.evaluation import harness
from holdfast.params.evaluate import Evaluate


def main(model: str) -> None:
    params, test, out = Evaluate.load(), Path("data/domain/test.parquet"), Path(f"reports/eval/{model}")
    if model == "base-repeat":
        model, params = "base", params.model_copy(update={"batch": max(1, params.batch // 2)})
    harness.main(params, model, Path("models/manifest/base.json"), Path("models"), test, out)
