"""The replay set: rows chosen from the cells of semantic cluster x difficulty bin, between even and as reconstructed.

The work of `balance`. One temperature moves the target: a cell of n candidates wants a share in proportion to
n ** temperature, so 1 keeps the reconstructed proportions and 0 makes all cells equal. What a cell lacks goes to the
others, and is reported. Of refusals there are as many as `curate.refusals` asks for, where the candidates have them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from holdfast.core import records
from holdfast.core.rows import Candidate, ReplayRow
from holdfast.params.balance import Balance

BATCH = 64  # responses at once on the device
Cell = tuple[int, int]  # cluster, difficulty bin
Key = TypeVar("Key", str, Cell)


class Choice(NamedTuple):
    """What was chosen, of what."""

    replay: list[ReplayRow]
    surplus: list[ReplayRow]
    available: dict[Cell, int]  # candidates
    wanted: dict[Cell, float]  # rows that the cell would give if it had enough
    taken: dict[Cell, int]
    refusals: int = 0  # that were wanted; none: no floor was asked for

    @property
    def shortfalls(self) -> list[float]:
        """Rows that a cell lacks, of each cell that lacks at least one."""
        lacks = (self.wanted[cell] - self.taken[cell] for cell in self.taken)
        return [lack for lack in lacks if lack >= 1]


def choose_replay_set(
    candidates: list[Candidate], difficulty: np.ndarray, params: Balance, floor: float = 0.0
) -> Choice:
    """Split candidates into `params.rows` rows of the replay set and the surplus, each with its difficulty bin.

    `difficulty`: (N,), NaN where there is no measurement; such rows count as of median difficulty. `floor`: `curate.refusals`.
    Prompts that were drawn to be refused are taken where other refusals are too few, and only as many as are lacking.
    """
    bins = difficulty_bins(difficulty, params.difficulty_bins)
    rows: list[ReplayRow] = [{**row, "difficulty": level} for row, level in zip(candidates, bins, strict=True)]
    drawn = [row for row in rows if row["family"] == "refusals"]
    choice = choose_from_families([row for row in rows if row["family"] != "refusals"], params.rows, params)
    wanted = count_in_all(floor, choice.replay, params.rows)
    lacking = wanted - sum(row["refusal"] for row in choice.replay)
    if lacking <= 0:
        choice = choice._replace(surplus=[*choice.surplus, *drawn])
    else:
        spare = [row for row in choice.surplus if row["refusal"]]
        added = [*shuffle(spare, params.seed), *shuffle(drawn, params.seed)][:lacking]
        refusals = [*(row for row in choice.replay if row["refusal"]), *added]
        others = [row for row in rows if not row["refusal"]]
        choice = choose_from_families(others, params.rows - len(refusals), params)
        taken = {row["id"] for row in refusals}
        left = [row for row in rows if row["refusal"] and row["id"] not in taken]
        choice = choice._replace(replay=[*choice.replay, *refusals], surplus=[*choice.surplus, *left])
    assert len(choice.replay) + len(choice.surplus) == len(candidates), "a row got lost"
    return choice._replace(refusals=wanted)


def count_refusals(floor: float, others: int) -> int:
    """Refusals beside so many other rows, at least, for a floor that is a share of all (below 1) or a number."""
    return math.ceil(round(others * floor / (1 - floor), 9)) if floor < 1 else int(floor)


def count_in_all(floor: float, replay: list[ReplayRow], most: int) -> int:
    """Refusals that a floor asks for of a replay set that may grow to `most` rows."""
    others = sum(not row["refusal"] for row in replay)
    of_a_full_set = math.ceil(round(most * floor, 9)) if floor < 1 else int(floor)
    return min(count_refusals(floor, others), of_a_full_set, most)


def shuffle(rows: list[ReplayRow], seed: int) -> list[ReplayRow]:
    """In an order drawn by the seed, whatever order they come in."""
    return sorted(rows, key=lambda row: records.text_id(seed, row["id"]))


def choose_from_families(rows: list[ReplayRow], number: int, params: Balance) -> Choice:
    """`number` of the rows, or all: every family gives its part, so that even cells starve none."""
    members: dict[str, list[ReplayRow]] = defaultdict(list)
    for row in rows:
        members[row["family"]].append(row)
    parts = quotas({family: len(of_family) for family, of_family in members.items()}, number, temperature=1.0)
    replay: list[ReplayRow] = []
    surplus: list[ReplayRow] = []
    available: Counter[Cell] = Counter()
    taken: Counter[Cell] = Counter()
    wanted: dict[Cell, float] = defaultdict(float)
    for family in sorted(members):
        part = choose_from_cells(members[family], parts[family], params)
        replay += part.replay
        surplus += part.surplus
        available.update(part.available)
        taken.update(part.taken)
        for cell, rows_wanted in part.wanted.items():
            wanted[cell] += rows_wanted
    return Choice(replay, surplus, dict(available), dict(wanted), dict(taken))


def choose_from_cells(rows: list[ReplayRow], number: int, params: Balance) -> Choice:
    """`number` of the rows, or all, spread over the cells by the temperature."""
    cells: dict[Cell, list[ReplayRow]] = defaultdict(list)
    for row in rows:
        cells[row["cluster"], row["difficulty"]].append(row)
    available = {cell: len(members) for cell, members in cells.items()}
    taken = quotas(available, number, params.temperature)
    wanted = targets(available, min(number, len(rows)), params.temperature)
    replay: list[ReplayRow] = []
    surplus: list[ReplayRow] = []
    for cell, members in sorted(cells.items()):
        members = shuffle(members, params.seed)
        replay += members[: taken[cell]]
        surplus += members[taken[cell] :]
    return Choice(replay, surplus, available, wanted, taken)


def difficulty_bins(difficulty: np.ndarray, bins: int) -> list[int]:
    """The quantile bin of each row from 0, the easiest; equal difficulties share a bin, NaN counts as the median."""
    unmeasured = np.isnan(difficulty)
    median = 0.0 if unmeasured.all() else float(np.nanmedian(difficulty))
    filled = np.where(unmeasured, median, difficulty)
    edges = np.quantile(filled, np.arange(1, bins) / bins)
    return np.searchsorted(edges, filled, side="left").tolist()


def summarise(choice: Choice, difficulty: np.ndarray, params: Balance) -> dict[str, Any]:
    """The content of reports/balance.json."""
    return {
        "schema": 1,
        "candidates": len(choice.replay) + len(choice.surplus),
        "rows": len(choice.replay),
        "difficulty": params.difficulty,
        "unmeasured": int(np.isnan(difficulty).sum()),
        "temperature": params.temperature,
        "entropy": entropy(list(choice.taken.values())),
        "entropy_before": entropy(list(choice.available.values())),
        "refusals": count_kept_refusals(choice),
        "families": count_families(choice),
        "short_cells": len(choice.shortfalls),
        "shortfall": sum(choice.shortfalls),  # rows that cells wanted and do not have; others took their place
        "cells": {
            f"{cluster}/{level}": {
                "available": choice.available[cluster, level],
                "wanted": choice.wanted[cluster, level],
                "taken": choice.taken[cluster, level],
            }
            for cluster, level in sorted(choice.available)
        },
    }


def count_kept_refusals(choice: Choice) -> dict[str, int]:
    """Refusals among the candidates, those that the floor asks for, and those that are replayed."""
    replayed, left = (sum(row["refusal"] for row in part) for part in (choice.replay, choice.surplus))
    return {"candidates": replayed + left, "wanted": choice.refusals, "rows": replayed}


def count_families(choice: Choice) -> dict[str, dict[str, float]]:
    """Of each family of instructions the candidates, the rows of the replay set, and its share of them."""
    replayed, left = (Counter(row["family"] for row in part) for part in (choice.replay, choice.surplus))
    whole = max(1, len(choice.replay))
    return {
        family: {
            "candidates": replayed[family] + left[family],
            "rows": replayed[family],
            "share": replayed[family] / whole,
        }
        for family in sorted(replayed | left)
    }


def compute_metrics(choice: Choice) -> dict[str, Any]:
    """The content of reports/replay.json, what `dvc metrics diff` compares: rows, share of refusals, share by family."""
    families = {family: counts["share"] for family, counts in count_families(choice).items()}
    refusals = count_kept_refusals(choice)["rows"] / max(1, len(choice.replay))
    return {"rows": len(choice.replay), "refusals": refusals, "families": families}


def describe_refusals(choice: Choice) -> str:
    """How many refusals are replayed, for the terminal; a warning where the floor is not met."""
    refusals = count_kept_refusals(choice)
    if (lacking := refusals["wanted"] - refusals["rows"]) > 0:
        what = f"warning: curate.refusals asks for {refusals['wanted']:,} refusals, {lacking:,} are lacking"
        return f"{what}: the base refused {refusals['candidates']:,} of all that it was asked"
    return f"{refusals['rows']:,} of them are refusals"


def measure_difficulty(rows: list[Candidate], model: Path, params: Balance) -> np.ndarray:
    """How hard each candidate is by the measure of params, (N,); NaN where there is no measurement.

    `model`: the base's manifest. Warns where most rows have no measurement.
    """
    difficulty = MEASURES[params.difficulty](rows, model)
    unmeasured = int(np.isnan(difficulty).sum())
    if unmeasured == len(rows):
        print(f"no row has a measured {params.difficulty}: they are balanced by meaning alone")
    elif unmeasured * 2 > len(rows):
        what = f"{unmeasured:,} of {len(rows):,} rows have no measured {params.difficulty}"
        print(f"warning: {what}; they share a middle bin")
    return difficulty


def base_likelihood(rows: list[Candidate], model: Path) -> np.ndarray:
    """The base's mean negative log-likelihood of the chosen response, in nats per token."""
    return np.array([np.nan if row["base_logprob"] is None else -row["base_logprob"] for row in rows], dtype=float)


def disagreement(rows: list[Candidate], model: Path) -> np.ndarray:
    """Standard deviation of the judges' scores of the chosen response; one judge alone does not disagree."""
    alone = [row["score_std"] is None or row["n_judges"] < 2 for row in rows]
    return np.array([np.nan if one else row["score_std"] for one, row in zip(alone, rows, strict=True)], dtype=float)


def instruction_following(rows: list[Candidate], model: Path) -> np.ndarray:
    """Log of the instruction-following difficulty (Li et al., arXiv 2308.12032, eq. 3): how little the instruction helps.

    The base's negative log-likelihood of the response after the instruction, less that after an empty user turn.
    """
    from holdfast.chat import encoding
    from holdfast.core import manifest
    from holdfast.engines import local

    engine = local.Engine(manifest.load(model), BATCH)
    empty = [encoding.turns("")] * len(rows)
    thinking = False if any("thinking" in row for row in rows) else None
    unconditional = engine.likelihood(empty, [row["response"] for row in rows], thinking)
    return np.array(unconditional) + base_likelihood(rows, model)


MEASURES = {
    "base_likelihood": base_likelihood,
    "instruction_following": instruction_following,
    "disagreement": disagreement,
}


def targets(available: dict[Key, int], rows: int, temperature: float) -> dict[Key, float]:
    """Rows that every cell would give if it had enough: in proportion to n ** temperature."""
    weights = {cell: n**temperature if n else 0.0 for cell, n in available.items()}
    whole = sum(weights.values())
    return {cell: rows * weight / whole for cell, weight in weights.items()} if whole else dict.fromkeys(available, 0.0)


def quotas(available: dict[Key, int], rows: int, temperature: float = 0.0) -> dict[Key, int]:
    """Whole quotas closest to the targets that the cells can fill, summing to min(rows, all).

    Water-filling: cells that cannot fill their target give all they have, the others share the rest by their weights;
    fractions go to the largest remainders.
    """
    left, share = min(rows, sum(available.values())), dict.fromkeys(available, 0.0)
    open_cells = dict(available)
    while open_cells:
        wanted = targets(open_cells, 1, temperature)
        if not (full := [cell for cell in open_cells if wanted[cell] * left >= open_cells[cell]]):
            share.update({cell: part * left for cell, part in wanted.items()})
            break
        for cell in full:
            share[cell] = float(open_cells.pop(cell))
            left -= available[cell]
    taken = {cell: math.floor(part + 1e-9) for cell, part in share.items()}
    remainder = min(rows, sum(available.values())) - sum(taken.values())
    for cell in sorted(available, key=lambda cell: (round(taken[cell] - share[cell], 9), cell))[:remainder]:
        taken[cell] += 1
    return taken


def entropy(counts: list[int]) -> float:
    """Shannon entropy of the histogram over its maximum, 0 to 1."""
    total = sum(counts)
    if len(counts) < 2 or not total:
        return 1.0
    return -sum(n / total * math.log(n / total) for n in counts if n) / math.log(len(counts))
