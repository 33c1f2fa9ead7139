"""Trains one arm, with a seed of its own or that of params.yaml: the base on its mixture, with TRL's SFT and what keeps it from forgetting."""

from __future__ import annotations

from pathlib import Path

from holdfast.core import manifest, records, storage
from holdfast.params.finetune import Finetune
from holdfast.params.models import name_training
from holdfast.training import job, results
from holdfast.training.curves import write_curves
from holdfast.training.fine_tuning import train_arm


def main(arm: str, seed: str | None = None) -> None:
    params = job.use_seed(Finetune.load(), seed)
    model = name_training(arm, seed)
    arm_config = job.fill_in_rate(params, job.arm_config(params, arm), Path(f"reports/pilot/{arm}.json"))
    base = manifest.load(Path("models/manifest/base.json"))
    mixture = Path(f"data/mixes/{arm}.parquet")
    rows = job.order_rows(records.read("mix", mixture), seed)

    with train_arm(params, model, arm_config, base, rows, source=mixture) as trained:
        if trained is None:
            return  # one of several processes that torchrun has started: the first one writes
        results.count_cost(trained, base)
        with storage.replacing_folder(Path(f"reports/training/{model}")) as folder:
            write_curves(folder, trained.result.history)
            storage.write_json(folder / "ledger.json", results.training_ledger(trained, base))
            results.save_tuned_model(trained, base, Path(f"models/{model}"))
    print(results.sentence(trained))
