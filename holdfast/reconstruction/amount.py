"""How many instructions are worth reconstructing: what the arms will replay, and no more (`reconstruct.samples: auto`).

The stage `amount` counts it from the domain's rows, the arms' shares and epochs; `reconstruct` draws until as many are fit.
"""

from __future__ import annotations

import math
from pathlib import Path

from holdfast.core import storage
from holdfast.params.mix import Mix, count_replay
from holdfast.params.pilot import Pilot
from holdfast.params.reconstruct import Reconstruct

USES = 2  # of each row over all epochs: half as many distinct rows keep as much (docs/log.md, light-half)
SPARE = 1.25  # for rows that fall out later: near duplicates, unfinished answers, the self suite
LEAST = 500  # rows, however small the domain: fewer do not stand for what a model knows
TOO_FEW = (
    100  # replay rows of all epochs together: beside 1,000 rows of a domain 20 held nothing, 111 a third (docs/log.md)
)
STEP = 100  # rows; so that a few rows more of the domain do not move the amount
BUDGET = 10  # samples for each row that is to be kept, at most


def count_replay_rows(mixing: Mix, pilot: Pilot, arms: list[str], domain_rows: int) -> dict[str, int]:
    """Replay rows by arm, over all its epochs; with `share: auto` for the largest share that is tried."""
    counts = {}
    for name in arms:
        arm = mixing.arms[name]
        share = max(pilot.shares) if arm.share == "auto" else arm.share
        counts[name] = math.ceil(count_replay(domain_rows * (arm.epochs or mixing.epochs), share))
    return counts


def find_starved_arms(mixing: Mix, pilot: Pilot, arms: list[str], domain_rows: int) -> dict[str, tuple[int, float]]:
    """Arms that replay, but fewer than TOO_FEW rows: (rows, the share that would make them TOO_FEW)."""
    starved = {}
    for name, rows in count_replay_rows(mixing, pilot, arms, domain_rows).items():
        if 0 < rows < TOO_FEW:
            trained = domain_rows * (mixing.arms[name].epochs or mixing.epochs)
            starved[name] = rows, math.ceil(100 * TOO_FEW / (TOO_FEW + trained)) / 100
    return starved


def count_instructions(replay_rows: dict[str, int]) -> int:
    """Instructions that have to be fit, so that each is replayed about USES times; 0 where no arm replays."""
    most = max(replay_rows.values(), default=0)
    return max(LEAST, math.ceil(most / USES * SPARE / STEP) * STEP) if most else 0


def fill_in(params: Reconstruct, amount: Path) -> Reconstruct:
    """The section with `samples: auto` replaced by what the stage `amount` wrote: rows to keep, and a budget."""
    if params.samples != "auto":
        return params
    keep = params.keep or storage.read_json(amount)["instructions"] or LEAST
    return params.model_copy(update={"keep": keep, "samples": BUDGET * keep})
