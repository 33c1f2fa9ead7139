"""A machine behind ssh without a scheduler, or this one: a job is a process that outlives the connection and the command.

A process belongs to a job if HOLDFAST_JOB in its environment says so (Linux: /proc). That holds for all that it starts, and
is safe from process ids that come again and from restarts of the machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.launch.interface import EXIT_WIDTH, Job, Phase, State, describe_end, give_secrets, read_exit
from holdfast.launch.shells import Shell

# its exit code says nothing: processes come and go while it looks
FIND = "grep -lsa -e 'HOLDFAST_JOB={token}' /proc/[0-9]*/environ"
POLITE = 10  # seconds between TERM and KILL


@dataclass(frozen=True)
class Ssh:
    shell: Shell
    interval: float = 3.0

    def prepare(self) -> None:
        pass  # the machine is there

    def submit(self, job: Job, secrets: dict[str, str]) -> str:
        read, values = give_secrets(secrets)
        script = f"""set -e; {job.enter}
{read}if mkdir started 2>/dev/null; then
  : > log; printf '%-{EXIT_WIDTH}s' '' > exit
  HOLDFAST_JOB={job.token} nohup setsid bash -l "$PWD/job.sh" > job.err 2>&1 < /dev/null &
fi"""
        self.shell.run(script, values)
        return job.token

    def poll(self, job: Job) -> State:
        find = FIND.format(token=job.token)
        script = f"""{job.enter} 2>/dev/null && [ -d started ] || {{ echo absent; exit 0; }}
if [ -n "$({find})" ]; then echo running; else echo gone; fi
cat exit 2>/dev/null || true"""
        first, _, rest = self.shell.run(script).decode(errors="replace").partition("\n")
        code = read_exit(rest)
        if first == "absent":
            return State(Phase.ABSENT)
        if code is not None:
            return describe_end(code)
        return State(Phase.RUNNING) if first == "running" else State(Phase.KILLED, why="no process of it is left")

    def cancel(self, job: Job) -> None:
        find = FIND.format(token=job.token)
        script = f"""end() {{ {find} | sed 's|/proc/||; s|/environ||' | xargs -r kill -s "$1" 2>/dev/null; }}
end TERM; n=0
while [ -n "$({find})" ] && [ $n -lt {POLITE * 5} ]; do sleep 0.2; n=$((n + 1)); done
end KILL; true"""
        self.shell.run(script)
