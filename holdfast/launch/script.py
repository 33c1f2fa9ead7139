"""job.sh: what runs on the machine. It checks that the files are those that were sent, and calls `holdfast run` as here."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from holdfast.launch.interface import EXIT_WIDTH
from holdfast.launch.settings import QUEUES, SHARDED, Machine
from holdfast.launch.transfer import Hashes, read_package

# Without Python, or with one that cannot do it, the code is none of the stage
BLAME_PYTHON = """local code=$? able='import typer, pydantic, yaml, pyarrow.parquet, sys; sys.exit(sys.version_info < (3, 11))'
if [ $code -ne 0 ] && ! {python} -c "$able" > /dev/null 2>&1; then
  echo "error: launch.yaml: its python has no Holdfast's libraries, is older than 3.11, or is not there"
  echo "  correct 'python' or 'setup'; 'holdfast doctor' looks at it"
  return 3
fi
return $code"""
# A scheduler gives each job devices; without one the jobs divide those of the machine, unless `env` or `setup` has done so
SHARE_DEVICES = """devices=$(nvidia-smi -L 2> /dev/null | grep -c '^GPU')
if [ -z "${CUDA_VISIBLE_DEVICES+set}" ] && [ "$devices" -gt 0 ]; then
  first=$(((${HOLDFAST_PART%/*} - 1) * devices / ${HOLDFAST_PART#*/})); last=$((${HOLDFAST_PART%/*} * devices / ${HOLDFAST_PART#*/} - 1))
  export CUDA_VISIBLE_DEVICES=$(seq -s , "$first" "$((last < first ? first : last))")
fi"""
# Inputs and finished shards are those of tree/; what else it writes, it writes beside the job, and nobody reads it. Code knows itself by
# where its file is, so files as small as code are copies
LINK_INPUTS = """link() {{
  case $1 in */*) mkdir -p "$job/tree/${{1%/*}}" ;; esac
  if [ -f "$root/tree/$1" ] && [ "$(wc -c < "$root/tree/$1")" -le 1000000 ]; then
    cp -p "$root/tree/$1" "$job/tree/$1" || return 3
  else
    ln -sfn "$root/tree/$1" "$job/tree/$1"
  fi
}}
mkdir -p "$job/tree"
while IFS= read -r line; do link "${{line:68}}" || return 3; done < "$job/inputs"
for name in {there}; do link "$name" || return 3; done
for name in {names}; do mkdir -p ".cache/$name" && link ".cache/$name" || return 3; done
cd "$job/tree" || return 3"""


def write_job(machine: Machine, stage: str, cells: Sequence[str], part: int = 1, parts: int = 1) -> str:
    """The text of job.sh. `part` of `parts` jobs that do the stage together; all but the first begin in a folder of their own."""
    lines = ["#!/bin/bash", "# Written by `holdfast run`. Log and exit code go to files beside this one."]
    lines += ['job=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)', "root=${job%/jobs/*}"]
    lines += ['cd "$root/tree" || exit 3', "work() {"]
    lines += ['  if ! sha256sum --quiet --check "$job/inputs"; then']
    lines += [
        '    echo "error: $root/tree: is not as it was sent: it was replaced since, or has not arrived on this node"'
    ]
    lines += ['    echo "  run the stage again"', "    return 3", "  fi"]
    lines += [f"  {line}" for line in write_setup(machine, "return 3").splitlines()]
    lines += [f"  export {name}={shlex.quote(value)}" for name, value in machine.env.items()]
    if parts > 1:
        lines += [f"  export HOLDFAST_PART={part}/{parts}"]
        if machine.launcher not in QUEUES:
            lines += [f"  {line}" for line in SHARE_DEVICES.splitlines()]
    if part > 1:
        names = " ".join(shlex.quote(name) for name in [*SHARDED[stage]])
        there = " ".join(map(shlex.quote, machine.there))
        lines += [f"  {line}" for line in LINK_INPUTS.format(names=names, there=there).splitlines()]
    code = f'"$root/{read_package().place}"'
    lines += [f"  export PYTHONUNBUFFERED=1 PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}}"]
    lines += [f"  {machine.command()} -P -m holdfast.cli run {' '.join([stage, *cells])}"]
    lines += [f"  {line}" for line in BLAME_PYTHON.format(python=machine.command()).splitlines()]
    lines += ["}"]
    lines += ['work >> "$job/log" 2>&1 < /dev/null', f'printf \'%-{EXIT_WIDTH}s\' "$?" 1<> "$job/exit"']
    return "\n".join(lines) + "\n"


def write_setup(machine: Machine, stop: str = "exit 3") -> str:
    """The lines of `setup`; `stop`: what ends the script where one fails."""
    lines = []
    for line in machine.setup:
        shown = shlex.quote(f"error: setup: this line failed: {line}")
        lines.append(f"{line} || {{ echo {shown}; echo '  correct it in launch.yaml'; {stop}; }}")
    return "\n".join(lines)


def write_inputs(files: Hashes) -> str:
    """What `sha256sum --check` reads."""
    return "".join(f"{digest}  ./{name}\n" for name, digest in sorted(files.items()))
