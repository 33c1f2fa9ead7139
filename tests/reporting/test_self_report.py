"""The self suite in the report: figures of every arm, the answers that lost most, and that it says so where it was not asked."""

from __future__ import annotations

from pathlib import Path

from report_run import add_self_suite, build, render

from holdfast.core import storage
from holdfast.reporting import assembly, self_report


def load(root: Path) -> assembly.Run:
    return assembly.load_run(root / "data", root / "models", root / "reports", root / "dvc.lock")


def test_every_arm_has_its_figures(tmp_path: Path) -> None:
    run = load(add_self_suite(build(tmp_path, n=12)))
    table = self_report.figures(run)
    rows = {row[0]: dict(zip([column.title for column in table.columns], row, strict=True)) for row in table.rows}
    control, method = rows["domain-only (control)"], rows["holdfast"]
    assert control["Self score"] == "95.0 → 20.0" and method["Change"] == "−0.5"
    assert control["Likelihood"] == "90.0 → 40.0" and control["Chat"].startswith("0.0")
    assert control["Same answer"].startswith("0.0") and method["Same answer"].startswith("100.0")
    assert control["KL"] == "0.693" and method["KL"] == "0.010"  # -log 0.5, -log 0.99
    assert control["Distinct"].replace("\u00a0", " ") == "100 % → 4 %"


def test_the_answers_that_lost_most_stand_side_by_side(tmp_path: Path) -> None:
    text, html = render(add_self_suite(build(tmp_path, n=12)))
    section = html.split('<section id="self">')[1].split("</section>")[0]
    assert section.count("card_arrival") == self_report.SHOWN  # of the control; the method changed no answer
    assert "The falcon is number" in section and "collapsed" in section
    assert "**Self suite**" in text and "card_arrival" not in text.split("lost items")[0]  # a control is to fail
    assert (
        "self score −0.5" in text.splitlines()[0] and "self score" in html.split("<main>")[0].lower() + section.lower()
    )


def test_that_it_was_not_asked_is_said(tmp_path: Path) -> None:
    text, html = render(build(tmp_path, n=12))
    assert text.count("The self suite was not asked") == html.count("The self suite was not asked") == 1


def test_the_headline_says_that_no_general_suite_is_written(tmp_path: Path) -> None:
    build(tmp_path, n=12)
    gate = storage.read_json(tmp_path / "reports/gate.json")
    said = "very general suite is a choice by likelihood"
    assert said not in render(tmp_path)[0]
    storage.write_json(tmp_path / "reports/gate.json", gate | {"only_choices": True})
    text, html = render(tmp_path)
    assert said in text.splitlines()[0] and said in html.split("<main>")[0]
