"""Which engine speaks for a model: its endpoint, or vLLM, if it has one; else transformers. And where its shards are done."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from holdfast.core import cache, fingerprint, manifest, shards
from holdfast.engines.interface import Engine

CARRIERS = (
    "cache",
    "errors",
    "fingerprint",
    "ledger",
    "meter",
    "progress",
)  # of core: they carry work and decide none of it
_loaded: dict[str, Engine] = {}  # the last one only: weights are large


def load_engine(model: manifest.Manifest, batch: int) -> Engine:
    """The engine of a model, loaded when first asked for. `batch`: rows at once on the device."""
    key = cache.key(asdict(model), batch)
    if key not in _loaded:
        _loaded.clear()
        if model.endpoint:
            from holdfast.engines import openai

            _loaded[key] = openai.Engine(model, batch)
        elif model.vllm:
            from holdfast.engines import vllm

            _loaded[key] = vllm.Engine(model, batch)
        else:
            from holdfast.engines import local

            _loaded[key] = local.Engine(model, batch)
    return _loaded[key]


def engine_identity(model: manifest.Manifest, work: str) -> list[Any]:
    """All that decides what the work of a module (its file) gets from a model's engine, the code of both included.

    The code is every module that `work` can reach, but for engines that do not serve the model, for params (their values
    are in the key), and for CARRIERS.
    """
    if model.endpoint:
        idle = {"local", "decoding", "vllm", "ray"}
    elif model.vllm:
        idle = {"openai", "endpoint", "decoding", "ray"}
    else:
        idle = {"openai", "endpoint", "vllm", "ray"}
    left_out = {f"holdfast.engines.{name}" for name in idle} | {f"holdfast.core.{name}" for name in CARRIERS}
    reached = fingerprint.of_file(Path(work))
    code = [
        [name, code]
        for name, code in reached.items()
        if name not in left_out and not name.startswith("holdfast.params.")
    ]
    return [model.name, model.fingerprint, model.dtype, server_identity(model), code]


def server_identity(model: manifest.Manifest) -> list[Any] | None:
    """Which server answers in the model's place, and how it is asked; none: the weights themselves answer."""
    there = model.endpoint
    return [there.url, there.model, there.served, there.top_logprobs, there.refuses] if there else None


def choose_spread(model: manifest.Manifest) -> int | shards.Spread:
    """What shards.run_shards fans a model's shards over: its Ray cluster, or so many processes of this machine."""
    if model.ray:
        from holdfast.engines import ray

        return ray.spread_over_cluster(model)
    return count_workers(model)


def count_workers(model: manifest.Manifest) -> int:
    """Processes of one thread each to fan shards over: HOLDFAST_WORKERS; else two where a small model runs on CPU, which is
    more rows per second than one process with two threads (`python -m benchmarks.speed.scaling`), else one. Each holds the
    weights."""
    if model.endpoint or model.vllm:
        return 1  # requests overlap in one process
    small = model.parameters < 500_000_000 and (os.cpu_count() or 1) > 1 and manifest.find_device().type == "cpu"
    return shards.count_workers(2 if small else 1)
