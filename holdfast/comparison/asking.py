"""What a comparison asks, settled from the command line: suites, the domain's rows, the base's own instructions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.comparison import questions
from holdfast.comparison.evaluations import Exam
from holdfast.core import manifest, records
from holdfast.params.base import parse
from holdfast.params.evaluate import CORE, Evaluate
from holdfast.params.ingest import Columns

COMMAND_LINE = Path("the command line")


@dataclass(frozen=True)
class Wanted:
    """The questions that a user asks for."""

    suites: list[str] = field(default_factory=lambda: [CORE])
    chances: dict[str, float] = field(default_factory=dict)  # accuracy of guessing, by suite
    tasks: Path = Path("no-tasks")  # folder of local lm-eval task files
    domain: Path | None = None  # test rows
    columns: Columns | None = None
    instructions: int = 100  # of the base's own; 0: no self suite
    limit: int | None = None  # items per suite
    batch: int = 32
    url: str | None = None  # of a server that answers for both


def settle(wanted: Wanted, base: manifest.Manifest, folder: Path, more: int = 0) -> tuple[Exam, list[str]]:
    """(what both models are asked, notes for the reader). Writes the rows that are asked below `folder`, and so many more
    instructions of the base's beside them (questions.MORE). Raises UserError."""
    domain_file, held_out = folder / "domain.parquet", folder / "instructions.parquet"
    values: dict[str, Any] = {
        "suites": {
            name: {"role": "general"} | ({"chance": wanted.chances[name]} if name in wanted.chances else {})
            for name in wanted.suites
        },
        "tasks": str(wanted.tasks),
        "limit": wanted.limit,
        "batch": wanted.batch,
        "seed": 1,
    }
    if wanted.url:
        values |= {"backend": "openai", "url": wanted.url.rstrip("/")}
    notes = []
    if wanted.domain:
        domain = questions.write_domain(wanted.domain, wanted.columns, base, domain_file)
        values |= {"domain_test": domain.test, "max_tokens": domain.max_tokens}
        notes.append(domain.note)
    else:
        records.write("domain", domain_file, [])
    if note := questions.write_instructions(base, wanted.instructions, held_out, more):
        notes.append(note)
    drawn = len(records.read_table("instructions_kept", held_out, ["id"]))
    values["self_suite"] = {"rows": drawn}
    return Exam(parse(Evaluate, values, "", COMMAND_LINE), base, domain_file, held_out), notes
