"""What a launcher is: submit, poll, cancel. Streaming the log and moving files is the same for all (watching.py, transfer.py).

On the machine, below its folder:
  tree/            the stage's part of the project: declared inputs, .cache, outputs
  code/DIGEST/     this Holdfast, so that the machine needs Python and the libraries alone
  jobs/TOKEN/      job.sh, inputs (sha256sum's list), log, exit; `started` once it has been submitted
"""

from __future__ import annotations

import shlex
import signal
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from holdfast.launch.shells import Shell

KILLS: dict[int, str] = {  # signals that come from outside -> when they do
    signal.SIGKILL: "as where memory runs out",
    signal.SIGTERM: "as where a machine shuts down, or a scheduler takes it back",
    signal.SIGHUP: "as where a session ends",
}
EXIT_WIDTH = 15  # bytes of the file `exit`, there from the start: a full disk does not keep the code from being written


class Phase(Enum):
    ABSENT = "absent"  # it was never submitted
    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"  # the stage came to an end, with an exit code
    KILLED = (
        "killed"  # it is gone and left no exit code: killed, out of memory or time, preempted, or the machine restarted
    )


@dataclass(frozen=True)
class State:
    phase: Phase
    code: int = 0  # ENDED: of the stage
    why: str = ""  # the scheduler's own word for it


@dataclass(frozen=True)
class Job:
    """One submission. The token is ours and written down before anything is sent, so that no job is submitted twice."""

    token: str
    folder: str  # of the machine

    @property
    def place(self) -> str:
        return f"{self.folder}/jobs/{self.token}"

    @property
    def enter(self) -> str:
        """Shell: into the folder of the job."""
        return f"cd {shlex.quote(self.place)}"


class Launcher(Protocol):
    """A fifth one implements this, and gets a line in `launchers.py`."""

    @property
    def shell(self) -> Shell:
        """Where the files are: behind it lie tree/, code/ and jobs/."""

    @property
    def interval(self) -> float:
        """Seconds between two polls of a job that is quiet."""

    def prepare(self) -> None:
        """Makes the shell usable where it is not: starts the pod or the cluster behind it. Raises UserError."""

    def submit(self, job: Job, secrets: dict[str, str]) -> str:
        """Starts job.sh and returns the scheduler's name for it. A job that was started is left alone. Secrets become
        variables of its environment; they stand in no file of ours and in no command line."""

    def poll(self, job: Job) -> State:
        """Raises Unreachable where nobody can say: the job may well go on."""

    def cancel(self, job: Job) -> None:
        """Ends it and what it has started. Says nothing where it has ended already."""


def read_exit(text: str) -> int | None:
    """The exit code in what stands in `exit`."""
    return int(text) if text.strip().isdigit() else None


def describe_end(code: int) -> State:
    """What an exit code says: job.sh outlives a Python that was killed alone. A stage never ends with such a code by itself."""
    why = KILLS.get(code - 128)
    return State(Phase.KILLED, why=f"signal {code - 128}, {why}") if why else State(Phase.ENDED, code)


def give_secrets(secrets: dict[str, str]) -> tuple[str, bytes]:
    """(shell that reads them from standard input into its environment, the bytes to give it)."""
    read = "".join(f"IFS= read -r {name}; export {name}\n" for name in secrets)
    return read, "".join(value + "\n" for value in secrets.values()).encode()
