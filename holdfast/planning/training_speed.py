"""How fast a model trains on this machine: a few optimiser steps on random tokens, with the settings of params.yaml.

Used by `holdfast plan`. Nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from holdfast.core import manifest
from holdfast.params.whole import Params
from holdfast.planning.devices import MEASURE_SECONDS, clock, limit_threads
from holdfast.training import compiling, losses
from holdfast.training.job import MAX_PARAMETERS_ON_ONE_THREAD


def measure_training(
    folder: Path, params: Params, parameters: int, length: float, compiled: bool = False
) -> tuple[float, float]:
    """(tokens per second of training, the same of the frozen base beside it), on rows of `length` tokens. To compile takes
    about as long as in the run itself, half a minute."""
    device, width = manifest.find_device(), max(8, min(round(length), params.finetune.max_length))
    rows = params.finetune.micro_batch or params.finetune.batch_size
    alone = device.type == "cpu" and parameters <= MAX_PARAMETERS_ON_ONE_THREAD
    bf16 = manifest.bf16_usable() if params.finetune.bf16 == "auto" else params.finetune.bf16
    with limit_threads(1 if alone else None):
        tuned = manifest.load_model(folder, "float32").train()
        base = (
            manifest.load_model(folder, "float32")
            if any(a.objective == "kl" for a in params.finetune.arms.values())
            else None
        )
        if params.finetune.activation_checkpointing:
            tuned.gradient_checkpointing_enable()
        cross_entropies, kl_sum = losses.cross_entropies, losses.kl_sum
        if compiled:
            cross_entropies, kl_sum = map(compiling.compile_loss, (cross_entropies, kl_sum))
            for each in filter(None, (tuned, base)):
                compiling.compile_blocks(each)
        optimiser = torch.optim.AdamW(tuned.parameters(), lr=0.0)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(tuned.config.get_text_config().vocab_size, (rows, width), generator=generator).to(device)

        def step(reference: Any) -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = tuned(input_ids=ids, use_cache=False).logits.flatten(0, 1)
                if reference is None:
                    loss = cross_entropies(logits, ids.flatten()).mean()
                else:
                    with torch.no_grad():
                        expected = reference(input_ids=ids, use_cache=False).logits.flatten(0, 1)
                    loss = kl_sum(expected, logits) / len(logits)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(tuned.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()

        plain = time_call(lambda: step(None))
        both = time_call(lambda: step(base)) if base is not None else plain
    tokens = rows * width
    return tokens / plain, tokens / max(both - plain, 0.1 * plain)


def time_call(work: Callable[[], None]) -> float:
    """Seconds of one call: the median of as many as fit into MEASURE_SECONDS, at least three, after one that warms up."""
    durations: list[float] = []
    work()
    while len(durations) < 3 or (sum(durations) < MEASURE_SECONDS and len(durations) < 50):
        start = clock()
        work()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        durations.append(clock() - start)
    return sorted(durations)[len(durations) // 2]
