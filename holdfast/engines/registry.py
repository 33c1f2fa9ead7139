"""Which engine speaks for a model: its endpoint, or vLLM, if it has one; else transformers. And where its shards are done."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from holdfast.chat import encoding, templates
from holdfast.core import cache, manifest
from holdfast.core.fingerprint import source_hash
from holdfast.engines.interface import Engine

_loaded: dict[str, Engine] = {}  # the last one only: weights are large


def load_engine(entry: manifest.Manifest, batch: int) -> Engine:
    """The engine of a model, loaded when first asked for. `batch`: rows at once on the device."""
    key = cache.key(asdict(entry), batch)
    if key not in _loaded:
        _loaded.clear()
        if entry.endpoint:
            from holdfast.engines import openai

            _loaded[key] = openai.Engine(entry, batch)
        elif entry.vllm:
            from holdfast.engines import vllm

            _loaded[key] = vllm.Engine(entry, batch)
        else:
            from holdfast.engines import local

            _loaded[key] = local.Engine(entry, batch)
    return _loaded[key]


def engine_identity(entry: manifest.Manifest, stage: str) -> list[Any]:
    """All that decides what a model's engine answers, the code of the stage and of the engine included."""
    here = Path(__file__).parent
    names = (
        ("openai.py", "endpoint.py")
        if entry.endpoint
        else ("local.py", "vllm.py")
        if entry.vllm
        else ("local.py", "decoding.py")
    )
    files = [here / name for name in names]
    code = source_hash(stage, encoding.__file__, templates.__file__, *map(str, files))
    return [entry.name, entry.fingerprint, entry.dtype, server_identity(entry), code]


def server_identity(entry: manifest.Manifest) -> list[Any] | None:
    """Which server answers in the model's place, and how it is asked; none: the weights themselves answer."""
    there = entry.endpoint
    return [there.url, there.model, there.served, there.top_logprobs, there.refuses] if there else None


def choose_spread(entry: manifest.Manifest) -> int | cache.Spread:
    """What cache.run_shards fans a model's shards over: its Ray cluster, or so many processes of this machine."""
    if entry.ray:
        from holdfast.engines import ray

        return ray.spread_over_cluster(entry)
    return count_workers(entry)


def count_workers(entry: manifest.Manifest) -> int:
    """Processes of one thread each to fan shards over: HOLDFAST_WORKERS; else two where a small model runs on CPU, which is
    more rows per second than one process with two threads (`python -m benchmarks.speed.scaling`), else one. Each holds the
    weights."""
    if entry.endpoint or entry.vllm:
        return 1  # requests overlap in one process
    small = entry.parameters < 500_000_000 and (os.cpu_count() or 1) > 1 and manifest.find_device().type == "cpu"
    return cache.count_workers(2 if small else 1)
