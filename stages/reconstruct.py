"""Samples user turns from the base's pre-query prefix, adds prompts of corpora in its proportions, and
prompts that deserve a refusal.
"""

from __future__ import annotations

from pathlib import Path

from holdfast.core import manifest, records, storage
from holdfast.data.row_checks import FitRows, RowChecker
from holdfast.params.reconstruct import Reconstruct
from holdfast.params.row_checks import RowChecks
from holdfast.reconstruction import amount, corpora, drawing, lookalikes, prompt_files, refusals, tools, user_turns


def main() -> None:
    wanted, checks = amount.fill_in(Reconstruct.load(), Path("reports/amount.json")), RowChecks.load()
    base = manifest.load(Path("models/manifest/base.json"))
    tokenizer = manifest.load_tokenizer(base.folder())
    functions = tools.read_functions(wanted)
    params, turned_off = tools.turn_off_unusable(wanted, tokenizer, functions, base.context)
    query = user_turns.derive_pre_query(params, tokenizer, f"base ({base.source})")
    parts = user_turns.PromptParts(
        prompt_files.read_system_prompts(params),
        prompt_files.read_openings(params),
        functions,
        lookalikes.read_form(Path("reports/amount.json")) if params.lookalikes else lookalikes.ANY,
    )
    prompts = prompt_files.read_corpora(params)
    fit = FitRows(RowChecker(checks, tokenizer, base.name))

    own = drawing.draw_user_turns(params, base, query, parts, fit)
    sources = [own]
    if params.corpus:
        embedder = manifest.load(Path("models/manifest/embedder.json"))
        sources += corpora.draw_from_corpora(params, prompts, own, base, embedder, fit)

    if checks.refusals:
        sources.append(refusals.draw_prompts(params, checks, sources, tokenizer, fit))

    if params.thinking:
        for row in (row for source in sources[1:] for row in source.rows):
            row["thinking"] = False
    rows = [row for source in sources for row in source.rows]
    records.write("instructions_raw", Path("data/instructions/raw.parquet"), rows)
    summary = drawing.summarise(sources, params)
    for parameter, reason in turned_off.items():
        summary[f"{parameter}_off"] = reason
        print(f"reconstruct.{parameter} is off: {reason}")
    storage.write_json(Path("reports/reconstruct.json"), summary)
    ended = sum(row["finish_reason"] == "stop" for row in own.rows)
    print(f"{len(own.rows):,} user turns, {ended:,} ended by the base itself, prefix {query.prefix!r}")
    for source in sources:
        print(source.describe())
    print(f"stopped: {drawing.why_stopped(sources, params)}")
