"""`holdfast compare --base --tuned`: one command without a project, from two models to a verdict and a page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_completions import serve
from helpers import perturb
from model_lab import ModelLab, open_lab

from holdfast.comparison import evaluations
from holdfast.core import records
from holdfast.evaluation import harness


@pytest.fixture(scope="module")
def lab(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelLab]:
    with open_lab(tmp_path_factory.mktemp("comparison"), tiny) as made:
        yield made


@pytest.fixture(scope="module")
def out(lab: ModelLab) -> Path:
    """A comparison with a domain."""
    lab.code = lab.run("compare", "first", *lab.domain)  # type: ignore[attr-defined]
    return lab.folder / "first"


def test_one_command_gives_verdict_items_and_report_without_a_project(lab: ModelLab, out: Path) -> None:
    content = json.loads((out / "gate.json").read_text())
    assert {"pass": 0, "fail": 1, "cannot-compare": 2}[content["verdict"]] == lab.code  # type: ignore[attr-defined]
    assert content["domain_measured"] and content["arms"]["tuned"]["suites"]["domain_test"]["items"] == 12
    for model in ("base", "tuned"):
        rows = records.read("items", out / "eval" / model / "items.parquet")
        assert [row["suite"] for row in rows].count("choice") == 30 and len(rows) == 42
    page, report = (out / "index.html").read_text(), (out / "report.md").read_text()
    assert "tuned" in page and 'id="item-data"' in page
    for absent in ("not available", "Judges", "Training"):
        assert absent not in page and absent not in report
    assert not any((lab.folder / name).exists() for name in (".cache", "models", "reports", "params.yaml"))


def test_a_second_tuned_model_does_not_ask_the_base_again(
    lab: ModelLab, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated: list[str] = []
    evaluate = harness.evaluate_model

    def note(params: Any, model: str, *rest: Any) -> Any:
        evaluated.append(model)
        return evaluate(params, model, *rest)

    monkeypatch.setattr(harness, "evaluate_model", note)
    second = perturb(lab.base, lab.folder / "second model", 0.2)
    lab.run("compare", "second", *lab.domain, tuned=second)
    assert evaluated == ["tuned"] and "those of an earlier comparison" in capsys.readouterr().out
    lab.run("compare", "third", "--limit", "5")  # other questions
    assert evaluated == ["tuned", "base", "tuned"]


def test_what_was_not_measured_is_in_the_headline(lab: ModelLab, capsys: pytest.CaptureFixture[str]) -> None:
    code = lab.run("compare", "lenient", "--margin", "0.99", "--suite-margin", "0.99", "--chance", "choice=0.01")
    assert code == 0 and "pass (domain not measured)" in capsys.readouterr().out
    assert "domain not measured" in (lab.folder / "lenient" / "report.md").read_text().splitlines()[0]


def test_a_killed_comparison_goes_on(
    lab: ModelLab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(evaluations, "evaluate_other", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert lab.run("compare", "killed", "--limit", "7") == 130
    assert not (lab.folder / "killed" / "gate.json").exists()
    assert lab.run("compare", "killed", "--limit", "7") in (0, 1, 2) and (lab.folder / "killed" / "gate.json").exists()
    assert "those of an earlier comparison" in capsys.readouterr().out


def test_a_server_answers_for_both(lab: ModelLab, out: Path) -> None:
    with serve({"small": lab.base, "small-tuned": lab.tuned}) as (handler, url):
        more = ["--url", url, "--base-name", "small", *lab.domain]
        lab.run("compare", "served", *more, tuned="small-tuned")
        assert {body["model"] for body in handler.seen} == {"small", "small-tuned"}
    here, there = (json.loads((lab.folder / name / "gate.json").read_text()) for name in ("first", "served"))
    assert here["arms"]["tuned"]["general"] == there["arms"]["tuned"]["general"]
    weights = [e["weights"] for e in there["provenance"]["evaluations"].values()]
    assert len(set(weights)) == 2


@pytest.mark.parametrize(
    ("models", "more", "code", "says"),
    [
        ({"tuned": "BASE"}, [], 2, "nothing was tuned"),
        ({"tuned": "nowhere"}, [], 2, "no such folder"),
        ({"base": "nowhere"}, [], 2, "no such folder"),
        ({}, ["--template", "mine"], 3, "neither own nor base"),
        ({}, ["--columns", "prompt=a,response=b"], 3, "goes with --domain"),
        ({}, ["--domain", "nowhere.jsonl"], 3, "no such file"),
        ({}, ["--domain", "test.jsonl"], 3, "--columns prompt=FIELD"),
        ({}, ["--chance", "other=0.5"], 3, "no suite 'other'"),
        ({}, ["--suites", " ,"], 3, "names no suite"),
        ({}, ["--metric", "acc"], 3, "two files of results"),
        ({"tuned": "b"}, ["--url", "http://127.0.0.1:9/v1", "--base-name", "b"], 2, "nothing was tuned"),
        ({"tuned": "t"}, ["--url", "http://127.0.0.1:9/v1", "--base-name", "b"], 3, "no list of models"),
    ],
)
def test_bad_input_gets_three_lines(
    lab: ModelLab, capsys: pytest.CaptureFixture[str], models: dict[str, str], more: list[str], code: int, says: str
) -> None:
    named = {key: str(lab.base) if name == "BASE" else name for key, name in models.items()}
    assert lab.run("compare", "bad", *more, **named) == code
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error and len(error.strip().splitlines()) <= 3


def test_a_folder_of_something_else_is_left_alone(lab: ModelLab, capsys: pytest.CaptureFixture[str]) -> None:
    (lab.folder / "mine").mkdir()
    (lab.folder / "mine" / "letter.txt").write_text("Dear ...")
    (lab.folder / "mine" / "models").mkdir()  # as a project has
    assert lab.run("compare", "mine") == 3 and "holds no comparison" in capsys.readouterr().err
