"""The whole DAG at a miniature size in a git repository of its own: cold, no-op, one knob, from scratch again, bad input."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def environment() -> dict[str, str]:
    """No network, no telemetry, the tools of this interpreter first on the path."""
    return {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "DVC_NO_ANALYTICS": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.org", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@example.org",
    }  # fmt: skip


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)


def repro(folder: Path, *options: str) -> tuple[list[str], str]:
    """(stages that ran, all output) of `dvc repro`, which must succeed."""
    done = run(folder, "dvc", "repro", *options)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-3000:]
    return re.findall(r"Running stage '([^']+)'", output), output


def set_params(folder: Path, **changes: object) -> None:
    """Sets dotted keys (`gate__margin=0.1`) in params.yaml."""
    content = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    for key, value in changes.items():
        *path, leaf = key.split("__")
        inner = content
        for part in path:
            inner = inner[part]
        inner[leaf] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def checkout(folder: Path) -> Path:
    """A git repository with the project's files, as a clone would have them, and a miniature profile."""
    listed = run(ROOT, "git", "ls-files", "-co", "--exclude-standard").stdout.splitlines()
    for name in listed:
        if name.split("/")[0] not in ("tests", "docs", "benchmarks") and name != "dvc.lock" and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    for stale in (folder / "reports").glob("*"):  # committed results of the real run
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    set_params(
        folder,
        panel=["base", "lexicon"], reconstruct__samples=700, respond__k=2, curate__clusters=8, balance__rows=200,
        quality__min_rows=20, quality__min_clusters=2, consensus__min_score=1.5, mix__epochs=0.25, mix__arms__holdfast__epochs=0.25, mix__arms__holdfast__share=0.1,
        evaluate__limit=20, gate__resamples=500, gate__margin=0.3,
    )  # fmt: skip
    for command in (["git", "init", "-q"], ["git", "add", "-A"], ["git", "commit", "-qm", "start"]):
        done = run(folder, *command)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def cold(project: Path) -> tuple[Path, list[str]]:
    return project, repro(project)[0]


def outputs(folder: Path) -> dict[str, str]:
    """sha256 of every file that two runs must agree on."""
    files = [
        *(folder / "data").rglob("*.parquet"),
        *(folder / "reports").rglob("*.parquet"),
        folder / "reports" / "metrics.json",
    ]
    files += [folder / "models" / arm / "model.safetensors" for arm in ("domain-only", "holdfast")]
    return {f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.mark.slow
class TestWholePipeline:
    """In order: each test goes on from where the one before left the repository."""

    def test_cold_run_goes_from_clone_to_verdict(self, cold):
        project, ran = cold
        assert len(ran) == len(set(ran)) == 22  # every stage and matrix cell but the frozen recipe
        gate = json.loads((project / "reports" / "gate.json").read_text())
        assert set(gate["arms"]) == {"domain-only", "holdfast"}
        assert (project / "reports" / "report.md").stat().st_size > 1000
        assert "<html" in (project / "reports" / "index.html").read_text(encoding="utf-8")

    def test_nothing_that_flows_names_a_machine_or_a_clock(self, cold):
        project, _ = cold
        for name in (
            "gate.json",
            "metrics.json",
            "consensus.json",
            "report.md",
            "quality/quality.json",
            "drift/drift.json",
        ):
            assert str(project) not in (project / "reports" / name).read_text(encoding="utf-8"), name

    def test_second_run_does_nothing(self, cold):
        ran, output = repro(cold[0])
        assert ran == []
        assert "Data and pipelines are up to date" in output

    def test_one_knob_reruns_only_what_is_downstream(self, cold):
        project, _ = cold
        set_params(project, gate__margin=0.25)
        ran, _ = repro(project)
        assert ran == ["gate", "report"]
        set_params(project, consensus__min_score=1.6)
        stale = json.loads(run(project, "dvc", "status", "--json").stdout)
        assert set(stale) == {"consensus"}
        set_params(project, consensus__min_score=1.5)
        set_params(project, mix__arms__holdfast__share=0.12)
        assert set(json.loads(run(project, "dvc", "status", "--json").stdout)) == {"pilot@holdfast", "mix@holdfast"}
        set_params(project, mix__arms__holdfast__share=0.1)
        assert repro(project)[0] == []

    def test_a_forgetting_arm_turns_the_check_red(self, cold):
        project, _ = cold
        gate = json.loads((project / "reports" / "gate.json").read_text())
        done = run(project, "holdfast", "gate", "--check")
        assert done.returncode == {"pass": 0, "fail": 1, "cannot-compare": 2}[gate["verdict"]]
        assert "holdfast" in done.stdout

    def test_bad_input_stops_with_a_sentence_and_leaves_earlier_outputs(self, cold):
        project, _ = cold
        before = outputs(project)
        for changes, names in (
            ({"consensus__min_scor": 3}, "min_score"),
            ({"balance__rows": "many"}, "balance.rows"),
            ({"arms": ["holdfast", "holdfast"]}, "holdfast"),
        ):
            good = (project / "params.yaml").read_text(encoding="utf-8")
            set_params(project, **changes)
            done = run(project, "dvc", "repro")
            (project / "params.yaml").write_text(good, encoding="utf-8")
            output = done.stdout + done.stderr
            assert done.returncode != 0
            assert names in output
            assert "Traceback" not in output
            assert outputs(project) == before

    def test_from_scratch_again_every_byte_is_the_same(self, cold):
        project, _ = cold
        before = outputs(project)
        shutil.rmtree(project / ".cache")
        ran, _ = repro(project, "--force")
        assert len(ran) == 22
        assert outputs(project) == before
