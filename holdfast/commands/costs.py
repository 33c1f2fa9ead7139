"""Prints what every stage took: tokens and operations as recorded, seconds and memory of its last run on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from holdfast.core import storage
from holdfast.core.errors import UserError
from holdfast.core.ledger import TIMINGS
from holdfast.params.base import STAGES

COSTS = Path("reports/costs")
DASH = "-"  # not known here, or none


@dataclass(frozen=True)
class StageCost:
    """One stage, or one cell of its matrix. None: it has not run on this machine, or is not recorded."""

    stage: str
    read: int | None  # tokens
    written: int | None  # tokens
    trained: int | None  # tokens
    flops: int | None
    seconds: float | None
    peak_memory_bytes: int | None
    rows_from_cache: int | None  # rows of the last run that an earlier one had finished
    machine: str | None = None  # of launch.yaml, where the last run was there
    price: float | None = None  # of that machine for one hour, in the user's currency

    @property
    def money(self) -> float | None:
        return self.price * self.seconds / 3600 if self.price is not None and self.seconds is not None else None


AMOUNTS = ("read", "written", "trained", "flops", "seconds", "peak_memory_bytes", "rows_from_cache", "price")


def main(as_json: bool) -> None:
    """Raises UserError where no stage has left a record."""
    costs = read_costs()
    if as_json:
        print(json.dumps([asdict(cost) for cost in costs], indent=2))
    else:
        print(table(costs))


def read_costs() -> list[StageCost]:
    """Every stage that left a record, in the order of the pipeline."""
    names = {
        file.relative_to(folder).with_suffix("").as_posix()
        for folder in (COSTS, TIMINGS)
        for file in folder.rglob("*.json")
    }
    if not names:
        raise UserError("no stage has left its costs", where=COSTS, do="run `dvc repro` in the project's folder")
    place = {name: n for n, name in enumerate(STAGES)}
    return [
        read_cost(name) for name in sorted(names, key=lambda name: (place.get(name.split("/")[0], len(place)), name))
    ]


def read_cost(name: str) -> StageCost:
    counts, timing = read_record(COSTS / f"{name}.json"), read_record(TIMINGS / f"{name}.json")
    return StageCost(
        stage=name,
        read=counts.get("read"),
        written=counts.get("written"),
        trained=counts.get("trained"),
        flops=counts.get("flops"),
        seconds=timing.get("seconds"),
        peak_memory_bytes=timing.get("peak_memory_bytes"),
        rows_from_cache=timing.get("rows_from_cache"),
        machine=str(timing["machine"])[:64] if timing.get("machine") else None,
        price=timing.get("price"),
    )


def read_record(file: Path) -> dict[str, Any]:
    content = storage.read_json(file) if file.is_file() else {}
    amounts = [content.get(field) for field in AMOUNTS] if isinstance(content, dict) else ["no object"]
    if not all(amount is None or isinstance(amount, int | float) for amount in amounts):
        raise UserError("is not a record of costs", where=file, do="remove it and run `dvc repro`")
    return content


def table(costs: list[StageCost]) -> str:
    """Aligned plain text: a line per stage, and their sum (of memory the largest)."""

    def total(field: str) -> Any:
        return sum(getattr(cost, field) or 0 for cost in costs)

    whole = StageCost(
        stage="all",
        read=total("read"),
        written=total("written"),
        trained=total("trained"),
        flops=total("flops"),
        seconds=total("seconds"),
        peak_memory_bytes=max(cost.peak_memory_bytes or 0 for cost in costs),
        rows_from_cache=total("rows_from_cache"),
    )
    head = ["stage", "tokens read", "written", "trained", "TFLOP", "seconds", "GiB", "rows from cache"]
    rows = [head, *(line(cost) for cost in [*costs, whole])]
    if any(cost.machine for cost in costs):
        paid = [cost.money for cost in costs]
        amounts = [*paid, sum(money or 0 for money in paid) if any(money is not None for money in paid) else None]
        machines = ["machine", *(cost.machine or DASH for cost in costs), DASH]
        column = ["money", *(f"{money:,.2f}" if money is not None else DASH for money in amounts)]
        rows = [[*row, machine, money] for row, machine, money in zip(rows, machines, column, strict=True)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return "\n".join([*lines, "\nseconds, GiB and rows from cache: of the last run of each stage on this machine"])


def line(cost: StageCost) -> list[str]:
    return [
        cost.stage.replace("/", "@"),
        *(f"{tokens:,}" if tokens else DASH for tokens in (cost.read, cost.written, cost.trained)),
        f"{cost.flops / 1e12:,.2f}" if cost.flops else DASH,
        f"{cost.seconds:,.1f}" if cost.seconds is not None else DASH,
        f"{cost.peak_memory_bytes / 2**30:,.2f}" if cost.peak_memory_bytes else DASH,
        f"{cost.rows_from_cache:,}" if cost.rows_from_cache else DASH,
    ]
