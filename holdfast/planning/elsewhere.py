"""What `holdfast doctor` says of the machines in launch.yaml: reachable, Python and libraries, disk, GPUs, secrets."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from holdfast.core.errors import UserError
from holdfast.launch import settings
from holdfast.launch.launchers import make_launcher
from holdfast.launch.script import write_setup
from holdfast.launch.settings import Machine, Place
from holdfast.launch.shells import Unreachable
from holdfast.params.base import PARAMS
from holdfast.planning.machine import GIB, NEEDED, NOTE, OK, UNKNOWN, Line

LIBRARIES = (
    "torch",
    "transformers",
    "trl",
    "datasets",
    "lm_eval",
)  # with other versions, outputs may differ in their bits
PIPELINE = Path("dvc.yaml")
CLIENTS = {"kubernetes": "kubectl", "skypilot": "sky"}
LATER = ("slurm", "kubernetes")  # where jobs run on other nodes than the one that is asked
LOW_DISK = 10 * GIB  # bytes
BUSY = 0.05  # part of a GPU's memory that someone uses when it is not free
TOOLS = ("bash", "find", "sha256sum", "setsid", "tar", "xargs")
PROBE = f"""
import ctypes, importlib.metadata, json, os, sys
versions = dict(python=".".join(map(str, sys.version_info[:3])))
for name in {LIBRARIES!r}:
    try:
        versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
try:
    versions["folder"] = os.path.samefile(".", sys.argv[1])
except OSError:
    versions["folder"] = False
try:
    ctypes.CDLL("libcuda.so.1")
    versions["driver"] = True
except OSError:
    versions["driver"] = False
print("holdfast-probe", json.dumps(versions))
"""


def check_machines() -> Iterator[Line]:
    """Every machine that a stage goes to."""
    try:
        launch = settings.load()
    except UserError as error:
        yield NEEDED, f"{error.where}: {error.what}; {error.do}"
        return
    if launch is None:
        return
    yield from check_cells(launch.stages)
    for name, machine in launch.machines.items():
        if stages := {stage: place for stage, place in launch.stages.items() if place.machine == name}:
            yield from check_machine(name, machine, stages)


def check_cells(stages: Iterable[str]) -> Iterator[Line]:
    """Cells that no stage has, by the words of params.yaml and the commands of dvc.yaml: such a line sends nothing anywhere."""
    files = [PARAMS, PIPELINE]
    params, pipeline = (file.read_text(encoding="utf-8", errors="replace") if file.is_file() else "" for file in files)
    words = set(re.findall(r"[A-Za-z0-9][A-Za-z0-9._-]*", params + pipeline))
    for stage in stages:
        name, _, cell = stage.partition("@")
        if not cell:
            continue
        calls = re.findall(rf"\bholdfast run {re.escape(name)}\b *([^\s\"'}}]*)", pipeline)
        if calls and not any(calls):
            yield (
                NOTE,
                f"{settings.LAUNCH}: stages.{stage}: '{name}' has no cells: this line sends nothing; write {name}",
            )
        elif words and not {cell, cell.rpartition("-")[0]} & words:
            what = f"'{cell}' is no model or arm of {PARAMS}"
            yield NOTE, f"{settings.LAUNCH}: stages.{stage}: {what}: this line sends nothing"


def check_machine(name: str, machine: Machine, stages: dict[str, Place]) -> Iterator[Line]:
    where = f"machine {name}"
    launcher = make_launcher(name, machine)
    shell = launcher.shell
    tools = [*TOOLS, *(("sbatch", "squeue", "scancel") if machine.launcher == "slurm" else ())]
    folder = shlex.quote(machine.place())
    call = f'{machine.command()} -c {shlex.quote(PROBE)} "$PWD"'  # in the folder, as a job begins there
    probe = f"cd {folder} || exit\n{write_setup(machine)}\n{call}"
    script = f"""for tool in {" ".join(tools)}; do command -v $tool > /dev/null || echo "missing $tool"; done
mkdir -p {folder} && echo "free $(df -Pk {folder} | tail -n 1 | awk '{{print $4}}')"
nvidia-smi --query-gpu=memory.used,memory.total,name --format=csv,noheader,nounits 2>/dev/null | sed 's/^/gpu /'
bash -l -c {shlex.quote(probe)} 2>&1 < /dev/null | tail -n 5
exit 0"""
    client = CLIENTS.get(machine.launcher)
    if client and shutil.which(client) is None:
        yield NEEDED, f"{where}: {client} is not installed here; install it, and sign in"
        return
    try:
        if machine.launcher == "kubernetes":
            launcher.prepare()
        output = shell.run(script).decode(errors="replace").splitlines()
    except UserError as error:
        if isinstance(error, Unreachable) and machine.launcher == "skypilot":  # no doctor costs an hour of a cloud
            yield UNKNOWN, f"{where}: the cluster '{machine.host}' is not up; the first stage that goes there starts it"
            return
        yield NEEDED, f"{where}: {error.what}; {error.do}"
        return
    yield OK, f"{where}: reachable by {machine.launcher}; for {', '.join(stages)}"
    for tool in (line.removeprefix("missing ") for line in output if line.startswith("missing ")):
        yield NEEDED, f"{where}: {tool} is not installed there"
    yield from check_python(where, machine, output)
    free = next(
        (int(line.split()[1]) * 1024 for line in output if line.startswith("free ") and line[5:].isdigit()), None
    )
    if free is None:
        yield (
            NEEDED,
            f"{where}: the folder {machine.place()} cannot be made there; correct 'folder' in {settings.LAUNCH}",
        )
    else:
        yield (NOTE if free < LOW_DISK else OK), f"{where}: {free / GIB:,.0f} GiB free in {machine.place()}"
    yield describe_gpus(where, machine, output)
    if machine.launcher not in settings.QUEUES:
        yield from check_jobs(where, stages, sum(line.startswith("gpu ") for line in output))
    for secret in machine.secrets:
        if not os.environ.get(secret):
            yield NEEDED, f"{where}: ${secret} is not set here; export it before `dvc repro`"


def check_python(where: str, machine: Machine, output: list[str]) -> Iterator[Line]:
    """What `python` of launch.yaml is there, such as a container's, and what it sees; libraries against those here."""
    report = next((line.partition(" ")[2] for line in output if line.startswith("holdfast-probe ")), None)
    if report is None:
        answer = next((line for line in reversed(output) if line.strip()), "nothing")[:120]
        mark = UNKNOWN if machine.launcher in LATER else NEEDED  # it may be there on the compute nodes alone
        yield mark, f"{where}: `{machine.python}` does not run there ({answer}); correct 'python' or 'setup'"
        return
    try:
        content = json.loads(report)
        folder, driver = content.pop("folder"), content.pop("driver")
        versions = {str(key): str(value)[:40] for key, value in content.items()}
    except (ValueError, AttributeError, KeyError):
        yield UNKNOWN, f"{where}: `{machine.python}` answers oddly"
        return
    yield check_libraries(where, machine, versions)
    if not folder:
        what = f"`{machine.python}` does not begin in {machine.place()}, where its files are"
        yield NEEDED, f"{where}: {what}: let the container see the folder and start in it (apptainer: --bind, --pwd)"
    if not driver and any(line.startswith("gpu ") for line in output):
        what = f"`{machine.python}` sees no NVIDIA driver, though GPUs are there"
        yield NEEDED, f"{where}: {what}: apptainer needs --nv, docker --gpus all"


def check_libraries(where: str, machine: Machine, versions: dict[str, str]) -> Line:
    """Of Python and libraries there."""
    python = versions.pop("python", "0")
    if tuple(int(part) for part in python.split(".")[:2] if part.isdigit()) < (3, 11):
        return NEEDED, f"{where}: python {python}: install 3.11 or later, and name it under 'python'"
    if "torch" not in versions:
        return NEEDED, f"{where}: torch is not installed for `{machine.python}`: pip install 'holdfast[pipeline]' there"
    other = []
    for name, version in versions.items():
        try:
            here = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if version != here:
            other.append(f"{name} {version} (here {here})")
    if other:
        return NOTE, f"{where}: python {python}, {', '.join(other)}: results may differ in their last digits"
    return OK, f"{where}: python {python}, libraries as here"


def describe_gpus(where: str, machine: Machine, output: list[str]) -> Line:
    gpus = []
    for line in output:
        used, _, rest = line.removeprefix("gpu ").partition(",")
        total, _, name = rest.partition(",")
        if line.startswith("gpu ") and used.strip().isdigit() and total.strip().isdigit():
            gpus.append((int(used), int(total), name.strip()[:60]))
    if not gpus:
        seen = "its compute nodes' GPUs are not seen from here" if machine.launcher in LATER else "no GPU is seen"
        return UNKNOWN if machine.launcher in LATER else NOTE, f"{where}: {seen}"
    free = sum(used <= BUSY * total for used, total, _ in gpus)
    mark = OK if free else NOTE
    return mark, f"{where}: {len(gpus)} x {gpus[0][2]}, {free} free"


def check_jobs(where: str, stages: dict[str, Place], gpus: int) -> Iterator[Line]:
    """Stages with more jobs than the machine has GPUs for them."""
    shared = f"{gpus} GPUs" if gpus > 1 else "one GPU" if gpus else "the CPU"
    for stage, place in stages.items():
        if place.jobs > max(gpus, 1):
            yield NOTE, f"{where}: {place.jobs} jobs of {stage} share {shared}, and each loads the model anew"
