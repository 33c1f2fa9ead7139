"""How a model does on rows that it was not trained on, without generating: one forward pass over each row.

Where a model's likeliest token is the base's at every position of an answer, greedy decoding would write the same
answer. Used by pilot_runs.py and averaging.py.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch

from holdfast.training import batches, losses
from holdfast.training.losses import positions_before
from holdfast.training.trainer import Table, logits_only_at

MAX_BATCH_TOKENS = 4096  # of one batch, padding included
EncodedRow = tuple[list[int], list[int]]  # token ids, and mask: 1 on the answer's tokens


@dataclass(frozen=True, slots=True)
class Outcome:
    """Sums over the tokens of one row's answer."""

    tokens: int
    logprob: float  # of the answer's tokens (nats)
    right: int  # tokens that are the model's likeliest
    same: int  # positions at which the model's likeliest token is the base's
    kl: float  # KL(base || model), from the base's top-k log-probabilities (nats)
    moved: float  # total variation distance from the base's next-token distribution, 0 to 1 at each position


@torch.inference_mode()
def outcomes(model: Any, rows: list[EncodedRow], table: Table) -> list[Outcome]:
    """One outcome for each row. `table`: the base's likeliest tokens (P, k) and their log-probabilities (P, k) at all
    tokens of all rows, one row after the other."""
    starts = [0, *itertools.accumulate(len(ids) for ids, _ in rows)]
    result: dict[int, Outcome] = {}
    order = sorted(range(len(rows)), key=lambda n: len(rows[n][0]))
    for part in filter(None, batches.cut(order, [len(rows[n][0]) for n in order], MAX_BATCH_TOKENS)):
        width = len(rows[part[-1]][0])
        ids = torch.zeros(len(part), width, dtype=torch.long)
        attended, mask = torch.zeros_like(ids), torch.zeros_like(ids)
        for at, n in enumerate(part):
            size = len(rows[n][0])
            ids[at, :size], mask[at, :size], attended[at, :size] = torch.tensor(rows[n][0]), torch.tensor(rows[n][1]), 1
        ids, attended, mask = (one.to(model.device) for one in (ids, attended, mask))  # (B, T)
        answered = mask[:, 1:] == 1
        with logits_only_at(model, positions_before(answered)):
            logits = model(input_ids=ids, attention_mask=attended, use_cache=False).logits.float()  # (N, V)
        answers, top = ids[:, 1:][answered], logits.argmax(-1)  # (N,)
        logprob = logits.log_softmax(-1).gather(-1, answers[:, None])[:, 0]
        at = 0
        for n in part:
            table_rows = [starts[n] + t for t, on in enumerate(rows[n][1]) if on and t]
            span = slice(at, at + len(table_rows))
            tokens, logprobs = (one[table_rows].to(model.device) for one in table)
            result[n] = Outcome(
                tokens=len(table_rows),
                logprob=logprob[span].sum().item(),
                right=int((top[span] == answers[span]).sum()),
                same=int((top[span] == tokens[:, 0]).sum()),
                kl=losses.kl_top_k_sum(tokens.long(), logprobs, logits[span]).item(),
                moved=total_variation(tokens.long(), logprobs, logits[span]).sum().item(),
            )
            at = span.stop
    return [result[n] for n in range(len(rows))]


def total_variation(tokens: torch.Tensor, logprobs: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Total variation distance 1/2 sum_v |p(v) - q(v)| at each of N positions, (N,); q from logits (N, V).

    Of p, the k likeliest tokens (N, k) and their log-probabilities (N, k) are known; all others count as one outcome,
    so the result is never more than the whole distance. The largest part of p's choices that q makes alike is 1 minus
    it (Levin, Peres & Wilmer, Markov Chains and Mixing Times, prop. 4.7).
    """
    p, q = logprobs.exp(), logits.softmax(-1).gather(-1, tokens)
    rest = ((1 - p.sum(-1)) - (1 - q.sum(-1))).abs()
    return ((p - q).abs().sum(-1) + rest) / 2
