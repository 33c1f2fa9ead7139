"""Stages over ssh: a real sshd on 127.0.0.1. What comes back is what a run here writes, and nothing is submitted twice."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, environment, run
from launch_project import Sshd, change_machine, go, make_project, read_outputs, starts, wait_for, write_launch

from holdfast.commands import jobs, launch
from holdfast.commands import run as command
from holdfast.core.errors import UserError
from holdfast.launch import records, transfer, watching
from holdfast.launch.interface import Phase
from holdfast.launch.launchers import make_launcher
from holdfast.launch.shells import Shell, Unreachable
from holdfast.planning import elsewhere
from holdfast.planning.machine import NEEDED, OK


@pytest.fixture
def settings(sshd: Sshd) -> dict[str, Any]:
    return {"launcher": "ssh", "host": "gpubox", "ssh_config": str(sshd.config)}


def start_command(project: Path) -> subprocess.Popen[str]:
    """`holdfast run gate` as a process of its own, until the stage runs on the machine."""
    arguments = [sys.executable, "-P", "-m", "holdfast.cli", "run", "gate"]
    variables = {**environment(), "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(arguments, cwd=project, env=variables, text=True, start_new_session=True, **pipes)


def test_it_writes_what_a_run_here_writes_and_the_same_lock(project, machine, tmp_path, capfd):
    here = make_project(tmp_path / "here")
    for folder in (here, project):
        (folder / ".dvc").mkdir()
        (folder / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
        done = run(folder, "dvc", "repro")
        assert done.returncode == 0, done.stderr
    assert starts(machine) == 1, "it ran there"
    assert not (project / ".cache" / "starts").exists(), "and not here"
    assert read_outputs(project) == read_outputs(here)
    assert (project / "dvc.lock").read_bytes() == (here / "dvc.lock").read_bytes()
    timing = json.loads((project / ".holdfast/timings/gate.json").read_text())
    assert timing["machine"] == "box"
    ignored = ["launch.yaml", ".holdfast/launch/gate.json"]
    assert run(ROOT, "git", "check-ignore", *ignored).stdout.split() == ignored


def test_only_what_the_stage_declares_is_there(project, machine):
    (project / "data" / "old").write_text("old")
    assert command.main("gate") == 0
    (project / "data" / "old").unlink()
    (project / "private").write_text("mine alone")
    (machine / "tree" / "data" / "deep" / "planted").write_text("no input")
    assert command.main("gate") == 0
    assert not (machine / "tree" / "private").exists()
    there = {file.name for file in (machine / "tree" / "data").rglob("*") if file.is_file()}
    assert there == {"mode", "a b.txt", "Ü.txt"}
    assert "out/old" not in read_outputs(project)


@pytest.mark.parametrize(
    ("mode", "code", "line"), [("seven", 7, "begins"), ("refuse", 3, "error: data/mode: is not good")]
)
def test_the_exit_code_and_the_log_come_back(project, mode, code, line, capfd):
    (project / "data" / "mode").write_text(mode)
    assert command.main("gate") == code
    output = capfd.readouterr()
    assert line in output.out
    assert f"ended with exit code {code}" in output.err
    assert not (project / "note.txt").exists()
    capfd.readouterr()
    launch.print_log("gate")
    assert line in capfd.readouterr().out


def test_what_the_log_holds_steers_no_terminal(project, monkeypatch, capfd):
    from holdfast.core import terminal

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert terminal.guard_command(command.main)("gate") == 0
    assert "\\x1b[31m" in capfd.readouterr().out


def test_a_killed_submitter_is_followed_by_one_that_waits_for_the_same_job(project, machine, capfd):
    (project / "data" / "mode").write_text("wait")
    first = start_command(project)
    wait_for(lambda: starts(machine))
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    go(machine)
    assert command.main("gate") == 0
    assert "waits for the job holdfast-gate-" in capfd.readouterr().err
    assert starts(machine) == 1
    assert read_outputs(project)["note.txt"] == b"mine"
    assert records.read("gate").ended == 0


def test_a_submitter_killed_in_the_middle_of_submitting_does_not_lead_to_two_jobs(project, machine, monkeypatch):
    from holdfast.launch.ssh import Ssh

    submit = Ssh.submit

    def die(*arguments: object) -> str:
        submit(*arguments)
        raise KeyboardInterrupt  # the machine has it, and nobody has heard

    monkeypatch.setattr(Ssh, "submit", die)
    with pytest.raises(KeyboardInterrupt):
        command.main("gate")
    monkeypatch.setattr(Ssh, "submit", submit)
    assert records.read("gate").id == ""
    assert command.main("gate") == 0
    assert starts(machine) == 1


def test_a_job_that_was_killed_goes_on_from_its_caches(project, machine, capfd):
    (project / "data" / "mode").write_text("wait")
    first = start_command(project)
    wait_for(lambda: starts(machine))
    kill_job(records.read("gate").token)
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 3
    assert "error: stage gate on box: the job was killed" in output
    assert "Traceback" not in output
    go(machine)  # a cache of the first job that the second one finds
    assert command.main("gate") == 0
    assert starts(machine) == 2


def kill_job(token: str) -> None:
    """As the kernel does when memory runs out, to all of it."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"HOLDFAST_JOB={token}".encode() in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue


def test_retries_submit_another_job(project, machine, capfd):
    (project / "data" / "mode").write_text("wait")
    change_machine(project, retries=1)

    def kill_the_first() -> None:
        wait_for(lambda: starts(machine))
        kill_job(records.read("gate").token)
        go(machine)

    thread = threading.Thread(target=kill_the_first)
    thread.start()
    assert command.main("gate") == 0
    thread.join()
    assert starts(machine) == 2
    assert "submitting another" in capfd.readouterr().err


def test_a_job_that_is_cancelled_is_not_submitted_again(project, machine):
    (project / "data" / "mode").write_text("wait")
    change_machine(project, retries=3)

    def cancel() -> None:
        wait_for(lambda: starts(machine))
        launch.cancel("gate")

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(UserError, match="the job was cancelled"):
        command.main("gate")
    thread.join()
    assert starts(machine) == 1


def test_a_connection_that_is_lost_is_tried_again(project, sshd, machine, capfd, monkeypatch):
    (project / "data" / "mode").write_text("wait")

    def cut() -> None:
        wait_for(lambda: starts(machine))
        sshd.cut()
        wait_for(lambda: "trying again" in "".join(seen))
        sshd.start()
        go(machine)

    seen: list[str] = []
    thread = threading.Thread(target=cut)
    thread.start()
    say = watching.say
    monkeypatch.setattr(watching, "say", lambda text: (seen.append(text), say(text)))
    assert command.main("gate") == 0
    thread.join()
    assert "connected again" in capfd.readouterr().err
    assert starts(machine) == 1


def test_where_the_connection_stays_lost_the_job_goes_on(project, sshd, machine):
    (project / "data" / "mode").write_text("wait")
    change_machine(project, patience=0.0)

    def cut() -> None:
        wait_for(lambda: starts(machine))
        sshd.cut()

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        with pytest.raises(Unreachable) as caught:
            command.main("gate")
    finally:
        thread.join()
        sshd.start()
    assert "the job goes on" in str(caught.value)
    go(machine)
    assert command.main("gate") == 0
    assert starts(machine) == 1


def test_ctrl_c_leaves_the_job_where_nobody_can_be_asked(project, machine, capfd):
    (project / "data" / "mode").write_text("wait")
    first = start_command(project)
    wait_for(lambda: starts(machine))
    os.killpg(first.pid, signal.SIGINT)
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 130, output
    assert "goes on on box" in output
    assert "`holdfast launch cancel gate` ends it" in output
    assert records.read("gate").ended is None
    launch.print_status(as_json=False)
    assert "runs" in capfd.readouterr().out
    launch.cancel("gate")
    record = records.read("gate")
    assert launch.describe_state(record) == "killed or cancelled"
    assert make_launcher("box", record.load_machine()).poll(record.job).phase is Phase.KILLED


def test_ctrl_c_on_a_terminal_asks(project, machine, monkeypatch, capfd):
    record = records.Record("gate", None, "box", {"launcher": "ssh", "host": "x"}, "t", "f", "k", "now", "t")
    cancelled: list[str] = []
    monkeypatch.setattr(launch, "cancel", cancelled.append)
    for stream in (sys.stdin, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    for answer in ("c", ""):
        monkeypatch.setattr(sys.stdin, "readline", lambda answer=answer: answer + "\n", raising=False)
        assert jobs.leave_or_cancel("gate", [record]) == 130
        assert jobs.leave_or_cancel("gate", [record, record]) == 130
    assert cancelled == ["gate", "gate"]
    shown = capfd.readouterr().err
    assert shown.count("The job t goes on on box. Leave it (Enter), or cancel it (c)?") == 2
    assert shown.count("The jobs t, t go on on box. Leave them (Enter), or cancel them (c)?") == 2


def test_a_job_of_other_inputs_is_neither_taken_nor_doubled(project, settings, machine):
    (project / "data" / "mode").write_text("wait")
    change_machine(project, patience=0.0)
    first = start_command(project)
    wait_for(lambda: starts(machine))
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    (project / "params.yaml").write_text("gate: {margin: 0.05}\n")
    with pytest.raises(UserError, match="a job of other inputs still runs on box"):
        command.main("gate")
    (project / "launch.yaml").unlink()
    with pytest.raises(UserError, match="was not fetched"):
        command.main("gate")
    go(machine)
    wait_for(lambda: "ended with" in launch.describe_state(records.read("gate")))
    write_launch(project, **settings, folder=str(machine))
    assert command.main("gate") == 0
    assert starts(machine) == 2, "what was made of other inputs is not taken"


def test_an_input_that_is_edited_meanwhile_stops_it(project, machine):
    (project / "data" / "mode").write_text("wait")

    def edit() -> None:
        wait_for(lambda: starts(machine))
        (project / "data" / "deep" / "a b.txt").write_text("other")
        go(machine)

    thread = threading.Thread(target=edit)
    thread.start()
    with pytest.raises(UserError, match="a b.txt was changed while the stage ran"):
        command.main("gate")
    thread.join()
    assert not (project / "note.txt").exists()


def test_what_was_replaced_there_before_the_job_began_stops_it(project, machine, capfd, monkeypatch):
    from holdfast.launch.ssh import Ssh

    submit = Ssh.submit

    def replace_first(*arguments: object) -> str:
        (machine / "tree" / "data" / "deep" / "a b.txt").write_text("other")
        return submit(*arguments)

    monkeypatch.setattr(Ssh, "submit", replace_first)
    assert command.main("gate") == 3
    assert "is not as it was sent" in capfd.readouterr().out
    assert starts(machine) == 0


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("no-such-host.invalid", "Could not resolve hostname"),
        ("changed", "Host key verification failed"),
        ("127.0.0.1", "cannot be reached"),
    ],
)
def test_a_wrong_host_is_said_before_anything_is_sent(project, machine, host, says):
    change_machine(project, host=host)
    with pytest.raises(Unreachable) as caught:
        command.main("gate")
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2
    assert records.read("gate") is None


def test_a_secret_reaches_the_stage_and_no_file(project, machine, tmp_path, monkeypatch):
    (project / "data" / "mode").write_text("secret")
    change_machine(project, secrets=["A_SECRET"])
    monkeypatch.delenv("A_SECRET", raising=False)
    with pytest.raises(UserError, match=r"\$A_SECRET: is not set"):
        command.main("gate")
    monkeypatch.setenv("A_SECRET", "open sesame '")
    assert command.main("gate") == 0
    own = machine / "tree" / ".cache" / "secret"
    assert own.read_text() == "open sesame '"
    for folder in (machine, project):
        for file in folder.rglob("*"):
            assert not file.is_file() or file == own or b"sesame" not in file.read_bytes(), file


def test_setup_and_env_come_before_the_stage(project, machine, capfd):
    change_machine(project, setup=["export A_SECRET=set-up"], env={"OTHER": "a b"})
    (project / "data" / "mode").write_text("secret")
    assert command.main("gate") == 0
    assert (machine / "tree" / ".cache" / "secret").read_text() == "set-up"
    change_machine(project, setup=["source no/such/activate"])
    assert command.main("gate") == 3
    assert "error: setup: this line failed: source no/such/activate" in capfd.readouterr().out


def test_doctor_says_what_is_there(project, machine, monkeypatch):
    monkeypatch.delenv("A_SECRET", raising=False)
    change_machine(project, secrets=["A_SECRET"])
    lines = list(elsewhere.check_machines())
    assert (OK, "machine box: reachable by ssh; for gate") in lines
    assert (NEEDED, "machine box: $A_SECRET is not set here; export it before `dvc repro`") in lines
    assert [mark for mark, text in lines if "libraries as here" in text and "python 3." in text] == [OK]
    assert [text for _, text in lines if "GiB free in" in text]
    (machine / "container").write_text(f'#!/bin/sh\ncd / && exec {sys.executable} "$@"\n')  # it sees other folders
    (machine / "container").chmod(0o755)
    change_machine(project, python=f"{machine}/container")
    assert [mark for mark, text in elsewhere.check_machines() if "does not begin in" in text] == [NEEDED]
    change_machine(project, python="no-such-python")
    assert [mark for mark, text in elsewhere.check_machines() if "does not run there" in text] == [NEEDED]
    change_machine(project, host="no-such-host.invalid")
    assert [(mark, "cannot be reached" in text) for mark, text in elsewhere.check_machines()] == [(NEEDED, True)]


def test_a_full_disk_there_is_said_and_the_exit_code_comes_back(project, small_disk, capfd):
    change_machine(project, folder=str(small_disk))
    (project / "data" / "mode").write_text("fill")
    assert command.main("gate") == 3
    assert "its disk is full" in capfd.readouterr().err
    assert not (project / "out").exists() or (project / "out" / "large").stat().st_size > 0
    (project / "data" / "large").write_bytes(os.urandom(5 * 2**20))
    with pytest.raises(UserError, match="No space left on device"):
        command.main("gate")


@pytest.mark.parametrize("name", ["../escaped", "other", "out"])  # the last with other content than was announced
def test_a_machine_that_lies_about_files_writes_none_outside(name, tmp_path, monkeypatch):
    lie = f"{'0' * 64}  ./out/../../escaped\n{'0' * 64}  ./out\n".encode()
    assert transfer.parse_hashes(lie) == {"out": "0" * 64}
    archive = io.BytesIO()
    with tarfile.open(mode="w", fileobj=archive) as packed:
        packed.addfile(tarfile.TarInfo(name))
    archive.seek(0)
    monkeypatch.setattr(Shell, "run", lambda *arguments: lie)
    monkeypatch.setattr(Shell, "stream", lambda self, text, give, take: take(archive))
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    with pytest.raises(UserError, match="did not come back as it is there"):
        transfer.fetch(Shell("box"), "tree", ["out"], Path("staging"))
    assert {file.name for file in tmp_path.rglob("*")} <= {"project", "staging", "out"}
    assert not Path("out").exists()
