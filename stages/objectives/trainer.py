"""TRL's SFTTrainer with a KL term to the frozen base on the positions that ask for it."""

from __future__ import annotations

from typing import Any

import torch
from trl import SFTTrainer

from stages.objectives.losses import KL, cross_entropy_sum, kl_sum


class KLTrainer(SFTTrainer):
    """loss = mean cross-entropy over its tokens + coefficient * mean KL(base || tuned) over its tokens.

    Both means run over the whole optimiser step (all micro-batches), so that gradient accumulation changes nothing.
    """

    loss_is_scaled_for_ga = True  # type: ignore[assignment]  # Trainer must not divide by the number of micro-batches again

    def __init__(self, *args: Any, base: torch.nn.Module, coefficient: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reference = base.to(self.args.device).eval().requires_grad_(False)
        self.coefficient = coefficient
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
        divergence = torch.zeros_like(entropy)
        asked = labels[:, 1:] == KL  # (B, T-1)
        rows = asked.any(1)
        if bool(rows.any()):
            # Rows without a KL position do not pass through the base; a packed batch is one row and passes whole.
            part = (
                forward if bool(rows.all()) else {k: v[rows] if torch.is_tensor(v) else v for k, v in forward.items()}
            )
            with torch.no_grad():
                reference = self.reference(**part).logits[:, :-1]
            divergence = kl_sum(reference[asked[rows]], outputs.logits[:, :-1][asked])
        n_entropy, n_kl = self.counts
        loss = entropy / n_entropy + self.coefficient * divergence / n_kl
        loss = loss * self.accelerator.num_processes  # DDP averages gradients over processes; the counts are global
        metrics = self._metrics["train" if model.training else "eval"]
        parts = (
            self.current_gradient_accumulation_steps * self.accelerator.num_processes
        )  # TRL logs the mean, a step is their sum
        metrics["domain_loss"].append((entropy / n_entropy).item() * parts)
        metrics["kl"].append((divergence / n_kl).item() * parts)
        return (loss, outputs) if return_outputs else loss
