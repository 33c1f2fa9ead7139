"""Reads the domain data, normalises it, splits off a test set where none is given, and removes train/test overlap.

holdfast ingest        (writes data/domain/{train,test,rejected}.parquet)

A training row overlaps when any of its user turns is also a user turn of a test row (letter case and whitespace aside).
That is strict for many-turn chats: two that both say "go on" overlap. Near-duplicates in other words are not found.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from holdfast.core import records
from holdfast.core.errors import UserError
from holdfast.data import formats
from holdfast.data.formats import Unreadable
from holdfast.params.ingest import Ingest, Source

DUPLICATE, OVERLAP = "duplicate", "overlaps the test split"
Rows = list[dict[str, Any]]


def main(params: Ingest, out: Path) -> None:
    sources = {"train": params.train} | ({"test": params.test} if params.test else {})
    kept: dict[str, Rows] = {}
    rejected: Rows = []
    read = 0
    for split, source in sources.items():
        where, found = load(params, split, source)
        kept[split], refused = sift(params, split, where, found)
        rejected += refused
        read += len(found)
    if params.columns and params.columns.group and not any(row["group"] for rows in kept.values() for row in rows):
        what = f"no row has the field '{params.columns.group}'"
        raise UserError(what, where="params.yaml: ingest.columns.group", do="correct it, or remove it")
    if not params.test:
        kept["train"], kept["test"] = split_off(kept["train"], params.test_fraction, params.seed)

    asked = {question for row in kept["test"] for question in questions(row)}
    overlapping = [row for row in kept["train"] if asked & set(questions(row))]
    rejected += [reject("train", row["source"], OVERLAP, row["messages"]) for row in overlapping]
    gone = {row["id"] for row in overlapping}
    kept["train"] = [row for row in kept["train"] if row["id"] not in gone]
    if not kept["train"]:
        what = f"empty domain set: all {len(gone):,} training rows overlap with the test split"
        do = "give a test set that asks other questions, or more training rows"
        raise UserError(what, where=params.folder, do=do)

    assert len(kept["train"]) + len(kept["test"]) + len(rejected) == read, "a row got lost"
    write(out, kept["train"], kept["test"], rejected)
    reasons = ", ".join(f"{reason} {n:,}" for reason, n in sorted(Counter(row["reason"] for row in rejected).items()))
    counts = f"{len(kept['train']):,} train, {len(kept['test']):,} test, {len(rejected):,} rejected"
    print(f"ingest: {read:,} rows read: {counts}" + (f" ({reasons})" if reasons else ""))


def load(params: Ingest, split: str, source: Source) -> tuple[str, list[tuple[str, Any]]]:
    """What to call the source in an error, and (source:place, row) for each of its rows."""
    where = f"params.yaml: ingest.{split}"
    if source.hub:
        return where, [(f"{source.hub}/{source.split}:{n}", row) for n, row in formats.read_hub(source, where)]
    assert source.path
    # Looked at as written: DVC may have put links to its cache into the folder, and these lead outside of it.
    if Path(source.path).is_absolute() or ".." in Path(source.path).parts:
        do = f"give a path below ingest.folder ({params.folder})"
        raise UserError(f"path '{source.path}' leaves ingest.folder", where=where, do=do)
    path = Path(params.folder) / source.path
    return str(path), [(f"{source.path}:{place}", row) for place, row in formats.read_file(path)]


def sift(params: Ingest, split: str, where: str, found: list[tuple[str, Any]]) -> tuple[Rows, Rows]:
    """Kept and rejected rows of one source. Raises UserError where too many are rejected, or none is left."""
    rows = [row for _, row in found]
    if not rows:
        raise UserError("empty domain set: no rows", where=where, do="give a file with at least one row")
    form = formats.detect(rows, where) if params.format == "auto" else params.format
    formats.check_fields(rows, form, params.columns, where)
    kept: dict[str, dict[str, Any]] = {}
    rejected: Rows = []
    for source, row in found:
        try:
            messages = formats.conversation(row, form, params.columns)
            if sum(len(message["content"]) for message in messages) > params.max_chars:
                raise Unreadable("longer than max_chars")
            group = formats.group(row, params.columns)
        except Unreadable as error:
            rejected.append(reject(split, source, str(error), row))
            continue
        conversation_id = records.text_id(json.dumps(messages, ensure_ascii=False))
        if conversation_id in kept:
            rejected.append(reject(split, source, DUPLICATE, row))
        else:
            kept[conversation_id] = dict(id=conversation_id, messages=messages, group=group, source=printable(source))
    unreadable = [row for row in rejected if row["reason"] != DUPLICATE]
    if len(unreadable) > params.max_rejected * len(rows):
        common = Counter(row["reason"] for row in unreadable).most_common(3)
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in common)
        first = unreadable[0]["source"]
        what = f"{len(unreadable):,} of {len(rows):,} rows cannot be used ({reasons}), first {first!r}"
        limit = f"ingest.max_rejected ({params.max_rejected:g})"
        do = f"mend those rows, correct ingest.format ({form}), or raise {limit} in params.yaml"
        raise UserError(what, where=where, do=do)
    if not kept:
        do = "see ingest.format and ingest.max_chars in params.yaml"
        raise UserError("empty domain set: every row was rejected", where=where, do=do)
    return list(kept.values()), rejected


def split_off(rows: Rows, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Train and test. Rows that ask the same stay together; the same rows and seed give the same split in any order."""
    by_question: dict[str, Rows] = {}
    for row in rows:
        by_question.setdefault(records.text_id(seed, *questions(row)), []).append(row)
    if len(by_question) < 2:
        what = "no test set can be split off: all rows ask the same"
        raise UserError(what, where="params.yaml: ingest", do="give more rows, or a test set (ingest.test)")
    drawn = sorted(by_question)
    size = min(max(1, round(fraction * len(drawn))), len(drawn) - 1)  # questions; neither side may be empty
    train, test = drawn[size:], drawn[:size]
    return [row for key in train for row in by_question[key]], [row for key in test for row in by_question[key]]


def questions(row: dict[str, Any]) -> list[str]:
    return [" ".join(m["content"].casefold().split()) for m in row["messages"] if m["role"] == "user"]


def reject(split: str, source: str, reason: str, content: Any) -> dict[str, Any]:
    excerpt = json.dumps(content, ensure_ascii=False, default=str)[:200]
    source = printable(source)
    return dict(id=records.text_id(split, source), source=source, reason=reason, excerpt=printable(excerpt))


def printable(text: str) -> str:
    """Half a surrogate pair, which JSON can spell and UTF-8 cannot, in its escaped form."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write(out: Path, train: Rows, test: Rows, rejected: Rows) -> None:
    """All three files, or none: they are moved into place only when the last is written."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ingest.", dir=out) as name:
        whole = Path(name)
        records.write("domain", whole / "train.parquet", train)
        records.write("domain", whole / "test.parquet", test)
        records.write("domain_rejected", whole / "rejected.parquet", rejected)
        for file in ("train", "test", "rejected"):
            os.replace(whole / f"{file}.parquet", out / f"{file}.parquet")
