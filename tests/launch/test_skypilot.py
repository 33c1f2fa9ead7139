"""Stages on a cluster of SkyPilot: a stand-in `sky` (tests/fake_clusters.py), and a real sshd for the cluster that it starts."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from launch_contract import LauncherContract
from launch_project import Sshd, change_machine, leave, wait_for

from holdfast.commands import launch
from holdfast.commands import run as command
from holdfast.core.errors import UserError
from holdfast.launch import records
from holdfast.launch.shells import Unreachable
from holdfast.launch.skypilot import Skypilot
from holdfast.planning import elsewhere
from holdfast.planning.machine import UNKNOWN


@pytest.fixture
def settings(sshd: Sshd, state: Path) -> dict[str, Any]:
    """The cluster is up, and `sky launch` does nothing."""
    (state / "start").write_text("#!/bin/sh\n")
    (state / "start").chmod(0o755)
    (state / "up").write_text("gpubox")
    return {"launcher": "skypilot", "host": "gpubox", "ssh_config": str(sshd.config), "gpus": "H100:8"}


def read_calls(state: Path) -> list[list[str]]:
    return [json.loads(line) for line in (state / "calls").read_text().splitlines()]


class TestSkypilot(LauncherContract):
    launcher = Skypilot
    why = "FAILED"
    wrong = ("host", "no-such-cluster.invalid")
    refusal = "Could not resolve hostname"

    def kill(self, record: records.Record, state: Path) -> None:
        os.killpg(int((state / f"{record.token}.pid").read_text()), signal.SIGKILL)

    def test_several_jobs_write_what_one_run_writes(self, project, machine, state, capfd):
        super().test_several_jobs_write_what_one_run_writes(project, machine, capfd)
        submissions = [call for call in read_calls(state) if call[0] == "exec"]
        assert [call[call.index("--gpus") + 1] for call in submissions] == ["H100:4", "H100:4"]


def test_a_cluster_that_is_not_up_is_started(project, state, sshd, machine):
    sshd.cut()
    (state / "up").unlink()
    assert [mark for mark, text in elsewhere.check_machines() if "is not up" in text] == [UNKNOWN]
    (state / "start").write_text(f"#!/bin/sh\ncd {state}; touch wanted; while [ ! -e started ]; do sleep 0.05; done\n")

    def start() -> None:
        wait_for((state / "wanted").exists)
        sshd.start()
        (state / "started").touch()

    thread = threading.Thread(target=start)
    thread.start()
    change_machine(project, options=["--idle-minutes-to-autostop=30"])
    assert command.main("gate") == 0
    thread.join()
    (call,) = (call for call in read_calls(state) if call[0] == "launch")
    (submission,) = (call for call in read_calls(state) if call[0] == "exec")
    assert submission[submission.index("--gpus") + 1] == "H100:8"
    assert call == ["launch", "--cluster", "gpubox", "--yes", "--gpus", "H100:8", "--idle-minutes-to-autostop=30"]


def test_cancel_ends_it(project, state, machine, monkeypatch):
    (project / "data" / "mode").write_text("wait")
    leave(monkeypatch, machine)
    launch.cancel("gate")
    assert list(state.glob("*.cancelled"))
    assert launch.describe_state(records.read("gate")) == "killed or cancelled"


def test_a_cluster_that_was_taken_away_ends_its_job_and_a_silent_server_does_not(
    project, state, sshd, machine, monkeypatch
):
    (project / "data" / "mode").write_text("wait")
    leave(monkeypatch, machine)
    sshd.cut()
    try:
        assert "unknown: cannot be reached" in launch.describe_state(records.read("gate"))
        (state / "down").touch()
        assert "unknown: sky:" in launch.describe_state(records.read("gate"))
        (state / "down").unlink()
        (state / "up").unlink()
        assert "its cluster is stopped or gone" in launch.describe_state(records.read("gate"))
    finally:
        sshd.start()


def test_a_queue_that_is_not_shown_neither_ends_a_job_nor_starts_another(project, state, machine, monkeypatch):
    (project / "data" / "mode").write_text("wait")
    leave(monkeypatch, machine)
    (state / "queue-silent").touch()
    record = records.read("gate")
    assert "unknown: sky queue: ClusterNotUpError: it does not answer" in launch.describe_state(record)
    with pytest.raises(Unreachable):
        launch.make_launcher("box", record.load_machine()).submit(record.job, {})
    assert len([call for call in read_calls(state) if call[0] == "exec"]) == 1


def test_a_cluster_that_cannot_be_had_is_said_before_anything_is_sent(project, state, sshd, machine):
    change_machine(project, host="no-such-cluster")
    (state / "down").touch()
    with pytest.raises(UserError) as caught:
        command.main("gate")
    assert "Could not connect to SkyPilot API server" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2
    assert records.read("gate") is None


def test_a_secret_stands_in_no_command_line(project, state, sshd, machine, monkeypatch):
    (project / "data" / "mode").write_text("secret")
    change_machine(project, secrets=["A_SECRET"])
    monkeypatch.setenv("A_SECRET", "open sesame '")
    assert command.main("gate") == 0
    assert (machine / "tree" / ".cache" / "secret").read_text() == "open sesame '"
    assert "sesame" not in (state / "calls").read_text()


def test_a_job_in_the_queue_waits(project, state, monkeypatch):
    launcher = launch.make_launcher("box", records.Machine.model_validate({"launcher": "skypilot", "host": "gpubox"}))
    table = "ID  NAME  STATUS  LOG\n2  other  RUNNING  ~/a\n1  t  \x1b[33mPENDING\x1b[0m  ~/b\n"
    monkeypatch.setattr("holdfast.launch.skypilot.call", lambda *arguments: table.encode())
    assert launcher._find(records.Job("t", "f")) == ("1", "PENDING")
    assert launcher._find(records.Job("unknown", "f")) is None
