"""What replaces params or code leaves no verdict behind that still counts: profile use, init and upgrade."""

from __future__ import annotations

from pathlib import Path

import pytest
from gate_project import make_project

from holdfast.commands import gate, profile
from holdfast.planning import profiles, scaffold


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = make_project(tmp_path / "project")
    monkeypatch.chdir(folder)
    assert gate.main(None) == 0, "a pass, until something changes"
    return folder


def test_another_profile_refuses_the_former_pass(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile.use("qwen2.5-0.5b", force=True)
    assert gate.main(None) == 2
    shown = capsys.readouterr().out
    assert "refused: reports/gate.json is not the verdict on what is checked out" in shown
    assert "verdict: cannot-compare" in shown and "verdict: pass" not in shown


def test_the_params_that_init_writes_refuse_it_too(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("params.yaml").write_text(profiles.read_profile("pocket"), encoding="utf-8")
    assert gate.main(None) == 2
    assert "gate.margin is 0.03 in params.yaml, and the verdict was decided with 0.05" in capsys.readouterr().out


def test_an_upgrade_of_the_gate_s_code_refuses_it(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = Path("stages/gate.py")
    text = scaffold.read(False, None, project)["stages/gate.py"].decode()
    edited = text.replace("print(summary.table(content))", "print(content)")
    assert edited != text
    script.write_text(edited, encoding="utf-8")
    assert gate.main(None) == 2
    assert "the code of the gate changed since: stages.gate" in capsys.readouterr().out
