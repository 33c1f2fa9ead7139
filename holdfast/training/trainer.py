"""The trainer: TRL's SFTTrainer with what keeps a model from forgetting, on any number of processes.

Before: process.py makes it and calls `train`. It is the end of the path; losses.py, batches.py, anchors.py and
compiling.py are its parts. Logits are computed only where a token is trained on, the base's only on rows that need
them, and nothing is read back from the device until a line is logged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader
from trl import SFTTrainer

from holdfast.core import meter
from holdfast.training import batches, compiling, losses
from holdfast.training.anchors import Weights, penalty, trainable_weights
from holdfast.training.losses import KL, REPLAY
from holdfast.training.steering import KLSteering

SummedLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Table = tuple[torch.Tensor, torch.Tensor]  # the base's likeliest tokens (P, k) and their log-probabilities (P, k)


@dataclass(frozen=True, slots=True)
class LossConfig:
    """The terms of the loss and their weights; 0 leaves a term out."""

    kl_weight: float = 0.0  # of the mean KL over the positions labelled KL
    kl_target: float | None = None  # nats per token to which that mean is steered, by a factor on kl_weight
    target_kl: float = 0.0  # of the mean KL over the positions with cross-entropy
    dft: bool = False  # whether each token's cross-entropy is weighed with its probability
    replays: bool = False  # whether replay rows have cross-entropy, which is logged by itself
    anchor_coefficient: float = 0.0  # of the penalty on the way from the base's weights


@dataclass(frozen=True, slots=True)
class BaseSide:
    """What the loss compares with; None where its terms do not need it."""

    model: torch.nn.Module | None = None  # the base, for a KL that is computed in every step
    adapter_off: bool = False  # it is the trained model with its adapter off, for the same
    table: Table | None = None  # the base's log-probabilities on replay rows, for a cached KL
    start: Weights | None = None  # the weights before training, for an anchor
    importance: Weights | None = None  # their Fisher information, for EWC


class ForgettingTrainer(SFTTrainer):
    """loss = mean cross-entropy + kl_weight * mean KL(base || tuned) over the positions labelled KL
    + target_kl * mean KL(base || tuned) over the positions with cross-entropy + anchor_coefficient * anchor.
    With `kl_target`, kl_weight is multiplied by a factor that follows the mean KL of each step (steering.py).

    Means run over the whole optimiser step (all micro-batches of all processes), so that neither gradient accumulation
    nor the number of processes changes anything. A step has `step_rows` rows in `parts` micro-batches, over all
    processes.
    """

    # Trainer must not divide by the number of micro-batches again
    loss_is_scaled_for_ga = True  # type: ignore[assignment]

    def __init__(
        self,
        *args: Any,
        step_rows: int,
        parts: int,
        loss_config: LossConfig,
        base_side: BaseSide,
        bf16: bool = False,
        compiled: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        # Not Trainer's own autocast: that returns logits in fp32, with large vocabularies gigabytes of nothing new.
        self.precision = partial(torch.autocast, self.args.device.type, torch.bfloat16, enabled=bf16)
        self.step_rows, self.parts, self.loss_config, self.base_side = step_rows, parts, loss_config, base_side
        self.reference = (
            None if base_side.model is None else base_side.model.to(self.args.device).eval().requires_grad_(False)
        )
        if bf16 and self.reference is not None:
            cast_once(self.reference)
        self.cross_entropies: SummedLoss = losses.cross_entropies
        self.kl_sum: SummedLoss = losses.kl_sum
        if compiled:
            self.cross_entropies, self.kl_sum = map(compiling.compile_loss, (losses.cross_entropies, losses.kl_sum))
            for each in filter(None, (self.model, self.reference)):
                compiling.compile_blocks(each)
        self.steering: KLSteering | None = None
        if loss_config.kl_target:
            self.steering = KLSteering(loss_config.kl_target, partial(self.accelerator.reduce, reduction="sum"))
            self.add_callback(self.steering)
        self.counts = torch.ones(5)  # (cross-entropy, KL, domain, replayed, all) tokens of the current optimiser step
        self.sums: dict[str, torch.Tensor] = {}  # what is logged, summed over the steps since the last line
        self.steps_since, self.line_began = 0, 0.0
        self.tokens_since: Any = 0

    def get_train_dataloader(self) -> DataLoader:
        """This process's share of every step's parts, in the order of the data set."""
        data = self._remove_unused_columns(self.train_dataset, description="training")
        steps = batches.steps([len(ids) for ids in data["input_ids"]], self.step_rows, self.parts)
        mine = [part for step in steps for part in step[self.args.process_index :: self.args.world_size]]
        rows = batches.RowsWithIdle(data)
        return DataLoader(rows, batch_sampler=mine, collate_fn=self.data_collator)  # type: ignore[arg-type]

    def floating_point_ops(self, inputs: dict) -> int:
        return 0  # the ledger counts them; Trainer's own count walks over all parameters in every micro-batch

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Any:
        following = [batch["labels"][:, 1:] for batch in batch_samples]
        kinds = (lambda x: x >= 0, lambda x: x <= KL, lambda x: (x >= 0) & (x < REPLAY), lambda x: x >= REPLAY)
        whole = sum(int(batch.get("attention_mask", torch.ones_like(batch["labels"])).sum()) for batch in batch_samples)
        counts = torch.tensor([*(sum(int(kind(x).sum()) for x in following) for kind in kinds), whole], device=device)
        self.counts = self.accelerator.reduce(counts, "sum").clamp(min=1)
        if not self.steps_since:
            self.line_began, self.tokens_since = time.monotonic(), 0
        self.steps_since += 1
        self.tokens_since += self.counts[4]
        return self.counts[0]

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Reads the labels before they leave for the device: to read them there would mean to wait for it, every
        time."""
        labels = inputs.pop("labels")
        targets = losses.loss_targets(labels, self.base_side.table is not None, self.loss_config.target_kl > 0)
        if self.base_side.table is not None:
            inputs["table"] = tuple(part[targets.table_rows] for part in self.base_side.table)
        names = [field.name for field in fields(targets) if field.name != "n_base"]
        targets = replace(targets, **{name: self.to_device(getattr(targets, name)) for name in names})
        return {key: self.to_device(value) for key, value in inputs.items()} | {"targets": targets}

    def to_device(self, value: Any) -> Any:
        """Tensors on the device. Copies to a GPU start from pinned memory, so that it computes meanwhile."""
        if isinstance(value, tuple):
            return tuple(map(self.to_device, value))
        if not torch.is_tensor(value):
            return value
        gpu = self.args.device.type == "cuda"
        return (value.pin_memory() if gpu else value).to(self.args.device, non_blocking=gpu)

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        targets: losses.LossTargets = inputs.pop("targets")
        table = inputs.pop("table", None)
        forward = inputs | {"use_cache": False}
        if self.aux_loss_enabled:
            forward["output_router_logits"] = True
        plain = self.accelerator.unwrap_model(model)
        with logits_only_at(plain, torch.cat([targets.ce_positions, targets.kl_positions])), self.precision():
            outputs = model(**forward)  # without labels: the logits, not TRL's fused head
        ce_logits, kl_logits = outputs.logits.split([len(targets.ce_positions), len(targets.kl_positions)])  # (N|M, V)
        each = self.cross_entropies(ce_logits, targets.ce_tokens)  # (N,)
        entropy = (losses.dft(each) if self.loss_config.dft else each).sum()
        divergence, target = self.divergences(forward, targets, table, ce_logits, kl_logits)
        n_entropy, n_kl, n_domain, n_replay, _ = self.counts
        kl_weight = self.loss_config.kl_weight * (self.steering.factor if self.steering else 1)
        loss = entropy / n_entropy + kl_weight * divergence / n_kl + self.loss_config.target_kl * target / n_entropy
        loss = loss * self.args.world_size  # DDP averages gradients over processes; the counts are global
        if self.aux_loss_enabled:  # of a mixture of experts
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss / self.current_gradient_accumulation_steps
        if self.base_side.start is not None:
            distance = penalty(trainable_weights(plain), self.base_side.start, self.base_side.importance)
            anchor = self.loss_config.anchor_coefficient * distance
            loss = loss + anchor / self.current_gradient_accumulation_steps
            self.add_to_line("anchor", anchor / (self.args.world_size * self.current_gradient_accumulation_steps))
        replayed = targets.ce_tokens >= REPLAY
        self.add_to_line("domain_loss", (each.detach() * ~replayed).sum() / n_domain)
        if self.loss_config.replays:
            self.add_to_line("replay_loss", (each.detach() * replayed).sum() / n_replay)
        if self.loss_config.kl_weight:
            self.add_to_line("kl", divergence / n_kl)
        if self.steering:
            self.steering.add(divergence / n_kl)
        if self.loss_config.target_kl:
            self.add_to_line("target_kl", target / n_entropy)
        return (loss, outputs) if return_outputs else loss

    def divergences(
        self,
        forward: dict,
        targets: losses.LossTargets,
        table: Table | None,
        ce_logits: torch.Tensor,
        kl_logits: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums of KL(base || tuned) where the labels ask for it, and where cross-entropy is taken (for target_kl)."""
        divergence = target = ce_logits.new_zeros((), dtype=torch.float32)
        if table is not None:
            divergence = losses.kl_top_k_sum(table[0].long(), table[1], kl_logits)
        if not (self.reference or self.base_side.adapter_off) or len(targets.base_rows) == 0:
            return divergence, target
        # Rows without such a position do not pass through the base; a packed batch is one row and passes whole.
        if len(targets.base_rows) < len(forward["input_ids"]):
            forward = {k: v[targets.base_rows] if torch.is_tensor(v) else v for k, v in forward.items()}
        base_ce, base_kl = self.ask_base(forward, targets.base_positions).split(targets.n_base)
        if self.loss_config.target_kl:
            target = self.kl_sum(base_ce, ce_logits)
        if table is None:
            divergence = self.kl_sum(base_kl, kl_logits)
        return divergence, target

    @torch.no_grad()
    def ask_base(self, forward: dict, positions: torch.Tensor) -> torch.Tensor:
        """The base's logits (N, V) at `positions`."""
        if self.reference is not None:
            with logits_only_at(self.reference, positions), self.precision():
                return self.reference(**forward).logits
        model: Any = self.accelerator.unwrap_model(self.model)
        model.eval()
        with model.disable_adapter(), logits_only_at(model, positions), self.precision():
            logits = model(**forward).logits
        model.train()
        return logits

    def add_to_line(self, name: str, value: torch.Tensor) -> None:
        self.sums[name] = self.sums.get(name, 0) + value.detach().float()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self.steps_since:
            sums = self.accelerator.reduce(torch.stack(list(self.sums.values())), "sum")
            logs.update(zip(self.sums, (sums / self.steps_since).tolist(), strict=True))
            logs["tokens_per_second"] = float(self.tokens_since) / max(time.monotonic() - self.line_began, 1e-9)
            logs["memory_gib"] = meter.peak_memory() / 2**30
            if self.steering:
                logs["kl_factor"] = self.steering.factor.item()
            self.sums, self.steps_since = {}, 0
        super().log(logs, start_time)


@contextmanager
def logits_only_at(model: Any, positions: torch.Tensor) -> Iterator[None]:
    """Inside, the model's logits are (N, V): those of the N positions in (B * T,) alone, in that order. What a model
    does to its logits after the head (a scale, a soft cap) it does to each by itself, so the rest of it need not
    know."""
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda module, inputs: (inputs[0].flatten(0, -2)[positions], *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()


def cast_once(frozen: torch.nn.Module) -> None:
    """Casts matrices to bf16, as autocast would in every pass: equal numbers from half the memory. Norms and embeddings
    stay, and with them the precision of the residual stream."""
    for module in frozen.modules():
        if type(module) is torch.nn.Linear:
            module.weight = torch.nn.Parameter(module.weight.to(torch.bfloat16), requires_grad=False)
            if module.bias is not None:
                module.bias = torch.nn.Parameter(module.bias.to(torch.bfloat16), requires_grad=False)
