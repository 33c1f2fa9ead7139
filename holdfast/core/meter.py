"""Tokens that pass through models, and the operations they take: what the cost ledger of a stage adds up.

Engines count what they do. The work of other processes, and of shards that an earlier, killed run finished, is added where
their results arrive (holdfast/core/shards.py). So the sums say what an output took, however it came about.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(slots=True)
class Spent:
    """Tokens, operations and rows. Padding is not counted; tokens of a server are as it counts them."""

    read: int = 0  # passed forward at once, prompts for the most part
    reused: int = 0  # of these, those whose keys and values were there already: nothing was computed for them
    written: int = 0  # generated, the token that ends a text included
    trained: int = 0  # passed forward and back
    flops: int = 0  # 2 per parameter and token, 6 where it is trained (Kaplan et al., arXiv 2001.08361, sec. 2.1)
    rows: int = 0  # of all shards, or that were trained on
    rows_from_cache: int = 0  # of these, those that an earlier run had finished

    def add(self, other: Spent) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


total = Spent()  # of this process
memory = 0  # bytes: the most that one of the training processes held, as they reported it


def count(parameters: int, *, read: int = 0, reused: int = 0, written: int = 0, trained: int = 0) -> None:
    """`parameters`: of the model, 0 where unknown."""
    flops = parameters * (2 * (read - reused + written) + 6 * trained)
    total.add(Spent(read=read, reused=reused, written=written, trained=trained, flops=flops))


def count_training(rows: int, peak_memory_bytes: int) -> None:
    """Adds what training processes report: the rows they trained on, and the most memory that one of them held."""
    global memory
    total.add(Spent(rows=rows))
    memory = max(memory, peak_memory_bytes)


def peak_memory() -> int:
    """Bytes: of the accelerator that this process has used, else the largest resident set among it and its children."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and (most := torch.cuda.max_memory_allocated()):
        return int(most)
    return 1024 * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def measure_shard(work: Callable[[list[Any]], list[Any]], part: list[Any]) -> tuple[list[Any], dict[str, int]]:
    """(the results of a shard, what they took). The sums of this process are left as they were: who takes the results adds."""
    global total
    before, total = total, Spent()
    try:
        return work(part), asdict(total)
    finally:
        total = before
