"""The plan of a pilot: which short runs an arm with `share: auto` or `learning_rate: auto` gets, and the rows that they are
measured on.

Before: the stage `pilot` has read the arm's rows. After: pilot_runs.py trains. No heavy library is imported here, since
an arm whose share and rate are numbers need not wait for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from holdfast.core import manifest, records, storage
from holdfast.core.errors import UserError
from holdfast.core.rows import TrainingRow
from holdfast.params.finetune import Arm, Finetune
from holdfast.params.mix import Mix
from holdfast.params.pilot import Pilot
from holdfast.training import job
from holdfast.training.rate_choice import usual_rate

MIN_HELD_OUT_ROWS = 10  # of a source; fewer say too little
HELD_OUT_PART = 5  # a fifth of a source, at most
EXAMPLES = {"share": "0.25", "learning_rate": "1e-4"}  # of numbers in place of auto
Rows = dict[str, list[TrainingRow]]  # by source, "domain" and "replay"


class Point(NamedTuple):
    """One short run."""

    share: float
    part: float  # of the whole run
    rate: float  # learning rate over the plan's


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
    target: float  # retention to keep
    rate: float  # learning rate: the arm's own, the usual one until one is chosen
    rate_points: tuple[Point, ...]  # none where the rate is a number
    max_share: float  # that the replay set can supply, within pilot.max_share
    points: tuple[Point, ...]  # none where the share is a number


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
    share, config = mixing.arms[arm].share, job.arm_config(tuning, arm)
    where = f"mix.arms.{arm}: share: auto" if share == "auto" else f"finetune.arms.{arm}: learning_rate: auto"
    epochs = mixing.arms[arm].epochs or mixing.epochs
    supply = len(replay) * mixing.max_repeats
    max_share = min(params.max_share, supply / (supply + len(domain) * epochs))
    train, held_out = hold_out({"replay": replay, "domain": domain}, params, where)
    shares = sorted({each for each in params.shares if each <= max_share}) if share == "auto" else [share]
    if share == "auto" and len(shares) < 2:
        raise UserError(
            f"the replay set is enough for a share of {max_share:.3f} at most, "
            "so fewer than two of pilot.shares can be tried",
            where=where,
            do="raise reconstruct.samples and balance.rows, raise mix.max_repeats, or try smaller shares",
        )
    is_rate_open = job.is_rate_open(tuning, config)
    rate = usual_rate(find_width(base), bool(config.lora_rank)) if is_rate_open else job.find_rate(tuning, config)
    rates = sorted(set(params.rate_factors)) if is_rate_open else []
    points = [Point(each, part, factor) for part in params.parts for factor in params.learning_rates for each in shares]
    return Plan(
        arm=arm,
        arm_config=config,
        tuning=tuning,
        base=base,
        epochs=epochs,
        max_repeats=mixing.max_repeats,
        seed=mixing.seed,
        train=train,
        held_out=held_out,
        target=params.retention_target,
        rate=rate,
        rate_points=tuple(Point(shares[-1], max(params.parts), factor) for factor in rates),
        max_share=max_share,
        points=tuple(points) if share == "auto" else (),
    )


def find_width(base: manifest.Manifest) -> int:
    """The base's hidden size. Raises UserError where its configuration names none."""
    config = storage.read_json(base.folder() / "config.json")
    width = (config.get("text_config") or config).get("hidden_size")
    if not isinstance(width, int) or width < 1:
        do = "set finetune.learning_rate to a number"
        raise UserError("names no hidden_size, from which a usual learning rate follows", where="config.json", do=do)
    return width


def hold_out(rows: Rows, params: Pilot, where: str) -> tuple[Rows, Rows]:
    """(rows to train on, rows that no run sees), by source. Raises UserError where too few can be held out."""
    train, held_out = {}, {}
    for source, several in rows.items():
        ordered = sorted(several, key=lambda row: records.text_id(params.seed, "held out", row["source_id"]))
        count = min(params.held_out, len(ordered) // HELD_OUT_PART)
        held_out[source], train[source] = ordered[:count], ordered[count:]
        if count < MIN_HELD_OUT_ROWS:
            what = f"{count} rows of the {source} set can be held out"
            if len(ordered) // HELD_OUT_PART >= MIN_HELD_OUT_ROWS:
                do = f"raise pilot.held_out to {MIN_HELD_OUT_ROWS} or more"
                raise UserError(f"{what}, {MIN_HELD_OUT_ROWS} are needed", where=where, do=do)
            more = "raise reconstruct.samples and balance.rows, or " if source == "replay" else ""
            place, setting, _ = where.split(": ")
            do = f"{more}set {place}.{setting} to a number, such as {EXAMPLES[setting]}: then no pilot runs"
            raise UserError(f"{what} (a fifth of {len(ordered)}), {MIN_HELD_OUT_ROWS} are needed", where=where, do=do)
    return train, held_out
