"""Did a model that was tuned anywhere forget anything? Asks it and its base the same questions, without a project.

    holdfast compare --base MODEL --tuned MODEL|ADAPTER [--suites core] [--domain test.jsonl] [--out FOLDER]
    holdfast compare --base MODEL --tuned NAME --url http://localhost:8000/v1 --base-name NAME      one server for both

FOLDER gets gate.json, report.md, index.html, and the items of both evaluations. docs/compare.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast.comparison import asking, evaluations, pair, verdicts
from holdfast.comparison.asking import Wanted
from holdfast.core import cache
from holdfast.core.errors import CannotCompare, UserError, escape_control
from holdfast.params.gate import Gate
from holdfast.planning.start import parse_columns
from holdfast.verdict import summary

TUNED, QUESTIONS = "tuned", "questions"
TEMPLATES: tuple[pair.Template, ...] = ("own", "base")
Say = Callable[[str], None]


def main(
    base: str,
    tuned: str,
    wanted: Wanted,
    gate: Gate,
    out: Path,
    template: pair.Template,
    base_name: str | None,
    say: Say,
) -> dict[str, Any]:
    """Writes the comparison to `out`; returns the content of its gate.json. `say` is told what a reader should know.

    Raises CannotCompare where the two models do not belong together, UserError for other bad input.
    """
    prepare_folder(out)
    use_own_cache()
    if wanted.url:
        first = pair.inspect(base, "base")
        served = base_name or Path(base).name
        if served == tuned:
            what = "is the name of the base, too: nothing was tuned"
            raise CannotCompare(what, where=tuned, do="give the names of two models that the server offers")
        models = [first]
    else:
        opened = pair.open_pair(base, tuned, out / "models", template)
        first, served = opened.base, None
        models = [first, opened.tuned]
        for note in opened.notes:
            say(note)
    exam, notes = asking.settle(wanted, first, out / QUESTIONS)
    for note in notes:
        say(note)
    if evaluations.evaluate_base(exam, out / verdicts.EVALUATIONS, served):
        say("base: its results are those of an earlier comparison")
    folder = first.folder() if wanted.url else models[1].folder()
    evaluations.evaluate_other(exam, TUNED, folder, out / verdicts.EVALUATIONS, tuned if wanted.url else None)
    content = verdicts.decide(gate, [TUNED], out)
    verdicts.write_report(out, f"{Path(tuned).name} against {Path(base).name}", models)
    return content


def read_questions(
    suites: str,
    chances: dict[str, float],
    tasks: Path | None,
    domain: Path | None,
    columns: str | None,
    instructions: int,
    limit: int | None,
    batch: int,
    url: str | None,
) -> Wanted:
    """The questions that the options name. Raises UserError."""
    names = [name.strip() for name in suites.split(",") if name.strip()]
    if not names:
        raise UserError("names no suite", where="--suites", do="give core, or names of lm-eval's tasks")
    if unknown := sorted(chances.keys() - set(names)):
        raise UserError(f"no suite '{unknown[0][:60]}'", where="--chance", do=f"asked are: {', '.join(names[:12])}")
    if columns and not domain:
        raise UserError("goes with --domain", where="--columns", do="give the file of test rows as --domain FILE")
    if tasks and not tasks.is_dir():
        raise UserError("no such folder", where=tasks, do="give a folder of lm-eval task files as --tasks FOLDER")
    place = tasks or Wanted.tasks
    return Wanted(names, chances, place, domain, parse_columns(columns), instructions, limit, batch, url)


def read_template(name: str) -> pair.Template:
    for known in TEMPLATES:
        if name == known:
            return known
    raise UserError(f"'{name[:40]}' is neither own nor base", where="--template", do="give one of the two")


def describe(content: dict[str, Any], out: Path) -> str:
    return escape_control(f"{summary.table(content)}\n{out}: report.md, index.html, gate.json")


def prepare_folder(out: Path) -> None:
    """Raises UserError where `out` holds something else than a comparison."""
    if out.is_dir() and any(out.iterdir()) and not (out / QUESTIONS).is_dir():
        raise UserError("is there already, and holds no comparison", where=out, do="name another folder with --out")
    if out.exists() and not out.is_dir():
        raise UserError("is no folder", where=out, do="name another one with --out")
    (out / QUESTIONS).mkdir(parents=True, exist_ok=True)


def use_own_cache() -> None:
    """Outside a project, finished work is kept in the user's cache: a second tuned model finds the base's results there."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache.FOLDER = Path(os.environ.get("HOLDFAST_CACHE") or Path(home) / "holdfast").absolute()
