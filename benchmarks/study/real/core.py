"""What a model can do of the core suite, family by family and level by level, and what it costs.

python -m benchmarks.study.real.core FOLDER [--items 24] [--families turns facts] [--answers FILE]

FOLDER: a chat model, say that of model.py, or models/ARM of a project.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path

from holdfast.engines.inspection import inspect_model
from holdfast.evaluation import harness
from holdfast.params.evaluate import CORE_FAMILIES, Evaluate
from holdfast.params.models import Model


def main(folder: Path, items: int | None, families: list[str], answers: Path | None) -> None:
    params = Evaluate(
        tasks="none",
        suites={"core": {"role": "general"}},
        self_suite={"rows": 0},
        core={
            "leave_out": [name for name in CORE_FAMILIES if families and name not in families],
            **({"items": items, "items_of": {}} if items else {}),
        },
        seed=1,
    )
    base = inspect_model("base", Model(path=folder.name), folder.parent)
    start, processor = time.time(), time.process_time()
    evaluation = harness.evaluate_model(params, "base", base.folder(), base, Path("none"))
    wall, cpu = time.time() - start, time.process_time() - processor
    print("| family | items | score | level 1 | 2 | 3 |\n|---|---|---|---|---|---|")
    for suite, score in evaluation.scores.items():
        levels: dict[str, list[float]] = defaultdict(list)
        rows = [row for row in evaluation.items if row["suite"] == suite]
        for row in rows:
            levels[row["item_id"][0]].append(row["correct"])
        shown = " | ".join(f"{sum(levels[level]) / len(levels[level]):.2f}" for level in "123")
        print(f"| {suite.removeprefix('core/')} | {len(rows)} | {score:.2f} | {shown} |")
    for suite, reason in evaluation.settings.get("left_out", {}).items():
        print(f"{suite} is left out: {reason}")
    print(
        f"{len(evaluation.items)} items, {cpu:.0f} s of processor time, {wall:.0f} s in all, without loading libraries"
    )
    if answers:
        answers.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in evaluation.items), "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--items", type=int, help="of each family; without it as many as are asked by default")
    parser.add_argument("--families", nargs="*", default=[], choices=CORE_FAMILIES, help="all, if none is named")
    parser.add_argument("--answers", type=Path)
    given = parser.parse_args()
    main(given.folder.resolve(), given.items, given.families, given.answers)
