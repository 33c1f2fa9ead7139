"""Prints the comment of a pull request: what the branch changed of its own judge, the report, what it changed in params and
metrics, where the pages are, which commit it is about.

holdfast comment --against origin/main > comment.md      (reads reports/report.md and git; runs nothing)
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from holdfast.commands import history
from holdfast.core import yaml_text
from holdfast.core.errors import UserError
from holdfast.reporting.markup import CHANGES, LINKS, Column, Table, is_number, markdown, markdown_table, scalar
from holdfast.verdict import snapshot, yardstick

RESULTS, BARS = 8, "▁▂▃▄▅▆▇█"  # results of the branch's history that are shown, and how
LIMIT = 60_000  # characters of the whole; GitHub and GitLab take more
TABLE, DECIDING = 2_500, 20_000  # characters of each of the two tables, and of what decides the verdict in them


def main(report: Path, params: Path, metrics: Path, against: str | None, pages: str | None) -> str:
    """The comment. `against`: a git revision; what the branch has changed since is listed, and first what it changed of its
    own judge. `pages`: an address where the HTML pages can be had; relative links lead nowhere from a comment."""
    if not report.is_file():
        raise UserError("no such file", where=report, do="run `dvc repro report` and commit it")
    if not report.is_absolute() and not report.resolve().is_relative_to(Path.cwd()):  # what it shows is published
        raise UserError("is a link out of the project", where=report, do="remove it and run `dvc repro report`")
    text = report.read_text(encoding="utf-8", errors="replace")
    opening = ""
    if against is not None:
        start = find_start(against)
        opening = describe_shifts(yardstick.compare(take_snapshot(start), take_snapshot()), against)
        section = describe_changes(params, metrics, against, start)
        # a report of another version may lack the mark
        text = text.replace(CHANGES, section, 1) if CHANGES in text else f"{text}\n{section}"
    if pages:
        head, mark, _ = text.partition(LINKS)
        text = f"{head}{mark}\n[Full report and pages: files of this run]({pages})\n" if mark else text
    text = opening + text + describe_trend(metrics) + describe_commit()
    if len(text) > LIMIT:
        raise UserError(f"has {len(text):,} characters", where=report, do="remove it and run `dvc repro report`")
    return text


def take_snapshot(revision: str | None = None) -> snapshot.Snapshot:
    """The project in the working directory, or as of a git revision."""

    def read(name: str) -> str | None:
        if revision is None:
            file = Path(name)
            return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else None
        return run_git("show", f"{revision}:./{name}")

    return snapshot.take(read)


def describe_shifts(shifts: list[yardstick.Shift], against: str) -> str:
    """What comes before everything else: the branch is judged by another yardstick than its target."""
    if not shifts:
        return ""
    looser = sum(shift.looser for shift in shifts)
    title = "## GATE LOOSENED" if looser else "**The yardstick moved**"
    lines = [f"- {'**' if s.looser else ''}{markdown(s.text)}{'**' if s.looser else ''}" for s in shifts]
    return f"{title} against {markdown(against, 100)}\n\n" + "\n".join(lines) + "\n\n"


def describe_trend(metrics: Path) -> str:
    """General and domain scores of each arm over the last results in the history of this branch, the newest last; empty where
    there are fewer than two."""
    results = history.collect(metrics, RESULTS)
    if len(results) < 2:
        return ""
    rows = []
    for arm in (name for name in results[-1].metrics if name != "base"):
        for key in ("general", "domain"):
            values = [result.value(arm, key) for result in results]
            if sum(map(is_number, values)) > 1:
                words = [f"{100 * v:.1f}" if is_number(v) else "–" for v in values]
                rows.append([f"{arm}, {key}", draw_line(values), " → ".join(words)])
    if not rows:
        return ""
    first, last = (f"{result.commit} ({result.date})" for result in (results[0], results[-1]))
    table = markdown_table(Table([Column("Score"), Column("Trend"), Column("Points, oldest first")], rows), TABLE)
    return (
        f"\n<details><summary>The last {len(results)} results, {first} to {last}</summary>\n\n{table}\n\n</details>\n"
    )


def draw_line(values: list[Any]) -> str:
    """Bars from the lowest to the highest of scores (0..1): a line of text that shows the way they went."""
    known = [value for value in values if is_number(value)]
    low, span = min(known), max(max(known) - min(known), 0.01)  # less than a point is level
    return "".join(BARS[round((v - low) / span * (len(BARS) - 1))] if is_number(v) else "·" for v in values)


def describe_commit() -> str:
    """Which commit this is about, and of when: a report alone does not say."""
    commit, date = (run_git("log", "-1", "--format=%h %cs") or "? ?").split()
    return f"\nCommit {commit}, {date}\n"


def describe_changes(params: Path, metrics: Path, against: str, start: str) -> str:
    tables = [
        ("Parameters", difference(flatten(load(params)), flatten(load(params, start)))),
        ("Metrics", difference(flatten(load(metrics)), flatten(load(metrics, start)))),
    ]
    name = markdown(against, 100)
    if not any(table.rows for _, table in tables):
        return f"**Changed against {name}**: no parameter and no metric.\n"
    shown = [f"{title}:\n\n{table_of_changes(table)}" for title, table in tables if table.rows]
    same = [f"No change in {title.lower()}." for title, table in tables if not table.rows]
    return f"**Changed against {name}**\n\n" + "\n\n".join([*shown, *same]) + "\n"


def table_of_changes(table: Table) -> str:
    """Whatever decides the verdict comes first and whole, the rest as far as there is room."""
    deciding = [row for row in table.rows if is_deciding(row[0])]
    rest = [row for row in table.rows if not is_deciding(row[0])]
    first = markdown_table(Table(table.columns, deciding), DECIDING)
    return markdown_table(Table(table.columns, [*deciding, *rest]), max(TABLE, len(first) + TABLE // 4))


def is_deciding(key: str) -> bool:
    return key == "arms" or key.startswith(("gate.", "evaluate.", "retrain."))


def find_start(against: str) -> str:
    """The commit at which the branch left a revision."""
    where = f"--against {against}"
    fetch = "fetch it with its history: `git fetch --unshallow origin`, or fetch-depth: 0 in a workflow"
    commit = run_git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{against}^{{commit}}")
    if commit is None:
        if run_git("rev-parse", "--git-dir") is None:
            raise UserError("no git repository here", where=".", do="run this in a clone")
        raise UserError("git has no such revision", where=where, do=fetch)
    start = run_git("merge-base", commit.strip(), "HEAD")
    if start is None:
        raise UserError("has no commit in common with HEAD", where=where, do=fetch)
    return start.strip()


def load(path: Path, revision: str | None = None) -> Any:
    """params.yaml or metrics.json, now or at a revision; empty where it is not there."""
    try:
        if revision is None:
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
        else:
            text = run_git("show", f"{revision}:./{path.as_posix()}") or ""
        return (json.loads(text) if path.suffix == ".json" else yaml_text.parse(text)) if text else {}
    except (ValueError, yaml.YAMLError, RecursionError):  # no UTF-8 among them
        kind = "JSON" if path.suffix == ".json" else "YAML"
        where = path if revision is None else f"{path} at commit {revision[:12]}"
        do = "take it back from git" if revision is None else "compare with a revision at which it is whole"
        raise UserError(f"is not valid {kind}", where=where, do=do) from None


def flatten(content: Any, path: str = "") -> dict[str, Any]:
    """Nested keys joined by dots; lists are values."""
    if not isinstance(content, dict):
        return {path: content}
    return {k: v for key in content for k, v in flatten(content[key], f"{path}.{key}" if path else str(key)).items()}


def difference(here: dict[str, Any], before: dict[str, Any]) -> Table:
    rows = []
    for key in sorted(here.keys() | before.keys()):
        old, new = before.get(key), here.get(key)
        if old != new or (key in here) != (key in before):
            by = f"{new - old:+.4g}".replace("-", "−") if is_number(old) and is_number(new) else ""
            rows.append([key, format_value(old, key in before), format_value(new, key in here), by])
    columns = [Column("Key"), Column("Before", "number"), Column("Here", "number"), Column("Change", "number")]
    return Table(columns, rows)


def format_value(value: Any, there: bool) -> str:
    if not there:
        return "not set"
    return ", ".join(map(scalar, value)) if isinstance(value, list) else scalar(value)


def run_git(*arguments: str) -> str | None:
    """What git prints; None where it fails. Raises UnicodeDecodeError, a ValueError, where that is no UTF-8."""
    done = subprocess.run(["git", *arguments], capture_output=True, check=False)
    return None if done.returncode else done.stdout.decode()
