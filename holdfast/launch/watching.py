"""Waits for a job and shows its log. A connection that is lost is tried again; the job goes on without it."""

from __future__ import annotations

import codecs
import sys
import time

from holdfast.launch.interface import Job, Launcher, Phase, State
from holdfast.launch.shells import Unreachable

FIRST_PAUSE = 0.3  # seconds; pauses grow by half up to the launcher's interval
CHUNK = 2**20  # bytes of log at a time
TAIL = 4000  # bytes of log that are shown of a job that was left


class Log:
    """The job's log as it comes in: whole lines of text."""

    def __init__(self, launcher: Launcher, job: Job, start: int = 0) -> None:
        self.launcher, self.job, self.offset = launcher, job, start
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.rest = ""

    @classmethod
    def from_the_end(cls, launcher: Launcher, job: Job) -> Log:
        """From the last TAIL bytes on."""
        size = launcher.shell.run(f"{job.enter} 2>/dev/null && wc -c < log 2>/dev/null || echo 0").strip()
        return cls(launcher, job, max(0, int(size) - TAIL) if size.isdigit() else 0)

    def read(self) -> list[str]:
        """Lines that have come since. Raises Unreachable."""
        lines: list[str] = []
        while True:
            script = f"{self.job.enter} 2>/dev/null && tail -c +{self.offset + 1} log 2>/dev/null | head -c {CHUNK}"
            content = self.launcher.shell.run(f"{script} || true")
            self.offset += len(content)
            *whole, self.rest = (self.rest + self.decoder.decode(content)).split("\n")
            lines += whole
            if len(content) < CHUNK:
                return lines

    def finish(self) -> list[str]:
        """What stands after the last line break."""
        rest, self.rest = self.rest + self.decoder.decode(b"", final=True), ""
        return [rest] if rest else []


def watch(launcher: Launcher, job: Job, log: Log, patience: float) -> State:
    """Shows the log until the job has ended or is killed. Raises Unreachable after `patience` seconds without a connection."""
    pause, lost_since, shown = FIRST_PAUSE, None, ""
    while True:
        try:
            state = launcher.poll(job)
            lines = log.read() if state.phase is not Phase.WAITING else []
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
        if lost_since is not None:
            say(f"machine {launcher.shell.machine}: connected again")
            lost_since, pause = None, FIRST_PAUSE
        for line in lines:
            print(line, flush=True)
        if state.phase in (Phase.ENDED, Phase.KILLED, Phase.ABSENT):
            for line in log.finish():
                print(line, flush=True)
            return state
        waits = (
            f"waits in the queue{f' ({state.why})' if state.why else ''}" if state.phase is Phase.WAITING else "runs"
        )
        if waits != shown:
            say(f"machine {launcher.shell.machine}: the job {waits}")
        pause, shown = min(launcher.interval, FIRST_PAUSE if lines or waits != shown else pause * 1.5), waits
        time.sleep(pause)


def say(text: str) -> None:
    """Of the way there and back, apart from what the stage prints."""
    print(text, file=sys.stderr, flush=True)
