"""TRL's SFTTrainer with what keeps a model from forgetting: KL terms to the frozen base, and a quadratic anchor."""

from __future__ import annotations

from typing import Any

import torch
from trl import SFTTrainer

from stages.objectives.anchors import Weights, penalty, trained
from stages.objectives.losses import KL, cross_entropy_sum, kl_sum


class ForgettingTrainer(SFTTrainer):
    """loss = mean cross-entropy + coefficient * mean KL(base || tuned) over the positions labelled KL
    + target_kl * mean KL(base || tuned) over the positions with cross-entropy + anchor_coefficient * anchor.

    Means run over the whole optimiser step (all micro-batches), so that gradient accumulation changes nothing. `base` is
    needed for either KL term, `start` (the weights before training) and perhaps `importance` for the anchor.
    """

    loss_is_scaled_for_ga = True  # type: ignore[assignment]  # Trainer must not divide by the number of micro-batches again

    def __init__(
        self,
        *args: Any,
        base: torch.nn.Module | None,
        coefficient: float = 0.0,
        target_kl: float = 0.0,
        start: Weights | None = None,
        importance: Weights | None = None,
        anchor_coefficient: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.reference = None if base is None else base.to(self.args.device).eval().requires_grad_(False)
        self.coefficient, self.target_kl = coefficient, target_kl
        self.start, self.importance, self.anchor_coefficient = start, importance, anchor_coefficient
        self.counts = (1, 1)  # (cross-entropy tokens, KL tokens) of the current optimiser step

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Any:
        labels = [batch["labels"][:, 1:] for batch in batch_samples]
        counts = torch.tensor(
            [sum(int((x >= 0).sum()) for x in labels), sum(int((x == KL).sum()) for x in labels)], device=device
        )
        total = self.accelerator.gather(counts[None]).sum(0)
        self.counts = (max(int(total[0]), 1), max(int(total[1]), 1))
        return super()._get_num_items_in_batch(batch_samples, device)

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs["labels"]
        forward = {k: v for k, v in inputs.items() if k != "labels"} | {"use_cache": False}
        outputs = model(**forward)  # without labels: the full logits, not TRL's fused head
        entropy = cross_entropy_sum(outputs.logits, labels)
        divergence = target = torch.zeros_like(entropy)
        replay, taught = labels[:, 1:] == KL, labels[:, 1:] >= 0  # (B, T-1)
        rows = (replay | taught).any(1) if self.target_kl else replay.any(1)
        if self.reference is not None and bool(rows.any()):
            # Rows without such a position do not pass through the base; a packed batch is one row and passes whole.
            part = (
                forward if bool(rows.all()) else {k: v[rows] if torch.is_tensor(v) else v for k, v in forward.items()}
            )
            with torch.no_grad():
                reference = self.reference(**part).logits[:, :-1]
            divergence = kl_sum(reference[replay[rows]], outputs.logits[:, :-1][replay])
            if self.target_kl:
                target = kl_sum(reference[taught[rows]], outputs.logits[:, :-1][taught])
        n_entropy, n_kl = self.counts
        loss = entropy / n_entropy + self.coefficient * divergence / n_kl + self.target_kl * target / n_entropy
        loss = loss * self.accelerator.num_processes  # DDP averages gradients over processes; the counts are global
        micro_batches = self.current_gradient_accumulation_steps
        metrics = self._metrics["train" if model.training else "eval"]
        if self.start is not None:
            anchor = self.anchor_coefficient * penalty(trained(model), self.start, self.importance)
            loss = loss + anchor / micro_batches  # once per optimiser step
            metrics["anchor"].append(anchor.item())
        parts = micro_batches * self.accelerator.num_processes  # TRL logs the mean, a step is their sum
        metrics["domain_loss"].append((entropy / n_entropy).item() * parts)
        metrics["kl"].append((divergence / n_kl).item() * parts)
        if self.target_kl:
            metrics["target_kl"].append((target / n_entropy).item() * parts)
        return (loss, outputs) if return_outputs else loss
