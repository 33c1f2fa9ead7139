"""Adaptive KL: the weight of the KL on replay rows follows the divergence that is measured, step by step. Used by trainer.py.

The controller is that of Ziegler et al. (arXiv 1909.08593). Goel et al. (arXiv 2602.17546) adapt the coefficient of a KL to the base,
too, but to a harm score of each batch, which takes a judge or a trained probe: not what this is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from holdfast.training import losses


class KLSteering(TrainerCallback, ExportableState):
    """A factor on the KL's weight that rises where a step's mean KL is above `target` (nats per token) and falls where it is below.

    `reduce` sums a tensor over all processes. A checkpoint holds the factor, so that a run that is resumed goes on with it.
    """

    def __init__(self, target: float, reduce: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.target, self.reduce = target, reduce
        self.factor = torch.ones(())
        self.kl: torch.Tensor | None = None  # this process's part of the running step's mean KL

    def add(self, kl: torch.Tensor) -> None:
        """A micro-batch's part of the step's mean KL."""
        self.kl = kl.detach() if self.kl is None else self.kl + kl.detach()

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"factor": self.factor.item()}}

    def on_train_begin(self, args, state, control, **kwargs):
        former = state.stateful_callbacks[type(self).__name__]["attributes"]
        self.factor = torch.tensor(former["factor"], device=args.device)

    def on_step_end(self, args, state, control, **kwargs):
        if self.kl is None:
            return
        kl, self.kl = self.reduce(self.kl), None
        steered = losses.steer(self.factor, kl, self.target)
        self.factor = torch.where(kl > 0, steered, self.factor)  # a step without a replay row says nothing
