"""Which rows go through the model together: every optimiser step is cut into parts that cost about the same.

Parts are dealt to the processes in turn, so a step holds the same rows, in the same parts, whatever the number of
processes. Used by trainer.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.training.losses import IGNORE_INDEX

IDLE = -1  # the number of a row without loss, which a process works on when a step has fewer rows than parts


def steps(lengths: Sequence[int], size: int, parts: int) -> list[list[list[int]]]:
    """Row numbers in the order of training, by optimiser step (`size` rows, the last perhaps fewer) and part.

    `lengths`: of all rows, in tokens.
    """
    result = []
    for start in range(0, len(lengths), size):
        rows = sorted(range(start, min(start + size, len(lengths))), key=lambda row: lengths[row])
        result.append(split(rows, [lengths[row] for row in rows], parts))
    return result


def split(rows: list[int], lengths: list[int], parts: int) -> list[list[int]]:
    """Cuts rows that are sorted by length so that the largest part, counted in padded tokens, is as small as can be.

    No part is larger than the largest one of an even cut would be, so memory stays what the micro-batch promises.
    """
    low, high = max(lengths), len(rows) * max(lengths)
    while low < high:
        middle = (low + high) // 2
        if len(cut(rows, lengths, middle)) <= parts:
            high = middle
        else:
            low = middle + 1
    result = cut(rows, lengths, low)
    while len(result) < parts and any(len(part) > 1 for part in result):
        largest = max(range(len(result)), key=lambda n: len(result[n]))
        part = result[largest]
        result[largest : largest + 1] = [part[: len(part) // 2], part[len(part) // 2 :]]
    return result + [[IDLE]] * (parts - len(result))


def cut(rows: list[int], lengths: list[int], limit: int) -> list[list[int]]:
    """The fewest parts of at most `limit` padded tokens each (rows times the longest, which is the last)."""
    result: list[list[int]] = [[]]
    for row, length in zip(rows, lengths, strict=True):
        if (len(result[-1]) + 1) * length > limit:
            result.append([])
        result[-1].append(row)
    return result


class RowsWithIdle:
    """A data set that also has the idle row, for a data loader with the batches above."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, rows: list[int]) -> list[dict[str, Any]]:
        if rows == [IDLE]:
            return [{**self.data[0], "labels": [IGNORE_INDEX] * len(self.data[0]["labels"])}]
        columns = self.data[rows]  # one call for the batch: row by row takes longer than a small model's forward pass
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
