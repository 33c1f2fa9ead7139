"""Finished work, kept outside DVC's outs so that a killed stage repeats at most the shard it was in.

A shard's key is the hash of everything that decides its result: payload, model fingerprint, params, code. Files are
written atomically, with a checksum; a damaged one counts as absent. Replies of endpoints are kept one by one: what was paid
for is not asked twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import multiprocessing
import os
import re
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast.core import meter, storage
from holdfast.core.errors import UserError, first_line
from holdfast.core.progress import Progress

FOLDER = Path(".cache")
MIN_ROWS_FOR_WORKERS = (
    5000  # rows below which worker processes cost a small model more than they save (benchmarks/speed/scaling.py)
)
Work = Callable[[list[Any]], list[Any]]  # one result per row, each of them JSON
Shard = dict[str, Any]  # its results, and what they took (meter.Spent)
Spread = Callable[[Work, list[list[Any]]], Iterator[tuple[int, Shard]]]


def key(*parts: Any) -> str:
    """sha256 of the canonical JSON of the parts. Raises TypeError on a value that JSON cannot carry."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()).hexdigest()


def count_workers(default: int) -> int:
    """Processes on a CPU: HOLDFAST_WORKERS, where it is set. Raises UserError if that is no number."""
    chosen = os.environ.get("HOLDFAST_WORKERS", str(default))
    if not chosen.isdecimal() or int(chosen) < 1:
        raise UserError(
            f"HOLDFAST_WORKERS is '{chosen}'", where="environment", do="give a number of processes, or unset it"
        )
    return int(chosen)


def run_shards(
    stage: str, rows: Sequence[Any], size: int, identity: Any, work: Work, unit: str = "rows", workers: int | Spread = 1
) -> list[Any]:
    """work(rows of one shard) for every shard, in order: one result per row. Finished ones come from the cache.

    `rows` must be JSON. With several workers, shards are done in processes of their own, one thread each; `work` must then
    be picklable. A Spread takes (work, shards) elsewhere and gives (shard number, do_shard(...) of it) as they come back: the
    cache is written here. Raises UserError where it cannot be.
    """
    parts = [list(rows[start : start + size]) for start in range(0, len(rows), size)]
    names = [key(identity, part) for part in parts]
    files = [FOLDER / stage / name[:2] / f"{name}.json" for name in names]
    progress = Progress(stage, len(rows), unit)
    cached: list[list[Any] | None] = [None] * len(parts)

    def take(i: int, shard: Shard, earlier: bool = False) -> None:
        size = len(parts[i])
        meter.total.add(meter.Spent(**shard["spent"], rows=size, rows_from_cache=size if earlier else 0))
        cached[i] = shard["results"]
        progress.advance(size)

    damaged = 0
    for i, file in enumerate(files):
        if (kept := load_shard(file, len(parts[i]))) is not None:
            take(i, kept, earlier=True)
        else:
            damaged += file.exists()
    if damaged:
        print(f"{stage}: {damaged:,} of {len(files):,} shards in {FOLDER} are damaged, and done again", file=sys.stderr)
    todo = [i for i, results in enumerate(cached) if results is None]
    jobs = [(parts[i], files[i]) for i in todo]
    if not isinstance(workers, int):
        under_way = run_elsewhere(workers, work, jobs)
    elif workers > 1 and len(jobs) > 1 and sum(len(part) for part, _ in jobs) >= MIN_ROWS_FOR_WORKERS:
        under_way = run_in_processes(stage, work, jobs, workers)
    else:
        under_way = run_in_turn(work, jobs)
    try:
        for n, shard in under_way:
            take(todo[n], shard)
    except KeyboardInterrupt:
        progress.close()
        finished = sum(len(part) for part, file in zip(parts, files, strict=True) if load_shard(file, len(part)))
        text = f"{stage}: interrupted; {finished:,} of {len(rows):,} {unit} are kept in {FOLDER}"
        print(f"{text}, and the next run goes on from there", file=sys.stderr)
        raise
    progress.close()
    return [row for results in cached if results for row in results]


def run_in_turn(work: Work, jobs: list[tuple[list[Any], Path]]) -> Iterator[tuple[int, Shard]]:
    for n, (part, file) in enumerate(jobs):
        yield n, finish_shard(work, part, file)


def run_elsewhere(spread: Spread, work: Work, jobs: list[tuple[list[Any], Path]]) -> Iterator[tuple[int, Shard]]:
    missing = set(range(len(jobs)))
    for n, shard in spread(work, [part for part, _ in jobs]) if jobs else ():
        missing.remove(n)
        yield n, save_shard(shard, jobs[n][1])
    if missing:
        raise RuntimeError(f"{len(missing)} of {len(jobs)} shards did not come back")


def run_in_processes(
    stage: str, work: Work, jobs: list[tuple[list[Any], Path]], workers: int
) -> Iterator[tuple[int, Shard]]:
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
    """Does one shard and keeps it."""
    return save_shard(do_shard(work, part), file)


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


def unwritable_error(error: Exception, where: Path) -> UserError:
    reason = getattr(error, "strerror", None) or str(error)
    do = "make room or make it writable, and run it again; finished work is kept"
    return UserError(f"the cache cannot be written ({reason})", where=where, do=do)


@contextmanager
def hold_lock(file: Path, what: str) -> Iterator[None]:
    """Holds a lock file for this process alone; the system lets go of it however the process ends. Raises UserError, with who
    holds it, where another one does. Where the disk knows no locks there is none."""
    while True:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise unwritable_error(error, file) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 200).decode(errors="replace")
            os.close(handle)
            do = "wait until that one has ended, or end it; then run this again"
            raise UserError(f"another run is at the same work ({holder or 'unknown'})", where=what, do=do) from None
        except OSError:  # a network disk
            pass
        if file.exists() and os.fstat(handle).st_ino == file.stat().st_ino:
            break
        os.close(handle)  # its last holder has just removed it
    try:
        os.truncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(handle)


def _write_ahead(database: sqlite3.Connection, seconds: float = 60) -> None:
    """A kill at any moment leaves whole rows. Where two processes open a new file at once, the mode is set by one: SQLite does
    not wait for it by itself, whatever the connection's time-out."""
    ends = time.monotonic() + seconds
    while True:
        try:
            database.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > ends:
                raise
            time.sleep(0.01)


class Entries:
    """Values by key in an SQLite file, each with a checksum: safe for several processes, whole after a kill.

    An entry that is damaged counts as absent. Of a file that is damaged as a whole, a new one takes the place; both are said.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.damaged = 0  # entries that were not as they had been written
        self.database = self._open()

    def get(self, key: str) -> bytes | None:
        """The value of a key, or None. Raises UserError where the file cannot be read."""
        rows = self._run("SELECT value, digest FROM entries WHERE key = ?", [(key,)])
        if not rows:
            return None
        [(value, digest)] = rows
        if isinstance(value, bytes) and digest == entry_digest(key, value):
            return value
        self.damaged += 1
        if self.damaged == 1:
            print(f"{self.file}: holds a damaged entry; it is asked or computed again", file=sys.stderr)
        return None

    def put(self, entries: Iterable[tuple[str, bytes]]) -> None:
        """Keeps values, all or none. Raises UserError where the cache cannot be written."""
        rows = [(key, value, entry_digest(key, value)) for key, value in entries]
        self._run("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", rows)

    def close(self) -> None:
        self.database.close()

    def _run(self, statement: str, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        for attempt in (1, 2):
            try:
                if len(rows) == 1:
                    return self.database.execute(statement, rows[0]).fetchall()
                self.database.execute("BEGIN IMMEDIATE")
                self.database.executemany(statement, rows)
                self.database.execute("COMMIT")
                return []
            except sqlite3.Error as error:
                if self.database.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        self.database.execute("ROLLBACK")
                if attempt == 2 or self._is_whole():
                    raise unwritable_error(error, self.file) from None
                self.database.close()
                self.database = self._open()  # another process may have put a new one in its place
                if not self._is_whole():
                    self.database.close()
                    self._set_aside(error)
                    self.database = self._open()
        raise AssertionError

    def _is_whole(self) -> bool:
        """Whether the file that is there now is in order: an error then has another cause, such as a full disk."""
        try:
            return self.database.execute("PRAGMA quick_check(1)").fetchall() == [("ok",)]
        except sqlite3.Error:
            return False

    def _open(self) -> sqlite3.Connection:
        for attempt in (1, 2):
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                database = sqlite3.connect(self.file, timeout=60, isolation_level=None)
                _write_ahead(database)
                database.execute("PRAGMA synchronous=NORMAL")
                columns = "key TEXT PRIMARY KEY, value BLOB NOT NULL, digest BLOB NOT NULL"
                database.execute(f"CREATE TABLE IF NOT EXISTS entries ({columns})")
                if [row[1] for row in database.execute("PRAGMA table_info(entries)")] == ["key", "value", "digest"]:
                    return database
                database.close()
                error: Exception = sqlite3.DatabaseError("it has another form")
            except OSError as problem:
                raise unwritable_error(problem, self.file) from None
            except sqlite3.OperationalError as problem:
                if attempt == 2 or re.search("open|locked|full|readonly", str(problem)):
                    raise unwritable_error(problem, self.file) from None
                error = problem
            except (sqlite3.Error, UnicodeDecodeError) as problem:
                error = problem
            self._set_aside(error)
        raise AssertionError

    def _set_aside(self, error: Exception) -> None:
        aside = self.file.with_suffix(".damaged")
        print(
            f"{self.file}: is damaged ({first_line(error)}), and set aside as {aside.name}; all is done again",
            file=sys.stderr,
        )
        try:
            os.replace(self.file, aside)
            for suffix in ("-wal", "-shm"):
                self.file.with_name(self.file.name + suffix).unlink(missing_ok=True)
        except OSError as problem:
            raise unwritable_error(problem, self.file) from None


def entry_digest(key: str, value: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\0" + value).digest()


class Replies:
    """What one endpoint answered, by request: on disk at once, safe for several processes."""

    def __init__(self, fingerprint: str) -> None:
        self.entries = Entries(FOLDER / "replies" / f"{fingerprint}.sqlite")
        self.file = self.entries.file
        self._take_over()

    def get(self, request: str) -> Any:
        """The reply to a request, or None."""
        reply = self.entries.get(request)
        return None if reply is None else json.loads(reply)

    def put(self, request: str, reply: Any) -> None:
        self.entries.put([(request, json.dumps(reply, ensure_ascii=False).encode("utf-8", "surrogatepass"))])

    def close(self) -> None:
        self.entries.close()

    def _take_over(self) -> None:
        """Replies that an earlier Holdfast kept, without checksums: they were paid for."""
        with contextlib.suppress(sqlite3.Error):
            earlier = self.entries.database.execute("SELECT request, reply FROM replies").fetchall()
            self.entries.put(
                (request, reply.encode()) for request, reply in earlier if self.entries.get(request) is None
            )
            self.entries.database.execute("DROP TABLE replies")
