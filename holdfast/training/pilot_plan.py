"""The plan of a pilot: which short runs an arm with `share: auto` gets, and the rows that they are measured on.

Before: the stage `pilot` has read the arm's rows. After: pilot_runs.py trains. No heavy library is imported here, since
an arm whose share is a number need not wait for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from holdfast.core import manifest, records
from holdfast.core.errors import UserError
from holdfast.core.rows import TrainingRow
from holdfast.params.finetune import Arm, Finetune
from holdfast.params.mix import Mix
from holdfast.params.pilot import Pilot

MIN_HELD_OUT_ROWS = 10  # of a source; fewer say too little
Rows = dict[str, list[TrainingRow]]  # by source, "domain" and "replay"


class Point(NamedTuple):
    """One short run."""

    share: float
    part: float  # of the whole run
    rate: float  # learning rate over the arm's own


@dataclass(frozen=True, slots=True)
class Plan:
    arm: str
    arm_config: Arm
    tuning: Finetune
    base: manifest.Manifest
    epochs: float  # of the arm's whole run
    max_repeats: int
    seed: int  # of the mixture
    train: Rows
    held_out: Rows
    max_share: float  # that the replay set can supply, within pilot.max_share
    points: tuple[Point, ...]


def plan_pilot(
    params: Pilot,
    mixing: Mix,
    tuning: Finetune,
    arm: str,
    base: manifest.Manifest,
    domain: list[Any],
    replay: list[Any],
) -> Plan:
    """Raises UserError where there are too few rows to hold some out, or too few shares that can be tried."""
    where = f"mix.arms.{arm}: share: auto"
    epochs = mixing.arms[arm].epochs or mixing.epochs
    supply = len(replay) * mixing.max_repeats
    max_share = min(params.max_share, supply / (supply + len(domain) * epochs))
    train, held_out = hold_out({"replay": replay, "domain": domain}, params, where)
    shares = sorted({share for share in params.shares if share <= max_share})
    if len(shares) < 2:
        raise UserError(
            f"the replay set is enough for a share of {max_share:.3f} at most, "
            "so fewer than two of pilot.shares can be tried",
            where=where,
            do="raise reconstruct.samples and balance.rows, raise mix.max_repeats, or try smaller shares",
        )
    points = [Point(share, part, rate) for part in params.parts for rate in params.learning_rates for share in shares]
    return Plan(
        arm=arm,
        arm_config=tuning.arms[arm],
        tuning=tuning,
        base=base,
        epochs=epochs,
        max_repeats=mixing.max_repeats,
        seed=mixing.seed,
        train=train,
        held_out=held_out,
        max_share=max_share,
        points=tuple(points),
    )


def hold_out(rows: Rows, params: Pilot, where: str) -> tuple[Rows, Rows]:
    """(rows to train on, rows that no run sees), by source. Raises UserError where too few can be held out."""
    train, held_out = {}, {}
    for source, several in rows.items():
        ordered = sorted(several, key=lambda row: records.text_id(params.seed, "held out", row["source_id"]))
        count = min(params.held_out, len(ordered) // 5)
        held_out[source], train[source] = ordered[:count], ordered[count:]
        if count < MIN_HELD_OUT_ROWS:
            what = f"{count} rows of the {source} set can be held out"
            if len(ordered) // 5 >= MIN_HELD_OUT_ROWS:
                do = f"raise pilot.held_out to {MIN_HELD_OUT_ROWS} or more"
                raise UserError(f"{what}, {MIN_HELD_OUT_ROWS} are needed", where=where, do=do)
            more = "raise reconstruct.samples and balance.rows, or " if source == "replay" else ""
            do = f"{more}set {where.partition(':')[0]}.share to a number, such as 0.25: then no pilot runs"
            raise UserError(f"{what} (a fifth of {len(ordered)}), {MIN_HELD_OUT_ROWS} are needed", where=where, do=do)
    return train, held_out
