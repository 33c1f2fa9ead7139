"""Asks one model every suite with lm-eval, and the self suite, and writes the outcome of every item.

`holdfast run evaluate base-repeat` asks the base once more, in batches of half the size: the noise floor of the gate.
"""

from __future__ import annotations

from pathlib import Path

from holdfast.core import manifest, records, storage
from holdfast.evaluation import harness, self_suite
from holdfast.params.evaluate import Evaluate


def main(model: str) -> None:
    params = Evaluate.load()
    base = manifest.load(Path("models/manifest/base.json"))
    base_evaluation, folder = Path("reports/eval/base"), Path(f"reports/eval/{model}")
    base_items = None if model == "base" else base_evaluation / "items.parquet"  # which hold the base's own answers
    if model == "base-repeat":
        model, params = "base", params.model_copy(update={"batch": max(1, params.batch // 2)})

    weights = harness.model_folder(model, base)
    held_out, domain_train = Path("data/instructions/held_out.parquet"), Path("data/domain/train.parquet")
    inputs = self_suite.load_inputs(params, held_out, domain_train, base_items)
    domain_test = Path("data/domain/test.parquet")
    same_as = None if model == "base" else base_evaluation
    evaluation = harness.evaluate_model(params, model, weights, base, domain_test, same_as, inputs)

    records.write("items", folder / "items.parquet", evaluation.items)
    storage.write_json(folder / "settings.json", evaluation.settings)
    storage.write_json(folder / "scores.json", evaluation.scores)
    print(f"{model}: " + ", ".join(f"{suite} {score:.3f}" for suite, score in evaluation.scores.items()))
    if calibration := evaluation.settings.get("calibration"):
        print(f"{model}: calibration error (ECE) {calibration['ece']:.3f}, Brier score {calibration['brier']:.3f}")
    for suite, reason in evaluation.settings.get("left_out", {}).items():
        print(f"{suite} is left out: {reason}")
