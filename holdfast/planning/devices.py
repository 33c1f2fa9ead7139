"""How long a stage takes: from measured rates, or by the floating-point operations and a named device's peak.

Used by `holdfast plan`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from holdfast.planning.costs import Rates, Work, split_stage

MEASURE_SECONDS = 2.0  # about so long is each measurement of a model
DEVICES = {  # dense bf16 operations per second (fp16 on the T4), bytes of memory: NVIDIA's data sheets
    "h200": (989e12, 141e9),
    "h100": (989e12, 80e9),
    "a100": (312e12, 80e9),
    "l40s": (362e12, 48e9),
    "l4": (121e12, 24e9),
    "t4": (65e12, 16e9),
}
# Parts of the peak that are reached. A server's writing: Magpie (arXiv 2406.08464) made 3 M pairs with Llama-3-8B in 206 hours of
# one A100, about a tenth of its peak. Scoring and training: a 0.5 B model on an H100 (`python -m benchmarks.speed.gpu`: 0.20 and, compiled,
# 0.34). Writing in process: 0.012 there, where small kernels are waited for, and more the larger the model; an assumption.
# A measurement on the machine replaces all of them.
SERVED_EFFICIENCY, WRITE_EFFICIENCY, READ_EFFICIENCY, TRAIN_EFFICIENCY = 0.1, 0.03, 0.2, 0.34

# Seconds that a command takes beside its model, and of these per row of what it reads: CPU seconds of the pocket lab's commands
# by the shell's `time`, on a machine on which `time_yardstick` takes YARDSTICK_SECONDS seconds; elsewhere scaled by it. What `time` does not
# tell apart (start against rows, start against model) is a judgement; benchmarks/plan.py shows how well the sum fits.
YARDSTICK_SECONDS = 0.081
START_SECONDS = {
    "acquire": 5.0,
    "ingest": 0.8,
    "amount": 0.4,
    "reconstruct": 5.0,
    "curate": 7.0,
    "respond": 5.0,
    "judge": 2.5,
    "consensus": 1.1,
    "balance": 0.7,
    "quality": 5.5,
    "baseline": 0.8,
    "mix": 4.0,
    "pilot": 0.5,
    "finetune": 10.0,
    "evaluate": 8.0,
    "drift": 26.0,
    "gate": 1.0,
    "report": 1.4,
}
SECONDS_PER_ROW = {
    "ingest": 5e-5,
    "curate": 8e-4,
    "mix": 4e-4,
    "finetune": 4e-4,
    "evaluate": 2e-3,
    "consensus": 2e-5,
    "reconstruct": 1e-4,
}


def time_yardstick() -> float:
    """Seconds of a fixed piece of plain Python: how fast one core of this machine is."""

    def once() -> float:
        start = time.process_time()
        sum(n * n % 7 for n in range(2_000_000))
        return time.process_time() - start

    return min(once() for _ in range(5))


def clock() -> float:
    """Seconds by which a model is timed: of this process's own work where one thread on a CPU does all of it, so that what
    else the machine does is not counted; elsewhere of the clock."""
    import torch

    from holdfast.core import manifest

    alone = manifest.find_device().type == "cpu" and torch.get_num_threads() == 1
    return time.process_time() if alone else time.perf_counter()


def rates_by_rule(parameters: int, device: str, served: bool) -> Rates:
    """2 operations per parameter and token forward, 6 in training, at the stated parts of the device's peak."""
    forward = DEVICES[device][0] / (2 * parameters)
    return Rates(
        write=forward * (SERVED_EFFICIENCY if served else WRITE_EFFICIENCY),
        read=forward * READ_EFFICIENCY,
        train=forward / 3 * TRAIN_EFFICIENCY,
        base=forward * READ_EFFICIENCY,
    )


def describe_rule(device: str) -> str:
    """What `rates_by_rule` assumes, in words."""
    peak = DEVICES[device][0] / 1e12
    return (
        f"2 operations per parameter and token, 6 in training, of {device}'s {peak:,.0f} T/s: {WRITE_EFFICIENCY:.0%} reached in writing "
        f"({SERVED_EFFICIENCY:.0%} by a server), {READ_EFFICIENCY:.0%} in scoring, {TRAIN_EFFICIENCY:.0%} in training"
    )


def stage_seconds(one: Work, rates: Rates | None, slower: float) -> tuple[float, float]:
    """(seconds beside the model, seconds of the model in one process) of a stage. `slower`: than the calibrated machine."""
    name, _ = split_stage(one.stage)
    beside = slower * (START_SECONDS[name] + SECONDS_PER_ROW.get(name, 0.0) * one.rows)
    if rates is None or not one.model:
        return beside, 0.0
    read = rates.base if name in ("finetune", "pilot") else rates.read
    parts = ((one.written, rates.write), (one.read, read), (one.trained, rates.train))
    return beside, sum(tokens / rate for tokens, rate in parts if tokens)


@contextmanager
def limit_threads(count: int | None) -> Iterator[None]:
    """So many threads of torch within the block; None: as many as there are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
