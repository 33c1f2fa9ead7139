"""What fine-tuning minimises: pure functions of logits and labels.

A token's part in the loss is coded in its label, because that is all that survives TRL's packing: a token id asks for
cross-entropy, the same plus REPLAY too (and is counted apart), KL or less for the divergence from the base at that
position (KL - n: with the n-th row of a table of the base's log-probabilities), IGNORED for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

IGNORED = -100
KL = -101
REPLAY = 1 << 40  # far above any token id


def cross_entropies(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """-log p(label) in nats, (N,): logits (N, V), labels (N,) of token ids, with or without REPLAY."""
    return F.cross_entropy(logits.float(), labels % REPLAY, reduction="none")


def dft(losses: torch.Tensor) -> torch.Tensor:
    """p(label) * -log p(label) with p held fixed in the gradient, (N,): Dynamic Fine-Tuning (Wu et al., arXiv 2508.05629,
    eq. 9). Tokens that the model finds unlikely pull less, and so do the parts of the weights that would have to give way.
    """
    return losses * (-losses.detach()).exp()


def kl_sum(base_logits: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Sum over positions of KL(base || tuned) = sum_v p_base(v) (log p_base(v) - log p_tuned(v)), in nats.

    Both (N, V): the positions of interest, already selected. Forward KL, as in Learning without Forgetting (arXiv
    1606.09282, eq. 2, temperature 1) and MoL (arXiv 2505.12043): the tuned model must cover what the base would say.
    """
    reference = base_logits.float().log_softmax(-1)
    return F.kl_div(logits.float().log_softmax(-1), reference, reduction="sum", log_target=True)


def top_k(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k likeliest tokens (N, k) of logits (N, V) and their log-probabilities (N, k), in nats; all V where k is more."""
    found = logits.float().log_softmax(-1).topk(min(k, logits.shape[-1]), dim=-1)
    return found.indices, found.values


def kl_top_k_sum(tokens: torch.Tensor, logprobs: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """The same KL when of the base only its k likeliest tokens (N, k) with their log-probabilities are known, and all other
    tokens count as one outcome: sum_k p_k (log p_k - log q_k) + r (log r - log s), r and s what p and q leave.

    By the data processing inequality never more than kl_sum, and equal where base and tuned agree on how the rest is
    shared among its tokens (Cover & Thomas, Elements of Information Theory, sec. 2.8).
    """
    logits = logits.float()
    tuned = logits.gather(-1, tokens) - logits.logsumexp(-1, keepdim=True)  # (N, k)
    least = torch.finfo(torch.float32).eps  # a rest below rounding is none
    rest, tuned_rest = ((1 - x.exp().sum(-1)).clamp(min=least) for x in (logprobs, tuned))  # (N,)
    known = (logprobs.exp() * (logprobs - tuned)).sum(-1)
    return (known + rest * (rest.log() - tuned_rest.log())).sum()


def labels_of(
    ids: list[int], mask: list[int], source: str, objective: str, kl_tokens: str, table: int | None = None
) -> list[int]:
    """Labels of one row: domain rows always ask for cross-entropy on the assistant's tokens (mask 1). `table`: where the
    row starts in the table of the base's log-probabilities, if there is one."""
    if source == "replay" and objective == "kl":
        codes = [KL] * len(ids) if table is None else [KL - table - t for t in range(len(ids))]
        return [code if kl_tokens == "all" or on else IGNORED for code, on in zip(codes, mask, strict=True)]
    extra = REPLAY if source == "replay" else 0
    return [token + extra if on else IGNORED for token, on in zip(ids, mask, strict=True)]


@dataclass(slots=True)
class Asked:
    """What the labels of a batch (B, T) ask for. Positions are those in (B * T,) of the token before the one in question."""

    spoken: torch.Tensor  # (N,) positions whose next token bears cross-entropy
    tokens: torch.Tensor  # (N,) that token, with or without REPLAY
    held: torch.Tensor  # (M,) positions whose next token bears KL
    entries: torch.Tensor  # (M,) its row in the table of the base's log-probabilities, where there is one
    rows: torch.Tensor  # rows of the batch that pass through the base
    base: torch.Tensor  # positions in those rows: for target_kl those of `spoken`, then those of `held`
    n_base: tuple[int, int]  # how many of each


def asked(labels: torch.Tensor, table: bool, target_kl: bool) -> Asked:
    """`table`: the base's side of `held` is known; `target_kl`: that of `spoken` is wanted too."""
    following = labels[:, 1:]  # (B, T-1)
    taught, held = following >= 0, following <= KL
    taken = torch.zeros_like(held) if table else held
    first = taught if target_kl else torch.zeros_like(taught)
    rows = (taken | first).any(1).nonzero()[:, 0]
    base = positions(first[rows]), positions(taken[rows])
    return Asked(
        positions(taught), following[taught], positions(held), KL - following[held], rows, torch.cat(base),
        (len(base[0]), len(base[1])),
    )  # fmt: skip


def positions(bearing: torch.Tensor) -> torch.Tensor:
    """Where the next token bears loss: bearing (B, T-1), said of the next tokens; indices into (B * T,)."""
    return F.pad(bearing, (0, 1)).flatten().nonzero()[:, 0]
