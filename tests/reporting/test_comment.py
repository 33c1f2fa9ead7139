"""The comment of a pull request where the project is a folder of a larger repository."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import run

from holdfast.commands import comment
from holdfast.core import storage


def test_changes_are_those_of_the_project_s_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """params.yaml of the repository's root and of the project bear the same name; metrics.json is new."""
    project = tmp_path / "llm"
    storage.write_text(tmp_path / "params.yaml", "gate: {margin: 0.5}\n")
    storage.write_text(project / "params.yaml", "gate: {margin: 0.03}\n")
    storage.write_text(project / "reports/report.md", "# Report\n")
    for command in (["git", "init", "-q", "-b", "main"], ["git", "add", "-A"], ["git", "commit", "-qm", "start"]):
        done = run(tmp_path, *command)
        assert done.returncode == 0, done.stderr
    storage.write_text(project / "params.yaml", "gate: {margin: 0.1}\n")
    storage.write_json(project / "reports/metrics.json", {"arm": {"general": 0.5}})
    monkeypatch.chdir(project)
    text = comment.main(Path("reports/report.md"), Path("params.yaml"), Path("reports/metrics.json"), "main", None)
    assert "| gate.margin | 0.03 | 0.1 | +0.07 |" in text
    assert "| arm.general | not set | 0.5 |" in text
