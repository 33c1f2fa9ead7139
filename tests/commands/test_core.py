"""The core install: what CI needs to read committed results runs where numpy, pyarrow, pandas, scipy and torch are missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import gate_project
import pytest
from helpers import ROOT, environment, run

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
MISSING = (
    *("accelerate", "datasets", "dvclive", "evidently", "great_expectations", "httpx2", "huggingface_hub", "lm_eval"),
    *("numpy", "pandas", "peft", "pyarrow", "safetensors", "scipy", "sklearn", "tokenizers", "torch", "transformers"),
    "trl",
)
BLOCK = f"""
import sys
for name in {MISSING!r}:
    sys.modules[name] = None  # as if it were not installed
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of this repository with its recorded results, and no data."""
    folder = tmp_path_factory.mktemp("project")
    for name in run(ROOT, "git", "ls-files", "-co", "--exclude-standard").stdout.splitlines():
        if name.split("/")[0] not in ("tests", "docs", "benchmarks") and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    for command in (["git", "init", "-q"], ["git", "add", "-A"], ["git", "commit", "-qm", "start"]):
        done = run(folder, *command)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def holdfast(project: Path, tmp_path: Path):
    """holdfast(arguments) -> (exit code, stdout, stderr) of the command in a process that has only the core."""
    (tmp_path / "sitecustomize.py").write_text(BLOCK)

    def call(*arguments: str, folder: Path = project) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "holdfast.cli", *arguments],
            cwd=folder,
            env={**environment(), "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return call


def test_the_core_lists_none_of_what_it_must_run_without():
    core = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    names = {line.split(">")[0].split("[")[0].replace("-", "_") for line in core}
    assert not names & {"scikit_learn", *MISSING}
    assert "holdfast[report]" in EXTRAS["pipeline"]


def test_gate_reads_the_committed_verdict(holdfast, tmp_path):
    folder = gate_project.make_project(tmp_path / "judged")
    code, output, errors = holdfast("gate", "--check", folder=folder)
    assert (code, output.splitlines()[-1]) == (0, "verdict: pass"), output + errors
    code, output, errors = holdfast("gate", "--json", folder=folder)
    assert code == 0, errors
    assert json.loads(output) == json.loads((folder / "reports/gate.json").read_text(encoding="utf-8"))


def test_check_compares_code_params_and_data(holdfast):
    code, output, errors = holdfast("check")
    assert code in (0, 1), errors
    assert output.splitlines()[-1].startswith(("up to date: ", "stale: "))


def test_comment_prints_the_report_and_what_changed(holdfast, project):
    code, output, errors = holdfast("comment", "--against", "HEAD")
    assert code == 0, errors
    first = (project / "reports/report.md").read_text(encoding="utf-8").splitlines()[0]
    assert first in output
    assert "no parameter and no metric" in output


@pytest.mark.parametrize(
    "command", ["--version", "--help", "costs --json", "profile list", "explain gate.margin", "validate", "code"]
)
def test_other_commands_run_too(holdfast, command):
    code, output, errors = holdfast(*command.split())
    assert code == 0, errors
    assert output or command == "code"  # silent where all is well


def test_a_project_can_be_started_and_looked_at(holdfast, tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    code, _, errors = holdfast("init", "--pocket", folder=folder)
    assert code == 0, errors
    code, output, errors = holdfast("doctor", folder=folder)
    assert code == 1
    assert "!! device: torch is not installed: pip install 'holdfast[pipeline]'" in output
    code, output, errors = holdfast("upgrade", "--dry-run", folder=folder)
    assert code in (0, 3), errors


@pytest.mark.parametrize(
    ("command", "extra"),
    [("gate --against HEAD", "report"), ("run report", "report"), ("run curate", "pipeline"), ("plan", "pipeline")],
)
def test_what_needs_more_names_the_extra(holdfast, command, extra):
    code, _, errors = holdfast(*command.split())
    assert code == 3
    assert errors.splitlines()[0].startswith("error: ")
    assert errors.splitlines()[1:] == [f"  pip install 'holdfast[{extra}]'"]
