"""Stages under Slurm: a real cluster of one node, where Debian's slurmctld, slurmd and munge are installed."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from launch_contract import LauncherContract
from launch_project import change_machine, go, leave, lend, starts, wait_for

from holdfast.commands import launch
from holdfast.commands import run as command
from holdfast.core.errors import UserError
from holdfast.launch import records, slurm
from holdfast.launch.shells import Unreachable

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")
CONFIGURATION = """ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmUser=root
AuthInfo=socket={folder}/munge/socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    def __init__(self) -> None:
        os.environ["PATH"] += ":/usr/sbin"
        if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
            raise FileNotFoundError(f"no {missing[0]} here (apt install slurmctld slurmd munge)")
        if os.getuid() != 0:
            raise FileNotFoundError("Slurm's daemons of Debian want to be root")
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        for name in ("state", "spool", "munge"):
            (self.folder / name).mkdir(mode=0o700)
        (self.folder / "munge" / "key").write_bytes(os.urandom(1024))
        (self.folder / "munge" / "key").chmod(0o600)
        port = 20000 + os.getpid() % 20000
        text = CONFIGURATION.format(host=platform.node(), port=port, node_port=port + 1, folder=self.folder)
        (self.folder / "slurm.conf").write_text(text)
        os.environ["SLURM_CONF"] = str(self.folder / "slurm.conf")
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        files = {name: f"--{name}-file={self.folder}/munge/{name}" for name in ("key", "pid", "log", "seed")}
        self.start("munged", "--foreground", "--force", *files.values(), f"--socket={self.folder}/munge/socket")
        wait_for((self.folder / "munge" / "socket").exists)
        self.start("slurmctld", "-D")
        self.start("slurmd", "-D")
        wait_for(lambda: b"idle" in subprocess.run(["sinfo", "-h"], capture_output=True, check=False).stdout, 60)

    def start(self, name: str, *options: str) -> None:
        log = (self.folder / f"{name}.out").open("ab")
        self.daemons[name] = subprocess.Popen([name, *options], stdout=log, stderr=log, start_new_session=True)

    def end(self, name: str) -> None:
        self.daemons[name].terminate()
        self.daemons[name].wait(timeout=30)

    def stop(self) -> None:
        subprocess.run(["scancel", "--user=root"], capture_output=True, check=False)
        for name in reversed(self.daemons):
            if self.daemons[name].poll() is None:
                self.daemons[name].kill()
                self.daemons[name].wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    before = {name: os.environ.get(name) for name in ("PATH", "SLURM_CONF")}
    yield from lend(Cluster)
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture
def settings(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(slurm, "LAG", 1)
    return {"launcher": "slurm"}


class TestSlurm(LauncherContract):
    launcher = slurm.Slurm
    why = "CANCELLED"
    wrong = ("host", "no-such-host.invalid")
    refusal = "Could not resolve hostname"

    def kill(self, record: records.Record, state: None) -> None:
        subprocess.run(["scancel", record.id], check=True)


def test_cancel_ends_it(project, machine, monkeypatch):
    (project / "data" / "mode").write_text("wait")
    leave(monkeypatch, machine)
    launch.cancel("gate")
    squeue = ["squeue", "-h", "-n", records.read("gate").token]
    wait_for(lambda: subprocess.run(squeue, capture_output=True, check=True).stdout == b"")


def test_a_controller_that_is_down_does_not_make_the_job_lost(project, cluster, machine, monkeypatch):
    (project / "data" / "mode").write_text("wait")
    leave(monkeypatch, machine)
    cluster.end("slurmctld")
    monkeypatch.setattr(slurm, "SILENCE", 1)
    try:
        with pytest.raises(Unreachable, match="squeue does not answer"):
            command.main("gate")
    finally:
        cluster.start("slurmctld", "-D")
    go(machine)
    monkeypatch.setattr(slurm, "SILENCE", 60)
    wait_for(lambda: "exit code 0" in launch.describe_state(records.read("gate")))
    assert command.main("gate") == 0
    assert starts(machine) == 1


def test_what_sbatch_refuses_is_said(project, machine):
    change_machine(project, options=["--partition=no-such"])
    with pytest.raises(UserError) as caught:
        command.main("gate")
    assert "sbatch: error" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2
    change_machine(project, options=[])
    assert command.main("gate") == 0
