"""The last results of this branch, from git: what metrics.json said at each commit that changed it.

holdfast history                     a line for each result and arm, the oldest first
holdfast history --page FILE         puts them into a copy of the page, such as one that CI uploads; says nothing
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from holdfast.core import storage
from holdfast.core.errors import UserError
from holdfast.reporting import history
from holdfast.reporting.history import Result
from holdfast.reporting.markup import percent, score

METRICS = Path("reports/metrics.json")
SHOWN = 20  # results


def main(page: Path | None) -> None:
    """Raises UserError where the page is not there."""
    results = collect(METRICS, SHOWN)
    if page is None:
        print_table(results)
        return
    if not page.is_file():
        raise UserError("no such file", where=page, do="give a copy of reports/index.html")
    if len(results) > 1:
        text = history.insert(page.read_text(encoding="utf-8"), results)
        with storage.replacing(page) as file:
            file.write_text(text, encoding="utf-8")


def collect(metrics: Path, most: int) -> list[Result]:
    """The last results in the first-parent history of this branch, the oldest first. What cannot be read is left out."""
    listed = run_git("log", f"-{most}", "--first-parent", "--format=%h %cs", "--", metrics.as_posix()) or ""
    results = []
    for commit, date in (line.split() for line in reversed(listed.splitlines())):
        if content := load(metrics, commit):
            results.append(Result(commit, date, content))
    return results


def load(metrics: Path, revision: str) -> dict[str, Any]:
    """metrics.json at a revision; empty where it is not there or was broken then, which is no fault of this branch."""
    try:
        content = json.loads(run_git("show", f"{revision}:./{metrics.as_posix()}") or "{}")
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def print_table(results: list[Result]) -> None:
    if not results:
        print(f"no commit of this branch has {METRICS}")
    for result in results:
        for arm in (name for name in result.metrics if name != "base"):
            words = [f"{key} {score(result.value(arm, key))}" for key in history.KEYS]
            words.append(f"retention {percent(result.value(arm, 'retention'))}")
            print(
                f"{result.date} {result.commit}  {arm}: {', '.join(words)}, {result.value(arm, 'verdict') or 'no verdict'}"
            )


def run_git(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, errors="replace", check=False)
    return done.stdout if done.returncode == 0 else None
