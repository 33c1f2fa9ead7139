"""What every launcher has to keep. A module of tests inherits from this class, and has the fixtures `project`, whose stage goes to
the machine, and `machine`, the folder there."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from launch_project import add_sharded_stage, change_machine, go, leave, make_project, read_outputs, starts, wait_for

from holdfast.commands import launch
from holdfast.commands import run as command
from holdfast.core import meter
from holdfast.core.errors import UserError
from holdfast.launch import records


def read_lock(folder: Path) -> bytes:
    """dvc.lock of the stage as it lies there."""
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    with Repo(str(folder)) as repo:
        repo.commit("gate", force=True)
    return (folder / "dvc.lock").read_bytes()


class LauncherContract:
    launcher: type[Any]

    def kill(self, record: records.Record, state: Any) -> None:
        """Ends the job as its cluster does. `state`: what the fixture of this name gives."""
        raise NotImplementedError

    def test_it_writes_what_a_run_here_writes(self, project, machine, tmp_path, monkeypatch, capfd):
        assert command.main("gate") == 0
        assert "begins" in capfd.readouterr().out
        here = make_project(tmp_path / "here")
        monkeypatch.chdir(here)
        assert command.main("gate") == 0
        assert read_outputs(project) == read_outputs(here)
        assert starts(machine) == 1
        lock = read_lock(here)
        assert b"out\n" in lock
        monkeypatch.chdir(project)
        assert read_lock(project) == lock

    def test_the_exit_code_comes_back(self, project):
        (project / "data" / "mode").write_text("seven")
        assert command.main("gate") == 7

    def test_the_next_command_waits_for_the_same_job(self, project, machine, monkeypatch, capfd):
        (project / "data" / "mode").write_text("wait")
        leave(monkeypatch, machine)
        assert launch.describe_state(records.read("gate")) == "runs"
        go(machine)
        assert command.main("gate") == 0
        assert f"waits for the job {records.read('gate').id} on box" in capfd.readouterr().err
        assert starts(machine) == 1

    def test_a_job_whose_number_was_not_heard_is_not_submitted_twice(self, project, machine, monkeypatch):
        (project / "data" / "mode").write_text("wait")
        submit = self.launcher.submit

        def die(*arguments: object) -> str:
            submit(*arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(self.launcher, "submit", die)
            with pytest.raises(KeyboardInterrupt):
                command.main("gate")
        assert records.read("gate").id == ""
        go(machine)
        assert command.main("gate") == 0
        assert starts(machine) == 1

    def test_a_job_that_was_killed_is_said_and_the_next_one_goes_on(self, project, state, machine, monkeypatch):
        (project / "data" / "mode").write_text("wait")
        leave(monkeypatch, machine)
        self.kill(records.read("gate"), state)
        wait_for(lambda: "was killed" in launch.describe_state(records.read("gate")))
        assert self.why in launch.describe_state(records.read("gate"))
        go(machine)  # what the first job left in the caches
        assert command.main("gate") == 0
        assert starts(machine) == 2

    why: str  # the cluster's word for it

    def test_several_jobs_write_what_one_run_writes(self, project, machine, capfd):
        alone = add_sharded_stage(project, machine, jobs=2)
        assert command.main("respond", "m") == 0
        assert (project / "answers.txt").read_bytes() == alone
        done_by = [(machine / f"tree/.cache/respond/by-{part}").read_text().split()[::2] for part in (1, 2)]
        assert done_by[0][0] == "0"
        assert done_by[1][0] == "2", "each begins with its own"
        assert launch.describe_state(records.read("respond@m")) == "done, exit code 0"
        assert records.read("respond@m:2").ended is not None

    def test_two_stages_at_once_do_not_meet(self, project, machine, tmp_path, monkeypatch):
        """Each waits until the other has begun; both read the same inputs, in the same folder there."""
        add_sharded_stage(project, machine, jobs=1)
        shutil.copytree(project, tmp_path / "here", ignore=shutil.ignore_patterns("launch.yaml"))
        (project / "data" / "mode").write_text("meet")
        with ThreadPoolExecutor() as pool:
            codes = list(pool.map(lambda call: command.main(*call), [("gate",), ("respond", "m")]))
        assert codes == [0, 0]
        assert starts(machine) == 1
        monkeypatch.chdir(tmp_path / "here")
        (tmp_path / "here/data/mode").write_text("meet")
        (tmp_path / "here/.cache/respond").mkdir(parents=True)
        (tmp_path / "here/.cache/respond/by-1").touch()
        meter.total = meter.Spent()
        assert [command.main("gate"), command.main("respond", "m")] == [0, 0]
        assert read_outputs(project) == read_outputs(tmp_path / "here")
        assert Path("answers.txt").read_bytes() == (project / "answers.txt").read_bytes()

    def test_a_full_disk_there_is_said_and_the_exit_code_comes_back(self, project, small_disk, capfd):
        change_machine(project, folder=str(small_disk))
        (project / "data" / "mode").write_text("fill")
        assert command.main("gate") == 3
        assert "its disk is full" in capfd.readouterr().err
        (project / "data" / "large").write_bytes(os.urandom(5 * 2**20))
        with pytest.raises(UserError, match="No space left on device"):
            command.main("gate")

    def test_a_wrong_cluster_is_said_before_anything_is_sent(self, project):
        change_machine(project, **dict([self.wrong]))
        with pytest.raises(UserError) as caught:
            command.main("gate")
        assert self.refusal in str(caught.value)
        assert len(str(caught.value).splitlines()) == 2
        assert records.read("gate") is None

    wrong: tuple[str, object]  # key and value of launch.yaml: a machine that there is not
    refusal: str  # a part of what is said of it
