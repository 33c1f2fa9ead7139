"""Which tokens of the domain's answers are not trained on, since the base finds them too unlikely. Used by process.py.

Selective Token Masking (Wu et al., arXiv 2501.14315): tokens of high perplexity pull the weights furthest, and what a model
knew goes with them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import torch

from holdfast.training.losses import IGNORE_INDEX, REPLAY, cross_entropies

TOKENS_AT_ONCE = 8192  # padding included


class MaskedLabels(NamedTuple):
    labels: list[list[int]]  # of every row
    masked: int  # tokens, of all rows
    total: int  # tokens of domain answers that had cross-entropy before, those that are always kept left out


def mask_labels(
    base: torch.nn.Module, rows: list[list[int]], labels: list[list[int]], most: float, keep: Collection[int]
) -> MaskedLabels:
    """Takes the cross-entropy from each token of a domain answer whose perplexity under the base, 1 / p, is above `most`.

    `rows`, `labels`: token ids, and what is asked of them (losses.py). `keep`: tokens that are always trained on, such as the end of a
    turn. A row that returns is measured once.
    """
    domain = {
        tuple(ids): each for ids, each in zip(rows, labels, strict=True) if any(0 <= label < REPLAY for label in each)
    }
    perplexities = dict(measure(base, domain))
    result, masked, total = list[list[int]](), 0, 0
    for ids, each in zip(rows, labels, strict=True):
        own = perplexities.get(tuple(ids))
        if own is not None:
            at = [n for n, label in enumerate(each) if n and 0 <= label < REPLAY and label not in keep]
            unlikely = {n for n in at if own[n - 1] > most}
            total, masked = total + len(at), masked + len(unlikely)
            each = [IGNORE_INDEX if n in unlikely else label for n, label in enumerate(each)]
        result.append(each)
    return MaskedLabels(result, masked, total)


@torch.inference_mode()
def measure(base: Any, rows: Collection[tuple[int, ...]]) -> Iterator[tuple[tuple[int, ...], list[float]]]:
    """The perplexity 1 / p of each row's tokens but the first, (T - 1,)."""
    base.eval()
    device = next(base.parameters()).device
    ordered = sorted(rows, key=len)
    while ordered:
        count = max(1, TOKENS_AT_ONCE // len(ordered[min(len(ordered), TOKENS_AT_ONCE) - 1]))
        part, ordered = ordered[:count], ordered[count:]
        longest = len(part[-1])
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in part], device=device)  # (B, T)
        attended = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in part], device=device)
        logits = base(input_ids=ids, attention_mask=attended, use_cache=False).logits[:, :-1]
        each = cross_entropies(logits.flatten(0, 1), ids[:, 1:].flatten()).reshape(len(part), -1).exp()
        yield from ((row, each[n, : len(row) - 1].tolist()) for n, row in enumerate(part))
    base.train()
