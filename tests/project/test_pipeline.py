"""The whole DAG at a miniature size in a git repository of its own: cold, no-op, one knob, bad input; and the base alone, from a wheel."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import warm_start
from helpers import checkout, make_miniature, repro, run, set_params, shell

VERDICTS = ("pass", "fail", "cannot-compare")
OF_ANY_PANEL = ("data/domain/", "data/instructions/", "data/responses/base", "reports/eval/base/")
pytestmark = pytest.mark.slow


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
    return {f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()}


class TestWholePipeline:
    """In order: each test goes on from where the one before left the repository."""

    def test_cold_run_goes_from_clone_to_verdict(self, cold):
        project, ran = cold
        assert len(ran) == len(set(ran)) == 24  # every stage and matrix cell but the frozen recipe
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
        assert "Running stage 'code'" in output, "it looks whether the code has changed"
        assert run(cold[0], "holdfast", "check").returncode == 0

    def test_one_knob_reruns_only_what_is_downstream(self, cold):
        project, _ = cold
        set_params(project, gate__margin=0.25)
        ran, _ = repro(project)
        assert ran == ["baseline", "gate", "report"], "and nothing is trained anew"
        set_params(project, consensus__min_score=1.6)
        stale = json.loads(run(project, "dvc", "status", "--json").stdout)
        assert set(stale) == {"code", "consensus"}, "code always looks"
        set_params(project, consensus__min_score=1.5)
        set_params(project, mix__arms__holdfast__share=0.12)
        stale = json.loads(run(project, "dvc", "status", "--json").stdout)
        assert set(stale) == {"code", "amount", "pilot@holdfast", "mix@holdfast"}
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


def test_the_base_alone_without_judges_comes_to_a_verdict_in_a_subfolder(cold, installed, tmp_path):
    """With the wheel, in a DVC project that has a pipeline and a stages package of its own. What does not depend on the panel has
    the bytes of the run above."""
    python = Path(installed["PATH"].split(os.pathsep)[0]) / "python"
    warm = {**installed, "PATH": f"{warm_start.start(str(python), '')}{os.pathsep}{installed['PATH']}"}
    shell(tmp_path, warm, "git", "init", "-q")
    shell(tmp_path, warm, "dvc", "init", "-q")
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "__init__.py").write_text("raise RuntimeError('not of this project')\n")
    (tmp_path / "dvc.yaml").write_text("stages:\n  theirs: {cmd: echo theirs > theirs.txt, outs: [theirs.txt]}\n")
    project = tmp_path / "llm"
    shell(tmp_path, warm, "holdfast", "init", "--pocket", "--into", "llm")
    make_miniature(project)
    set_params(project, panel=["base"], arms=["holdfast"], gate__control=None, consensus__strategy="first")
    shell(project, warm, "git", "add", "-A")
    shell(project, warm, "git", "commit", "-qm", "start")
    output = shell(project, warm, "dvc", "repro")
    assert len(re.findall(r"Running stage '(?!code|llm/dvc.yaml:code)", output)) == 19, output
    assert not (tmp_path / "theirs.txt").exists()
    same = {name: digest for name, digest in outputs(project).items() if name.startswith(OF_ANY_PANEL)}
    assert len(same) >= 8
    assert same == {name: digest for name, digest in outputs(cold[0]).items() if name.startswith(OF_ANY_PANEL)}
    assert "no judge is asked" in output
    scores = pq.read_table(project / "data/scores/base.parquet")
    assert scores.num_rows == 0
    replay = pq.read_table(project / "data/replay/replay.parquet").to_pylist()
    assert {row["model"] for row in replay} == {"base"}
    assert {row["score"] for row in replay} == {None}
    consensus = json.loads((project / "reports/consensus.json").read_text())
    assert (consensus["strategy"], consensus["calls"], consensus["judges"]) == ("first", 0, {})
    report = (project / "reports/report.md").read_text(encoding="utf-8")
    assert "no judge was asked" in report
    assert "nan" not in report.lower().split()
    verdict = json.loads((project / "reports/gate.json").read_text(encoding="utf-8"))
    assert set(verdict["arms"]) == {"holdfast"}
    assert verdict["verdict"] in VERDICTS
