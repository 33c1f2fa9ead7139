"""What fine-tuning minimises: pure functions of logits and labels.

A token's part in the loss is coded in its label, because that is all that survives TRL's packing: a token id asks for
cross-entropy, KL for the divergence from the base at that position, and IGNORED for nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

IGNORED = -100
KL = -101


def cross_entropy_sum(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum of -log p(label) over the labels that are token ids: logits (B, T, V), labels (B, T), already aligned to
    position (the label at t is predicted by the logits at t - 1). Returns a scalar in nats."""
    wanted = labels[:, 1:] >= 0  # (B, T-1)
    return F.cross_entropy(logits[:, :-1][wanted].float(), labels[:, 1:][wanted], reduction="sum")


def kl_sum(base_logits: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Sum over positions of KL(base || tuned) = sum_v p_base(v) (log p_base(v) - log p_tuned(v)), in nats.

    Both (N, V): the positions of interest, already selected. Forward KL, as in Learning without Forgetting (arXiv
    1606.09282, eq. 2, temperature 1) and MoL (arXiv 2505.12043): the tuned model must cover what the base would say.
    """
    reference = base_logits.float().log_softmax(-1)
    return (reference.exp() * (reference - logits.float().log_softmax(-1))).sum()


def labels_of(ids: list[int], mask: list[int], source: str, objective: str, kl_tokens: str) -> list[int]:
    """Labels of one row: domain rows always ask for cross-entropy on the assistant's tokens (mask 1)."""
    if source == "replay" and objective == "kl":
        return [KL if kl_tokens == "all" or on else IGNORED for on in mask]
    return [token if on else IGNORED for token, on in zip(ids, mask, strict=True)]
