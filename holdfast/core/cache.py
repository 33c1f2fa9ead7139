"""Finished work and replies, kept outside DVC's outs: whole after a kill, and never another's.

Files are written atomically, with a checksum; a damaged entry counts as absent. Replies of endpoints are kept one by one: what
was paid for is not asked twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sqlite3
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from holdfast.core.errors import UserError, first_line

FOLDER = Path(".cache")


def key(*parts: Any) -> str:
    """sha256 of the canonical JSON of the parts. Raises TypeError on a value that JSON cannot carry."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()).hexdigest()


def unwritable_error(error: Exception, where: Path) -> UserError:
    reason = getattr(error, "strerror", None) or str(error)
    do = "make room or make it writable, and run it again; finished work is kept"
    return UserError(f"the cache cannot be written ({reason})", where=where, do=do)


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
            earlier = [row for row in earlier if all(isinstance(text, str) for text in row)]  # else damaged
            self.entries.put(
                (request, reply.encode()) for request, reply in earlier if self.entries.get(request) is None
            )
            self.entries.database.execute("DROP TABLE replies")
