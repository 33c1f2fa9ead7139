"""Simulated arms and broken evaluations: how often the verdict errs. `python -m benchmarks.speed.gate errors` prints it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from holdfast.core import records, storage
from holdfast.evaluation.results import KEY
from holdfast.params.gate import Gate
from holdfast.params.whole import Params
from holdfast.verdict import decision, fields, gate, paired, precision, run, stats

Suites = dict[str, dict[str, Any]]
Sides = tuple[dict[str, pa.Table], dict[str, pa.Table]]  # items by suite: the base's, the arm's
CHANCES = {"judging": 0.5, "comparing": 0.5, "odd_one_out": 0.25}  # of the pocket lab's suites with choices
Damage = Callable[[Sides, np.random.Generator], None]


def suites_of(params: Params) -> Suites:
    """The suites of params.yaml, each with as many items as the pocket lab has."""
    return {
        name: {"role": suite.role, "chance": suite.chance, "items": params.pocket.items}
        for name, suite in params.evaluate.suites.items()
    }


def draw_outcomes(rng: np.random.Generator, number: int, shares: list[float]) -> tuple[stats.Floats, stats.Floats]:
    """(scores before, scores after) of so many items. `shares`: of those lost, gained, right both times and wrong both times."""
    counts = rng.multinomial(number, shares)
    return np.repeat([1.0, 0.0, 1.0, 0.0], counts), np.repeat([0.0, 1.0, 1.0, 0.0], counts)


def share_verdicts(verdicts: list[str]) -> dict[str, float]:
    return {word: verdicts.count(word) / len(verdicts) for word in ("pass", "fail", "cannot-compare")}


def simulate_verdicts(
    params: Gate, suites: Suites, drop: float, changed: float, runs: int, damage: Damage | None = None, seed: int = 0
) -> dict[str, float]:
    """Part of `runs` simulated arms by verdict: each general suite truly drops by `drop` (0..1) above chance.

    `changed`: the part of items whose outcome changes, lost and gained together. A domain gains what `params` wants.
    `damage` breaks an evaluation after it was made. Exact about what it simulates: every general suite drops alike,
    items are independent.
    """
    rng = np.random.default_rng(seed)
    gain = params.min_domain_gain if any(suite["role"] == "domain" for suite in suites.values()) else -1
    params = params.model_copy(update={"resamples": 400, "min_domain_gain": gain})
    verdicts: list[str] = []
    for _ in range(runs):
        sides: Sides = ({}, {})
        for name, suite in suites.items():
            raw = drop * (1 - suite["chance"])
            lost, gained = (max(changed, raw) + raw) / 2, (max(changed, raw) - raw) / 2
            shares = [lost, gained, 0.66, 0.34 - lost - gained] if suite["role"] == "general" else [0, 0.4, 0, 0.6]
            for correct, side in zip(draw_outcomes(rng, suite["items"], shares), sides, strict=True):
                side[name] = answers(name, correct)
        if damage:
            damage(sides, rng)
        verdicts.append(judge(params, suites, sides))
    return share_verdicts(verdicts)


def judge(params: Gate, suites: Suites, sides: Sides) -> str:
    """The verdict on an arm's items against the base's."""
    base, tuned = (side.__getitem__ for side in sides)
    return gate.compare(params, suites, base, tuned, [])["verdict"]


def simulate_clusters(
    params: Gate,
    suites: int,
    groups: int,
    size: int,
    changed: float,
    runs: int,
    grouped: bool,
    drop: float = 0.0,
    seed: int = 0,
) -> dict[str, float]:
    """Part of `runs` simulated arms by verdict: in each of `suites` general suites a part `changed` of the `groups` of
    `size` items flips as a whole, and the score truly drops by `drop` (0..1, at most `changed`).

    `grouped`: whether the gate is told which items belong together.
    """
    rng = np.random.default_rng(seed)
    params = params.model_copy(update={"resamples": 400, "min_domain_gain": -1.0})
    described = general_suites(suites, groups * size)
    numbers = pa.array([str(number) for number in np.repeat(np.arange(groups), size)])
    lost, gained = (changed + drop) / 2, (changed - drop) / 2
    verdicts: list[str] = []
    for _ in range(runs):
        sides: Sides = ({}, {})
        for name in described:
            outcomes = draw_outcomes(rng, groups, [lost, gained, 0.66, 0.34 - changed])
            for correct, side in zip(outcomes, sides, strict=True):
                table = answers(name, np.repeat(correct, size))
                side[name] = swap(table, "item_group", numbers) if grouped else table
        verdicts.append(judge(params, described, sides))
    return share_verdicts(verdicts)


def simulate_flaky(
    params: Gate,
    suites: int,
    items: int,
    flips: float,
    shift: float,
    runs: int,
    floor: bool,
    drop: float = 0.0,
    seed: int = 0,
) -> dict[str, float]:
    """Part of `runs` simulated arms by verdict, where evaluating is noisy: in each evaluation of a model a part `flips` of the items
    comes out the other way, and each suite as a whole moves by a normal amount with standard deviation `shift`, as when
    another judge marks it. The arm truly lost `drop`. `floor`: whether the base was evaluated twice.
    """
    rng = np.random.default_rng(seed)
    params = params.model_copy(update={"resamples": 400, "min_domain_gain": -1.0})
    described = general_suites(suites, items)
    settings = {"engine": {}, "suites": described}

    def evaluate(truth: dict[str, Any]) -> dict[str, pa.Table]:
        tables = {}
        for name, right in truth.items():
            seen = np.where(rng.random(items) < flips, ~right, right)
            moved = float(rng.normal(0.0, shift))
            changes = rng.random(items) < abs(moved) / (seen.mean() if moved < 0 else 1 - seen.mean())
            tables[name] = answers(name, np.where(changes, moved > 0, seen).astype(float))
        return tables

    verdicts: list[str] = []
    for _ in range(runs):
        truth = {name: rng.random(items) < 0.7 for name in described}
        tuned_truth = {name: right & (rng.random(items) >= drop / 0.7) for name, right in truth.items()}
        base, again, tuned = evaluate(truth), evaluate(truth), evaluate(tuned_truth)
        noise = paired.compare_repeat(base.__getitem__, again.__getitem__, settings, settings) if floor else None
        verdicts.append(gate.compare(params, described, base.__getitem__, tuned.__getitem__, [], noise)["verdict"])
    return share_verdicts(verdicts)


def answers(suite: str, correct: Any) -> pa.Table:
    """One suite's items with these outcomes, as the gate reads them."""
    ids = pa.array([f"{number:06d}" for number in range(len(correct))])
    response = pc.if_else(pa.array(correct > 0.5), ids, "wrong")
    texts = {"suite": [suite] * len(correct), "response": response, "correct": correct}
    texts["item_group"] = pa.nulls(len(correct), pa.string())
    return pa.table(dict.fromkeys(("item_id", *KEY), ids) | texts)


def swap(table: pa.Table, column: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(column), column, values)


def answer_alike(side: int) -> Damage:
    """One model (0 base, 1 arm) answers a suite with one and the same text; the marks stay as they were."""

    def damage(sides: Sides, rng: np.random.Generator) -> None:
        table = sides[side]["judging"]
        sides[side]["judging"] = swap(table, "response", pa.array(["5"] * len(table)))

    return damage


def shuffle(column: str) -> Damage:
    """Another order of ids, or of the hashes of prompts."""

    def damage(sides: Sides, rng: np.random.Generator) -> None:
        table = sides[1]["facts"]
        sides[1]["facts"] = swap(table, column, table[column].take(pa.array(rng.permutation(len(table)))))

    return damage


def lose_suite(sides: Sides, rng: np.random.Generator) -> None:
    sides[1]["facts"] = sides[1]["facts"].slice(0, 0)


def guess(sides: Sides, rng: np.random.Generator) -> None:
    """Both models guess in most suites: there is little to forget."""
    for name in sorted(sides[0])[:-3]:
        for side in sides:
            side[name] = answers(name, (rng.random(len(side[name])) < CHANCES.get(name, 0.02)).astype(float))


BROKEN: dict[str, Damage] = {
    "the arm gives one answer to a whole suite": answer_alike(1),
    "the base gives one answer to a whole suite": answer_alike(0),
    "a suite is missing": lose_suite,
    "ids are shuffled": shuffle("item_id"),
    "prompts are others": shuffle("prompt_hash"),
    "the base guesses in most suites": guess,
}


def general_suites(suites: int, items: int) -> Suites:
    return {f"suite{number:02d}": {"role": "general", "chance": 0.0, "items": items} for number in range(suites)}


def write_evaluation(folder: Path, suites: int, items: int, seed: int) -> None:
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
            columns |= {"item_group": pa.nulls(len(numbers), pa.string())}
            columns |= {"item_id": number, "target": number, "correct": pc.cast(right, pa.float64())}
            columns["prompt"] = pc.binary_join_element_wise("How many are left? " * 20, number, " ")
            answer = pc.binary_join_element_wise("so that makes " * 8, number, "")
            columns["response"] = pc.if_else(right, answer, pc.binary_join_element_wise("wrong " * 20, number, ""))
            file.write_table(pa.table(columns).select(schema.names).cast(schema), row_group_size=65_536)
            described[name] = {"role": "general", "chance": 0.0, "metric": "exact_match", "items": len(numbers)}
    settings = {"schema": 1, "model": folder.name, "engine": {"seed": 1}, "suites": described}
    storage.write_json(folder / "settings.json", settings)


def simulate_trainings(
    params: Gate,
    suites: int,
    items: int,
    changed: float,
    between: float,
    trainings: int,
    runs: int,
    drop: float = 0.0,
    seed: int = 0,
) -> dict[str, float]:
    """Part of `runs` simulated methods by verdict: `trainings` arms of `suites` general suites each. Every training moves the
    true accuracy of all suites by a normal amount with mean -`drop` and standard deviation `between`; a part `changed` of
    the items changes in each. One training: the verdict on that arm. Outcomes are drawn, and measured without bootstrap.
    """
    rng = np.random.default_rng(seed)
    params = params.model_copy(update={"min_domain_gain": -1.0, "control": None})
    names = [f"arm{number}" for number in range(trainings)]
    verdicts: list[str] = []
    for _ in range(runs):
        right = rng.binomial(items, 0.7, suites)  # of the base, the same for every training
        arms = {}
        for name in names:
            moved = float(rng.normal(-drop, between))
            part = max(changed, abs(moved))
            lost = rng.binomial(right, min(1.0, (part - moved) / 2 / 0.7))
            gained = rng.binomial(items - right, min(1.0, (part + moved) / 2 / 0.3))
            arms[name] = decision.decide_arm(params, measured_arm(params, items, right, lost, gained))
        verdicts.append(run.decide_run(params, arms, None, {names[0]: names})["verdict"])
    return share_verdicts(verdicts)


def measured_arm(params: Gate, items: int, right: Any, lost: Any, gained: Any) -> dict[str, Any]:
    """What decision.decide_arm takes, from counts by suite; the bound is the normal one in place of the bootstrap's."""
    described = {}
    for number, (before, less, more) in enumerate(zip(right.tolist(), lost.tolist(), gained.tolist(), strict=True)):
        suite = dict.fromkeys(fields.MEASURED_SUITE) | {
            "role": "general",
            "chance": 0.0,
            "items": items,
            "problems": [],
        }
        suite |= {"before": before / items, "after": (before - less + more) / items, "lost": less, "gained": more}
        suite |= {"discordance": (less + more + 1) / (items + 2), "mcnemar_p": 1.0, "low": 0.0, "high": 0.0}
        suite |= {"guessing_before": 0.0, "guessing_after": 0.0, "constant_before": False, "constant_after": False}
        described[f"suite{number:02d}"] = suite
    change = float((gained - lost).mean()) / items
    error = precision.standard_error(
        [items] * len(right), [s["discordance"] for s in described.values()], [0.0] * len(right)
    )
    width = precision.half_width(error, params.confidence)
    score: dict[str, Any] = {"low": change - width, "high": change + width, "bound": change - width}
    score |= {"retention_low": None, "retention_high": None}
    return {"problems": [], "suites": described, "general": score, "self": None, "domain": None}
