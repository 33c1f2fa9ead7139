"""What moved, for the eye: answers before against after, and instructions from stage to stage (Evidently)."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from holdfast.core import manifest, records, storage
from holdfast.evaluation import drift, results
from holdfast.params.drift import Drift
from holdfast.params.models import load_trainings


def main() -> None:
    params = Drift.load()
    base, settings = results.load(Path("reports/eval/base"))
    sets = drift.describe_instructions(
        params,
        manifest.load(Path("models/manifest/base.json")),
        raw=records.read_table("instructions_raw", Path("data/instructions/raw.parquet")),
        kept_table=records.read_table("instructions_kept", Path("data/instructions/kept.parquet")),
        candidates=records.read_table("candidates", Path("data/replay/candidates.parquet")),
        replay=records.read_table("replay", Path("data/replay/replay.parquet")),
        domain=records.read("domain", Path("data/domain/train.parquet")),
    )

    answers = {}
    with storage.replacing_folder(Path("reports/drift/html")) as html:
        for arm in chain.from_iterable(load_trainings().values()):
            tuned, _ = results.load(Path(f"reports/eval/{arm}"))
            answers[arm] = drift.compare_answers(params, base, tuned, sorted(settings["suites"]), html / f"{arm}.html")
        instructions = drift.compare_instructions(params, sets, html / "instructions.html")
    methods = params.model_dump(exclude={"rows"})
    content = {"schema": 1, "arms": answers, "instructions": instructions, "methods": methods}
    storage.write_json(Path("reports/drift/drift.json"), content)
