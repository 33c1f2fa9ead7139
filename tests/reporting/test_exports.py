"""JUnit XML, annotations and the job's summary say what the verdict says, whatever names and reasons hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from gate_project import make_project

from holdfast.commands import gate as command
from holdfast.core import storage
from holdfast.reporting import exports

HOSTILE = "</failure>\x00\x1b[2J ]]> ::error::forged\n::set-output name=x::y 100% <script>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("exports") / "project")


@pytest.fixture
def content(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(folder)
    return storage.read_json(folder / "reports/gate.json")


def read_cases(xml: str) -> dict[tuple[str, str], str]:
    """(arm, suite) -> outcome."""
    root = ElementTree.fromstring(xml)
    return {
        (case.get("classname") or "", case.get("name") or ""): next(
            (child.tag for child in case if child.tag != "system-out"), "passed"
        )
        for case in root.iter("testcase")
    }


def test_a_pass_and_a_control_that_failed_as_it_should(content: dict[str, Any]) -> None:
    cases = read_cases(exports.junit(list(exports.list_cases(content))))
    assert cases["holdfast", "verdict"] == cases["holdfast", "facts"] == "passed"
    assert cases["domain-only", "verdict"] == cases["domain-only", "judging"] == "skipped", "it decides nothing"
    assert len(cases) == 2 * 5
    assert not any(line.startswith("::error") for line in exports.list_annotations(list(exports.list_cases(content))))


def test_failures_errors_and_suites_set_aside(content: dict[str, Any]) -> None:
    arm = content["arms"]["holdfast"]
    arm |= {"verdict": "fail", "reasons": ["it lost much"]}
    for name, word in (("facts", "fail"), ("judging", "cannot-compare"), ("sorting", "set aside")):
        arm["suites"][name]["verdict"] = word
    listed = list(exports.list_cases(content))
    cases = read_cases(exports.junit(listed))
    outcomes = {name: cases["holdfast", name] for name in ("verdict", "facts", "judging", "sorting")}
    assert outcomes == {"verdict": "failure", "facts": "failure", "judging": "error", "sorting": "skipped"}
    suite = ElementTree.fromstring(exports.junit(listed)).findall("testsuite")[1]
    assert (suite.get("name"), suite.get("failures"), suite.get("errors"), suite.get("skipped")) == (
        "holdfast",
        "2",
        "1",
        "1",
    )
    shown = exports.list_annotations(listed)
    assert "::error title=holdfast%3A verdict::it lost much" in shown and len(shown) == 3


def test_hostile_names_break_out_of_neither(content: dict[str, Any]) -> None:
    content["arms"]["holdfast"] |= {"verdict": "fail", "reasons": [HOSTILE]}
    content["arms"]["holdfast"]["suites"][HOSTILE] = content["arms"]["holdfast"]["suites"].pop("facts")
    listed = list(exports.list_cases(content))
    assert len(read_cases(exports.junit(listed))) == 10
    lines = exports.list_annotations(listed, domain_measured=False)
    assert all(line.startswith(("::error title=", "::warning title=")) and "\n" not in line for line in lines)
    assert "100%25" in lines[0]
    assert "<script>" not in exports.summary(content) and exports.summary(content).count("\n") == 6


def test_the_command_writes_all_three(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    export = command.Export(tmp_path / "out/junit.xml", github=True)
    assert command.main(None, export=export) == 0
    assert read_cases((tmp_path / "out/junit.xml").read_text(encoding="utf-8"))["holdfast", "verdict"] == "passed"
    assert (tmp_path / "summary.md").read_text(encoding="utf-8").startswith("## Holdfast: PASS\n")
    assert "::error" not in capsys.readouterr().out


def test_a_refusal_is_an_error_everywhere(
    content: dict[str, Any], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = folder / "reports/metrics.json"
    former = metrics.read_bytes()
    metrics.unlink()
    try:
        assert command.main(None, export=command.Export(tmp_path / "junit.xml", github=True)) == 2
    finally:
        metrics.write_bytes(former)
    assert set(read_cases((tmp_path / "junit.xml").read_text(encoding="utf-8")).values()) == {"error"}
    assert "::error title=holdfast%3A evidence::" in capsys.readouterr().out
