"""The comment of a pull request where the project is a folder of a larger repository."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from helpers import run

from holdfast.commands import comment
from holdfast.core import storage
from holdfast.core.errors import UserError


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


def test_a_report_that_links_out_of_the_project_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, secret = tmp_path / "llm", tmp_path / "credentials"
    secret.write_text("a secret of the runner", encoding="utf-8")
    (project / "reports").mkdir(parents=True)
    monkeypatch.chdir(project)
    for report in (Path("reports/report.md"), Path("reports/link/report.md")):
        if report.parent.name == "link":
            report.parent.symlink_to(tmp_path)
            (tmp_path / "report.md").write_text("a secret of the runner", encoding="utf-8")
        else:
            report.symlink_to(secret)
        with pytest.raises(UserError, match="is a link out of the project") as caught:
            comment.main(report, Path("params.yaml"), Path("metrics.json"), None, None)
        assert "secret" not in str(caught.value)


def test_the_last_results_of_the_branch_are_shown_and_one_alone_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    metrics = Path("metrics.json")

    def commit(content: dict) -> None:
        metrics.write_text(json.dumps(content), encoding="utf-8")
        git("add", "-A")
        git("-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "results")

    def git(*arguments: str) -> None:
        subprocess.run(["git", *arguments], check=True, capture_output=True)

    git("init", "-q", "-b", "main")
    commit({"base": {"general": 0.92}, "arm": {"general": 0.9, "domain": 0.5}})
    assert comment.describe_trend(metrics) == ""
    commit({"base": {"general": 0.92}, "arm": {"general": 0.8, "domain": 0.5}})
    commit({"base": {"general": 0.92}, "arm": {"general": 0.86, "domain": None}, "new|arm": {"general": 0.9}})
    text = comment.describe_trend(metrics)
    assert "The last 3 results, " in text
    assert "| arm, general | █▁▅ | 90.0 → 80.0 → 86.0 |" in text
    assert "| arm, domain | ▁▁· | 50.0 → 50.0 → – |" in text, "less than a point is level"
    assert "new" not in text, "one result is no trend"
    metrics.write_text("{", encoding="utf-8")
    git("add", "-A")
    git("-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "broken")
    assert isinstance(comment.describe_trend(metrics), str), "a broken file of the past is no crash"
