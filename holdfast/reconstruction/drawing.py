"""How many rows are drawn: shard by shard until enough are fit or the budget is spent, and what is reported of a source."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from holdfast.chat.encoding import PreQuery
from holdfast.core import manifest
from holdfast.core.counts import list_counts
from holdfast.core.errors import UserError
from holdfast.core.rows import RawInstruction
from holdfast.data.filters import recognise_language
from holdfast.data.row_checks import FitRows
from holdfast.params.reconstruct import Reconstruct
from holdfast.reconstruction import user_turns


@dataclass(frozen=True, slots=True)
class Drawn:
    """The rows of one source: the base itself ("self"), or a corpus."""

    name: str
    rows: list[RawInstruction]
    fit_rows: list[RawInstruction]
    budget: int
    rejected: Counter[str]  # reason -> rows
    details: dict[str, Any]  # what else is reported
    counts: bool = True  # towards keep

    def report(self) -> dict[str, Any]:
        counts = {"budget": self.budget, "rows": len(self.rows), "fit": len(self.fit_rows), "rejected": self.rejected}
        return counts | self.details

    def describe(self) -> str:
        """The counts on one line, for the terminal."""
        lost = [*self.details.get("unreadable", {}).items(), *self.rejected.items()]
        listed = list_counts(lost) or "nothing rejected"
        read = self.details.get("read", len(self.rows))
        return f"{self.name}: {len(self.rows):,} rows of {read:,}, {len(self.fit_rows):,} fit; {listed}"


def split_among_sources(total: int, params: Reconstruct) -> list[int]:
    """Rows for the base itself and for each source of the corpus, which sum to `total`."""
    sources = params.corpus.sources if params.corpus else []
    parts = [round(total * source.share) for source in sources]
    return [total - sum(parts), *parts]


def draw_user_turns(
    params: Reconstruct, base: manifest.Manifest, query: PreQuery, parts: user_turns.PromptParts, fit: FitRows
) -> Drawn:
    """Sample user turns in waves until the quota is met or the budget is spent. Raises UserError where none is fit.

    A wave has as many shards as are needed if every row is fit, so none is drawn that one process would not have drawn.
    """
    assert params.samples != "auto", "amount.fill_in has put a number there"
    budget = split_among_sources(params.samples, params)[0]
    quota = split_among_sources(params.keep, params)[0] if params.keep else None
    rows: list[RawInstruction] = []
    reasons: list[str] = []  # against each row; "" for a fit one
    while len(rows) < budget and (quota is None or reasons.count("") < quota):
        wave = budget if quota is None else math.ceil((quota - reasons.count("")) / params.shard) * params.shard
        samples = range(len(rows), min(len(rows) + wave, budget))
        drawn = user_turns.sample_user_turns(samples, params, base, query, parts)
        rows += drawn
        reasons += fit.reasons_against(drawn)
        if quota and not reasons.count(""):
            most = list_counts(Counter(reasons).most_common(3))
            do = "raise reconstruct.max_tokens, look at `holdfast template base`, or open the filter of curate"
            raise UserError(f"none of the first {len(rows):,} user turns is fit ({most})", where=base.name, do=do)

    fit_rows = [row for row, reason in zip(rows, reasons, strict=True) if not reason]
    details = {
        "with_system": sum(has_turn_of("system", row) for row in rows),
        "meant_to_go_on": sum(user_turns.goes_on(params, row["seed"]) for row in rows),
        "with_earlier_turns": sum(has_turn_of("user", row) for row in rows),
        "settings": count_settings(rows, fit_rows),
    }
    if params.languages:
        details["languages"] = count_languages(rows, fit_rows, params)
    if params.tools:
        details["tools"] = count_tools(rows, fit_rows)
    for family in ("thinking", "lookalikes"):
        if getattr(params, family):
            drawn_rows, fit_ones = (sum(row["family"] == family for row in part) for part in (rows, fit_rows))
            details[family] = {"rows": drawn_rows, "fit": fit_ones}
    return Drawn("self", rows, fit_rows, budget, Counter(filter(None, reasons)), details)


def has_turn_of(role: str, row: RawInstruction) -> bool:
    return any(turn["role"] == role for turn in row["context"])


def count_settings(rows: list[RawInstruction], fit_rows: list[RawInstruction]) -> list[dict[str, Any]]:
    """Rows and fit rows of each temperature and top_p."""
    drawn, fit = (Counter((row["temperature"], row["top_p"]) for row in part) for part in (rows, fit_rows))
    return [
        dict(temperature=temperature, top_p=top_p, rows=n, fit=fit[temperature, top_p])
        for (temperature, top_p), n in sorted(drawn.items())
    ]


def count_languages(
    rows: list[RawInstruction], fit_rows: list[RawInstruction], params: Reconstruct
) -> dict[str, dict[str, int]]:
    """Of each language the rows that begin in it, the fit ones, and those of them whose text is recognised as that language."""
    begun: Counter[str] = Counter()
    fit: Counter[str] = Counter()
    recognised: Counter[str] = Counter()
    for row in rows:
        if row["family"] == "languages":
            begun[user_turns.draw_language(params, row["seed"])] += 1
    for row in fit_rows:
        if row["family"] == "languages":
            language = user_turns.draw_language(params, row["seed"])
            fit[language] += 1
            recognised[language] += recognise_language(row["text"]) == language
    return {code: {"rows": n, "fit": fit[code], "recognised": recognised[code]} for code, n in sorted(begun.items())}


def count_tools(rows: list[RawInstruction], fit_rows: list[RawInstruction]) -> dict[str, Any]:
    """Rows beside tools, the fit ones, and in how many of those each function is offered."""
    offered: Counter[str] = Counter()
    for row in fit_rows:
        offered.update(tool["function"]["name"] for tool in row.get("tools", ()))
    with_tools, fit = (sum(row["family"] == "tools" for row in part) for part in (rows, fit_rows))
    return {"rows": with_tools, "fit": fit, "offered": dict(sorted(offered.items()))}


def summarise(sources: list[Drawn], params: Reconstruct) -> dict[str, Any]:
    """The content of reports/reconstruct.json. `sources`: the base first."""
    return {
        "schema": 1,
        "rows": sum(len(source.rows) for source in sources),
        "fit": count_fit(sources),
        "keep": params.keep,
        "samples": params.samples,
        "stopped": why_stopped(sources, params),
        "sources": {source.name: source.report() for source in sources},
    }


def count_fit(sources: list[Drawn]) -> int:
    return sum(len(source.fit_rows) for source in sources if source.counts)


def why_stopped(sources: list[Drawn], params: Reconstruct) -> str:
    """Why no more rows were drawn. `sources`: the base first."""
    if params.keep and count_fit(sources) >= params.keep:
        return "quota met"
    own, *corpora = [source for source in sources if source.counts]
    reasons = []
    if len(own.rows) == own.budget:
        reasons.append("budget spent" if params.keep else "all samples drawn")
    reasons += [f"{corpus.name} exhausted" for corpus in corpora if len(corpus.rows) < corpus.budget]
    return " and ".join(reasons)
