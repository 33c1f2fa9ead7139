"""The base's side of the KL on replay rows, computed once: top-k log-probabilities of every token, kept in .cache.

One entry for each row and base, in an SQLite file: epochs, seeds and arms that replay the same row share it, and a
killed run keeps what it had. Used by process.py for training, by pilot_runs.py and averaging.py for held-out rows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdfast.core import cache, manifest
from holdfast.core.fingerprint import source_hash
from holdfast.training import losses
from holdfast.training.trainer import Table

MAX_BATCH_TOKENS = 8192  # of one batch through the base, padding included


class Store:
    """Rows' top-k tokens and log-probabilities of one base, by row; safe for several processes."""

    def __init__(self, fingerprint: str, precision: Any, k: int) -> None:
        """`fingerprint`: of the base; `precision`: what it runs in, any JSON value; `k`: tokens kept at each
        position."""
        code = source_hash(__file__, str(Path(losses.__file__)))
        identity = [fingerprint, precision, manifest.find_device().type, code]
        self.k, self.file = k, cache.FOLDER / "base" / f"{cache.key(identity, k)}.sqlite"
        self.entries = cache.Entries(self.file)

    def get(self, ids: list[int]) -> tuple[np.ndarray, np.ndarray] | None:
        """(T, k) tokens and log-probabilities of one row, or None. Entry t is about token t; the first means
        nothing."""
        entry = self.entries.get(cache.key(ids))
        if entry is None:
            return None
        both = np.frombuffer(entry, dtype=np.int32).reshape(2, len(ids), -1)
        return both[0], both[1].view(np.float32)

    def put(self, rows: list[list[int]], entries: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """Keeps the entries of several rows. Raises UserError where the cache cannot be written."""
        blobs = [np.stack([tokens, logprobs.view(np.int32)]).tobytes() for tokens, logprobs in entries]
        self.entries.put(zip(map(cache.key, rows), blobs, strict=True))


def build_table(
    store: Store,
    rows: list[list[int]],
    load_base: Callable[[], Any],
    *,
    autocast: bool = False,
    rank: int = 0,
    world: int = 1,
    wait: Callable[[], None] | None = None,
) -> tuple[Table, int]:
    """Tokens (P, k) and log-probabilities (P, k) of all rows one after the other, and how many tokens passed through
    the base for it. `load_base` is called only where something is missing.

    Each of `world` processes computes its part of what is missing, and `wait` returns when all have come to it.
    """
    forward = 0
    for part in (slice(rank, None, world), slice(None)):  # the second time what another machine's cache has
        missing = [ids for ids in rows if store.get(ids) is None][part]
        if missing:
            forward += compute_rows(store, missing, load_base(), autocast)
        if wait:
            wait()
    entries = [store.get(ids) for ids in rows]
    tokens, logprobs = (np.concatenate([entry[n] for entry in entries if entry]) for n in (0, 1))
    return (torch.from_numpy(tokens), torch.from_numpy(logprobs)), forward


@torch.inference_mode()
def compute_rows(store: Store, rows: list[list[int]], base: Any, autocast: bool) -> int:
    """Passes rows through the base, shortest first, into the store; returns their tokens."""
    rows = sorted(rows, key=len)
    limit = min(MAX_BATCH_TOKENS, manifest.logits_at_once() // base.config.get_text_config().vocab_size)
    start = 0
    while start < len(rows):
        end = start + 1
        while end < len(rows) and (end + 1 - start) * len(rows[end]) <= limit:
            end += 1
        part = rows[start:end]
        longest, device = len(part[-1]), base.device
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in part], device=device)  # (B, T)
        attended = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in part], device=device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
            logits = base(input_ids=ids, attention_mask=attended, use_cache=False).logits
        tokens, logprobs = losses.top_k(logits[:, :-1], store.k)  # (B, T-1, k)
        tokens, logprobs = (torch.nn.functional.pad(x, (0, 0, 1, 0)) for x in (tokens, logprobs))
        entries = [
            (tokens[n, : len(row)].int().cpu().numpy(), logprobs[n, : len(row)].float().cpu().numpy())
            for n, row in enumerate(part)
        ]
        store.put(part, entries)
        start = end
    return sum(map(len, rows))
