"""Shards over a Ray cluster: Ray Data's map_batches with actors, each of which holds the model's engine. An optional extra.

A shard travels whole and its results come back to the command that asked, which keeps them in its cache. Since a row draws
from its own seed, and a shard is the same rows wherever it is done, the results are the bytes of one process. Ray Data gives
what a lost node was doing to the others. docs/engines.md tells what every node needs.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.core import manifest, shards
from holdfast.core.errors import UserError
from holdfast.core.fingerprint import source_hash

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9",  # else it reports that it reports nothing
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # there is one of ours
}


class Worker:
    """An actor. The first shard loads the engine, which stays."""

    def __init__(self, work: shards.Work, folder: str, versions: dict[str, str]) -> None:
        self.work, self.folder = work, folder
        self.others = sorted({name for name, _ in versions.items() ^ list_versions().items()})

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """One shard, in and out as JSON. What the user has to fix travels back as a value."""
        [n], [rows] = batch["n"], batch["rows"]
        try:
            done: Any = self.do_shard(json.loads(rows))
        except UserError as error:
            done = {"what": error.what, "where": error.where, "do": error.do}
        return {"n": [n], "done": [json.dumps(done, ensure_ascii=False)]}

    def do_shard(self, rows: list[Any]) -> shards.Shard:
        if self.others:
            what = f"a node of the Ray cluster has another {', '.join(self.others)} than this one"
            raise UserError(what, where="ray", do="install the same on every node: results of two versions do not mix")
        try:
            os.chdir(self.folder)  # weights are found by paths relative to the project's folder
        except OSError as error:
            what, do = f"a node lacks it ({error.strerror})", "give every node the project's folder under the same path"
            raise UserError(what, where=self.folder, do=do) from None
        return shards.do_shard(self.work, rows)


def spread_over_cluster(model: manifest.Manifest) -> shards.Spread:
    """What shards.run_shards needs to fan this model's shards out over its cluster."""
    assert model.ray is not None
    return partial(run_over_cluster, settings=model.ray, where=f"model '{model.name}'")


def run_over_cluster(
    work: shards.Work, parts: list[list[Any]], settings: manifest.Ray, where: str
) -> Iterator[tuple[int, shards.Shard]]:
    """(shard number, shard) as they come back, in any order. Raises UserError where Ray or its cluster is missing."""
    ray = connect(settings, where)
    data = ray.data
    items = [{"n": n, "rows": json.dumps(part, ensure_ascii=False)} for n, part in enumerate(parts)]
    done = data.from_items(items, override_num_blocks=len(items)).map_batches(
        Worker,
        batch_size=1,
        fn_constructor_args=(work, os.getcwd(), list_versions()),
        num_cpus=settings.cpus,
        num_gpus=settings.gpus,
        compute=data.ActorPoolStrategy(size=min(settings.actors, len(items))),
    )
    try:
        # Nothing is fetched ahead: what is here is kept at once, and a kill finds no results waiting.
        for block in done.iter_batches(batch_size=None, prefetch_batches=0):
            for n, text in zip(block["n"].tolist(), block["done"].tolist(), strict=True):
                shard = json.loads(text)
                if "what" in shard:
                    raise UserError(**shard)
                yield n, shard
    except (ray.exceptions.RayActorError, ray.exceptions.RaySystemError) as error:
        last = (str(error).strip().splitlines() or ["?"])[-1][:160]
        do = "install Holdfast on every node, and look at `ray status`; finished shards are kept"
        raise UserError(f"the actors of the Ray cluster do not run ({last})", where=where, do=do) from None


def list_versions() -> dict[str, str]:
    """What decides results beside a shard and its model: the engines' code, and the versions of the libraries."""
    versions = {"Holdfast": source_hash(*map(str, Path(__file__).parent.glob("*.py")))}
    for name in ("torch", "transformers", "vllm"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def connect(settings: manifest.Ray, where: str) -> Any:
    """The module ray, in a process that is connected to the cluster. Raises UserError."""
    os.environ.update(QUIET)
    try:
        import ray
        import ray.data
    except ImportError:
        do = "pip install 'holdfast[ray]', or remove 'ray' from the model's entry in params.yaml"
        raise UserError("Ray is not installed", where=where, do=do) from None
    if not ray.is_initialized():
        here = {"include_dashboard": False} if settings.address == "local" else {}
        try:
            ray.init(settings.address, logging_level=logging.ERROR, log_to_driver=False, **here)
        except (ConnectionError, RuntimeError, ValueError) as error:
            what = f"no Ray cluster answers at '{settings.address}' ({(str(error).splitlines() or ['?'])[0][:120]})"
            do = "start it with `ray start --head`, correct 'ray.address', or set it to local"
            raise UserError(what, where=where, do=do) from None
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= settings.cpus and node.get("GPU", 0) >= settings.gpus for node in nodes):
        what = f"no node of the Ray cluster has the {settings.cpus:g} CPUs and {settings.gpus:g} GPUs of an actor"
        raise UserError(what, where=where, do="lower 'ray.cpus' or 'ray.gpus', or add a node")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray
