"""A folder for one process alone: a lock file beside it, which says who holds it."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from holdfast.core.cache import unwritable_error
from holdfast.core.errors import UserError


@contextmanager
def hold_lock(file: Path, what: str) -> Iterator[None]:
    """Holds a lock file for this process alone. Raises UserError, with who holds it, where another one does.

    The system lets go of it however the process ends. Where the disk knows no such locks (some network disks), the file itself
    is the lock: one that a killed process left is taken over on its own machine, and has to be removed from another.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = open_locked(file, what) if knows_locks(file.parent) else open_alone(file, what)
    except OSError as error:
        raise unwritable_error(error, file) from None
    try:
        yield
    finally:
        release(file, handle)


def knows_locks(folder: Path) -> bool:
    """Whether the disk knows the system's locks."""
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def open_locked(file: Path, what: str) -> int:
    """A descriptor of the file, which is there and locked. Raises UserError where another process holds it, and OSError."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 200).decode(errors="replace")
            os.close(handle)
            raise held_error(holder, what) from None
        with suppress(FileNotFoundError):
            if os.fstat(handle).st_ino == file.stat().st_ino:
                os.truncate(handle, 0)
                return sign(file, handle)
        os.close(handle)  # its last holder has just removed it


def open_alone(file: Path, what: str) -> int:
    """A descriptor of the file, which was not there. Raises UserError where another process may hold it, and OSError."""
    for _ in range(2):
        with suppress(FileExistsError):
            return sign(file, os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644))
        with suppress(FileNotFoundError):
            holder = file.read_text(encoding="utf-8", errors="replace")[:200]
            if not has_ended(holder):
                raise held_error(holder, what, f", or remove {file} if it has ended")
            file.unlink()
    raise held_error("several at once", what)


def sign(file: Path, handle: int) -> int:
    """Writes down who holds the file; returns its descriptor. Raises OSError, and lets go, where the disk is full."""
    try:
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
    except OSError:
        release(file, handle)
        raise
    return handle


def release(file: Path, handle: int) -> None:
    with suppress(OSError):
        file.unlink()
    os.close(handle)


def has_ended(holder: str) -> bool:
    """Whether a holder is known to be gone: a process of this machine that is no more."""
    known = re.fullmatch(r"process (\d{1,10}) on (.+)", holder)
    if not known or known[2] != socket.gethostname():
        return False
    try:
        os.kill(int(known[1]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def held_error(holder: str, what: str, more: str = "") -> UserError:
    do = f"wait until that one has ended, or end it{more}; then run this again"
    return UserError(f"another run is at the same work ({holder or 'unknown'})", where=what, do=do)
