"""core/locks.py: one process at a time, on disks with the system's locks and on those without."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.core import locks
from holdfast.core.errors import UserError

HOLD = "import sys; from pathlib import Path; from holdfast.core.locks import hold_lock\nwith hold_lock(Path(sys.argv[1]), 'x'): print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "work.lock"


@pytest.fixture
def other(file: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLD, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network disk."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_the_second_is_told_who_holds_it_and_a_killed_holder_holds_nothing(file, other):
    with pytest.raises(UserError, match=rf"x: another run is at the same work \(process {other.pid} on ") as caught:
        locks.open_locked(file, "x")
    assert len(str(caught.value).splitlines()) == 2
    other.kill()
    other.wait()
    assert file.is_file(), "which the killed one could not remove"
    with locks.hold_lock(file, "x"):
        assert str(os.getpid()) in file.read_text(encoding="utf-8")
    assert not file.exists()


def test_a_disk_without_locks_lets_one_in_all_the_same(file, no_flock):
    assert not locks.knows_locks(file.parent.parent)
    with locks.hold_lock(file, "x"):
        told = rf"process {os.getpid()} on .*\n.* or remove {file} if it has ended"
        with pytest.raises(UserError, match=told), locks.hold_lock(file, "x"):
            pass
        assert file.is_file(), "the second one took nothing away"
    assert not file.exists()


def test_without_locks_a_killed_holder_of_this_machine_is_known_to_be_gone(file, no_flock):
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    file.parent.mkdir()
    file.write_text(f"process {int(ended.stdout)} on {socket.gethostname()}", encoding="utf-8")
    with locks.hold_lock(file, "x"):
        assert str(os.getpid()) in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "holder", ["process 1 on another.example", "process 1 on ", "", "\0", "process 0 on x", "x" * 9000]
)
def test_without_locks_a_holder_that_may_live_is_left_alone(file, no_flock, holder):
    file.parent.mkdir()
    file.write_text(holder, encoding="utf-8")
    with pytest.raises(UserError, match="another run is at the same work"), locks.hold_lock(file, "x"):
        pass
    assert file.read_text(encoding="utf-8") == holder


@pytest.mark.parametrize("way", ["flock", "none"])
def test_a_link_in_the_place_of_a_lock_is_not_written_through(file, way, request):
    if way == "none":
        request.getfixturevalue("no_flock")
    file.parent.mkdir()
    precious = file.with_name("precious")
    precious.write_text("process 1 on precious", encoding="utf-8")
    file.symlink_to(precious)
    with pytest.raises(UserError), locks.hold_lock(file, "x"):
        pass
    assert precious.read_text(encoding="utf-8") == "process 1 on precious"


def test_a_folder_in_the_place_of_a_lock_is_one_message(file):
    file.mkdir(parents=True)
    with pytest.raises(UserError, match="the cache cannot be written"), locks.hold_lock(file, "x"):
        pass


def test_a_full_disk_leaves_no_lock(file, monkeypatch):
    def fill(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", fill)
    with pytest.raises(UserError, match="No space left"), locks.hold_lock(file, "x"):
        pass
    assert not file.exists()
