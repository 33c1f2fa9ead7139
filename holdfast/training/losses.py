"""What fine-tuning minimises: pure functions of logits and labels. Used by trainer.py.

A token's part in the loss is coded in its label, because that is all that survives TRL's packing: a token id asks for
cross-entropy; a token id plus REPLAY does too, and is counted apart; KL or less asks for the divergence from the base
at that position (KL - n: with row n of a table of the base's log-probabilities); IGNORE_INDEX asks for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

IGNORE_INDEX = -100
KL = -101
REPLAY = 1 << 40  # far above any token id


def cross_entropies(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """-log p(label) in nats, (N,): logits (N, V), labels (N,) of token ids, with or without REPLAY."""
    return F.cross_entropy(logits.float(), labels % REPLAY, reduction="none")


def dft(losses: torch.Tensor) -> torch.Tensor:
    """p(label) * -log p(label) with p held fixed in the gradient, (N,): Dynamic Fine-Tuning (Wu et al., arXiv
    2508.05629, eq. 9). Tokens that the model finds unlikely pull less, and so do the parts of the weights that would
    have to give way.
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
    """The k likeliest tokens (N, k) of logits (N, V) and their log-probabilities (N, k), in nats; all V where k is
    more."""
    likeliest = logits.float().log_softmax(-1).topk(min(k, logits.shape[-1]), dim=-1)
    return likeliest.indices, likeliest.values


def kl_top_k_sum(tokens: torch.Tensor, logprobs: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """`kl_sum` where only the base's k likeliest tokens (N, k) and their log-probabilities (N, k) are known; logits (N,
    V).

    All other tokens count as one outcome: sum_k p_k (log p_k - log q_k) + r (log r - log s), with r and s what p and q
    leave. By the data processing inequality never more than kl_sum, and equal where base and tuned agree on how the
    rest is shared among its tokens (Cover & Thomas, Elements of Information Theory, sec. 2.8).
    """
    logits = logits.float()
    tuned = logits.gather(-1, tokens) - logits.logsumexp(-1, keepdim=True)  # (N, k)
    least = torch.finfo(torch.float32).eps  # a rest below rounding is none
    rest, tuned_rest = ((1 - x.exp().sum(-1)).clamp(min=least) for x in (logprobs, tuned))  # (N,)
    known = (logprobs.exp() * (logprobs - tuned)).sum(-1)
    return (known + rest * (rest.log() - tuned_rest.log())).sum()


def steer(factor: torch.Tensor, kl: torch.Tensor, target: float) -> torch.Tensor:
    """The factor on the KL's weight for the next step, after one with a mean KL of `kl`: b (1 + 0.1 e), where e is the relative error
    (kl - target) / target, cut at -0.2 and 0.2 (Ziegler et al., arXiv 1909.08593, eq. 2, with their gain).
    """
    error = ((kl - target) / target).clamp(-0.2, 0.2)
    return factor * (1 + 0.1 * error)


def labels_of(
    ids: list[int], mask: list[int], source: str, objective: str, kl_tokens: str, table_start: int | None = None
) -> list[int]:
    """Labels of one row. Domain rows always ask for cross-entropy on the assistant's tokens (mask 1). `table_start`:
    where the row starts in the table of the base's log-probabilities, if there is one."""
    if source == "replay" and objective == "kl":
        codes = [KL] * len(ids) if table_start is None else [KL - table_start - t for t in range(len(ids))]
        return [code if kl_tokens == "all" or on else IGNORE_INDEX for code, on in zip(codes, mask, strict=True)]
    extra = REPLAY if source == "replay" else 0
    return [token + extra if on else IGNORE_INDEX for token, on in zip(ids, mask, strict=True)]


@dataclass(slots=True)
class LossTargets:
    """What the labels of a batch (B, T) ask for. A position is an index into (B * T,): that of the token before the one
    that is trained on, whose logits predict it."""

    ce_positions: torch.Tensor  # (N,) whose next token has cross-entropy
    ce_tokens: torch.Tensor  # (N,) that token, with or without REPLAY
    kl_positions: torch.Tensor  # (M,) whose next token has KL
    table_rows: torch.Tensor  # (M,) its row in the table of the base's log-probabilities, where there is one
    base_rows: torch.Tensor  # rows of the batch that pass through the base
    base_positions: torch.Tensor  # positions in those rows: for target_kl the `ce_positions`, then the `kl_positions`
    n_base: tuple[int, int]  # how many of each


def loss_targets(labels: torch.Tensor, table: bool, target_kl: bool) -> LossTargets:
    """`table`: whether the base's side of `kl_positions` is known; `target_kl`: whether that of `ce_positions` is
    wanted."""
    following = labels[:, 1:]  # (B, T-1)
    with_ce, with_kl = following >= 0, following <= KL
    base_kl = torch.zeros_like(with_kl) if table else with_kl
    base_ce = with_ce if target_kl else torch.zeros_like(with_ce)
    rows = (base_kl | base_ce).any(1).nonzero()[:, 0]
    base = positions_before(base_ce[rows]), positions_before(base_kl[rows])
    return LossTargets(
        ce_positions=positions_before(with_ce),
        ce_tokens=following[with_ce],
        kl_positions=positions_before(with_kl),
        table_rows=KL - following[with_kl],
        base_rows=rows,
        base_positions=torch.cat(base),
        n_base=(len(base[0]), len(base[1])),
    )


def positions_before(wanted: torch.Tensor) -> torch.Tensor:
    """Indices into (B * T,) of the positions whose next token is wanted: `wanted` (B, T-1) is about the next tokens."""
    return F.pad(wanted, (0, 1)).flatten().nonzero()[:, 0]
