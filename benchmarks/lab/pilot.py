"""Does what the pilot measures foretell what the suites say? Short runs of the pocket lab, measured both ways.

    python -m benchmarks.lab.pilot        (minutes; needs a finished `dvc repro`; trains beside it, in temporary folders)

One line per run: what is kept by the pilot's measure (1 - total variation distance from the base on held-out replay answers)
and by the development suites (chance-adjusted, after / before), and the correlation of both.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from holdfast.core import manifest, records, storage
from holdfast.data import mixture
from holdfast.evaluation import harness
from holdfast.params.evaluate import Evaluate
from holdfast.params.finetune import Finetune
from holdfast.params.mix import Mix
from holdfast.training import job, pilot_runs
from holdfast.training.fine_tuning import train_arm
from holdfast.training.pilot_plan import Plan

ROOT = Path(__file__).resolve().parents[2]

PART = 0.3  # of the arm's run
POINTS = [("domain-only", 0.0), ("domain-only", 0.05), ("domain-only", 0.2), ("holdfast", 0.05), ("holdfast", 0.2)]
HELD = 300


def general(scores: dict[str, float], asked: Evaluate) -> float:
    suites = {name: suite.chance for name, suite in asked.suites.items() if suite.role == "general"}
    return sum((scores[name] - chance) / (1 - chance) for name, chance in suites.items()) / len(suites)


def main() -> None:
    base = manifest.load(Path("models/manifest/base.json").resolve())
    tokenizer, mixing, tuning = manifest.load_tokenizer(base.folder()), Mix.load(), Finetune.load()
    asked = Evaluate.load().model_copy(update={"tasks": "data/pocket/development", "domain_test": "off"})
    rows = {
        "replay": mixture.replay_rows(tokenizer, records.read("replay", Path("data/replay/replay.parquet"))),
        "domain": mixture.domain_rows(tokenizer, records.read("domain", Path("data/domain/train.parquet"))),
    }
    for several in rows.values():
        several.sort(key=lambda row: records.text_id(1, "held out", row["source_id"]))
    held = {source: several[:HELD] for source, several in rows.items()}
    train = {source: several[HELD:] for source, several in rows.items()}
    results = []
    print("| arm | share | kept, by the pilot | kept, by the suites |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        evaluation = harness.evaluate_model(asked, "base", base.folder(), base, Path("none"))
        before = general(evaluation.scores, asked)
        storage.write_json(folder / "base/settings.json", evaluation.settings)
        for arm, share in POINTS:
            arm_config, epochs = tuning.arms[arm], mixing.arms[arm].epochs or mixing.epochs
            rate = job.find_rate(tuning, arm_config)
            plan = Plan(arm, arm_config, tuning, base, epochs, 20, mixing.seed, train, held, 0.98, rate, (), 1.0, ())
            replayed = train["replay"] if share else []
            mixed = mixture.build_mixture(train["domain"], replayed, share, epochs * PART, 20, mixing.seed, arm)
            with train_arm(tuning, arm, arm_config, base, mixed, folder) as trained:
                assert trained is not None
                outcomes = pilot_runs.measure_model(plan, trained.scratch / job.MODEL_FOLDER)["replay"]
                shutil.copytree(base.folder(), folder / "models" / arm, dirs_exist_ok=True)
                for file in (trained.scratch / job.MODEL_FOLDER).glob("*.safetensors"):
                    shutil.copyfile(file, folder / "models" / arm / file.name)
            tuned = folder / "models" / arm
            after = general(
                harness.evaluate_model(asked, arm, tuned, base, Path("none"), folder / "base").scores, asked
            )
            kept = 1 - sum(one.moved for one in outcomes) / sum(one.tokens for one in outcomes)
            results.append((kept, after / before))
            print(f"| {arm} | {share:.0%} | {kept:.3f} | {after / before:.3f} |", flush=True)
    print(f"\ncorrelation {np.corrcoef(np.array(results).T)[0, 1]:.3f}")


if __name__ == "__main__":
    main()
