"""core/terminal.py: whatever a command quotes, on a terminal it steers nothing."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import yaml

from holdfast import cli
from holdfast.commands import model_tools, tools
from holdfast.core import terminal
from holdfast.core.progress import Progress

HOSTILE = "\x1b]0;title\x07 \x1b[2J\x1b[8mgone\x9b31m a\u202egnp.exe \u2066x\u2069 over\rwritten\x08 \x1b[K"
SPELLED = "\\x1b]0;title\\x07 \\x1b[2J\\x1b[8mgone\\x9b31m a\\u202egnp.exe \\u2066x\\u2069 over\\rwritten\\x08 \\x1b[K"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def attach_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard output and standard error, on one terminal. Not a fixture: pytest's own capture would take its place."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def is_harmless(text: str) -> bool:
    return all(c in "\n\t" or c.isprintable() for c in text)


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_what_steers_a_terminal_is_spelled_out(monkeypatch, name):
    screen = attach_terminal(monkeypatch)
    with terminal.guard_streams():
        print(HOSTILE, "naïve\t東京 🙂", file=getattr(sys, name))
        getattr(sys, name).writelines(["one\n", "\x1b[5mtwo\n"])
    assert screen.getvalue() == f"{SPELLED} naïve\t東京 🙂\none\n\\x1b[5mtwo\n"
    assert sys.stdout is screen, "and afterwards all is as before"


def test_files_and_pipes_get_the_bytes_as_they_are(monkeypatch):
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stdout", pipe)
    with terminal.guard_streams():
        print(HOSTILE)
    assert pipe.getvalue() == HOSTILE + "\n"


def test_a_progress_bar_is_still_one_and_what_it_names_is_spelled_out(monkeypatch):
    screen = attach_terminal(monkeypatch)
    with terminal.guard_streams():
        progress = Progress("judge \x1b[8m", 4, "rows")
        progress.advance(4)
        progress.close()
    first, bar, last = screen.getvalue().split("\r\x1b[K")
    assert (first, last) == ("", "") and bar.startswith("judge \\x1b[8m: 4/4 rows")


def test_a_slow_rate_is_not_rounded_to_none(monkeypatch, capsys):
    clock = iter([0.0, 0.0, 100.0, 200.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    progress = Progress("finetune", 29, "steps")
    progress.advance(4)
    progress.advance(6)
    assert capsys.readouterr().err.splitlines() == [
        "finetune: 4/29 steps, 0.04/s, 625 s left",
        "finetune: 10/29 steps, 0.05/s, 380 s left",
    ]


def test_no_bar_begins_on_standard_output(monkeypatch):
    screen = attach_terminal(monkeypatch)
    with terminal.guard_streams():
        print("\rover")
    assert screen.getvalue() == "\\rover\n"


def test_every_command_is_guarded():
    apps = (cli.app, tools.app, model_tools.app, tools.profile_app, tools.launch_app)
    commands = [one.callback for app in apps for one in app.registered_commands]
    assert len(commands) >= 14
    assert all(hasattr(command, "__wrapped__") for command in commands)
    groups = {group.typer_instance for app in apps for group in app.registered_groups}
    assert groups == set(apps[1:]), "a new group needs the guard, too"


@pytest.mark.parametrize(
    "line", ["explain pocket.hostile", "explain ingest.train", "check", "costs --json", "gate", "plan", "comment"]
)
def test_a_hostile_repository_steers_no_terminal(project, monkeypatch, line):
    content = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    content["ingest"]["train"] = {"path": HOSTILE}
    content["arms"] = [HOSTILE]
    Path("params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    Path("dvc.yaml").write_text(
        yaml.safe_dump({"stages": {"a": {"cmd": "true", "deps": [HOSTILE.replace("\x07", "")]}}})
    )
    (project / "reports" / "costs").mkdir(parents=True)
    (project / "reports" / "report.md").write_text(HOSTILE, encoding="utf-8")
    (project / "reports" / "gate.json").write_text(json.dumps({"schema": 2, "verdict": HOSTILE, "arms": {HOSTILE: {}}}))
    monkeypatch.setattr(sys, "argv", ["holdfast", *line.split()])
    screen = attach_terminal(monkeypatch)
    with pytest.raises(SystemExit):
        cli.main()
    assert screen.getvalue() and is_harmless(screen.getvalue()), screen.getvalue()
