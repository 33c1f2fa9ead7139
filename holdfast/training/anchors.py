"""What holds the weights near the base's: quadratic penalties, and the average of both ends. Used by process.py,
trainer.py.

These need no reference model in the step. They are references to compare with: alone they keep less than the KL term on
replay rows does (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F

Weights = dict[str, torch.Tensor]  # by parameter name


def trainable_weights(model: torch.nn.Module) -> Weights:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def copy_weights(model: torch.nn.Module) -> Weights:
    """A copy of the trainable weights, detached from the model."""
    return {name: weight.detach().clone() for name, weight in trainable_weights(model).items()}


def penalty(weights: Weights, start: Weights, importance: Weights | None) -> torch.Tensor:
    """1/2 sum_i F_i (theta_i - theta0_i)^2, a scalar.

    F = 1 is L2-SP (Li et al., arXiv 1802.01483, eq. 2); F the diagonal of the Fisher information is EWC (Kirkpatrick et
    al., arXiv 1612.00796, eq. 3). All three map parameter names to tensors of equal shapes.
    """
    parts = []
    for name, weight in weights.items():
        square = (weight - start[name]).float() ** 2
        parts.append((square if importance is None else importance[name] * square).sum())
    return 0.5 * torch.stack(parts).sum()


def fisher(model: torch.nn.Module, rows: Iterable[tuple[list[int], list[int]]]) -> Weights:
    """Diagonal of the empirical Fisher information: the mean over rows of the squared gradient of the row's
    log-likelihood, which is summed over the answer's tokens. Rows are (ids, mask): mask 1 marks the answer."""
    device = next(model.parameters()).device
    sums = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in trainable_weights(model).items()}
    count = 0
    for ids, mask in rows:
        tokens = torch.tensor([ids], device=device)
        wanted = torch.tensor(mask[1:], device=device, dtype=torch.bool)
        logits = model(input_ids=tokens, use_cache=False).logits[0, :-1]
        loss = F.cross_entropy(logits[wanted].float(), tokens[0, 1:][wanted], reduction="sum")
        model.zero_grad(set_to_none=True)
        loss.backward()
        for name, weight in trainable_weights(model).items():
            if weight.grad is not None:
                sums[name] += weight.grad.float() ** 2
        count += 1
    model.zero_grad(set_to_none=True)
    return {name: total / max(count, 1) for name, total in sums.items()}


@torch.no_grad()
def average(model: torch.nn.Module, start: Weights, share: float) -> None:
    """theta = theta0 + share (theta - theta0), in place (WiSE-FT, Wortsman et al., arXiv 2109.01903, eq. 1)."""
    weights = dict(model.named_parameters())
    for name, base in start.items():
        weights[name].lerp_(base.to(weights[name]), 1 - share)
