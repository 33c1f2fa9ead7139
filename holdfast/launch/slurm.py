"""A cluster under Slurm: sbatch, squeue, sacct and scancel, here or behind ssh on a login node.

The folder has to lie on a file system that the compute nodes share. A job is found by its name, which is ours, so that one
is found again whose number was not heard. A preempted job that Slurm queues anew stays the same job.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from holdfast.core.errors import UserError
from holdfast.launch.interface import EXIT_WIDTH, Job, Phase, State, describe_end, give_secrets, read_exit
from holdfast.launch.shells import Shell, Unreachable

QUEUED = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED", "RESV_DEL_HOLD"}
SILENCE = 60  # seconds that a command of Slurm may take
LAG = 20  # seconds until a file of a compute node is seen on the login node


@dataclass(frozen=True)
class Slurm:
    shell: Shell
    options: tuple[str, ...] = ()  # of sbatch
    interval: float = 10.0

    def prepare(self) -> None:
        pass  # the cluster is there

    def submit(self, job: Job, secrets: dict[str, str]) -> str:
        read, values = give_secrets(secrets)
        options = " ".join(map(shlex.quote, self.options))
        script = f"""{job.enter} || exit 1
{read}if mkdir started 2>/dev/null; then
  : > log; printf '%-{EXIT_WIDTH}s' '' > exit
  sbatch --parsable {options} --job-name={job.token} --chdir="$PWD" --output=slurm.log --open-mode=append \\
    --wrap "exec bash -l ./job.sh" > id.new || {{ rmdir started; exit 1; }}
  mv id.new id
fi
cat id 2>/dev/null || true"""
        return self.shell.run(script, values).decode(errors="replace").strip().partition(";")[0]

    def poll(self, job: Job) -> State:
        script = f"""{job.enter} 2>/dev/null && [ -d started ] || {{ echo absent; exit 0; }}
code() {{ tr -d ' \\n' < exit 2>/dev/null; }}
if [ -n "$(code)" ]; then echo ended; code; exit 0; fi
state=$(timeout {SILENCE} squeue -h -n {job.token} -o '%T %r') || {{ echo unknown; exit 0; }}
if [ -n "$state" ]; then echo "$state"; exit 0; fi
n=0; while [ -z "$(code)" ] && [ $n -lt {LAG} ]; do sleep 1; ls > /dev/null; n=$((n + 1)); done
if [ -n "$(code)" ]; then echo ended; code; exit 0; fi
state=$(timeout {SILENCE} sacct -n -X -S now-30days --name={job.token} -o State%40 2>/dev/null | tail -n 1)
[ -n "$state" ] || state=$(timeout {SILENCE} scontrol -o show job "$(cat id)" 2>/dev/null | sed -n 's/.*JobState=\\([A-Z_]*\\).*/\\1/p')
echo gone; echo "$state"; tail -n 3 slurm.log 2>/dev/null"""
        first, _, rest = self.shell.run(script).decode(errors="replace").partition("\n")
        if first == "absent":
            return State(Phase.ABSENT)
        if first == "unknown":
            raise Unreachable(
                "squeue does not answer",
                where=f"machine {self.shell.machine}",
                do="the job goes on; run it again later",
            )
        if first == "ended" and (code := read_exit(rest)) is not None:
            return describe_end(code)
        if first == "gone":
            lines = [line.strip() for line in rest.splitlines() if line.strip()]
            return State(Phase.KILLED, why="; ".join(lines)[:300] or "Slurm knows nothing of it any more")
        state, _, reason = first.partition(" ")
        waiting = state in QUEUED
        return State(Phase.WAITING if waiting else Phase.RUNNING, why=reason if waiting else "")

    def cancel(self, job: Job) -> None:
        try:
            self.shell.run(f"timeout {SILENCE} scancel --name={job.token}")
        except Unreachable:
            raise
        except UserError as error:
            if "nvalid job id" not in error.what:  # it has ended
                raise
