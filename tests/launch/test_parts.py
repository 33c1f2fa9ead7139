"""A stage that several jobs do together: what becomes of a part. Jobs on this machine (`launcher: local`), and a scheduler that
does as it is told."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from launch_project import add_sharded_stage, change_machine, read_outputs, starts, wait_for

from holdfast.commands import jobs, launch
from holdfast.commands import run as command
from holdfast.core import storage
from holdfast.core.errors import UserError
from holdfast.launch import records, transfer
from holdfast.launch.interface import Job, Phase, State
from holdfast.launch.shells import Shell, Unreachable
from holdfast.launch.watching import Log

RUNS, DONE = State(Phase.RUNNING), State(Phase.ENDED)
KILLED = State(Phase.KILLED, why="OUT_OF_MEMORY")


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"launcher": "local"}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("it's a Ü place")


@pytest.fixture
def alone(project: Path, machine: Path) -> Iterator[bytes]:
    """What one process writes. launch.yaml has two jobs do it."""
    yield add_sharded_stage(project, machine, jobs=2)
    (machine / "tree/.cache/respond").mkdir(parents=True, exist_ok=True)
    (machine / "tree/.cache/respond/go").touch()


def read_pids(machine: Path, part: int) -> list[int]:
    file = machine / f"tree/.cache/respond/by-{part}"
    return [int(word) for word in file.read_text().split()[1::2]] if file.is_file() else []


def test_a_part_that_fails_ends_the_stage_with_its_code_and_the_next_run_goes_on(alone, machine, capfd):
    Path("data/mode").write_text("2")
    assert command.main("respond", "m") == 7
    output = capfd.readouterr()
    assert "2/2 | gives up" in output.out
    assert "machine box: respond@m, part 2 of 2, ended with exit code 7" in output.err
    assert not Path("answers.txt").exists()
    assert launch.describe_state(records.read("respond@m")) == "killed or cancelled"
    Path("data/mode").write_text("ok")
    assert command.main("respond", "m") == 0
    assert Path("answers.txt").read_bytes() == alone


def test_a_part_that_is_killed_loses_nothing(alone, machine, capfd):
    Path("data/mode").write_text("wait")

    def kill() -> None:
        wait_for(lambda: read_pids(machine, 1) and read_pids(machine, 2))
        os.kill(read_pids(machine, 2)[0], signal.SIGKILL)
        wait_for(lambda: records.read("respond@m:2").ended == records.CANCELLED)
        (machine / "tree/.cache/respond/go").touch()

    thread = threading.Thread(target=kill)
    thread.start()
    assert command.main("respond", "m") == 0
    thread.join()
    assert Path("answers.txt").read_bytes() == alone
    assert "part 2 of 2 was killed" in capfd.readouterr().err
    assert not (machine / "tree" / "answers.txt").is_symlink()


def test_a_submitter_that_is_killed_at_any_step_leaves_one_job_and_whole_outputs(project, machine, monkeypatch):
    """At each step in turn, each time by a command that goes on from what the one before has left."""

    class Killed(BaseException):
        pass

    def kill(target: Any, name: str, skip: int = 0) -> None:
        original, calls = getattr(target, name), []

        def die(*arguments: Any) -> Any:
            result = original(*arguments)
            calls.append(name)
            if len(calls) > skip:
                raise Killed
            return result

        with monkeypatch.context() as patch:
            patch.setattr(target, name, die)
            with pytest.raises(Killed):
                command.main("gate")

    kill(transfer, "send")
    assert records.read("gate") is None
    kill(records, "write")
    assert records.read("gate").id == ""
    kill(records, "write", skip=1)
    kill(Log, "read")
    wait_for(lambda: "exit code 0" in launch.describe_state(records.read("gate")))
    kill(transfer, "fetch")
    assert not Path("note.txt").exists()
    kill(transfer, "put_in_place")
    kill(storage, "write_json")
    assert records.read("gate").ended is None
    assert command.main("gate") == 0
    assert starts(machine) == 1
    assert set(read_outputs(project)) == {"out/mode", "out/a b.txt", "out/Ü.txt", "note.txt", "reports/costs/gate.json"}
    assert not list(Path(".holdfast/launch").glob("*.outs"))


@dataclass
class Scheduler:
    """Each job of a part goes through the states that are listed for it, and stays in the last."""

    plan: dict[int, list[list[State]]]  # by part, a list for each of its jobs
    shell: Shell = field(default_factory=lambda: Shell("box"))
    interval: float = 0.0
    jobs: dict[str, list[State]] = field(default_factory=dict)
    cancelled: list[int] = field(default_factory=list)
    part: dict[str, int] = field(default_factory=dict)

    def prepare(self) -> None: ...

    def submit(self, job: Job, secrets: dict[str, str]) -> str:
        if job.token in self.jobs:
            return job.token
        (self.part[job.token],) = (
            part for part, record in records.read_parts("respond@m").items() if record.token == job.token
        )
        self.jobs[job.token] = list(self.plan[self.part[job.token]].pop(0))
        return job.token

    def poll(self, job: Job) -> State:
        states = self.jobs.get(job.token, [State(Phase.ABSENT)])
        return states.pop(0) if len(states) > 1 else states[0]

    def cancel(self, job: Job) -> None:
        self.cancelled.append(self.part[job.token])


@pytest.fixture
def schedule(alone, monkeypatch):
    """Makes a scheduler with this plan the launcher of all machines; nothing is sent or fetched."""

    def make(plan: dict[int, list[list[State]]], **machine: object) -> Scheduler:
        scheduler = Scheduler(plan)
        for module in (jobs, launch):
            monkeypatch.setattr(module, "make_launcher", lambda *arguments: scheduler)
        change_machine(Path(), **machine)
        return scheduler

    monkeypatch.setattr(jobs.watch.__globals__["time"], "sleep", lambda seconds: None)
    monkeypatch.setattr(Shell, "run", lambda *arguments: b"")
    monkeypatch.setattr(transfer, "send", lambda *arguments: 0)
    monkeypatch.setattr(transfer, "fetch", lambda *arguments: [])
    return make


def set_jobs(count: int) -> None:
    content = yaml.safe_load(Path("launch.yaml").read_text(encoding="utf-8"))
    content["stages"]["respond"]["jobs"] = count
    Path("launch.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def test_a_killed_part_is_submitted_again_as_often_as_launch_yaml_says(schedule, capfd):
    scheduler = schedule({1: [[RUNS] * 9 + [DONE]], 2: [[RUNS, KILLED], [KILLED]]}, retries=1)
    assert command.main("respond", "m") == 0
    assert scheduler.plan == {1: [], 2: []}
    output = capfd.readouterr().err
    assert "part 2 of 2 was killed (OUT_OF_MEMORY); submitting another" in output
    assert "part 2 of 2 was killed (OUT_OF_MEMORY); the others do its shards" in output


def test_where_the_first_part_is_killed_all_end_and_the_next_run_submits_them_anew(schedule):
    scheduler = schedule({1: [[RUNS, KILLED], [DONE]], 2: [[RUNS], [RUNS]]})
    with pytest.raises(UserError, match=r"the job was killed \(OUT_OF_MEMORY\)"):
        command.main("respond", "m")
    assert scheduler.cancelled == [2]
    assert command.main("respond", "m") == 0
    assert scheduler.cancelled == [2, 2], "what is not needed any more ends"


def submit_and_lose_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that submits all jobs and then does not reach the machine any more."""

    def lose(*arguments: object) -> None:
        raise Unreachable("is gone", where="test", do="-")

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "watch", lose)
        with pytest.raises(Unreachable):
            command.main("respond", "m")


def test_a_part_that_was_killed_while_nobody_waited_is_submitted_beside_the_others(schedule, monkeypatch, capfd):
    scheduler = schedule({1: [[RUNS]], 2: [[RUNS], [DONE]]})
    submit_and_lose_connection(monkeypatch)
    first, second = records.read("respond@m"), records.read("respond@m:2")
    scheduler.jobs |= {first.token: [RUNS] * 5 + [DONE], second.token: [KILLED]}
    cargo = []
    monkeypatch.setattr(transfer, "send", lambda shell, folder, one: cargo.append(one) or 0)
    assert command.main("respond", "m") == 0
    assert "stage respond@m: waits for the job" in capfd.readouterr().err
    assert records.read("respond@m").token == first.token
    assert records.read("respond@m:2").token != second.token
    assert cargo[0].clear == [f"jobs/{second.token}"], "the outputs of the one that runs are left alone"


def test_a_submitter_that_is_killed_between_its_steps_submits_no_part_twice(schedule, monkeypatch):
    scheduler = schedule({part: [[RUNS]] for part in (1, 2, 3)})
    set_jobs(3)

    class Killed(BaseException):
        pass

    for target, name in [(records, "write"), (Scheduler, "submit")] * 3:
        step = getattr(target, name)

        def die(*arguments: Any, step: Any = step) -> None:
            step(*arguments)
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(target, name, die)
            with pytest.raises(Killed):
                command.main("respond", "m")
    assert scheduler.plan == {1: [], 2: [], 3: []}
    scheduler.jobs[records.read("respond@m").token] = [DONE]
    assert command.main("respond", "m") == 0
    assert sorted(scheduler.cancelled) == [2, 3]


def test_once_the_first_has_ended_no_further_job_is_submitted(schedule, monkeypatch, capfd):
    scheduler = schedule({1: [[RUNS]], 2: [[RUNS]], 3: [[RUNS]]})
    set_jobs(3)
    submit_and_lose_connection(monkeypatch)
    tokens = {part: record.token for part, record in records.read_parts("respond@m").items()}
    scheduler.jobs |= {tokens[1]: [DONE], tokens[2]: [KILLED], tokens[3]: [State(Phase.ABSENT)]}
    assert command.main("respond", "m") == 0
    assert {part: record.token for part, record in records.read_parts("respond@m").items()} == tokens


def test_of_a_part_that_there_is_no_longer_nothing_stays(schedule, monkeypatch):
    schedule({1: [[DONE], [DONE]], 2: [[RUNS], [RUNS]], 3: [[RUNS]]})
    set_jobs(3)
    assert command.main("respond", "m") == 0
    last = [f"jobs/{record.token}" for record in records.read_parts("respond@m").values()]
    set_jobs(2)
    cargo = []
    monkeypatch.setattr(transfer, "send", lambda shell, folder, one: cargo.append(one) or 0)
    assert command.main("respond", "m") == 0
    assert set(last) < set(cargo[0].clear)
    assert [record.name for record in records.read_all()] == ["respond@m", "respond@m:2"]


def test_a_machine_that_does_not_answer_is_asked_once_for_all_its_jobs(tmp_path, monkeypatch, capfd):
    class Silent:
        def poll(self, job: Job) -> State:
            polls.append(job)
            raise Unreachable("cannot be reached", where="machine box", do="-")

    polls: list[Job] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "make_launcher", lambda *arguments: Silent())
    for part in (1, 2, 3):
        records.write(
            records.Record("respond", "m", "box", {"launcher": "local"}, "t", "f", "k", "now", "t", part=part)
        )
    launch.print_status(as_json=False)
    assert capfd.readouterr().out.count("unknown: cannot be reached") == 3
    assert len(polls) == 1


def test_parts_are_listed_by_their_number(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for cell, part, ended in (("m", 2, -1), ("n", 1, 0), ("m", 10, 0), ("m", 1, 0)):
        machine = {"launcher": "local"}
        records.write(records.Record("respond", cell, "box", machine, "t", "f", "k", "now", "t", ended, part))
    assert list(records.read_parts("respond@m")) == [1, 2, 10]
    launch.print_status(as_json=False)
    assert [(line.split()[0], line.split("  ")[-1]) for line in capfd.readouterr().out.splitlines()] == [
        ("respond@m", "done, exit code 0"),
        ("respond@m:2", "killed, cancelled, or not needed any more"),
        ("respond@m:10", "done, exit code 0"),
        ("respond@n", "done, exit code 0"),
    ]


def test_jobs_of_other_inputs_are_neither_taken_nor_doubled_and_a_helper_left_over_is_ended(schedule, monkeypatch):
    scheduler = schedule({1: [[RUNS, DONE], [DONE]], 2: [[RUNS], [RUNS]]})
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "stop", lambda team: None)  # its submitter was killed before that
        assert command.main("respond", "m") == 0
    Path("data/rows").write_text("12")
    with monkeypatch.context() as patch:
        patch.setattr(
            records,
            "read_parts",
            lambda name, read=records.read_parts: {
                part: replace(record, ended=None) for part, record in read(name).items()
            },
        )
        scheduler.jobs[records.read("respond@m").token] = [RUNS]
        with pytest.raises(UserError, match="a job of other inputs still runs on box"):
            command.main("respond", "m")
    assert command.main("respond", "m") == 0
    assert scheduler.cancelled == [2, 2]


def test_cancel_ends_all_parts_or_one(schedule, monkeypatch, capfd):
    scheduler = schedule({1: [[RUNS]], 2: [[RUNS]], 3: [[RUNS]]})
    set_jobs(3)

    def cancel(*arguments: object) -> None:
        launch.print_status(as_json=False)
        launch.cancel("respond@m:3")
        launch.cancel("respond@m")
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "watch", cancel)
    assert command.main("respond", "m") == 130
    assert scheduler.cancelled == [3, 1, 2]
    assert [line.split()[0] for line in capfd.readouterr().out.splitlines()[:3]] == [
        "respond@m", "respond@m:2", "respond@m:3"
    ]  # fmt: skip
