"""Prints the comment of a pull request: the report, what the branch changed in params and metrics, where the pages are.

holdfast comment --against origin/main > comment.md      (reads reports/report.md and git; runs nothing)
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from holdfast.core.errors import UserError
from holdfast.params.base import Loader
from holdfast.reporting.markup import CHANGES, LINKS, Column, Table, is_number, markdown, markdown_table
from holdfast.reporting.tables import scalar

LIMIT = 60_000  # characters of the whole; GitHub and GitLab take more
TABLE = 2_500  # characters of each of the two tables


def main(report: Path, params: Path, metrics: Path, against: str | None, pages: str | None) -> str:
    """The comment. `against`: a git revision; what the branch has changed since is listed. `pages`: an address
    where the HTML pages can be had; relative links lead nowhere from a comment."""
    if not report.is_file():
        raise UserError("no such file", where=report, do="run `dvc repro report` and commit it")
    text = report.read_text(encoding="utf-8", errors="replace")
    if against is not None:
        section = describe_changes(params, metrics, against)
        # a report of another version may lack the mark
        text = text.replace(CHANGES, section, 1) if CHANGES in text else f"{text}\n{section}"
    if pages:
        head, mark, _ = text.partition(LINKS)
        text = f"{head}{mark}\n[Full report and pages: files of this run]({pages})\n" if mark else text
    if len(text) > LIMIT:
        raise UserError(f"has {len(text):,} characters", where=report, do="remove it and run `dvc repro report`")
    return text


def describe_changes(params: Path, metrics: Path, against: str) -> str:
    start = run_git("merge-base", against, "HEAD").strip()
    tables = [
        ("Parameters", difference(flatten(load(params)), flatten(load(params, start)))),
        ("Metrics", difference(flatten(load(metrics)), flatten(load(metrics, start)))),
    ]
    name = markdown(against, 100)
    if not any(table.rows for _, table in tables):
        return f"**Changed against {name}**: no parameter and no metric.\n"
    shown = [f"{title}:\n\n{markdown_table(table, TABLE)}" for title, table in tables if table.rows]
    same = [f"No change in {title.lower()}." for title, table in tables if not table.rows]
    return f"**Changed against {name}**\n\n" + "\n\n".join([*shown, *same]) + "\n"


def load(path: Path, revision: str | None = None) -> Any:
    """params.yaml or metrics.json, now or at a revision; empty where it is not there."""
    if revision is None:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
    else:
        listed = run_git("ls-tree", "--name-only", revision, "--", str(path))
        text = run_git("show", f"{revision}:./{path}") if listed.strip() else ""
    try:
        return (json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader)) if text else {}  # noqa: S506
    except (ValueError, yaml.YAMLError):
        raise UserError("cannot be read", where=f"{path} at {revision or 'HEAD'}", do="fix that file") from None


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


def run_git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        what = (done.stderr.strip().splitlines() or ["no common ancestor"])[0]
        do = "fetch the target branch with its history: `git fetch --unshallow origin`, or fetch-depth: 0 in a workflow"
        raise UserError(f"git {arguments[0]}: {what}", where=" ".join(arguments[1:]), do=do)
    return done.stdout
