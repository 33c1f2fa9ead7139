"""The gate measured: how long it takes on many items, how often it errs, and what a number of items can show.

    python -m benchmarks.speed.gate scale [--items 100000] [--suites 60]   time and peak memory of `holdfast gate`
    python -m benchmarks.speed.gate scale --items 6000000                  the same with 100,000 items in each of the suites
    python -m benchmarks.speed.gate errors [--runs 1000]                   simulated arms by verdict: true drops, broken ones
    python -m benchmarks.speed.gate clusters [--runs 1000]                 the same where whole passages flip, by groups or not
    python -m benchmarks.speed.gate trainings [--runs 1000]                one training of a method, and several judged together
    python -m benchmarks.speed.gate flaky [--runs 1000]            evaluations that differ from one to the next, and the noise floor
    python -m benchmarks.speed.gate detectable                             smallest drop that items can tell from none

`scale` builds its items in a temporary folder, prompts of 400 and answers of 120 characters; --items is the total of
each model. `errors` is exact about what it simulates: every general suite drops alike, items are independent.
"""

from __future__ import annotations

import argparse
import math
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from holdfast.params.whole import Params
from holdfast.verdict import precision, simulation
from holdfast.verdict.simulation import BROKEN, Suites

ROOT = Path(__file__).parents[2]
PARAMS = Params.load(ROOT / "params.yaml")
SHIPPED = simulation.suites_of(PARAMS)


def scale(suites: int, items: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for seed, name in enumerate(("base", "tuned")):
            simulation.write_evaluation(root / "reports" / "eval" / name, suites, items, seed)
        knobs = PARAMS.gate.model_dump() | {"min_domain_gain": 0.0, "control": None}
        (root / "params.yaml").write_text(yaml.safe_dump({"arms": ["tuned"], "gate": knobs}), encoding="utf-8")
        shutil.copytree(ROOT / "stages", root / "stages")
        size = sum(file.stat().st_size for file in root.rglob("*.parquet"))
        start = time.perf_counter()
        command = [sys.executable, "-m", "holdfast.cli", "run", "gate"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        seconds, usage = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    print(done.stdout + done.stderr)
    print(f"{items:,} items in {suites} suites, base and one arm, {size / 1e6:,.0f} MB of Parquet")
    print(f"{seconds:.1f} s ({usage.ru_utime + usage.ru_stime:.1f} s of processor time)")
    print(f"peak memory {usage.ru_maxrss / 1024**2:.2f} GiB")


def simulate(drop: float, changed: float, runs: int, suites: Suites, **more: Any) -> dict[str, float]:
    return simulation.simulate_verdicts(PARAMS.gate, suites, drop, changed, runs, **more)


def errors(runs: int) -> None:
    margin, shipped = PARAMS.gate.margin, PARAMS.pocket.items
    told = sum(suite["role"] == "general" for suite in SHIPPED.values())
    print(f"{runs} arms a line, margin {100 * margin:.1f}; {told} general suites of {shipped} items:")
    print("true drop  items changed    pass    fail  cannot compare")
    for drop in (0.0, margin, 2 * margin):
        for changed in (0.02, 0.06, 0.12, 0.2):
            if changed >= drop:
                print(f"{100 * drop:9.1f}  {changed:13.0%} {line(simulate(drop, changed, runs, SHIPPED))}")
    print("\nA true drop of just the margin, all of it lost items, on few items: at most 5 % should pass.")
    print("suites x items                 pass    fail  cannot compare")
    for suites, items in ((1, 100), (1, 150), (1, 240), (4, 30), (5, 50), (20, 50)):
        print(
            f"{suites:6d} x {items:5d}            {line(simulate(margin, margin, runs, simulation.general_suites(suites, items)))}"
        )
    print("\nBroken evaluations, without a true drop: none may pass (who guesses twice, by luck: once in 1,600).")
    print("what                                           pass    fail  cannot compare")
    for name, damage in BROKEN.items():
        print(f"{name:43s} {line(simulate(0.0, 0.02, runs, SHIPPED, damage=damage))}")


def clusters(runs: int) -> None:
    margin = PARAMS.gate.margin
    print(f"{runs} arms a line, margin {100 * margin:.1f}; 5 suites, 12 % of the passages flip as a whole")
    print("passages x questions  true drop  groups given    pass    fail  cannot compare")
    for groups, size, drop, grouped in (
        (250, 1, 0.0, False),
        (50, 5, 0.0, False),
        (50, 5, 0.0, True),
        (100, 5, 0.0, True),
        (200, 5, 0.0, True),
        (50, 5, margin, True),
        (200, 5, margin, True),
        (50, 5, 3 * margin, True),
        (200, 5, 2 * margin, True),
    ):
        shares = simulation.simulate_clusters(PARAMS.gate, 5, groups, size, 0.12, runs, grouped, drop)
        given = "-" if size == 1 else "yes" if grouped else "no"
        print(f"{groups:8d} x {size:2d}  {100 * drop:18.1f}  {given:>12} {line(shares)}", flush=True)


def trainings(runs: int) -> None:
    margin = PARAMS.gate.margin
    print(
        f"{runs} methods a line, margin {100 * margin:.1f}; 5 suites of 250 items, of which 6 % change in each training"
    )
    print("true drop  between trainings  trainings    pass    fail  cannot compare")
    for drop in (0.0, 5 / 3 * margin):
        for between in (0.0, 0.015, 0.03):
            for count in (1, 3, 5, 10):
                shares = simulation.simulate_trainings(PARAMS.gate, 5, 250, 0.06, between, count, runs, drop)
                print(f"{100 * drop:9.1f}  {100 * between:17.1f}  {count:9d} {line(shares)}", flush=True)


def flaky(runs: int) -> None:
    margin = PARAMS.gate.margin
    print(f"{runs} arms a line, margin {100 * margin:.1f}; 5 suites of 250 items, of which 5 % flip in each evaluation")
    print("true drop  suites move by  base evaluated    pass    fail  cannot compare")
    for drop in (0.0, 5 / 3 * margin, 10 / 3 * margin):
        for shift in (0.0, 0.02, 0.04):
            for floor in (False, True):
                shares = simulation.simulate_flaky(PARAMS.gate, 5, 250, 0.05, shift, runs, floor, drop)
                print(
                    f"{100 * drop:9.1f}  {100 * shift:14.1f}  {'twice' if floor else 'once':>14} {line(shares)}",
                    flush=True,
                )


def line(shares: dict[str, float]) -> str:
    return f"{shares['pass']:7.1%} {shares['fail']:7.1%} {shares['cannot-compare']:15.1%}"


def detectable() -> None:
    print("Smallest general drop, in points, that is told from none four times in five.")
    print("In brackets: how large the drop may be at 95% confidence where there is none; a margin must be larger.")
    print("general suites x items   items changed: " + "".join(f"{q:>16.0%}" for q in (0.02, 0.05, 0.1, 0.2)))
    for suites, items in ((1, 240), (1, 1000), (6, 100), (11, 240), (6, 1000), (20, 1000), (60, 1667)):
        cells = []
        for changed in (0.02, 0.05, 0.1, 0.2):
            error = precision.standard_error([items] * suites, [changed] * suites, [0.0] * suites)
            assert math.isclose(error, math.sqrt(changed / items / suites))
            cells.append(
                f"{100 * precision.detectable_drop(error, 0.95):8.1f} ({100 * precision.half_width(error, 0.95):.1f})"
            )
        print(f"{suites:14d} x {items:5d}                    " + "".join(f"{cell:>16}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["scale", "errors", "clusters", "trainings", "flaky", "detectable"])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--suites", type=int, default=60)
    parser.add_argument("--runs", type=int, default=1000)
    options = parser.parse_args()
    if options.what == "scale":
        scale(options.suites, options.items)
    elif options.what == "errors":
        errors(options.runs)
    elif options.what == "clusters":
        clusters(options.runs)
    elif options.what == "trainings":
        trainings(options.runs)
    elif options.what == "flaky":
        flaky(options.runs)
    else:
        detectable()


if __name__ == "__main__":
    main()
