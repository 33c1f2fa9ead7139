"""A cluster that SkyPilot starts in a cloud or on Kubernetes: `sky launch` when it is needed, `sky exec` for each job. SkyPilot makes
the cluster known to ssh by its name, and that is the shell: https://docs.skypilot.co/en/latest/reference/job-queue.html

`--secret NAME` takes the value from this environment: https://docs.skypilot.co/en/latest/running-jobs/environment-variables.html
(release 0.10.0 has it, 0.9.3 has not).
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from holdfast.core.errors import UserError
from holdfast.launch.interface import EXIT_WIDTH, Job, Phase, State, describe_end, read_exit
from holdfast.launch.settings import Machine
from holdfast.launch.shells import Shell, Unreachable, call
from holdfast.launch.watching import say

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
QUEUED = {"INIT", "PENDING", "SETTING_UP"}  # of `sky queue`
OVER = {"SUCCEEDED", "FAILED", "FAILED_DRIVER", "FAILED_SETUP", "CANCELLED"}


@dataclass(frozen=True)
class Skypilot:
    shell: Shell
    machine: Machine
    interval: float = 10.0

    @property
    def cluster(self) -> str:
        return str(self.machine.host)

    @property
    def gpus(self) -> list[str]:
        return ["--gpus", self.machine.gpus] if self.machine.gpus else []

    def prepare(self) -> None:
        """Starts the cluster, or starts it again where it was stopped."""
        try:
            self.shell.run("true")
        except Unreachable:
            say(
                f"machine {self.shell.machine}: starts the cluster '{self.cluster}' with `sky launch`, which takes minutes"
            )
            self._call("launch", "--cluster", self.cluster, "--yes", *self.gpus, *self.machine.options)
            self.shell.run("true")

    def submit(self, job: Job, secrets: dict[str, str]) -> str:
        script = f"""{job.enter} || exit 1
if mkdir started 2>/dev/null; then : > log; printf '%-{EXIT_WIDTH}s' '' > exit; echo first; fi; pwd"""
        *first, place = self.shell.run(script).decode(errors="surrogateescape").splitlines()
        if first or not self._find(job):  # a command that was killed may have come no further
            names = [word for name in secrets for word in ("--secret", name)]  # values: from this environment
            run = f"exec bash -l {shlex.quote(f'{place}/job.sh')}"
            self._call("exec", self.cluster, "--detach-run", "--name", job.token, *self.gpus, *names, run)
        self.shell.run(f"{job.enter} && : > id")
        return job.token

    def poll(self, job: Job) -> State:
        script = (
            f"{job.enter} 2>/dev/null || exit 0; [ -f id ] && echo submitted || echo not; cat exit 2>/dev/null || true"
        )
        try:
            first, _, rest = self.shell.run(script).decode(errors="replace").partition("\n")
        except Unreachable:
            if self._is_up():
                raise
            return State(Phase.KILLED, why="its cluster is stopped or gone; the next run starts it")
        if (code := read_exit(rest)) is not None:
            return describe_end(code)
        if (entry := self._find(job)) is None:
            return (
                State(Phase.KILLED, why="SkyPilot knows nothing of it") if first == "submitted" else State(Phase.ABSENT)
            )
        status = entry[1]
        if status in OVER:  # the exit code may have come meanwhile
            code = read_exit(self.shell.run(f"{job.enter} 2>/dev/null && cat exit || true").decode(errors="replace"))
            return State(Phase.KILLED, why=status) if code is None else describe_end(code)
        waiting = status in QUEUED
        return State(Phase.WAITING if waiting else Phase.RUNNING, why=status if waiting else "")

    def cancel(self, job: Job) -> None:
        if (entry := self._find(job)) is not None and entry[1] not in OVER:
            self._call("cancel", "--yes", self.cluster, entry[0])

    def _call(self, *arguments: str) -> str:
        return COLOURS.sub("", call(self.shell.machine, ["sky", *arguments]).decode(errors="replace"))

    def _ask(self, *arguments: str) -> str:
        """Raises Unreachable where SkyPilot does not answer."""
        try:
            return self._call(*arguments)
        except UserError as error:
            raise Unreachable(error.what, where=error.where, do="the job goes on; run it again later") from None

    def _find(self, job: Job) -> tuple[str, str] | None:
        """(number, status) of a job, by its name. None: SkyPilot has none of it."""
        rows = [line.split() for line in self._ask("queue", self.cluster).splitlines()]
        if not any(words[:2] == ["ID", "NAME"] for words in rows):  # `sky queue` fails with exit code 0
            answer = next((" ".join(words) for words in reversed(rows) if words), "nothing")[:300]
            where = f"machine {self.shell.machine}"
            raise Unreachable(f"sky queue: {answer}", where=where, do="the job goes on; run it again later")
        for words in rows:
            statuses = [word for word in words if word in QUEUED | OVER | {"RUNNING"}]
            if job.token in words and statuses:
                return words[0], statuses[-1]
        return None

    def _is_up(self) -> bool:
        lines = [line.split() for line in self._ask("status", "--refresh", self.cluster).splitlines()]
        return any(words[:1] == [self.cluster] and {"UP", "INIT"} & set(words) for words in lines)
