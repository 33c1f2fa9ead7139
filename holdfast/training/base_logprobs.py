"""The base's side of the KL on replay rows, computed once: top-k log-probabilities of every token, kept in .cache.

One entry per row and base, in an SQLite file: epochs, seeds and arms that replay the same row share it, whatever else
they do, and a killed run keeps what it had.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdfast.core import cache, manifest
from holdfast.training import losses
from holdfast.training.trainer import Table

TOKENS = 8192  # of one batch through the base, padding included


class Store:
    """Rows' top-k tokens and log-probabilities, by row; safe for several processes."""

    def __init__(self, identity: list[Any], k: int) -> None:
        self.k, self.file = k, cache.FOLDER / "base" / f"{cache.key(identity, k)}.sqlite"
        self.database = cache.database(self.file, "rows (row TEXT PRIMARY KEY, kept BLOB NOT NULL)")

    def get(self, ids: list[int]) -> tuple[np.ndarray, np.ndarray] | None:
        """(T, k) tokens and log-probabilities of one row; the entry at t is of the token at t, the first means nothing."""
        found = self.database.execute("SELECT kept FROM rows WHERE row = ?", (cache.key(ids),)).fetchone()
        if found is None:
            return None
        both = np.frombuffer(found[0], dtype=np.int32).reshape(2, len(ids), -1)
        return both[0], both[1].view(np.float32)

    def put(self, rows: list[list[int]], kept: list[tuple[np.ndarray, np.ndarray]]) -> None:
        blobs = [np.stack([tokens, logprobs.view(np.int32)]).tobytes() for tokens, logprobs in kept]
        try:
            self.database.execute("BEGIN IMMEDIATE")
            self.database.executemany(
                "INSERT OR REPLACE INTO rows VALUES (?, ?)", zip(map(cache.key, rows), blobs, strict=True)
            )
            self.database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise cache.unwritable(error, self.file) from None


def table(
    store: Store, rows: list[list[int]], base: Callable[[], Any], autocast: bool, rank: int, world: int,
    barrier: Callable[[], None],
) -> tuple[Table, int]:  # fmt: skip
    """Tokens (P, k) and log-probabilities (P, k) of all rows one after the other, and how many tokens passed through the
    base for it. Every process computes its share of what is missing; `base` loads the model where there is something."""
    forward = 0
    for share in (slice(rank, None, world), slice(None)):  # the second time what another machine's cache has
        missing = [ids for ids in rows if store.get(ids) is None][share]
        if missing:
            forward += compute(store, missing, base(), autocast)
        barrier()
    kept = [store.get(ids) for ids in rows]
    tokens, logprobs = (np.concatenate([entry[n] for entry in kept if entry]) for n in (0, 1))
    return (torch.from_numpy(tokens), torch.from_numpy(logprobs)), forward


@torch.inference_mode()
def compute(store: Store, rows: list[list[int]], model: Any, autocast: bool) -> int:
    rows = sorted(rows, key=len)
    most = min(TOKENS, manifest.logits_at_once() // model.config.get_text_config().vocab_size)
    start = 0
    while start < len(rows):
        end = start + 1
        while end < len(rows) and (end + 1 - start) * len(rows[end]) <= most:
            end += 1
        part = rows[start:end]
        longest, device = len(part[-1]), model.device
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in part], device=device)  # (B, T)
        seen = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in part], device=device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
            logits = model(input_ids=ids, attention_mask=seen, use_cache=False).logits
        tokens, logprobs = losses.top_k(logits[:, :-1], store.k)  # (B, T-1, k)
        tokens, logprobs = (torch.nn.functional.pad(x, (0, 0, 1, 0)) for x in (tokens, logprobs))
        kept = [
            (tokens[n, : len(row)].int().cpu().numpy(), logprobs[n, : len(row)].float().cpu().numpy())
            for n, row in enumerate(part)
        ]
        store.put(part, kept)
        start = end
    return sum(map(len, rows))


def files() -> list[str]:
    """The code that decides what is kept."""
    return [__file__, str(Path(losses.__file__))]
