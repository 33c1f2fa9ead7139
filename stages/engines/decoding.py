"""Rows that a model is writing together: their keys and values, and how rows leave and join.

Continuous batching (Orca, Yu et al., OSDI 2022) with transformers' own cache: a row that has ended leaves at once, and
others take the places of those that left, so that no batch runs on for the sake of its longest row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


@dataclass(slots=True)
class Writing:
    """B rows after some steps. Padding is on the left."""

    who: list[int]  # numbers of the rows
    cache: DynamicCache  # of T tokens
    attention: torch.Tensor  # (B, T), 1 where there is a token
    position: torch.Tensor  # (B, 1), of the token that comes next
    tokens: torch.Tensor  # (B,), the last ones written, which are not in the cache yet

    def keep(self, rows: list[int]) -> None:
        """These rows and no others, by their places here."""
        if len(rows) == len(self.who):
            return
        where = torch.tensor(rows, device=self.tokens.device)
        self.cache.batch_select_indices(where)
        self.who = [self.who[row] for row in rows]
        self.attention, self.position, self.tokens = self.attention[where], self.position[where], self.tokens[where]

    @property
    def takes_more(self) -> bool:
        """Whether others can join: not where a layer keeps anything but all keys and values (a window, a state)."""
        return all(type(layer) is DynamicLayer for layer in self.cache.layers)

    def join(self, others: Writing) -> None:
        """The rows of `others` come after these. Both are padded to the length of the longer one."""
        self.trim()
        most = max(self.attention.shape[1], others.attention.shape[1])
        mine: Any
        theirs: Any
        for mine, theirs in zip(self.cache.layers, others.cache.layers, strict=True):
            if mine.is_initialized:  # not so where layers share their keys and values
                mine.keys = torch.cat([padded(mine.keys, most, -2), padded(theirs.keys, most, -2)])
                mine.values = torch.cat([padded(mine.values, most, -2), padded(theirs.values, most, -2)])
        self.attention = torch.cat([padded(self.attention, most, -1), padded(others.attention, most, -1)])
        self.position = torch.cat([self.position, others.position])
        self.tokens = torch.cat([self.tokens, others.tokens])
        self.who += others.who

    def trim(self) -> None:
        """Drops the columns in which no row has a token: those of longer rows that have left."""
        empty = int((self.attention.cumsum(1) == 0).all(0).sum())
        if empty:
            self.attention = self.attention[:, empty:]
            layer: Any
            for layer in self.cache.layers:
                if layer.is_initialized:
                    layer.keys, layer.values = layer.keys[..., empty:, :], layer.values[..., empty:, :]


def padded(x: torch.Tensor, length: int, dim: int) -> torch.Tensor:
    """x with zeros before it in one of its last two dimensions, so that it has this length there."""
    more = length - x.shape[dim]
    return x if more == 0 else F.pad(x, (more, 0) if dim == -1 else (0, 0, more, 0))
