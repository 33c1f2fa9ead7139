"""The cost ledger of a command: tokens, operations, seconds and memory, in reports/costs/STAGE.json or STAGE/CELL.json."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from holdfast.core import meter, records


@contextmanager
def kept(folder: Path, stage: str, cell: str | None = None) -> Iterator[None]:
    """Writes what the block took, once it has ended well. Seconds are those of this start; tokens, operations and rows also
    count what an earlier, killed start had finished. The clock makes two ledgers of the same work differ: nothing but the
    report reads them."""
    began = time.monotonic()
    yield
    if os.environ.get("RANK", "0") != "0":
        return  # of several processes that torchrun has started, the first one writes
    found = {
        "schema": 1,
        "stage": stage,
        "cell": cell,
        **asdict(meter.total),
        "seconds": round(time.monotonic() - began, 1),
        "peak_memory_bytes": max(peak_memory(), meter.memory),
    }
    records.write_json(folder / (f"{stage}/{cell}.json" if cell else f"{stage}.json"), found)


def peak_memory() -> int:
    """Bytes: of the accelerator that this process has used, else the largest resident set among it and its children."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and (most := torch.cuda.max_memory_allocated()):
        return int(most)
    return 1024 * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
