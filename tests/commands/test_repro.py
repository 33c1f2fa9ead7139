"""holdfast repro: DVC's graph, side by side, with the lock that DVC alone would write."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import yaml
from helpers import run

from holdfast.commands import repro
from holdfast.commands.repro import Step, walk
from holdfast.core.errors import UserError
from holdfast.launch import records
from holdfast.launch.settings import Machine


def make_steps(needs: dict[str, str], place: str = "here") -> list[Step]:
    return [Step(name, place, frozenset(of.split())) for name, of in needs.items()]


def test_independent_steps_run_side_by_side_and_others_wait():
    meet, order = threading.Barrier(2, timeout=20), list[str]()

    def work(step: Step) -> int:
        if step.name in ("left", "right"):
            meet.wait()  # breaks unless both run
        order.append(step.name)
        return 0

    steps = make_steps({"first": "", "left": "first", "right": "first", "last": "left right"}, "cluster")
    outcome = walk(steps, {"cluster": None, "here": 1}, work)
    assert (outcome.failed, outcome.skipped) == ([], [])
    assert order[0] == "first"
    assert order[-1] == "last"


@pytest.mark.parametrize("room", [1, 2])
def test_a_machine_takes_no_more_than_it_has_room_for(room):
    lock, at_once, most = threading.Lock(), 0, 0
    pause = threading.Event()

    def work(step: Step) -> int:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        pause.wait(0.05)
        with lock:
            at_once -= 1
        return 0

    walk(make_steps(dict.fromkeys("abcd", "")), {"here": room}, work)
    assert most == room


def test_a_failure_stops_what_needs_it_and_nothing_else():
    ran = []

    def work(step: Step) -> int:
        ran.append(step.name)
        return step.name == "bad"

    steps = make_steps({"bad": "", "good": "", "of-bad": "bad", "of-of-bad": "of-bad good", "of-good": "good"})
    outcome = walk(steps, {"here": 1}, work)
    assert outcome.failed == ["bad"]
    assert outcome.skipped == ["of-bad", "of-of-bad"]
    assert sorted(ran) == ["bad", "good", "of-good"]


def test_a_machine_behind_ssh_takes_one_stage_and_a_queue_any_number():
    assert Machine.model_validate({"launcher": "ssh", "host": "a"}).width == 1
    assert Machine.model_validate({"launcher": "ssh", "host": "a", "at_once": 2}).width == 2
    assert Machine.model_validate({"launcher": "slurm"}).width is None


def test_stages_that_go_to_one_machine_send_their_files_in_turn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    order = list[str]()

    def send() -> None:
        with records.take_turn("box"):
            order.append("second")

    with records.take_turn("box"):
        thread = threading.Thread(target=send)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


MEET = "touch {0}.here; n=0; while [ ! -e {1}.here ]; do sleep 0.05; n=$((n+1)); [ $n -lt 600 ] || exit 1; done; cat one > {0}"
PIPELINE = {
    "one": {"cmd": "echo 1 > one", "outs": ["one"]},
    "zig": {"cmd": MEET.format("zig", "zag") + "; sleep 2", "deps": ["one"], "outs": ["zig"]},
    "zag": {"cmd": MEET.format("zag", "zig"), "deps": ["one"], "outs": ["zag"]},
    "end": {"cmd": "cat zig zag > end", "deps": ["zag", "zig"], "outs": ["end"]},
}


def make_project(folder: Path) -> Path:
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": PIPELINE}, sort_keys=False))
    return folder


def test_dvc_runs_them_and_the_lock_is_the_one_of_dvc_repro(tmp_path, monkeypatch, capfd):
    """9 s: eight processes of DVC."""
    project, alone = make_project(tmp_path / "project"), make_project(tmp_path / "alone")
    monkeypatch.chdir(project)
    assert repro.main([], here=2) == 0
    output = capfd.readouterr().out
    assert "zig | Running stage 'zig'" in output
    assert "4 stages, " in output
    for name in ("zig", "zag"):
        (alone / f"{name}.here").touch()
    done = run(alone, "dvc", "repro")
    assert done.returncode == 0, done.stderr
    assert (project / "dvc.lock").read_bytes() == (alone / "dvc.lock").read_bytes()
    assert repro.main(["one"], here=1) == 0
    assert "didn't change" in capfd.readouterr().out


def test_what_dvc_cannot_read_is_said_in_two_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path / "project"))
    Path("params.yaml").write_text("{}\n")
    Path("dvc.yaml").write_text("stages: {a: {cmd: [}}\n")
    with pytest.raises(UserError) as caught:
        repro.main([], here=1)
    assert "dvc.yaml" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2
