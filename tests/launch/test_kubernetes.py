"""Stages on Kubernetes: a stand-in `kubectl` that behaves as its documentation says (tests/fake_clusters.py)."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from launch_contract import LauncherContract
from launch_project import change_machine, go, leave, starts

from holdfast.commands import jobs, launch
from holdfast.commands import run as command
from holdfast.launch import records
from holdfast.launch.interface import Job
from holdfast.launch.kubernetes import Kubernetes, name_of
from holdfast.launch.shells import Unreachable
from holdfast.planning import elsewhere
from holdfast.planning.machine import NEEDED, OK


@pytest.fixture
def settings(state: Path) -> dict[str, Any]:
    return {"launcher": "kubernetes", "image": "holdfast:1", "claim": "work", "limits": {"nvidia.com/gpu": 8}}


class TestKubernetes(LauncherContract):
    launcher = Kubernetes
    why = "OOMKilled"
    wrong = ("options", ["--context=wrong"])
    refusal = 'context "wrong" does not exist'

    def kill(self, record: records.Record, state: Path) -> None:
        os.killpg(int((state / f"{record.id}.pid").read_text()), signal.SIGKILL)


def test_a_job_is_what_launch_yaml_says(project, state, machine):
    settings = {"options": ["--context=prod"], "labels": {"kueue.x-k8s.io/queue-name": "gpus"}}
    change_machine(project, pod={"serviceAccountName": "me"}, **settings)
    assert command.main("gate") == 0
    (job,) = (json.loads(file.read_text()) for file in state.glob("job-*.json"))
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    spec = job["spec"]["template"]["spec"]
    assert spec["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": 8}}
    assert spec["serviceAccountName"] == "me"
    assert spec["restartPolicy"] == "Never"  # else podFailurePolicy is refused
    calls = [json.loads(line) for line in (state / "calls").read_text().splitlines()]
    assert all(call[0] == "--context=prod" for call in calls)


def test_cancel_ends_it(project, state, machine, monkeypatch):
    (project / "data" / "mode").write_text("wait")
    leave(monkeypatch, machine)
    launch.cancel("gate")
    assert not list(state.glob("job-*.json"))
    assert launch.describe_state(records.read("gate")) == "killed or cancelled"


def test_what_a_job_waits_for_is_said(project, state, machine, monkeypatch):
    (state / "queue-full").touch()

    def watch(*arguments: object) -> None:
        raise Unreachable("is gone", where="test", do="-")

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "watch", watch)
        with pytest.raises(Unreachable):
            command.main("gate")
    assert "Unschedulable: 0/1 nodes are available" in launch.describe_state(records.read("gate"))
    (state / "queue-full").unlink()
    assert command.main("gate") == 0
    assert starts(machine) == 1


def test_a_cluster_that_does_not_answer_does_not_make_the_job_lost(project, state, machine, monkeypatch):
    (project / "data" / "mode").write_text("wait")
    leave(monkeypatch, machine)
    (state / "down").touch()
    assert launch.describe_state(records.read("gate")).startswith("unknown: kubectl: Unable to connect")
    with pytest.raises(Unreachable, match="cannot be reached"):
        command.main("gate")
    (state / "down").unlink()
    go(machine)
    assert command.main("gate") == 0
    assert starts(machine) == 1


def test_a_secret_goes_with_the_job_and_into_no_command_line(project, state, machine, monkeypatch):
    (project / "data" / "mode").write_text("secret")
    change_machine(project, secrets=["A_SECRET"])
    monkeypatch.setenv("A_SECRET", "open sesame '")
    assert command.main("gate") == 0
    assert (machine / "tree" / ".cache" / "secret").read_text() == "open sesame '"
    assert "sesame" not in (state / "calls").read_text()
    assert not any("sesame" in file.read_text() for file in (machine / "jobs").rglob("*") if file.is_file())
    (secret,) = (json.loads(file.read_text()) for file in state.glob("secret-*.json"))
    assert secret["metadata"]["ownerReferences"][0]["name"] == records.read("gate").id, "it is deleted with the Job"


def test_doctor_says_what_is_there(project, machine, monkeypatch):
    lines = list(elsewhere.check_machines())
    assert (OK, "machine box: reachable by kubernetes; for gate") in lines
    monkeypatch.setenv("PATH", "/nowhere")
    assert next(elsewhere.check_machines())[0] == NEEDED


def test_names_are_those_of_kubernetes():
    assert name_of(Job("holdfast-respond-Qwen_2.5-0a1b2c3d", "f")) == "holdfast-respond-qwen-2-5-0a1b2c3d"
    long = name_of(Job(f"holdfast-respond-{'x' * 70}-0a1b2c3d", "f"))
    assert len(long) == 63
    assert long.endswith("-0a1b2c3d")


def test_an_exit_code_that_the_claim_shows_late_is_waited_for(project, machine, monkeypatch):
    call, hidden = Kubernetes._call, machine / "hidden"

    def hide(self: Kubernetes, *arguments: str, **more: object) -> bytes:
        output = call(self, *arguments, **more)
        if b'"Complete"' in output and not hidden.exists():  # the code is elsewhere for a second
            (exit_file,) = machine.glob("jobs/*/exit")
            exit_file.rename(hidden)
            exit_file.touch()
            threading.Timer(1.0, lambda: hidden.replace(exit_file)).start()
        return output

    monkeypatch.setattr(Kubernetes, "_call", hide)
    (project / "data" / "mode").write_text("seven")
    assert command.main("gate") == 7
