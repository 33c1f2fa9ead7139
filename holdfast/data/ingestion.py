"""Domain data: read its rows, split off a test set where none is given, remove train/test overlap.

The steps of `ingest`. A training row overlaps when any of its user turns is also a user turn of a test row
(letter case and whitespace aside). That is strict for chats of many turns: two that both say "go on" overlap.
Near-duplicates in other words are not found.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.core import records
from holdfast.core.errors import UserError
from holdfast.data import formats
from holdfast.data.formats import Unreadable
from holdfast.params.ingest import Ingest, Source

if TYPE_CHECKING:
    from holdfast.chat.encoding import Messages

DUPLICATE, OVERLAP = "duplicate", "overlaps the test split"
MAX_EXCERPT = 200  # characters of a rejected row


class Conversation(NamedTuple):
    """A row of the contract "domain"."""

    id: str
    messages: Messages
    group: str  # the domain suite of a test row, or ""
    source: str  # file and line, or data set and row


class Rejected(NamedTuple):
    """A row of the contract "domain_rejected"."""

    id: str
    source: str
    reason: str
    excerpt: str


class Split(NamedTuple):
    """What became of the rows of one source."""

    kept: list[Conversation]
    rejected: list[Rejected]


def read_split(split: str, source: Source, params: Ingest) -> Split:
    """The rows of the split "train" or "test". Raises UserError where too many are rejected, or none is left."""
    where, sourced_rows = read_source(split, source, params)
    rows = [row for _, row in sourced_rows]
    if not rows:
        raise UserError("empty domain set: no rows", where=where, do="give a file with at least one row")
    form = formats.detect_format(rows, where) if params.format == "auto" else params.format
    formats.check_fields(rows, form, params.columns, where)

    by_id: dict[str, Conversation] = {}
    rejected: list[Rejected] = []
    for place, row in sourced_rows:
        try:
            conversation = parse_row(place, row, form, params)
        except Unreadable as error:
            rejected.append(reject(split, place, str(error), row))
            continue
        if conversation.id in by_id:
            rejected.append(reject(split, place, DUPLICATE, row))
        else:
            by_id[conversation.id] = conversation
    assert len(by_id) + len(rejected) == len(rows), "a row got lost"

    require_few_unreadable(rejected, len(rows), form, params.max_rejected, where)
    if not by_id:
        do = "see ingest.format and ingest.max_chars in params.yaml"
        raise UserError("empty domain set: every row was rejected", where=where, do=do)
    return Split(list(by_id.values()), rejected)


def read_source(split: str, source: Source, params: Ingest) -> tuple[str, list[tuple[str, Any]]]:
    """What to call the source in an error, and (source:place, row) for each of its rows."""
    where = f"params.yaml: ingest.{split}"
    if source.hub:
        return where, [(f"{source.hub}/{source.split}:{n}", row) for n, row in formats.read_hub(source, where)]
    assert source.path
    # The path as written: DVC may have put links to its cache into the folder, and these lead outside of it.
    if Path(source.path).is_absolute() or ".." in Path(source.path).parts:
        do = f"give a path below ingest.folder ({params.folder})"
        raise UserError(f"path '{source.path}' leaves ingest.folder", where=where, do=do)
    path = Path(params.folder) / source.path
    return str(path), [(f"{source.path}:{place}", row) for place, row in formats.read_file(path)]


def parse_row(source: str, row: Any, form: str, params: Ingest) -> Conversation:
    """Raises Unreadable."""
    messages = formats.parse_conversation(row, form, params.columns)
    if sum(len(message["content"]) for message in messages) > params.max_chars:
        raise Unreadable("longer than max_chars")
    group = formats.group(row, params.columns)
    id = records.text_id(json.dumps(messages, ensure_ascii=False))
    return Conversation(id, messages, group, printable(source))


def require_few_unreadable(rejected: list[Rejected], rows: int, form: str, max_rejected: float, where: str) -> None:
    """Raise UserError where more than the part `max_rejected` of the rows cannot be used; duplicates do not count."""
    unreadable = [row for row in rejected if row.reason != DUPLICATE]
    if len(unreadable) <= max_rejected * rows:
        return
    reasons = ", ".join(f"{reason} {n:,}" for reason, n in Counter(row.reason for row in unreadable).most_common(3))
    what = f"{len(unreadable):,} of {rows:,} rows cannot be used ({reasons}), first {unreadable[0].source!r}"
    limit = f"ingest.max_rejected ({max_rejected:g})"
    do = f"fix those rows, correct ingest.format ({form}), or raise {limit} in params.yaml"
    raise UserError(what, where=where, do=do)


def require_group(rows: Iterable[Conversation], params: Ingest) -> None:
    """Raise UserError where params name a field for the group and no row has it."""
    field = params.columns.group if params.columns else None
    if field and not any(row.group for row in rows):
        what = f"no row has the field '{field}'"
        raise UserError(what, where="params.yaml: ingest.columns.group", do="correct it, or remove it")


def split_off_test(
    rows: list[Conversation], fraction: float, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """(train, test). Rows that ask the same stay together; equal rows and seed give an equal split in any order."""
    by_question: dict[str, list[Conversation]] = {}
    for row in rows:
        by_question.setdefault(records.text_id(seed, *questions(row)), []).append(row)
    if len(by_question) < 2:
        what = "no test set can be split off: all rows ask the same"
        raise UserError(what, where="params.yaml: ingest", do="give more rows, or a test set (ingest.test)")
    shuffled = sorted(by_question)
    size = min(max(1, round(fraction * len(shuffled))), len(shuffled) - 1)  # questions; neither side may be empty
    train, test = shuffled[size:], shuffled[:size]
    return [row for key in train for row in by_question[key]], [row for key in test for row in by_question[key]]


def remove_overlap(train: list[Conversation], test: list[Conversation], folder: str) -> Split:
    """Training rows that ask nothing a test row asks, and the others. Raises UserError, naming `folder`, if none is left."""
    in_test = {question for row in test for question in questions(row)}
    train_only = [row for row in train if not in_test & set(questions(row))]
    overlapping = [row for row in train if in_test & set(questions(row))]
    if not train_only:
        what = f"empty domain set: all {len(overlapping):,} training rows overlap with the test split"
        do = "give a test set that asks other questions, or more training rows"
        raise UserError(what, where=folder, do=do)
    return Split(train_only, [reject("train", row.source, OVERLAP, row.messages) for row in overlapping])


def questions(row: Conversation) -> list[str]:
    return [" ".join(m["content"].casefold().split()) for m in row.messages if m["role"] == "user"]


def reject(split: str, source: str, reason: str, content: Any) -> Rejected:
    excerpt = json.dumps(content, ensure_ascii=False, default=str)[:MAX_EXCERPT]
    source = printable(source)
    return Rejected(records.text_id(split, source), source, reason, printable(excerpt))


def printable(text: str) -> str:
    """Half a surrogate pair, which JSON can spell and UTF-8 cannot, in its escaped form."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write_domain(folder: Path, train: list[Conversation], test: list[Conversation], rejected: list[Rejected]) -> None:
    """Write train, test and rejected rows, or nothing: the files are moved into place only when the last is written."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ingest.", dir=folder) as name:
        partial = Path(name)
        records.write("domain", partial / "train.parquet", [row._asdict() for row in train])
        records.write("domain", partial / "test.parquet", [row._asdict() for row in test])
        records.write("domain_rejected", partial / "rejected.parquet", [row._asdict() for row in rejected])
        for file in ("train", "test", "rejected"):
            os.replace(partial / f"{file}.parquet", folder / f"{file}.parquet")
