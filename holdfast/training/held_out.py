"""How a model does on rows that it was not trained on, without writing a word: one forward pass over each row.

Where a model's likeliest token is the base's at every position of an answer, greedy decoding would write the same answer.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch

from holdfast.training import batches, losses
from holdfast.training.losses import positions
from holdfast.training.trainer import Table, head_at

TOKENS = 4096  # of one batch, padding included
Row = tuple[list[int], list[int]]  # token ids, and mask: 1 on the answer's tokens


@dataclass(frozen=True, slots=True)
class Outcome:
    """Sums over the tokens of one row's answer."""

    tokens: int
    logprob: float  # of the answer's tokens (nats)
    right: int  # tokens that are the model's likeliest
    same: int  # positions at which the model's likeliest token is the base's
    kl: float  # KL(base || model), from the base's top-k log-probabilities (nats)
    moved: float  # total variation distance from the base's next-token distribution to the model's, 0 to 1 at each position


@torch.inference_mode()
def outcomes(model: Any, rows: list[Row], table: Table) -> list[Outcome]:
    """`table`: the base's likeliest tokens (P, k) and their log-probabilities (P, k) at all tokens of all rows in turn."""
    starts = [0, *itertools.accumulate(len(ids) for ids, _ in rows)]
    found: dict[int, Outcome] = {}
    order = sorted(range(len(rows)), key=lambda n: len(rows[n][0]))
    for part in filter(None, batches.cut(order, [len(rows[n][0]) for n in order], TOKENS)):
        width = len(rows[part[-1]][0])
        ids = torch.zeros(len(part), width, dtype=torch.long)
        seen, mask = torch.zeros_like(ids), torch.zeros_like(ids)
        for at, n in enumerate(part):
            size = len(rows[n][0])
            ids[at, :size], mask[at, :size], seen[at, :size] = torch.tensor(rows[n][0]), torch.tensor(rows[n][1]), 1
        ids, seen, mask = (one.to(model.device) for one in (ids, seen, mask))  # (B, T)
        bearing = mask[:, 1:] == 1
        with head_at(model, positions(bearing)):
            logits = model(input_ids=ids, attention_mask=seen, use_cache=False).logits.float()  # (N, V)
        answers, top = ids[:, 1:][bearing], logits.argmax(-1)  # (N,)
        taken = logits.log_softmax(-1).gather(-1, answers[:, None])[:, 0]
        at = 0
        for n in part:
            where = [starts[n] + t for t, on in enumerate(rows[n][1]) if on and t]
            span = slice(at, at + len(where))
            tokens, logprobs = (one[where].to(model.device) for one in table)
            found[n] = Outcome(
                len(where), taken[span].sum().item(), int((top[span] == answers[span]).sum()),
                int((top[span] == tokens[:, 0]).sum()), losses.kl_top_k_sum(tokens.long(), logprobs, logits[span]).item(),
                moved(tokens.long(), logprobs, logits[span]).sum().item(),
            )  # fmt: skip
            at = span.stop
    return [found[n] for n in range(len(rows))]


def moved(tokens: torch.Tensor, logprobs: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Total variation distance 1/2 sum_v |p(v) - q(v)| at each of N positions, (N,): of p the k likeliest tokens (N, k) and
    their log-probabilities (N, k) are known, all others count as one outcome, so it is never more than the whole distance.

    The largest part of p's choices that q makes alike is 1 minus this (Levin, Peres & Wilmer, Markov Chains and Mixing
    Times, prop. 4.7).
    """
    p, q = logprobs.exp(), logits.softmax(-1).gather(-1, tokens)
    rest = ((1 - p.sum(-1)) - (1 - q.sum(-1))).abs()
    return ((p - q).abs().sum(-1) + rest) / 2
