"""Work in shards, each kept as soon as it is finished: a killed stage repeats at most the shard it was in.

A shard's key is the hash of everything that decides its result: payload, model fingerprint, params, code.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from holdfast.core import cache, meter, storage
from holdfast.core.cache import key, unwritable_error
from holdfast.core.errors import UserError
from holdfast.core.progress import Progress

MIN_ROWS_FOR_WORKERS = (
    5000  # rows below which worker processes cost a small model more than they save (benchmarks/speed/scaling.py)
)
Work = Callable[[list[Any]], list[Any]]  # one result per row, each of them JSON
Shard = dict[str, Any]  # its results, and what they took (meter.Spent)
Spread = Callable[[Work, list[list[Any]]], Iterator[tuple[int, Shard]]]
Job = tuple[list[Any], Path]  # the rows of a shard, and the file that keeps it
PART = "HOLDFAST_PART"  # I/N: this is process I of N that do a stage together over one cache


def count_workers(default: int) -> int:
    """Processes on a CPU: HOLDFAST_WORKERS, where it is set. Raises UserError if that is no number."""
    chosen = os.environ.get("HOLDFAST_WORKERS", str(default))
    if not chosen.isdecimal() or int(chosen) < 1:
        raise UserError(
            f"HOLDFAST_WORKERS is '{chosen}'", where="environment", do="give a number of processes, or unset it"
        )
    return int(chosen)


def read_part() -> tuple[int, int]:
    """(I, N) of $HOLDFAST_PART; (1, 1) where it is not set. Raises UserError if it is no I/N."""
    text = os.environ.get(PART, "1/1")
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UserError(f"{PART} is '{text[:40]}'", where="environment", do="give I/N, such as 2/4, or unset it")
    return int(number), int(count)


def order_shards(todo: list[int], number: int, count: int) -> tuple[list[int], list[int]]:
    """(shards of part `number` of `count`, those of the other parts as it takes them over once its own are done).

    It begins with the next part's last one: that part is likely to come to it latest, so that hardly any is done twice.
    """
    parts = [[i for i in todo if i % count == (number - 1 + further) % count] for further in range(count)]
    return parts[0], [i for part in parts[1:] for i in reversed(part)]


def run_shards(
    stage: str, rows: Sequence[Any], size: int, identity: Any, work: Work, unit: str = "rows", workers: int | Spread = 1
) -> list[Any]:
    """work(rows of one shard) for every shard, in order: one result per row. Finished ones come from the cache.

    `rows` must be JSON. With several workers, shards are done in processes of their own, one thread each; `work` must then
    be picklable. A Spread takes (work, shards) elsewhere and gives (shard number, do_shard(...) of it) as they come back: the
    cache is written here. Raises UserError where it cannot be.

    Processes that share the cache and have $HOLDFAST_PART do the shards together: each does its own, then those of others
    that are not there yet. None waits for another, and each returns all results.
    """
    parts = [list(rows[start : start + size]) for start in range(0, len(rows), size)]
    names = [key(identity, part) for part in parts]
    files = [cache.FOLDER / stage / name[:2] / f"{name}.json" for name in names]
    there = {i for i in range(len(files)) if files[i].exists()}  # before they are read: others may write meanwhile
    cached: list[list[Any] | None] = [None] * len(parts)

    def take(i: int, shard: Shard, earlier: bool = False) -> None:
        size = len(parts[i])
        meter.total.add(meter.Spent(**shard["spent"], rows=size, rows_from_cache=size if earlier else 0))
        cached[i] = shard["results"]
        progress.advance(size)

    def take_finished(shards: Sequence[int]) -> list[int]:
        """Takes those that the cache has, and returns the others."""
        for i in shards:
            if (shard := load_shard(files[i], len(parts[i]))) is not None:
                take(i, shard, earlier=True)
        return [i for i in shards if cached[i] is None]

    number, count = read_part()
    label = f"{stage}, part {number} of {count}" if count > 1 else stage
    progress = Progress(label, len(rows), unit)
    todo = take_finished(range(len(parts)))
    if damaged := sum(i in there for i in todo):
        print(
            f"{stage}: {damaged:,} of {len(files):,} shards in {cache.FOLDER} are damaged, and done again",
            file=sys.stderr,
        )
    own, of_others = order_shards(todo, number, count)
    progress.total -= sum(len(parts[i]) for i in of_others)
    try:
        for n, shard in start_jobs(stage, work, [(parts[i], files[i]) for i in own], workers):
            take(own[n], shard)
        progress.close()
        if of_others:
            progress = Progress(f"{label}, shards of the other parts", sum(len(parts[i]) for i in of_others), unit)
            rest = take_finished(of_others)
            for n, shard in start_jobs(stage, work, [(parts[i], files[i]) for i in rest], workers):
                take(rest[n], shard)
    except KeyboardInterrupt:
        progress.close()
        finished = sum(len(part) for part, file in zip(parts, files, strict=True) if load_shard(file, len(part)))
        text = f"{stage}: interrupted; {finished:,} of {len(rows):,} {unit} are kept in {cache.FOLDER}"
        print(f"{text}, and the next run goes on from there", file=sys.stderr)
        raise
    progress.close()
    return [row for results in cached if results for row in results]


def start_jobs(stage: str, work: Work, jobs: list[Job], workers: int | Spread) -> Iterator[tuple[int, Shard]]:
    """(job number, shard) as they are ready."""
    if not isinstance(workers, int):
        return run_elsewhere(workers, work, jobs)
    if workers > 1 and len(jobs) > 1 and sum(len(part) for part, _ in jobs) >= MIN_ROWS_FOR_WORKERS:
        return run_in_processes(stage, work, jobs, workers)
    return run_in_turn(work, jobs)


def run_in_turn(work: Work, jobs: list[Job]) -> Iterator[tuple[int, Shard]]:
    for n, (part, file) in enumerate(jobs):
        yield n, finish_shard(work, part, file)


def run_elsewhere(spread: Spread, work: Work, jobs: list[Job]) -> Iterator[tuple[int, Shard]]:
    missing = set(range(len(jobs)))
    for n, shard in spread(work, [part for part, _ in jobs]) if jobs else ():
        missing.remove(n)
        yield n, save_shard(shard, jobs[n][1])
    if missing:
        raise RuntimeError(f"{len(missing)} of {len(jobs)} shards did not come back")


def run_in_processes(stage: str, work: Work, jobs: list[Job], workers: int) -> Iterator[tuple[int, Shard]]:
    """Run in worker processes; yield (job number, shard) as they are ready."""
    spawn = multiprocessing.get_context("spawn")  # a fork of a process that has used OpenMP threads hangs
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=spawn, initializer=start_shard_worker)
    try:
        futures = {pool.submit(finish_shard, work, part, file): n for n, (part, file) in enumerate(jobs)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool:
        raise UserError(
            "a worker process was ended from outside (is the memory enough?)",
            where=stage,
            do="run it again, with HOLDFAST_WORKERS=1 if need be; finished shards are kept",
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def start_shard_worker() -> None:
    """Ctrl-C reaches the whole group: the shards under way are finished, and the parent says what is kept."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    start_worker()


def start_worker() -> None:
    """One thread, and no life of its own: a worker whose parent was killed ends too."""
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()


def finish_shard(work: Work, part: list[Any], file: Path) -> Shard:
    """Does one shard and keeps it, unless another process has done so meanwhile."""
    return load_shard(file, len(part)) or save_shard(do_shard(work, part), file)


def do_shard(work: Work, part: list[Any]) -> Shard:
    """A shard as it is kept: one result per row, and the tokens and operations they took."""
    results, spent = meter.measure_shard(work, part)
    if len(results) != len(part):
        raise RuntimeError(f"{len(results)} results for {len(part)} rows")
    return {"results": results, "spent": {name: n for name, n in spent.items() if n}}


def save_shard(shard: Shard, file: Path) -> Shard:
    try:
        storage.write_text(file, json.dumps({**shard, "sha256": shard_digest(shard, file)}, ensure_ascii=False))
    except OSError as error:
        raise unwritable_error(error, file.parent) from None
    return shard


def shard_digest(shard: Shard, file: Path) -> str:
    """Of a shard's contents and of its name: one that was altered, or lies under another's name, is noticed."""
    content = json.dumps([file.name, shard["results"], shard["spent"]], ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def load_shard(file: Path, rows: int) -> Shard | None:
    """A finished shard of so many rows; None where there is none, or another or a damaged one."""
    try:
        shard = json.loads(file.read_text(encoding="utf-8"))
        meter.Spent(**shard["spent"])  # a count by another name is a TypeError
        whole = len(shard["results"]) == rows and all(isinstance(n, int) for n in shard["spent"].values())
        whole = whole and shard.pop("sha256") == shard_digest(shard, file)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return shard if whole else None
