"""What both models are asked beside the general suites: the user's test rows, and instructions that the base writes itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from holdfast.chat import encoding
from holdfast.core import manifest, records
from holdfast.core.counts import list_counts
from holdfast.core.errors import UserError
from holdfast.data import ingestion, instructions
from holdfast.data.filters import is_bait
from holdfast.data.row_checks import FitRows, RowChecker
from holdfast.data.template_fit import TemplateFit
from holdfast.params.ingest import Columns
from holdfast.params.reconstruct import Reconstruct
from holdfast.params.row_checks import RowChecks
from holdfast.planning import survey as surveys
from holdfast.planning import tailor
from holdfast.reconstruction import user_turns

MORE = "more_instructions.parquet"
MIN_INSTRUCTIONS = 10  # fewer say nothing
DRAWN_PER_FIT = 4  # user turns that are drawn for each that is wanted, at most
TURN_TOKENS = 256  # tokens of a user turn, at most
SHARD = 64  # user turns of a unit of work


class Domain(NamedTuple):
    """The domain's test rows, and how they are asked (`evaluate.domain_test`, `evaluate.max_tokens`)."""

    test: str
    max_tokens: int
    note: str


def write_domain(file: Path, columns: Columns | None, base: manifest.Manifest, into: Path) -> Domain:
    """Reads test rows as `ingest` does, and writes them as rows of the contract "domain". Raises UserError."""
    tokenizer = manifest.load_tokenizer(base.folder())

    def measure(turns: list[dict[str, Any]], tools: list[Any] | None) -> tuple[int, int]:
        answers = [turn["content"] for turn in turns if turn["role"] == "assistant"]
        sizes = [len(encoding.tokenise(tokenizer, text)) for text in answers]
        return sum(sizes), sum(sizes)

    if not file.exists():
        raise UserError("no such file", where=file, do="give the test rows of your domain: JSONL, JSON, CSV or Parquet")
    survey = surveys.survey_path(file, columns, measure, tokenizer)
    params = surveys.read_leniently(file, columns, encoding=survey.encoding, max_rejected=1.0)
    split = ingestion.read_split("test", params.train, params, TemplateFit(tokenizer))
    ingestion.write_rows("domain", into, split.kept, ingestion.domain_row)
    longest = max([16, *survey.answers])
    kind = tailor.choose_domain_test(survey)
    why = list_counts(survey.rejected.most_common(3))
    left = f"; {survey.rejected.total():,} cannot be used ({why})" if survey.rejected else ""
    twice = f"; {survey.duplicates:,} appear twice" if survey.duplicates else ""
    note = f"domain: {len(split.kept):,} of {survey.rows:,} rows of {file}, asked by {kind}{left}{twice}"
    return Domain(kind, min(longest, 1024, base.context // 2), note)


def write_instructions(base: manifest.Manifest, wanted: int, into: Path, more: int = 0) -> str:
    """Writes instructions that the base draws from its own pre-query prefix, rows of the contract "instructions_kept"; returns what
    there is to say. An empty file where the base writes too few that are fit.

    `more`: as many others go to the file MORE beside it.
    """
    rows: list[dict[str, Any]] = []
    note = ""
    try:
        rows = draw_instructions(base, wanted + more) if wanted + more else []
    except UserError as error:
        note = f"self suite: not asked, the base writes no user turns ({error.what})"
    others, rows = rows[wanted:], rows[:wanted]
    if wanted and not note:
        note = f"self suite: {len(rows)} instructions that the base wrote"
        if len(rows) < MIN_INSTRUCTIONS:
            rows, note = [], f"self suite: not asked, of the base's user turns only {len(rows)} are fit"
    records.write("instructions_kept", into, rows)
    if more:
        records.write("instructions_kept", into.with_name(MORE), others)
    return note


def draw_instructions(base: manifest.Manifest, wanted: int) -> list[dict[str, Any]]:
    """As many fit user turns of the base as are wanted, or fewer. Raises UserError where its template has no room for them."""
    tokenizer = manifest.load_tokenizer(base.folder())
    most = DRAWN_PER_FIT * wanted
    params = Reconstruct(samples=most, max_tokens=min(TURN_TOKENS, base.context // 4), shard=SHARD, batch=SHARD, seed=1)
    query = user_turns.derive_pre_query(params, tokenizer, base.source)
    fit, rows = FitRows(RowChecker(RowChecks(), tokenizer, base.source)), list[dict[str, Any]]()
    for start in range(0, most, SHARD):
        drawn = range(start, min(start + SHARD, most))
        for row in user_turns.sample_user_turns(drawn, params, base, query, user_turns.PromptParts([], {})):
            if not fit.reason_against(row) and not is_bait(row["text"]):
                rows.append({**row, "text": instructions.normalise(row["text"]), "cluster": 0, "bait": False})
        if len(rows) >= wanted:
            break
    return rows[:wanted]
