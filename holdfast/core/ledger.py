"""What a stage costs, in two records.

reports/costs/STAGE[/CELL].json          tokens, operations and rows: equal inputs give equal counts, so git keeps them
.holdfast/timings/STAGE[/CELL].json      seconds, memory and what came from the cache: of the last run on this machine
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from holdfast.core import meter, storage

TIMINGS = Path(".holdfast/timings")
_timing: dict[str, float] = {}  # what the running stage has noted


def note_timing(**numbers: float) -> None:
    """Adds numbers that differ from run to run to the stage's timing record."""
    _timing.update(numbers)


@contextmanager
def record_cost(folder: Path, stage: str, cell: str | None = None) -> Iterator[None]:
    """Writes both records of a stage once the block has ended without an error: the counts to `folder`, the rest to TIMINGS.

    Counts include what an earlier, killed run had finished; seconds and memory are those of this run.
    """
    start = time.monotonic()
    _timing.clear()
    yield
    if os.environ.get("RANK", "0") != "0":
        return  # of the processes that torchrun has started, only the first one writes
    name = f"{stage}/{cell}.json" if cell else f"{stage}.json"
    counts = asdict(meter.total)
    timing = {
        **_timing,
        "rows_from_cache": counts.pop("rows_from_cache"),
        "seconds": round(time.monotonic() - start, 1),
        "peak_memory_bytes": max(meter.peak_memory(), meter.memory),
    }
    for file, numbers in ((folder / name, counts), (TIMINGS / name, timing)):
        storage.write_json(file, {"schema": 1, "stage": stage, "cell": cell, **numbers})
