"""Waits for a job and shows its log. A connection that is lost is tried again; the job goes on without it."""

from __future__ import annotations

import codecs
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from holdfast.launch.interface import Job, Launcher, Phase, State
from holdfast.launch.shells import Unreachable

FIRST_PAUSE = 0.3  # seconds; pauses grow by half up to the launcher's interval
CHUNK = 2**20  # bytes of log at a time
LONGEST = 2**16  # characters of a line; a longer one is shown in pieces
MIN_SECRET = 6  # characters; a shorter value is in many words
TAIL = 4000  # bytes of log that are shown of a job that was left


class Log:
    """The job's log as it comes in: whole lines of text."""

    def __init__(self, launcher: Launcher, job: Job, start: int = 0) -> None:
        self.launcher, self.job, self.offset = launcher, job, start
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.rest = ""
        self.cut = start > 0  # it begins within a line, which is not shown: half a secret is not known as one

    @classmethod
    def from_the_end(cls, launcher: Launcher, job: Job) -> Log:
        """The lines of the last TAIL bytes, and what follows."""
        size = launcher.shell.run(f"{job.enter} 2>/dev/null && wc -c < log 2>/dev/null || echo 0").strip()
        return cls(launcher, job, max(0, int(size) - TAIL) if size.isdigit() else 0)

    def read(self) -> list[str]:
        """Lines that have come since, of CHUNK bytes at most. Raises Unreachable."""
        script = f"{self.job.enter} 2>/dev/null && tail -c +{self.offset + 1} log 2>/dev/null | head -c {CHUNK}"
        content = self.launcher.shell.run(f"{script} || true")
        self.offset += len(content)
        *lines, self.rest = (self.rest + self.decoder.decode(content)).split("\n")
        if self.cut and lines:
            lines, self.cut = lines[1:], False
        if len(self.rest) > LONGEST:
            lines, self.rest = [*lines, self.rest], ""
        return lines

    def read_all(self) -> Iterator[str]:
        """The lines that are still to come, up to where the log ends now. Raises Unreachable."""
        before = -1
        while before < self.offset:
            before = self.offset
            yield from self.read()
        if rest := self.rest + self.decoder.decode(b"", final=True):
            self.rest = ""
            yield rest


@dataclass
class Followed:
    """A job whose log is shown."""

    job: Job
    log: Log
    part: int = 1
    parts: int = 1  # jobs that do the stage together
    secrets: dict[str, str] = field(default_factory=dict)  # values that are not shown, by name
    shown: str = ""  # of its state

    def describe(self) -> str:
        return f"part {self.part} of {self.parts}" if self.parts > 1 else "the job"

    def print(self, lines: Iterable[str]) -> None:
        label = f"{self.part}/{self.parts} | " if self.parts > 1 else ""
        for line in lines:
            print(f"{label}{hide(line, self.secrets)}", flush=True)


def hide(line: str, secrets: dict[str, str]) -> str:
    """Names in place of values. Longer values first: one may begin with another."""
    for name, value in sorted(secrets.items(), key=lambda one: -len(one[1])):
        line = line.replace(value, f"[{name}]") if len(value) >= MIN_SECRET else line
    return line


def watch(launcher: Launcher, jobs: Sequence[Followed], patience: float) -> tuple[Followed, State]:
    """Shows the logs until one of the jobs has ended or is killed; returns that one. Raises Unreachable after `patience` seconds
    without a connection."""
    pause, lost_since = FIRST_PAUSE, None
    machine = f"machine {launcher.shell.machine}"
    while True:
        quiet = True
        try:
            for one in jobs:
                state = launcher.poll(one.job)
                lines = one.log.read() if state.phase is not Phase.WAITING else []
                if lost_since is not None:
                    say(f"{machine}: connected again")
                    lost_since, quiet = None, False
                one.print(lines)
                if state.phase in (Phase.ENDED, Phase.KILLED, Phase.ABSENT):
                    one.print(one.log.read_all())
                    return one, state
                reason = f" ({state.why})" if state.why else ""
                waits = f"waits in the queue{reason}" if state.phase is Phase.WAITING else "runs"
                if waits != one.shown:
                    say(f"{machine}: {one.describe()} {waits}")
                quiet = quiet and not lines and waits == one.shown
                one.shown = waits
        except Unreachable as error:
            lost_since = lost_since or time.monotonic()
            left = patience - (time.monotonic() - lost_since)
            if left <= 0:
                do = "the job goes on; the same command, or `dvc repro`, waits for it again"
                raise Unreachable(error.what, where=error.where, do=do) from None
            say(f"{error.where}: {error.what}; the job goes on; trying again for {left:,.0f} s")
            time.sleep(min(left, max(pause, 2.0)))
            pause *= 1.5
            continue
        pause = min(launcher.interval, pause * 1.5 if quiet else FIRST_PAUSE)
        time.sleep(pause)


def say(text: str) -> None:
    """Of the way there and back, apart from what the stage prints."""
    print(text, file=sys.stderr, flush=True)
