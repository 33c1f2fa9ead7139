"""A shell on a machine: this one's, or one behind OpenSSH. Bytes go in and come out; no protocol of ours.

ssh never asks here: a key without a passphrase or in the agent, or a connection that you hold open (ControlMaster), has to
let it in. Where your ssh configuration shares no connections, one is shared for a minute after each command.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeVar

from holdfast.core.errors import UserError

T = TypeVar("T")
LOST = 255  # ssh's own exit code: no connection, or it broke
FULL = {
    "No space left on device": "",
    "Disk quota exceeded": "",
    "Wrote only": "No space left on device",
}  # the last: tar's
CAUSES = {  # what ssh says, and what helps
    "Host key verification failed": "connect once by hand (`ssh {host}`) and compare the key; where it has changed, ask why",
    "Permission denied": "ssh must get in without asking: try `ssh -o BatchMode=yes {host}`; put a key there, or into the agent",
    "Could not resolve": "correct 'host' in launch.yaml: a name that `ssh` knows",
}


class Unreachable(UserError):
    """No connection to the machine, or it broke. What runs there goes on."""


@dataclass(frozen=True)
class Shell:
    """Where commands of a machine run. `host` None: here."""

    machine: str  # its name in launch.yaml
    host: str | None = None
    config: str | None = None

    def command(self, text: str) -> list[str]:
        """The program that runs a text of POSIX shell there."""
        if self.host is None:
            return ["sh", "-c", f"cd && {{ {text}\n}}"]  # in the home folder, as behind ssh
        return [*self._connect(), self.host, f"exec sh -c {shlex.quote(text)}"]

    def _connect(self) -> list[str]:
        own = ["-F", os.path.expanduser(self.config)] if self.config else []
        assert self.host is not None
        return ["ssh", *own, *connection_options(self.host, tuple(own))]

    def run(self, text: str, give: bytes | Callable[[IO[bytes]], None] = b"") -> bytes:
        """What it prints. `give`: its standard input. Raises Unreachable, and UserError where it ends with another code than 0."""
        return self.stream(text, give, lambda output: output.read())

    def stream(self, text: str, give: bytes | Callable[[IO[bytes]], None], take: Callable[[IO[bytes]], T]) -> T:
        """What `take` makes of its standard output."""
        failure: Exception | None = None
        result: Any = None
        with tempfile.TemporaryFile() as errors:  # no pipe: a shared connection holds it open
            process = start(self.command(text), errors)
            assert process.stdin and process.stdout
            try:
                try:
                    with process.stdin:
                        if callable(give):
                            give(process.stdin)
                        else:
                            process.stdin.write(give)
                except BrokenPipeError:
                    pass  # it says why on its standard error
                try:
                    with process.stdout:
                        result = take(process.stdout)
                except Exception as error:  # a stream that broke off; the exit code tells more
                    failure = error
                code = process.wait()
            except BaseException:
                process.kill()
                process.wait()
                raise
            errors.seek(0)
            message = errors.read().decode(errors="replace")
        if code:
            raise self.describe(code, message)
        if failure is not None:
            raise failure
        return result

    def describe(self, code: int, message: str) -> UserError:
        """Why a command failed, by the last line that it wrote to standard error."""
        lines = [line for line in message.splitlines() if line.strip() and not line.startswith("Warning: Permanently")]
        last = lines[-1][:300] if lines else f"exit code {code}"
        where = f"machine {self.machine}"
        if self.host is not None and (code == LOST or code < 0):
            do = next((do for cause, do in CAUSES.items() if cause in message), "try `ssh {host}`; then run it again")
            return Unreachable(f"cannot be reached ({last})", where=where, do=do.format(host=self.host))
        if cause := next((cause for cause in FULL if cause in message), None):
            return UserError(
                FULL[cause] or cause, where=where, do="make room there, and run it again; nothing was changed here"
            )
        return UserError(last, where=where, do="put that right there, and run it again; `holdfast doctor` looks around")


def call(machine: str, command: list[str], give: bytes = b"") -> bytes:
    """What a client of a scheduler prints here. Raises UserError with the last line of what it says where it fails."""
    with tempfile.TemporaryFile() as errors:
        process = start(command, errors)
        output, _ = process.communicate(give)
        errors.seek(0)
        lines = [line for line in (output + errors.read()).decode(errors="replace").splitlines() if line.strip()]
    if process.returncode:
        what = f"{command[0]}: {lines[-1].strip()[:300]}" if lines else f"{command[0]}: exit code {process.returncode}"
        raise UserError(what, where=f"machine {machine}", do="`holdfast doctor` looks around; then run it again")
    return output


def start(command: list[str], errors: IO[bytes]) -> subprocess.Popen[bytes]:
    """Out of reach of Ctrl-C, which is ours to handle."""
    try:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
    except FileNotFoundError:
        do = "install it: launch.yaml asks for it (apt install openssh-client brings ssh)"
        raise UserError("is not installed here", where=command[0], do=do) from None


MAX_SOCKET_FOLDER = 40  # characters: ssh adds 58, and a socket's path has room for 104


@cache
def connection_options(host: str, own: tuple[str, ...]) -> list[str]:
    """Options of ssh: it never asks, notices a dead connection in a minute, and shares one if the user's configuration does not."""
    options = ["-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15"]
    options += ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"]
    with tempfile.TemporaryFile() as errors:
        try:
            known = subprocess.run(["ssh", *own, "-G", host], stdout=subprocess.PIPE, stderr=errors, check=False).stdout
        except FileNotFoundError:
            return options  # said where it is called
    if not re.search(rb"^controlpath (?!none$)", known, re.MULTILINE | re.IGNORECASE):
        folder = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir(), f"holdfast-ssh-{os.getuid()}")
        if len(str(folder)) > MAX_SOCKET_FOLDER:
            return options  # every command connects anew
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if status.st_uid == os.getuid() and not status.st_mode & 0o077 and not folder.is_symlink():
            options += ["-o", "ControlMaster=auto", "-o", f"ControlPath={folder}/%C", "-o", "ControlPersist=60"]
    return options
