"""What a machine, its log or another project may come with. No Python is started there, so that each test takes milliseconds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from holdfast.commands import launch
from holdfast.commands import run as command
from holdfast.core.errors import UserError
from holdfast.launch import records, transfer, watching
from holdfast.launch.interface import Job, Phase, describe_end, read_exit
from holdfast.launch.shells import Shell, Unreachable
from holdfast.launch.transfer import Cargo
from holdfast.launch.watching import Followed, Log

BOX = Shell("box")


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"launcher": "local"}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "jobs" / "t").mkdir(parents=True)
    return Job("t", str(tmp_path))


class Behind:
    """A launcher that is no more than its shell."""

    shell = BOX


def test_a_log_of_any_size_and_of_any_bytes_is_read_in_pieces(job, monkeypatch):
    monkeypatch.setattr(watching, "CHUNK", 4096)
    monkeypatch.setattr(watching, "LONGEST", 1000)
    content = b"begins\n" + b"\xff\x00\x1b]0;title\x07\n" + b"x" * 20000 + "Ü".encode() * 5000 + b"\nends"
    (Path(job.place) / "log").write_bytes(content)
    log = Log(Behind(), job)
    first = log.read()
    assert first[:2] == ["begins", "\ufffd\x00\x1b]0;title\x07"]
    rest = list(log.read_all())
    assert max(map(len, [*first, *rest])) <= 4096 + 1000
    assert "".join([*first[2:], *rest]) == "x" * 20000 + "Ü" * 5000 + "ends"
    assert list(log.read_all()) == []


def test_of_a_log_that_is_read_from_its_end_whole_lines_are_shown(job, monkeypatch):
    monkeypatch.setattr(watching, "TAIL", 20)
    (Path(job.place) / "log").write_text("Bearer hf_abcdefghijklm\nsecond\nthird", encoding="utf-8")
    assert list(Log.from_the_end(Behind(), job).read_all()) == ["second", "third"]
    (Path(job.place) / "log").write_text("first\nsecond\n", encoding="utf-8")
    assert list(Log.from_the_end(Behind(), job).read_all()) == ["first", "second"]


def test_a_log_that_is_not_there_is_empty(job):
    assert list(Log(Behind(), job).read_all()) == []
    assert Log.from_the_end(Behind(), Job("other", job.folder)).offset == 0


def test_the_value_of_a_secret_is_not_shown_where_a_stage_writes_it(job, capfd):
    one = Followed(job, Log(Behind(), job), part=2, parts=4, secrets={"HF_TOKEN": "hf_abcdef", "SHORT": "a"})
    one.print(["Authorization: Bearer hf_abcdef", "a word"])
    assert capfd.readouterr().out == "2/4 | Authorization: Bearer [HF_TOKEN]\n2/4 | a word\n"


def test_no_value_of_a_secret_is_in_the_logs_that_are_asked_for(job, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHORT_ONE", "sesame")
    monkeypatch.setenv("LONG_ONE", "sesame-and-more")
    (Path(job.place) / "log").write_text("a sesame, and sesame-and-more\nlast", encoding="utf-8")
    machine = {"launcher": "local", "secrets": ["SHORT_ONE", "LONG_ONE", "UNSET_ONE"]}
    records.write(records.Record("respond", "m", "box", machine, job.token, job.folder, "k", "now", "t"))
    launch.print_log("respond@m")
    assert capfd.readouterr().out == "a [SHORT_ONE], and [LONG_ONE]\nlast\n"


@pytest.mark.parametrize(("text", "code"), [("0  \n", 0), ("137", 137), ("", None), ("-1", None), ("\x00\x00", None)])
def test_an_exit_code_is_a_number_or_none(text, code):
    assert read_exit(text) == code


def make_cargo(**more: Any) -> Cargo:
    return Cargo(**{"files": {}, "folders": [], "clear": [], "skipped": [], "notes": {}, **more})


def test_two_projects_do_not_work_in_one_folder(tmp_path):
    folder = str(tmp_path / "a folder")
    transfer.send(BOX, folder, make_cargo(owner="/home/me/first"))
    transfer.send(BOX, folder, make_cargo(owner="/home/me/first"))
    with pytest.raises(UserError, match=r"its folder is that of another project \(/home/me/first\)"):
        transfer.send(BOX, folder, make_cargo(owner="/home/me/it's second"))


def test_clocks_may_differ_by_years(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a").write_text("new")
    for now in (2e9, 1e8):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        transfer.send(BOX, str(tmp_path / "box"), make_cargo(files=transfer.hash_here(["a"])))
        assert (tmp_path / "box/tree/a").read_text() == "new"
        (tmp_path / "box/tree/a").write_text("old")


def test_a_connection_that_breaks_off_while_outputs_come_changes_nothing(tmp_path, monkeypatch):
    class Breaks(Shell):
        def command(self, text: str) -> list[str]:
            return ["sh", "-c", f"({text}) | head -c 3000; exit 255" if "tar -c" in text else text]

    monkeypatch.chdir(tmp_path)
    (tmp_path / "box/tree/out").mkdir(parents=True)
    for name in "abc":
        (tmp_path / "box/tree/out" / name).write_bytes(name.encode() * 2000)
    Path("out").mkdir()
    Path("out/a").write_text("before")
    with pytest.raises(Unreachable):
        transfer.fetch(Breaks("box", host="box"), str(tmp_path / "box/tree"), ["out"], Path("staging"))
    assert Path("out/a").read_text() == "before"


@pytest.mark.parametrize(
    "python", ["#!/bin/sh\necho 'Unknown option: -P' >&2; exit 2", "#!/bin/sh\nexit 1", "no program"]
)
def test_a_python_that_cannot_run_it_is_no_verdict_of_the_stage(project, tmp_path, python, capfd):
    """Exit codes 1 and 2 are those of a gate that fails and of one that cannot compare."""
    program = tmp_path / "py thon"
    program.write_text(python)
    program.chmod(0o755)
    text = Path("launch.yaml").read_text().splitlines()
    lines = [line if "python:" not in line else f"    python: \"'{program}'\"" for line in text]
    Path("launch.yaml").write_text("\n".join(lines))
    assert command.main("gate") == 3
    assert "correct 'python' or 'setup'" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("code", "killed"), [(137, True), (143, True), (129, True), (139, False), (15, False), (3, False)]
)
def test_a_python_that_is_killed_alone_is_a_killed_job(code, killed):
    """job.sh outlives it, as where memory runs out or a machine shuts down; one that crashes has failed."""
    state = describe_end(code)
    assert (state.phase is Phase.KILLED) == killed
    assert state.code == (0 if killed else code)
    assert (f"signal {code - 128}, " in state.why) == killed


def test_a_second_command_for_the_same_stage_is_refused(project):
    with records.hold("gate"), pytest.raises(UserError, match="another process waits for this stage already"):
        command.main("gate")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"stage": "gate", "token": 3}', "\x00"])
def test_a_record_that_is_damaged_or_of_another_version_starts_nothing(project, machine, text):
    file = Path(".holdfast/launch/gate.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        command.main("gate")
    assert "gate.json" in str(caught.value)
    assert not (machine / "tree").exists()
