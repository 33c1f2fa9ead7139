"""Asks a tuned model a few items of its evaluation once more: are the outcomes that are written down its own?

Items are chosen at random, anew each time, so that nobody knows which. Of an evaluation in which a part p of the items was
forged, n items show at least one with probability 1 - (1 - p)^n.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

from holdfast.core import manifest, records, storage
from holdfast.core.errors import UserError
from holdfast.evaluation import harness, settings
from holdfast.params.evaluate import Evaluate

TOLERATED = {
    "cpu": 0.0
}  # part of the items that may come out worse, by device; others round differently with each batch
TOLERATED_ELSEWHERE, TOLERATED_OTHERWISE = 0.02, 0.05  # on another device; on another machine than the evaluation's


class Spot(NamedTuple):
    items: int  # that were asked again
    worse: list[str]  # items that are right in the evaluation and wrong this time, as suite/item
    tolerated: int  # that many may be worse by rounding alone
    engine: list[str]  # settings of the engine that are others than the evaluation's


def ask_again(params: Evaluate, arm: str, evaluation: Path, number: int, domain_test: Path) -> Spot:
    """Asks the model in models/ARM `number` random items. Raises UserError where model or suites are not here, or where an
    item is another than was asked."""
    base = manifest.load(Path("models/manifest/base.json"))
    folder = harness.model_folder(arm, base)
    described = settings.read(evaluation)
    hashes = harness.fingerprint(harness.file_hashes(folder))
    if described.get("weights") not in (None, hashes):
        do = f"`dvc checkout {folder}`, or evaluate it: `dvc repro evaluate@{arm}`"
        raise UserError("is not the model that was evaluated", where=folder, do=do)
    columns = ["suite", "item_id", "item_hash", "prompt_hash", "target", "correct"]
    rows = records.read_table("items", evaluation / "items.parquet", columns).to_pylist()
    rows = [
        row for row in rows if row["suite"] in params.all_suites()
    ]  # the self suite compares with the base's answers
    chosen = random.SystemRandom().sample(rows, min(number, len(rows)))
    only: dict[str, list[str]] = {}
    for row in chosen:
        only.setdefault(row["suite"], []).append(row["item_id"])
    fresh = harness.evaluate_model(params, arm, folder, base, domain_test, only=only)
    again = {(row["suite"], row["item_id"]): row for row in fresh.items}
    worse = []
    for row in chosen:
        answer = again[row["suite"], row["item_id"]]
        if any(row[key] != answer[key] for key in ("item_hash", "prompt_hash", "target")):
            what = f"the item {row['item_id'][:80]} of '{row['suite']}' is not what the suite asks"
            raise UserError(what, where=evaluation / "items.parquet", do=f"evaluate again: `dvc repro evaluate@{arm}`")
        if row["correct"] > answer["correct"] + 1e-3:
            worse.append(f"{row['suite']}/{row['item_id']}")
    engine = storage.round_floats(fresh.settings["engine"])
    other = sorted(key for key in described["engine"] if described["engine"][key] != engine.get(key))
    device = str(engine.get("device"))
    part = TOLERATED_OTHERWISE if other else TOLERATED.get(device, TOLERATED_ELSEWHERE)
    return Spot(len(chosen), worse, int(part * len(chosen)), other)
