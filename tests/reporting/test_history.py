"""The last results of a branch: collected from git, drawn for the page, put into a copy of it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from holdfast.commands import history as command
from holdfast.core.errors import UserError
from holdfast.reporting import history
from holdfast.reporting.history import Result

PAGE = f"<nav><a>Verdict</a>{history.LINK}</nav><main>{history.PLACE}</main>"


def metrics(general: float, verdict: str = "pass", **more: Any) -> dict[str, Any]:
    arm = {"general": general, "domain": 0.5, "retention": general / 0.9, "verdict": verdict}
    return {"base": {"general": 0.9, "domain": 0.0}, "holdfast": arm} | more


RESULTS = [
    Result("aaa1111", "2025-01-01", metrics(0.89)),
    Result("bbb2222", "2025-01-05", metrics(0.70, "fail")),
    Result("ccc3333", "2025-02-01", metrics(0.90, other={"general": 0.5, "verdict": "fail"})),
]


def test_the_section_has_a_figure_a_score_and_a_row_a_result_the_newest_first() -> None:
    text = history.compose(RESULTS)
    assert text.count("<figure>") == 2 and text.count("<polyline") == 4, "general and domain, base and arm"
    rows = re.findall(r'<tr><th scope="row">(\S+ \S+)</th><td>(\w+)</td>', text)
    assert rows == [
        ("2025-02-01 ccc3333", "holdfast"),
        ("2025-02-01 ccc3333", "other"),
        ("2025-01-05 bbb2222", "holdfast"),
        ("2025-01-01 aaa1111", "holdfast"),
    ]
    assert len(re.findall(r'class="mark fail"><title>holdfast, 2025-01-05 bbb2222: 70.0', text)) == 1
    assert not re.search(r"style=|<script", text), "the page's policy allows neither"


def test_one_result_draws_no_line_and_hostile_names_stay_text() -> None:
    assert "<figure>" not in history.compose(RESULTS[:1])
    name = '"><script>x</script>'
    hostile = [
        Result(commit, date, {name: {"general": 0.1 * n, "domain": "x", "verdict": name}})
        for n, (commit, date, _) in enumerate(RESULTS)
    ]
    text = history.compose(hostile)
    assert "<script" not in text and text.count("<figure>") == 1
    assert history.compose([]) and history.compose([Result("a", "b", {"holdfast": "none"})] * 2)


def test_labels_of_lines_that_end_together_do_not_lie_over_one_another() -> None:
    places = [place for place, *_ in history.spread([(50.0, "a", 0), (51.0, "b", 1), (20.0, "c", 2), (52.0, "d", 3)])]
    assert places == [20.0, 50.0, 64.0, 78.0]


def test_results_are_collected_from_git_and_put_into_a_copy_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reports").mkdir()
    file, page = tmp_path / "reports/metrics.json", tmp_path / "page.html"
    page.write_text(PAGE, encoding="utf-8")
    command.main(None)
    assert "no commit of this branch has reports/metrics.json" in capsys.readouterr().out
    subprocess.run(["git", "init", "-q"], check=True)
    for text in (json.dumps(metrics(0.89)), "{broken", json.dumps(metrics(0.7, "fail"))):
        file.write_text(text, encoding="utf-8")
        subprocess.run(["git", "add", "-A"], check=True)
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "results"], check=True)
    command.main(None)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ", 1)[1] for line in lines] == [
        "holdfast: general 89.0, domain 50.0, retention 98.9\u00a0%, pass",
        "holdfast: general 70.0, domain 50.0, retention 77.8\u00a0%, fail",
    ]
    command.main(page)
    text = page.read_text(encoding="utf-8")
    assert '<a href="#history">History</a></nav>' in text and '<section id="history">' in text
    command.main(page)
    assert page.read_text(encoding="utf-8") == text, "once is enough"
    with pytest.raises(UserError, match="no such file"):
        command.main(Path("nowhere.html"))
