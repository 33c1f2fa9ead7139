"""What `ingest` says of the rows: read, kept, rejected; fields used and not used; what was changed in texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from holdfast.core.counts import list_counts
from holdfast.data.fields import Fields, printable
from holdfast.data.template_fit import ESCAPED, TemplateFit

SHOWN = 6  # names that a line lists


def describe_split(
    form: str, facts: dict[str, Any], read: int, account: Fields, changed: Counter[str], fit: TemplateFit | None
) -> dict[str, Any]:
    """What reports/ingest.json says of the rows of a split when they were read."""
    tokens: dict[str, Any] = {"escaped": {}, "kept": {}, "example": None}
    if fit:
        example = dict(zip(("text", "trained_on"), map(printable, fit.example), strict=True)) if fit.example else None
        tokens = {"escaped": dict(fit.escaped), "kept": dict(fit.kept), "example": example}
    return {"format": form, **facts, "read": read, **account.totals(), "changed": dict(changed), "tokens": tokens}


def summarise(splits: Mapping[str, Any], train: int, test: int) -> dict[str, Any]:
    """The content of reports/ingest.json. `splits`: ingestion.Split by name; `train`, `test`: rows in the end."""
    reports = {}
    for name, split in splits.items():
        reasons = Counter(row.reason for row in split.rejected)
        kept = split.report["read"] - reasons.total()
        reports[name] = {**split.report, "kept": kept, "rejected": dict(reasons)}
    total = sum(report["kept"] for report in reports.values())
    assert total == train + test, "a row got lost"
    assert all(r["fields"] == sum(r["used"].values()) + sum(r["unused"].values()) for r in reports.values())
    return {"schema": 1, "rows": {"train": train, "test": test}, "splits": reports}


def in_words(report: dict[str, Any]) -> str:
    """The report in a line, and one more for whatever a user should know."""
    splits, rows = report["splits"], report["rows"]
    read = sum(split["read"] for split in splits.values())
    reasons = sum((Counter(split["rejected"]) for split in splits.values()), Counter[str]())
    counts = f"{rows['train']:,} train, {rows['test']:,} test, {reasons.total():,} rejected"
    listed = list_counts(sorted(reasons.items()))
    lines = [f"ingest: {read:,} rows read: {counts}" + (f" ({listed})" if listed else "")]
    for name, split in splits.items():
        lines += [f"ingest: {name}: {line}" for line in remarks(split)]
    return "\n".join(lines)


def remarks(split: dict[str, Any]) -> list[str]:
    """What a user should know of a split's rows, a line each; none where all was used as it stood."""
    lines = []
    for name, facts in split.get("files", {}).items():
        if facts.get("delimiter", ",") != "," or facts.keys() - {"delimiter", "header"}:
            listed = ", ".join(f"{key} {value!r}" for key, value in facts.items())
            lines.append(f"{name[:80]!r}: {listed}")
    if split.get("not_read"):
        lines.append(f"not read, of another split: {list_names(split['not_read'])}")
    if split["unused"]:
        counted = [f"{name!r} {n:,}" for name, n in split["unused"].items()]
        lines.append(f"fields that are not used, with their number: {list_names(counted, quote=False)}")
    lines += [f"{what}: {n:,} rows" for what, n in sorted(split["changed"].items()) if what != ESCAPED]
    tokens = split["tokens"]
    if tokens["escaped"]:
        rows, example = split["changed"].get(ESCAPED, 0), tokens["example"] or {"text": "", "trained_on": ""}
        lines.append(
            f"{ESCAPED}: {rows:,} rows ({list_names([f'{t} {n:,}' for t, n in tokens['escaped'].items()], quote=False)}); "
            f"{example['text']!r} is trained on as {example['trained_on']!r}"
        )
    if tokens["kept"]:
        counted = [f"{token} {n:,}" for token, n in tokens["kept"].items()]
        lines.append(
            f"special tokens without a meaning in the template stay tokens: {list_names(counted, quote=False)}"
        )
    return lines


def list_names(names: list[str], quote: bool = True) -> str:
    shown = [repr(name)[:80] if quote else name[:80] for name in names[:SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")
