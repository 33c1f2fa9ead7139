"""How close the reconstructed instructions come to what the pocket base was trained on: here, and only here, it is known.

    dvc repro && python -m benchmarks.lab.fidelity [plot.png]        (about a minute, most of it for redrawing the training set)

Prints, against the number of samples: total variation distance between the true and the reconstructed mixture of skills,
precision (part that is a valid question of the world), facts covered, part that is distinct, part that was in no training
example; the mixture at each stage; and the evenness that `balance` reaches at several temperatures.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from holdfast.core import records
from holdfast.data import balancing
from holdfast.params.balance import Balance
from holdfast.params.pocket import Pocket
from holdfast.pocket import fidelity, world

STEPS = (250, 500, 1000, 2000, 4000, 8000, 16000)


def main(out: Path) -> None:
    pocket, knobs = Pocket.load(), Balance.load()
    data = Path("data")
    raw = sorted(
        records.read("instructions_raw", data / "instructions" / "raw.parquet"),
        key=lambda row: (row["sample"], row["id"]),
    )
    trained = fidelity.training_prompts(pocket.examples["base"], pocket.seed)
    rows = fidelity.measure_curve([row["text"].strip() for row in raw], trained, STEPS)
    print(f"{'samples':>8}{'distance':>10}{'95 % below':>12}{'precision':>11}{'facts':>8}{'distinct':>10}{'novel':>8}")
    for row in rows:
        print(
            f"{row['samples']:8,}{row['distance']:10.3f}{row['to']:12.3f}{row['precision']:11.3f}{row['facts']:8.3f}"
            f"{row['distinct']:10.3f}{row['novel']:8.3f}"
        )

    kept_rows = records.read("instructions_kept", data / "instructions" / "kept.parquet")
    replay = records.read("replay", data / "replay" / "replay.parquet")
    surplus = records.read("replay", data / "replay" / "surplus.parquet")
    stages = {
        "true": fidelity.true_mixture(),
        "raw": fidelity.skill_shares(fidelity.read_question(row["text"].strip()) for row in raw),
        "kept": fidelity.skill_shares(fidelity.read_question(row["text"]) for row in kept_rows),
        "replay": fidelity.skill_shares(fidelity.read_question(row["instruction"]) for row in replay),
    }
    print("\n" + f"{'skill':14}" + "".join(f"{name:>8}" for name in stages))
    for skill in world.GENERAL:
        print(f"{skill:14}" + "".join(f"{shares[skill]:8.3f}" for shares in stages.values()))
    print(
        f"{'distance':14}" + "".join(f"{fidelity.distance(stages['true'], shares):8.3f}" for shares in stages.values())
    )

    cells = Counter((row["cluster"], row["difficulty"]) for row in [*replay, *surplus])
    print(f"\nnormalised entropy over {len(cells)} cells of cluster x difficulty, {sum(cells.values()):,} candidates")
    temperatures = (1.0, 0.75, 0.5, 0.25, 0.0)
    print(f"{'rows':>8}" + "".join(f"{f'T = {t}':>10}" for t in temperatures))
    for part in (0.25, 0.5, 0.75, 1.0):
        count = min(int(part * sum(cells.values())), knobs.rows)
        evenness = [balancing.entropy(list(balancing.quotas(dict(cells), count, t).values())) for t in temperatures]
        print(f"{count:8,}" + "".join(f"{value:10.3f}" for value in evenness))
    fidelity.plot_curve(rows, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("fidelity.png"))
