"""The gate measured: how long it takes on many items, how often it errs, and what a number of items can show.

    python -m benchmarks.speed.gate scale [--items 100000] [--suites 60]   time and peak memory of `holdfast gate`
    python -m benchmarks.speed.gate scale --items 6000000                  the same with 100,000 items in each of the suites
    python -m benchmarks.speed.gate errors [--runs 1000]                   simulated arms by verdict: true drops, broken ones
    python -m benchmarks.speed.gate detectable                             smallest drop that items can tell from none

`scale` builds its items in a temporary folder, prompts of 400 and answers of 120 characters; --items is the total of
each model. `errors` is exact about what it simulates: every general suite drops alike, items are independent.
"""

from __future__ import annotations

import argparse
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from holdfast.core import records
from holdfast.evaluation import stats, verdict
from holdfast.params.gate import Gate

PARAMS = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))
SHIPPED = {
    name: {"role": suite["role"], "chance": suite.get("chance", 0.0), "items": PARAMS["pocket"]["items"]}
    for name, suite in PARAMS["evaluate"]["suites"].items()
}


Suites = dict[str, dict[str, Any]]
Sides = tuple[dict[str, pa.Table], dict[str, pa.Table]]  # items by suite: the base's, the arm's
Damage = Callable[[Sides, np.random.Generator], None]


def evaluation(folder: Path, suites: int, items: int, seed: int) -> None:
    """Writes items.parquet and settings.json of one model: `items` right-or-wrong items, evenly over the suites."""
    rng, described = np.random.default_rng(seed), {}
    schema = records.SCHEMAS["items"].with_metadata(
        {"holdfast.schema": "items", "holdfast.version": str(records.VERSION)}
    )
    folder.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(
        folder / "items.parquet", schema, compression="zstd"
    ) as file:  # millions would not fit at once
        for suite, numbers in enumerate(np.array_split(np.arange(items), suites)):
            name, number = f"suite{suite:02d}", pc.cast(pa.array(10**7 + numbers), pa.string())
            right = pa.array(rng.random(len(numbers)) < 0.85)
            columns = {"id": pc.binary_join_element_wise(name, number, "/"), "suite": [name] * len(numbers)}
            columns |= {
                key: pc.binary_join_element_wise("01234567", number, "-") for key in ("item_hash", "prompt_hash")
            }
            columns |= {"item_id": number, "target": number, "correct": pc.cast(right, pa.float64())}
            columns["prompt"] = pc.binary_join_element_wise("How many are left? " * 20, number, " ")
            answer = pc.binary_join_element_wise("so that makes " * 8, number, "")
            columns["response"] = pc.if_else(right, answer, pc.binary_join_element_wise("wrong " * 20, number, ""))
            file.write_table(pa.table(columns).select(schema.names).cast(schema), row_group_size=65_536)
            described[name] = {"role": "general", "chance": 0.0, "metric": "exact_match", "items": len(numbers)}
    settings = {"schema": 1, "model": folder.name, "engine": {"seed": 1}, "suites": described}
    records.write_json(folder / "settings.json", settings)


def scale(suites: int, items: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for seed, name in enumerate(("base", "tuned")):
            evaluation(root / "reports" / "eval" / name, suites, items, seed)
        knobs = PARAMS["gate"] | {"min_domain_gain": 0.0, "control": None}
        (root / "params.yaml").write_text(yaml.safe_dump({"arms": ["tuned"], "gate": knobs}), encoding="utf-8")
        size = sum(file.stat().st_size for file in root.rglob("*.parquet"))
        start = time.perf_counter()
        command = [sys.executable, "-m", "holdfast.cli", "gate"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        seconds, usage = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    print(done.stdout + done.stderr)
    print(f"{items:,} items in {suites} suites, base and one arm, {size / 1e6:,.0f} MB of Parquet")
    print(f"{seconds:.1f} s ({usage.ru_utime + usage.ru_stime:.1f} s of processor time)")
    print(f"peak memory {usage.ru_maxrss / 1024**2:.2f} GiB")


def simulate(
    drop: float, changed: float, runs: int, suites: Suites = SHIPPED, damage: Damage | None = None, seed: int = 0
) -> dict[str, float]:
    """Part of simulated arms by verdict: each general suite truly drops by `drop` above chance.

    `changed`: the part of items whose outcome changes, lost and gained together. A domain gains what is asked for.
    `damage` breaks an evaluation after it was made.
    """
    rng = np.random.default_rng(seed)
    asked = PARAMS["gate"]["min_domain_gain"] if any(s["role"] == "domain" for s in suites.values()) else -1
    params = Gate(**(PARAMS["gate"] | {"resamples": 400, "min_domain_gain": asked}))
    found: list[str] = []
    for _ in range(runs):
        sides: Sides = ({}, {})
        for name, suite in suites.items():
            raw = drop * (1 - suite["chance"])
            lost, gained = (max(changed, raw) + raw) / 2, (max(changed, raw) - raw) / 2
            shares = [lost, gained, 0.66, 0.34 - lost - gained] if suite["role"] == "general" else [0, 0.4, 0, 0.6]
            counts = rng.multinomial(suite["items"], shares)
            outcomes: Any = (np.repeat([1.0, 0.0, 1.0, 0.0], counts), np.repeat([0.0, 1.0, 1.0, 0.0], counts))
            for correct, side in zip(outcomes, sides, strict=True):
                side[name] = answers(name, correct)
        if damage:
            damage(sides, rng)
        base, tuned = (side.__getitem__ for side in sides)
        found.append(verdict.decide(params, suites, base, tuned, [])["verdict"])
    return {word: found.count(word) / runs for word in ("pass", "fail", "cannot-compare")}


def answers(suite: str, correct: Any) -> pa.Table:
    """One suite's items with these outcomes, as the gate reads them."""
    ids = pa.array([f"{number:06d}" for number in range(len(correct))])
    response = pc.if_else(pa.array(correct > 0.5), ids, "wrong")
    texts = {"suite": [suite] * len(correct), "response": response, "correct": correct}
    return pa.table(dict.fromkeys(("item_id", *stats.KEY), ids) | texts)


def swap(table: pa.Table, column: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(column), column, values)


def constant(side: int) -> Damage:
    """One model (0 base, 1 arm) answers a suite with one and the same text; the marks stay as they were."""

    def damage(sides: Sides, rng: np.random.Generator) -> None:
        table = sides[side]["judging"]
        sides[side]["judging"] = swap(table, "response", pa.array(["5"] * len(table)))

    return damage


def shuffled(column: str) -> Damage:
    """Another order of ids, or of the hashes of prompts."""

    def damage(sides: Sides, rng: np.random.Generator) -> None:
        table = sides[1]["facts"]
        sides[1]["facts"] = swap(table, column, table[column].take(pa.array(rng.permutation(len(table)))))

    return damage


def missing(sides: Sides, rng: np.random.Generator) -> None:
    sides[1]["facts"] = sides[1]["facts"].slice(0, 0)


def at_chance(sides: Sides, rng: np.random.Generator) -> None:
    """Both models guess in one suite: there is nothing to forget."""
    name = "judging"
    for side in sides:
        side[name] = answers(name, (rng.random(SHIPPED[name]["items"]) < SHIPPED[name]["chance"]).astype(float))


BROKEN: dict[str, Damage] = {
    "the arm gives one answer to a whole suite": constant(1),
    "the base gives one answer to a whole suite": constant(0),
    "a suite is missing": missing,
    "ids are shuffled": shuffled("item_id"),
    "prompts are others": shuffled("prompt_hash"),
    "the base guesses in a suite": at_chance,
}


def general(suites: int, items: int) -> Suites:
    return {f"suite{number:02d}": {"role": "general", "chance": 0.0, "items": items} for number in range(suites)}


def errors(runs: int) -> None:
    margin, shipped = PARAMS["gate"]["margin"], PARAMS["pocket"]["items"]
    told = sum(suite["role"] == "general" for suite in SHIPPED.values())
    print(f"{runs} arms a line, margin {100 * margin:.1f}; {told} general suites of {shipped} items:")
    print("true drop  items changed    pass    fail  cannot compare")
    for drop in (0.0, margin, 2 * margin):
        for changed in (0.02, 0.06, 0.12, 0.2):
            if changed >= drop:
                print(f"{100 * drop:9.1f}  {changed:13.0%} {line(simulate(drop, changed, runs))}")
    print("\nA true drop of just the margin, all of it lost items, on few items: at most 5 % should pass.")
    print("suites x items                 pass    fail  cannot compare")
    for suites, items in ((1, 100), (1, 150), (1, 240), (4, 30), (5, 50), (20, 50)):
        print(f"{suites:6d} x {items:5d}            {line(simulate(margin, margin, runs, general(suites, items)))}")
    print("\nBroken evaluations, without a true drop: none may pass (who guesses twice, by luck: once in 1,600).")
    print("what                                           pass    fail  cannot compare")
    for name, damage in BROKEN.items():
        print(f"{name:43s} {line(simulate(0.0, 0.02, runs, damage=damage))}")


def line(found: dict[str, float]) -> str:
    return f"{found['pass']:7.1%} {found['fail']:7.1%} {found['cannot-compare']:15.1%}"


def detectable() -> None:
    print("Smallest general drop, in points, that is told from none four times in five.")
    print("In brackets: how large the drop may be at 95% confidence where there is none; a margin must be larger.")
    print("general suites x items   items changed: " + "".join(f"{q:>16.0%}" for q in (0.02, 0.05, 0.1, 0.2)))
    for suites, items in ((1, 240), (1, 1000), (6, 100), (11, 240), (6, 1000), (20, 1000), (60, 1667)):
        cells = []
        for changed in (0.02, 0.05, 0.1, 0.2):
            error = stats.standard_error(np.full(suites, float(items)), np.full(suites, changed), np.zeros(suites))
            assert math.isclose(error, math.sqrt(changed / items / suites))
            cells.append(f"{100 * stats.detectable_drop(error, 0.95):8.1f} ({100 * stats.half_width(error, 0.95):.1f})")
        print(f"{suites:14d} x {items:5d}                    " + "".join(f"{cell:>16}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["scale", "errors", "detectable"])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--suites", type=int, default=60)
    parser.add_argument("--runs", type=int, default=1000)
    options = parser.parse_args()
    if options.what == "scale":
        scale(options.suites, options.items)
    elif options.what == "errors":
        errors(options.runs)
    else:
        detectable()


if __name__ == "__main__":
    main()
