"""Writes what a reviewer reads.

reports/report.md for a pull request, reports/index.html to open offline, a model card per arm in reports/cards, and the
tables behind `dvc plots` in reports/plots.
"""

from __future__ import annotations

from pathlib import Path

from holdfast.core import storage
from holdfast.params.report import Report
from holdfast.reporting import assembly, card, markdown_report, page, plot_tables

REPORTS = Path("reports")


def main() -> None:
    params = Report.load()
    run = assembly.load_run(Path("data"), Path("models"), REPORTS, Path("dvc.lock"))

    markdown = markdown_report.compose(run, params.title, params.lost_items)
    html = page.compose(run, params.title, params.page_items)
    cards = {f"{arm}.md": card.compose(run, arm) for arm in run.arms()}
    tables = plot_tables.compose(run)

    with (
        storage.replacing_folder(REPORTS / "plots") as plots_folder,
        storage.replacing_folder(REPORTS / "cards") as cards_folder,
        storage.replacing(REPORTS / "report.md") as markdown_file,
        storage.replacing(REPORTS / "index.html") as html_file,
    ):
        markdown_file.write_text(markdown, encoding="utf-8")
        html_file.write_text(html, encoding="utf-8")
        for name, text in cards.items():
            (cards_folder / name).write_text(text, encoding="utf-8")
        for name, text in tables.items():
            (plots_folder / name).parent.mkdir(exist_ok=True)
            (plots_folder / name).write_text(text, encoding="utf-8")
    print(f"reports/report.md: {len(markdown):,} characters; reports/index.html: {len(html.encode()) / 1e6:.1f} MB")
