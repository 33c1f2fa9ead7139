"""TRL's SFTTrainer with what keeps a model from forgetting, on any number of processes.

Logits are computed only where a token bears loss, the base's only on rows that need them, and nothing is read back from
the device but when a line is logged.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader
from trl import SFTTrainer

from holdfast.core import manifest
from holdfast.training import batches, compiling, losses
from holdfast.training.anchors import Weights, penalty, trained
from holdfast.training.losses import KL, REPLAY

Summed = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Table = tuple[torch.Tensor, torch.Tensor]  # the base's likeliest tokens (P, k) and their log-probabilities


class ForgettingTrainer(SFTTrainer):
    """loss = mean cross-entropy + coefficient * mean KL(base || tuned) over the positions labelled KL
    + target_kl * mean KL(base || tuned) over the positions with cross-entropy + anchor_coefficient * anchor.

    Means run over the whole optimiser step (all micro-batches of all processes), so that neither gradient accumulation nor
    the number of processes changes anything. The base's side comes from `table` or else from `base`; `start` (the weights
    before training) and perhaps `importance` are for the anchor. A step has `step_rows` rows in `parts` micro-batches, over
    all processes.
    """

    loss_is_scaled_for_ga = True  # type: ignore[assignment]  # Trainer must not divide by the number of micro-batches again

    def __init__(
        self, *args: Any, step_rows: int, parts: int, base: torch.nn.Module | None = None, table: Table | None = None,
        coefficient: float = 0.0, target_kl: float = 0.0, weigh_tokens: bool = False, replays: bool = False, start: Weights | None = None,
        importance: Weights | None = None, anchor_coefficient: float = 0.0, bf16: bool = False, compiled: bool = False, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(*args, **kwargs)
        # Not Trainer's own autocast: that returns logits in fp32, with large vocabularies gigabytes of nothing new.
        self.precision = partial(torch.autocast, self.args.device.type, torch.bfloat16, enabled=bf16)
        self.step_rows, self.parts = step_rows, parts
        self.reference = None if base is None else base.to(self.args.device).eval().requires_grad_(False)
        if bf16 and self.reference is not None:
            cast_once(self.reference)
        self.table = table
        self.coefficient, self.target_kl = coefficient, target_kl
        self.weigh_tokens, self.replays = weigh_tokens, replays
        self.start, self.importance, self.anchor_coefficient = start, importance, anchor_coefficient
        self.cross_entropies: Summed = losses.cross_entropies
        self.kl_sum: Summed = losses.kl_sum
        if compiled:
            self.cross_entropies, self.kl_sum = map(compiling.function, (losses.cross_entropies, losses.kl_sum))
            for each in filter(None, (self.model, self.reference)):
                compiling.blocks(each)
        self.counts = torch.ones(5)  # (cross-entropy, KL, domain, replayed, all) tokens of the current optimiser step
        self.seen: dict[str, torch.Tensor] = {}  # what is logged, summed over the steps since the last line
        self.steps_seen, self.since = 0, 0.0
        self.tokens_seen: Any = 0

    def get_train_dataloader(self) -> DataLoader:
        """This process's share of every step's parts, in the order of the data set."""
        data = self._remove_unused_columns(self.train_dataset, description="training")
        steps = batches.steps([len(ids) for ids in data["input_ids"]], self.step_rows, self.parts)
        mine = [part for step in steps for part in step[self.args.process_index :: self.args.world_size]]
        return DataLoader(batches.Rows(data), batch_sampler=mine, collate_fn=self.data_collator)  # type: ignore[arg-type]

    def floating_point_ops(self, inputs: dict) -> int:
        return 0  # the ledger counts them; Trainer's own count walks over all parameters in every micro-batch

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Any:
        following = [batch["labels"][:, 1:] for batch in batch_samples]
        kinds = (lambda x: x >= 0, lambda x: x <= KL, lambda x: (x >= 0) & (x < REPLAY), lambda x: x >= REPLAY)
        whole = sum(int(batch.get("attention_mask", torch.ones_like(batch["labels"])).sum()) for batch in batch_samples)
        counts = torch.tensor([*(sum(int(kind(x).sum()) for x in following) for kind in kinds), whole], device=device)
        self.counts = self.accelerator.reduce(counts, "sum").clamp(min=1)
        if not self.steps_seen:
            self.since, self.tokens_seen = time.monotonic(), 0
        self.steps_seen += 1
        self.tokens_seen += self.counts[4]
        return self.counts[0]

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The labels are read before they leave for the device: to ask it would be to wait for it, in every micro-batch."""
        labels = inputs.pop("labels")
        found = losses.asked(labels, self.table is not None, self.target_kl > 0)
        if self.table is not None:
            inputs["table"] = tuple(part[found.entries] for part in self.table)
        names = [field.name for field in fields(found) if field.name != "n_base"]
        found = replace(found, **{name: self.moved(getattr(found, name)) for name in names})
        return {key: self.moved(value) for key, value in inputs.items()} | {"asked": found}

    def moved(self, value: Any) -> Any:
        """On the device; to a GPU from memory out of which it copies while it computes."""
        if isinstance(value, tuple):
            return tuple(map(self.moved, value))
        if not torch.is_tensor(value):
            return value
        gpu = self.args.device.type == "cuda"
        return (value.pin_memory() if gpu else value).to(self.args.device, non_blocking=gpu)

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        asked: losses.Asked = inputs.pop("asked")
        known = inputs.pop("table", None)
        forward = inputs | {"use_cache": False}
        if self.aux_loss_enabled:
            forward["output_router_logits"] = True
        plain = self.accelerator.unwrap_model(model)
        with head_at(plain, torch.cat([asked.spoken, asked.held])), self.precision():
            outputs = model(**forward)  # without labels: the logits, not TRL's fused head
        spoken, replayed = outputs.logits.split([len(asked.spoken), len(asked.held)])  # (N, V), (M, V)
        each = self.cross_entropies(spoken, asked.tokens)  # (N,)
        entropy = (losses.dft(each) if self.weigh_tokens else each).sum()
        divergence, target = self.divergences(forward, asked, known, spoken, replayed)
        n_entropy, n_kl, n_domain, n_replay, _ = self.counts
        loss = entropy / n_entropy + self.coefficient * divergence / n_kl + self.target_kl * target / n_entropy
        loss = loss * self.args.world_size  # DDP averages gradients over processes; the counts are global
        if self.aux_loss_enabled:  # of a mixture of experts
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss / self.current_gradient_accumulation_steps
        if self.start is not None:
            anchor = self.anchor_coefficient * penalty(trained(plain), self.start, self.importance)
            loss = loss + anchor / self.current_gradient_accumulation_steps
            self.note("anchor", anchor / (self.args.world_size * self.current_gradient_accumulation_steps))
        again = asked.tokens >= REPLAY
        self.note("domain_loss", (each.detach() * ~again).sum() / n_domain)
        if self.replays:
            self.note("replay_loss", (each.detach() * again).sum() / n_replay)
        if self.coefficient:
            self.note("kl", divergence / n_kl)
        if self.target_kl:
            self.note("target_kl", target / n_entropy)
        return (loss, outputs) if return_outputs else loss

    def divergences(
        self, forward: dict, asked: losses.Asked, known: Table | None, spoken: torch.Tensor, replayed: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums of KL(base || tuned) where the labels ask for it, and where cross-entropy is taken (for target_kl)."""
        divergence = target = spoken.new_zeros((), dtype=torch.float32)
        if known is not None:
            divergence = losses.kl_top_k_sum(known[0].long(), known[1], replayed)
        if self.reference is None or len(asked.rows) == 0:
            return divergence, target
        # Rows without such a position do not pass through the base; a packed batch is one row and passes whole.
        if len(asked.rows) < len(forward["input_ids"]):
            forward = {k: v[asked.rows] if torch.is_tensor(v) else v for k, v in forward.items()}
        with torch.no_grad(), head_at(self.reference, asked.base), self.precision():
            base = self.reference(**forward).logits
        wanted, held = base.split(asked.n_base)
        if self.target_kl:
            target = self.kl_sum(wanted, spoken)
        if known is None:
            divergence = self.kl_sum(held, replayed)
        return divergence, target

    def note(self, name: str, value: torch.Tensor) -> None:
        self.seen[name] = self.seen.get(name, 0) + value.detach().float()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self.steps_seen:
            sums = self.accelerator.reduce(torch.stack(list(self.seen.values())), "sum")
            logs.update(zip(self.seen, (sums / self.steps_seen).tolist(), strict=True))
            logs["tokens_per_second"] = float(self.tokens_seen) / max(time.monotonic() - self.since, 1e-9)
            logs["memory_gib"] = peak_memory() / 2**30
            self.seen, self.steps_seen = {}, 0
        super().log(logs, start_time)


@contextmanager
def head_at(model: Any, where: torch.Tensor) -> Iterator[None]:
    """Inside, the model's logits are (N, V): of the N positions `where` in (B * T,) alone, in that order. What a model does
    to its logits after the head (a scale, a soft cap) it does to each by itself, so the rest of it need not know."""
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda module, given: (given[0].flatten(0, -2)[where], *given[1:]))
    try:
        yield
    finally:
        hook.remove()


def cast_once(frozen: torch.nn.Module) -> None:
    """Matrices into bf16, as autocast would cast them in every pass: the same numbers from half the memory. Norms and
    embeddings stay, and with them the precision of the residual stream."""
    for module in frozen.modules():
        if type(module) is torch.nn.Linear:
            module.weight = torch.nn.Parameter(module.weight.to(torch.bfloat16), requires_grad=False)
            if module.bias is not None:
                module.bias = torch.nn.Parameter(module.bias.to(torch.bfloat16), requires_grad=False)


def peak_memory() -> int:
    """Bytes: of the accelerator where there is one, else the largest resident set of this process."""
    if manifest.device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
