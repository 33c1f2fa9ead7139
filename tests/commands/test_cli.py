"""The command line: exit codes, help, `explain`, and docs/params.md, which is made from the sections."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import gate_project
import pytest
from dvc.utils.serialize import modify_yaml
from helpers import ROOT, holdfast

from holdfast import cli
from holdfast.commands import explain
from holdfast.core.errors import UserError
from holdfast.params.base import SECTIONS

COMMANDS = {  # command line -> (module, the function it calls)
    "run balance": ("run", "main"),
    "code": ("code", "write_code"),
    "gate": ("gate", "main"),
    "check": ("check", "main"),
    "comment": ("comment", "main"),
    "doctor": ("doctor", "main"),
    "plan": ("plan", "main"),
    "costs": ("costs", "main"),
    "profile list": ("profile", "show"),
    "profile use pocket": ("profile", "use"),
    "explain": ("explain", "main"),
    "init --base a --domain b": ("init", "main"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "planted", [ValueError("planted"), OSError("planted"), SystemExit(1), SystemExit(2), AssertionError()]
)
def test_a_crash_is_neither_pass_nor_fail(monkeypatch, capsys, command, planted):
    def crash(*_arguments):
        raise planted

    module, function = COMMANDS[command]
    monkeypatch.setattr(importlib.import_module(f"holdfast.commands.{module}"), function, crash)
    monkeypatch.setattr(sys, "argv", ["holdfast", *command.split()])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 3
    if isinstance(planted, ValueError):
        assert "error: ValueError: planted\n" in capsys.readouterr().err


@pytest.mark.parametrize("line", [["nonsense"], ["gate", "--nonsense"], ["run"], ["plan", "--devices", "many"]])
def test_a_wrong_call_exits_with_3(monkeypatch, line):
    monkeypatch.setattr(sys, "argv", ["holdfast", *line])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 3


@pytest.mark.parametrize(
    "line", [["comment", "--against", "main"], ["check"], ["check", "--against", "main"], ["history"]]
)
def test_without_git_its_absence_is_said(monkeypatch, capsys, line):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "argv", ["holdfast", *line])
    assert cli.exit_code() == 3
    written = capsys.readouterr().err
    assert written.startswith("error: git: is not installed")
    assert len(written.splitlines()) == 2


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_verdict_s_exit_code_is_passed_on_and_quiet_speaks_only_on_failure(monkeypatch, capsys, code):
    def verdict(*_options):
        print("the verdict")
        return code

    monkeypatch.setattr("holdfast.commands.gate.main", verdict)
    monkeypatch.setattr(sys, "argv", ["holdfast", "-q", "gate"])
    monkeypatch.setattr(cli, "silenced", type(cli.silenced)())
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == code
    assert capsys.readouterr().out == ("the verdict\n" if code else "")


def test_params_md_is_what_explain_makes(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    explain.main(None, markdown=True)
    assert (ROOT / "docs" / "params.md").read_text(encoding="utf-8") == capsys.readouterr().out, (
        "run: holdfast explain --markdown > docs/params.md"
    )


def test_every_field_has_a_meaning_and_a_range():
    for section in ("models", *SECTIONS):
        for row in explain.fields(section):
            assert row.meaning.endswith("."), row.name
            assert row.range, row.name


def test_explain_a_field_says_what_a_change_runs_again(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    explain.main("gate.margin", markdown=False)
    assert capsys.readouterr().out.splitlines() == [
        "gate.margin: Largest acceptable drop of the general score, as a fraction: 0.03 is 3 points; or as a part of the base's own "
        "score above chance: 5% is 3 points where the base has 60.",
        "  range: number above 0 below 1 or text",
        "  default: 0.03",
        "  params.yaml: 0.03",
        "  read by: baseline, gate",
        "  a change runs again: baseline, gate, report",
    ]
    explain.main("mix.arms.holdfast.share", markdown=False)
    shown = capsys.readouterr().out
    assert "  params.yaml: 0.35\n" in shown
    again = shown.splitlines()[-1]
    assert "finetune" in again and "ingest" not in again


def test_explain_names_the_nearest(project):
    assert "did you mean 'gate.margin'?" in holdfast(project, "explain", "gate.margn")
    with pytest.raises(UserError, match="did you mean 'gate'"):
        explain.main("gat", markdown=False)


@pytest.mark.parametrize("file", ["params.yaml", "profiles/pocket.yaml"])
def test_exp_run_s_changes_one_line_of_params_yaml(tmp_path, file):
    """`dvc exp run -S gate.margin=0.05` writes the file anew, by the same function."""
    before = (ROOT / file).read_text(encoding="utf-8")
    copy = tmp_path / "params.yaml"
    copy.write_text(before, encoding="utf-8")
    with modify_yaml(copy) as content:
        content["gate"]["margin"] = 0.05
    assert copy.read_text(encoding="utf-8") == before.replace("  margin: 0.03\n", "  margin: 0.05\n")


@pytest.mark.parametrize("name", ["../stages/gate", "/abs/stages/gate", "a/b", "", ".hidden", "x" * 99])
def test_a_stage_or_cell_that_is_a_path_is_refused(project, name):
    for line in (["run", name or " "], ["run", "mix", name or " "]):
        assert "cannot be a name" in holdfast(project, *line)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def main(:\n", "own.py, line 1"),
        ("<<<<<<< yours\n", "own.py, line 1"),
        ("x = 1\n", "has no function `main`"),
        ('import sys\n\n\ndef main():\n    sys.exit("why")\n', "why"),
    ],
)
def test_a_stage_script_of_one_s_own_that_fails_says_so(project, text, said):
    (project / "stages" / "own.py").write_text(text, encoding="utf-8")
    assert said in holdfast(project, "run", "own")


def test_a_closed_pipe_changes_no_verdict_and_a_full_disk_is_no_verdict(project):
    gate_project.make_project(project / "judged")
    project = project / "judged"
    command = f"{sys.executable} -m holdfast.cli gate"
    for line, expected in (
        (f"{command} | head -c 1", 0),
        (f"{command} > /dev/full", 3),
        (f"{command} -h > /dev/full", 3),
        (f"{command} --against no-such-commit 2> /dev/full", 3),
    ):
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line}"],
            cwd=project,
            capture_output=True,
            text=True,
            env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        )
        assert done.returncode == expected, (line, done.stderr)
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "first", "absent"),
    [("mix.arms", "amount", "acquire"), ("respond.k", "respond", "reconstruct"), ("finetune.arms", "pilot", "acquire")],
)
def test_a_change_reruns_what_is_downstream_and_no_more(monkeypatch, name, first, absent):
    monkeypatch.chdir(ROOT)
    again = explain.stages_of(name)[1]
    assert again[0] == first and again[-1] == "report" and absent not in again
