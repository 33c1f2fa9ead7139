"""What more processes and more rows do to reconstruct, respond and judge: rows per second, and the memory of each process.

    python -m benchmarks.speed.scaling [--model base] [--rows 4000]      (about a quarter of an hour, on an otherwise idle machine)
    python -m benchmarks.speed.scaling --memory [--rows 2000]            (only the memory at --rows and at ten times as many)
    python -m benchmarks.speed.scaling --ray [--rows 4000]               (only 1 and 2 local Ray nodes of one CPU each; needs Ray)

Every cell is a fresh command on an empty cache. Speed: in the order a b b a, the better of two, from the first shard to the
last, start of the worker processes included; `sdpa` and `eager` are the kernel of attention. Memory: the largest resident
set (MiB) of the process that reads, cuts and writes all rows, and of the worker that computes most. With Ray, the cluster is
there already; the start of its actors is included, and told apart by a run of one shard per node.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("reconstruct", "respond", "judge")


def measure(stage: str, model: str, rows: int, workers: int, attention: str, nodes: int = 0) -> dict[str, Any]:
    """Seconds, and MiB of this process and of its largest worker, for `rows` rows of one stage. `nodes`: of Ray, if any."""
    from holdfast.chat import encoding
    from holdfast.core import manifest, shards
    from holdfast.engines import registry
    from holdfast.engines.inspection import inspect_model
    from holdfast.panel import responses, scoring
    from holdfast.params.judge import Judge
    from holdfast.params.models import Model
    from holdfast.params.reconstruct import Reconstruct
    from holdfast.params.respond import Respond
    from holdfast.reconstruction import user_turns

    how = {"ray": {"actors": nodes, "cpus": 1, "gpus": 0, "address": cluster(nodes)}} if nodes else {}
    base = inspect_model(model, Model(path=model, **how), ROOT / "models" / "pocket")
    texts = [f"Sort these numbers: {n % 97} {n % 13} {n % 31}" for n in range(rows)]
    work, payload = {
        "reconstruct": lambda: (
            partial(
                user_turns.sample_shard,
                params=Reconstruct(samples=rows, max_tokens=96),
                base=base,
                query=encoding.find_pre_query(manifest.load_tokenizer(base.folder()), model),
                parts=user_turns.PromptParts([], {}),
            ),
            list(range(rows)),
        ),
        "respond": lambda: (
            partial(responses.answer_shard, params=Respond(k=1, max_tokens=48), member=base),
            [[str(n), [], text, 0] for n, text in enumerate(texts)],
        ),
        "judge": lambda: (
            partial(
                scoring.score_shard,
                params=Judge(rubric="-", min_mass=0.0),
                judge=base,
                is_base=True,
                rubric=(ROOT / "data" / "pocket" / "rubric.txt").read_text(encoding="utf-8").strip(),
            ),
            [[text, "1 2 3", [{"role": "user", "content": text}]] for text in texts],
        ),
    }[stage]()
    if attention != "-":
        registry.load_engine(base, 256).model.set_attn_implementation(attention)  # type: ignore[attr-defined]
    shards.MIN_ROWS_FOR_WORKERS = 0 if workers > 1 else shards.MIN_ROWS_FOR_WORKERS
    began = time.perf_counter()
    results = shards.run_shards(
        stage, payload, 512, [], work, workers=registry.choose_spread(base) if nodes else workers
    )
    seconds = time.perf_counter() - began
    assert len(results) == rows
    largest = [resource.getrusage(who).ru_maxrss // 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {"seconds": seconds, "parent": largest[0], "worker": largest[1]}


def cluster(nodes: int) -> str:
    """The address of so many local Ray nodes of one CPU each, which end with this process."""
    from ray import shutdown
    from ray.cluster_utils import Cluster

    from holdfast.engines import ray

    os.environ.update(ray.QUIET)
    node = dict(num_cpus=1, object_store_memory=100 * 2**20, include_dashboard=False)
    ray_cluster = Cluster(initialize_head=True, head_node_args=node)
    for _ in range(nodes - 1):
        ray_cluster.add_node(**node)
    atexit.register(ray_cluster.shutdown)
    atexit.register(shutdown)  # goes first: a cluster does not end under its driver
    return str(ray_cluster.address)


def over_ray(model: str, rows: int) -> None:
    print(f"{model}, {rows:,} rows, local Ray nodes of one CPU and one actor each, seconds (better of two)\n")
    print("| stage | 1 node | of these start | 2 nodes | of these start | rows per second beyond the start: 2 / 1 |")
    print("|---|---|---|---|---|---|")
    for stage in STAGES:
        seconds = {
            (nodes, n): min(cell(stage, model, n, 1, 1, "-", nodes)["seconds"] for _ in range(2))
            for nodes in (1, 2)
            for n in (512 * nodes, rows)
        }
        one, two = ((seconds[nodes, rows], seconds[nodes, 512 * nodes]) for nodes in (1, 2))
        ratio = (rows - 1024) / (two[0] - two[1]) / ((rows - 512) / (one[0] - one[1]))
        print(f"| {stage} | {one[0]:.1f} | {one[1]:.1f} | {two[0]:.1f} | {two[1]:.1f} | {ratio:.2f} |", flush=True)


def cell(
    stage: str, model: str, rows: int, workers: int, threads: int, attention: str, nodes: int = 0
) -> dict[str, Any]:
    """One measurement in a fresh process: the number of threads is read when torch is loaded."""
    request = json.dumps([stage, model, rows, workers, attention, nodes])
    here = {
        "OMP_NUM_THREADS": str(threads),
        "GOMP_SPINCOUNT": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": str(ROOT),
    }
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, __file__, "--cell", request],
            cwd=folder,
            env={**os.environ, **here},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def speed(model: str, rows: int) -> None:
    cores = len(os.sched_getaffinity(0))
    columns = {
        "1 process, 1 thread": (1, 1, "-"),
        f"1 process, {cores} threads, sdpa": (1, cores, "sdpa"),
        f"1 process, {cores} threads, eager": (1, cores, "eager"),
        f"{cores} processes, 1 thread each": (cores, 1, "-"),
    }
    print(f"{model}, {rows:,} rows, {cores} cores, rows per second (better of two)\n")
    print("| stage | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for stage in STAGES:
        order = [*columns, *reversed(columns)]
        found = [(name, cell(stage, model, rows, *columns[name])["seconds"]) for name in order]
        best = {name: rows / min(taken for n, taken in found if n == name) for name in columns}
        print(f"| {stage} | " + " | ".join(f"{best[name]:,.0f}" for name in columns) + " |", flush=True)


def memory(model: str, rows: int) -> None:
    print(f"\n{model}, two worker processes, MiB\n")
    print(f"| stage | {rows:,} rows: parent | worker | {10 * rows:,} rows: parent | worker |\n|---|---|---|---|---|")
    for stage in STAGES:
        few, many = (cell(stage, model, n, 2, 1, "-") for n in (rows, 10 * rows))
        numbers = [few["parent"], few["worker"], many["parent"], many["worker"]]
        print(f"| {stage} | " + " | ".join(f"{n:,}" for n in numbers) + " |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="base")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--memory", action="store_true", help="the memory alone")
    parser.add_argument("--ray", action="store_true", help="Ray nodes alone")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        print(json.dumps(measure(*json.loads(args.cell))))
    elif args.ray:
        over_ray(args.model, args.rows)
    else:
        if not args.memory:
            speed(args.model, args.rows)
        memory(args.model, args.rows)
