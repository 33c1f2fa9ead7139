"""Rows that a model is writing together: their keys and values, and how rows leave and join.

Continuous batching (Orca, Yu et al., OSDI 2022) with transformers' own cache: a row that has ended leaves at once, and
others take the places of those that left, so that no batch runs on for the sake of its longest row. Keys and values lie in
places that are made once: a step writes one column, a row that leaves is overwritten by the last one, and nothing else moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

SPARE = 32  # columns that are made at a time


@dataclass(slots=True)
class Read:
    """Prompts that a model has read: D different ones of T tokens with padding on the left, for R rows."""

    who: list[int]  # numbers of the rows
    of: torch.Tensor  # (R,), which of the prompts each has
    cache: DynamicCache
    attention: torch.Tensor  # (D, T), 1 where there is a token
    logits: torch.Tensor  # (D, V), of what comes next


class Writing:
    """B rows after some steps; padding is on the left."""

    def __init__(self, read: Read, tokens: torch.Tensor, rows: int, takes_more: bool) -> None:
        """`tokens`: (R,) that the rows begin with; `rows`: as many as there will ever be at once; `takes_more`: what can_join()
        says of the cache."""
        self.who = read.who
        self.cache = read.cache
        self.attention = read.attention[read.of]  # (B, T)
        self.position = self.attention.sum(1, keepdim=True)  # (B, 1), of the token that comes next
        self.tokens = tokens  # (B,), the last ones written, which are not in the cache yet
        self.takes_more = takes_more
        if self.takes_more:
            layers: list[Any] = self.cache.layers
            self.cache.layers = [Places(layer, read.of, rows) if layer.is_initialized else layer for layer in layers]
        else:
            self.cache.batch_select_indices(read.of)

    def step(self, model: Any) -> torch.Tensor:
        """The logits of what comes next, (B, V)."""
        self.attention = torch.cat([self.attention, torch.ones_like(self.position)], dim=1)
        out = model(
            input_ids=self.tokens[:, None],
            attention_mask=self.attention,
            position_ids=self.position,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.position = self.position + 1
        return out.logits[:, -1]

    def keep(self, rows: list[int]) -> None:
        """These rows and no others, by their places here. The last ones may take the places of those that leave."""
        if len(rows) == len(self.who):
            return
        if self.takes_more:
            stay, count = set(rows), len(rows)
            free = [place for place in range(count) if place not in stay]
            moved = [row for row in rows if row >= count]
            rows = list(range(count))
            for place, row in zip(free, moved, strict=True):
                rows[place] = row
            for layer in find_places(self.cache):
                layer.keep(count, free, moved)
        where = torch.tensor(rows, device=self.tokens.device)
        if not self.takes_more:
            self.cache.batch_select_indices(where)
        self.who = [self.who[row] for row in rows]
        self.attention, self.position, self.tokens = self.attention[where], self.position[where], self.tokens[where]

    def join(self, read: Read, tokens: torch.Tensor) -> None:
        """The rows of `read` come after these. All are padded to the length of the longer ones."""
        self.trim()
        attention = read.attention[read.of]
        longest = max(self.attention.shape[1], attention.shape[1])
        others: list[Any] = read.cache.layers
        for mine, theirs in zip(find_places(self.cache), [one for one in others if one.is_initialized], strict=True):
            mine.widen(longest)
            keys, values = keys_and_values(theirs)
            mine.add(keys[read.of], values[read.of])
        self.attention = torch.cat([pad_attention(self.attention, longest), pad_attention(attention, longest)])
        self.position = torch.cat([self.position, attention.sum(1, keepdim=True)])
        self.tokens = torch.cat([self.tokens, tokens])
        self.who = self.who + read.who

    def trim(self) -> None:
        """Drops the columns in which no row has a token: those of longer rows that have left."""
        empty = int((self.attention.cumsum(1) == 0).all(0).sum())
        if empty:
            self.attention = self.attention[:, empty:]
            for layer in find_places(self.cache):
                layer.start += empty


class Places(DynamicLayer):
    """One layer's keys and values of up to so many rows, in a block with columns to spare.

    `keys` and `values` are views of it: the rows that write, the columns from `start` to `end`. What lies beside them is
    finite, and masked where it is shown.
    """

    def __init__(self, layer: DynamicLayer, of: torch.Tensor, rows: int) -> None:
        super().__init__()
        keys, values = keys_and_values(layer)
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self.count, self.start, self.end = 0, 0, keys.shape[2]
        self.block = [one.new_zeros(rows, one.shape[1], self.end + SPARE, one.shape[3]) for one in (keys, values)]
        self.add(keys[of], values[of])

    def show(self) -> None:
        self.keys, self.values = (one[: self.count, :, self.start : self.end] for one in self.block)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """(B, H, 1, D) each: the next column."""
        if self.end == self.block[0].shape[2]:
            self.move(self.end - self.start, SPARE)
        for one, new in zip(self.block, (key_states, value_states), strict=True):
            one[: self.count, :, self.end : self.end + 1] = new
        self.end += 1
        self.show()
        return self.keys, self.values

    def widen(self, columns: int) -> None:
        """At least so many columns, empty ones on the left."""
        if columns > self.end:
            self.move(columns, SPARE)
        self.start = min(self.start, self.end - columns)

    def move(self, columns: int, spare: int) -> None:
        """To a block of so many columns, of which what there is takes the last, and spare ones behind them."""
        known = self.end - self.start
        for n, one in enumerate(self.block):
            rows, heads, _, size = one.shape
            self.block[n] = one.new_zeros(rows, heads, columns + spare, size)
            self.block[n][: self.count, :, columns - known : columns] = one[: self.count, :, self.start : self.end]
        self.start, self.end = columns - known, columns

    def add(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Rows (R, H, T, D), T at most the columns there are."""
        rows = slice(self.count, self.count + len(keys))
        for one, new in zip(self.block, (keys, values), strict=True):
            one[rows, :, self.end - new.shape[2] : self.end] = new
        self.count += len(keys)
        self.show()

    def keep(self, count: int, free: list[int], moved: list[int]) -> None:
        """So many rows, after those in `moved` have taken the places in `free`."""
        if free:
            for one in self.block:
                columns = slice(self.start, self.end)
                one[free, :, columns] = one[moved, :, columns]
        self.count = count
        self.show()


def keys_and_values(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's keys and values, (B, H, T, D) each."""
    return layer.keys, layer.values


def can_join(cache: Any) -> bool:
    """Whether rows can join others there: not where a layer keeps anything but all keys and values (a window, a state)."""
    return all(type(layer) in (DynamicLayer, Places) for layer in cache.layers)


def find_places(cache: Any) -> list[Places]:
    return [layer for layer in cache.layers if isinstance(layer, Places)]  # not those that share another's


def pad_attention(attention: torch.Tensor, length: int) -> torch.Tensor:
    """(B, T) with zeros before it, so that it has this length."""
    more = length - attention.shape[1]
    return attention if more == 0 else torch.nn.functional.pad(attention, (more, 0))
