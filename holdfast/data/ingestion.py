"""Domain data: read its rows, split off a test set where none is given, remove train/test overlap, account for all of it.

The steps of `ingest`. A row is kept as text (JSON) until it is written, so that a million take one gigabyte.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from holdfast.core import records
from holdfast.core.counts import list_counts
from holdfast.core.errors import UserError
from holdfast.data import conversations, fields, files, sources, splitting
from holdfast.data.fields import field, printable
from holdfast.data.ingestion_report import describe_split
from holdfast.data.row_values import NOT_UNICODE, Unreadable, storable, text
from holdfast.data.template_fit import TemplateFit
from holdfast.data.turns import PRINTED, ROLES, Turn
from holdfast.params.ingest import Columns, Ingest, Source

DUPLICATE, OVERLAP, NEAR_COPY = "duplicate", "overlaps the test split", "near-duplicate of a test row"
MAX_EXCERPT = 200  # characters of a rejected row
encode = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False
).encode  # json.dumps makes an encoder for every row
quote = json.encoder.encode_basestring  # of a text, what `encode` writes
GROUPS = frozenset(fields.PURPOSES["group"])
CHUNK_ROWS = 16_384  # rows that are objects at once when a file is written


class Conversation(NamedTuple):
    """A row of the contract "domain"."""

    id: str
    json: str  # its turns
    tools: str  # JSON, or "" for none
    group: str  # the domain suite of a test row, or ""
    source: str  # file and line, or data set and row
    contexts: tuple[int, ...]  # contexts of the assistant's turns, see splitting.contexts
    split_key: str  # what ingest.split_by names, or ""

    def turns(self) -> list[Turn]:
        return json.loads(self.json)


class Rejected(NamedTuple):
    """A row of the contract "domain_rejected"."""

    id: str
    source: str
    reason: str
    excerpt: str


class Split(NamedTuple):
    """What became of the rows of one source, and what the report says of it."""

    kept: list[Conversation]
    rejected: list[Rejected]
    report: dict[str, Any]


def read_split(split: str, source: Source, params: Ingest, fit: TemplateFit | None) -> Split:
    """The rows of the split "train" or "test"; `fit`: of the base, by which rows are adjusted and refused.

    Raises UserError where too many are rejected, or none is left.
    """
    where, facts, rows = open_source(split, source, params)
    first = list(itertools.islice(rows, fields.FIRST_ROWS))
    if not first:
        raise UserError("empty domain set: no rows", where=where, do="give a file with at least one row")
    form = fields.detect_format([row for _, row in first], where) if params.format == "auto" else params.format
    account = fields.Fields(form, params.columns, params.split_by)
    wanted = fields.Wanted(form, params.columns, params.split_by)

    accepted, ids = list[Conversation](), set[str]()
    rejected: list[Rejected] = []
    changed: Counter[str] = Counter()
    read = 0
    for place, row in without_collector(itertools.chain(first, rows)):
        read += 1
        if read <= fields.FIRST_ROWS or wanted.missing:
            wanted.look(row)
        try:
            parsed = conversations.parse_row(row, form, params.columns, params.same_role, account)
            turns = fit.adjust(parsed.turns, parsed.tools, parsed.changes) if fit else parsed.turns
            conversation = make_conversation(place, row, turns, parsed.tools, params)
        except (Unreadable, RecursionError) as error:
            reason = str(error) if isinstance(error, Unreadable) else "nested too deeply"
            rejected.append(reject(split, place, reason, row))
            continue
        if conversation.id in ids:
            rejected.append(reject(split, place, DUPLICATE, row))
            continue
        ids.add(conversation.id)
        accepted.append(conversation)
        if fit and fit.may_spell(conversation.json + conversation.tools):
            fit.count_special(turns, parsed.tools, parsed.changes)
        if parsed.changes:
            changed.update(parsed.changes)
    assert len(accepted) + len(rejected) == read, "a row got lost"

    wanted.require_none(where)
    require_few_unreadable(rejected, read, form, params, where)
    if not accepted:
        reasons = list_counts(Counter(row.reason for row in rejected).most_common(3))
        top = Counter(row.reason for row in rejected).most_common(1)[0][0]
        do = f"fix the rows, or {find_remedy(top, form)}"
        raise UserError(f"empty domain set: no row can be used ({reasons})", where=where, do=do)
    return Split(accepted, rejected, describe_split(form, facts, read, account, changed, fit))


def open_source(split: str, source: Source, params: Ingest) -> tuple[str, dict[str, Any], Iterator[tuple[str, Any]]]:
    """(what to call the source in an error, what is found out about it, (source:place, row) for each of its rows)."""
    where = f"params.yaml: ingest.{split}"
    if source.hub:
        numbered = files.read_hub(source, where)
        name = f"{source.hub}/{source.split}"
        return where, {"files": {name: {}}, "not_read": []}, ((f"{name}:{n}", row) for n, row in numbered)
    folder = Path(params.folder)
    paths, left = sources.find_files(folder, source, where)
    about: dict[str, dict[str, str]] = {printable(file.relative_to(folder).as_posix()): {} for file in paths}

    def rows() -> Iterator[tuple[str, Any]]:
        for file, (name, facts) in zip(paths, about.items(), strict=True):
            for place, row in files.read_file(file, params.encoding, facts):
                yield f"{name}:{place}", row

    where = str(paths[0]) if len(paths) == 1 else where
    return where, {"files": about, "not_read": [file.relative_to(folder).as_posix() for file in left]}, rows()


def without_collector(rows: Iterator[Any]) -> Iterator[Any]:
    """The rows, while Python does not look for cycles: rows have none, and it would go through all that are kept, again and
    again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield from rows
    finally:
        if enabled:
            gc.enable()


def make_conversation(
    source: str, row: Any, turns: list[Turn], tools: list[Any] | None, params: Ingest
) -> Conversation:
    """Raises Unreadable."""
    try:
        as_json, tools_json = encode_turns(turns), encode(tools) if tools else ""
    except (TypeError, ValueError):  # NaN; of Parquet, dates, bytes and decimals
        raise Unreadable("a tool or a call with a value that JSON does not have") from None
    if len(as_json) > params.max_chars and sum([len(turn["content"]) for turn in turns]) > params.max_chars:
        raise Unreadable("longer than max_chars")
    try:
        id = records.text_id(as_json, *([tools_json] if tools else []))
    except UnicodeEncodeError:
        raise Unreadable(NOT_UNICODE) from None
    key = None if params.split_by is None else field(row, params.split_by)
    group, contexts = read_group(row, params.columns), splitting.contexts(turns)
    return Conversation(id, as_json, tools_json, group, printable(source), contexts, "" if key is None else str(key))


def encode_turns(turns: list[Turn]) -> str:
    """The turns as JSON. Those of a role and a text alone are written here, in a third of the time."""
    if max(map(len, turns)) > 2:
        return encode(turns)
    plain = [f'{{"role": "{turn["role"]}", "content": {quote(turn["content"])}}}' for turn in turns]
    return f"[{', '.join(plain)}]"


def read_group(row: dict[str, Any], columns: Columns | None) -> str:
    """The name of the domain suite that a row belongs to, or ""."""
    if columns:
        named = field(row, columns.group) if columns.group else None
        return storable(text(row, columns.group).strip()) if columns.group and named is not None else ""
    if GROUPS.isdisjoint(row):
        return ""
    named = next((key for key in fields.PURPOSES["group"] if row.get(key) is not None), None)
    return storable(text(row, named).strip()) if named else ""


def require_few_unreadable(rejected: list[Rejected], rows: int, form: str, params: Ingest, where: str) -> None:
    """Raise UserError where more than the part `max_rejected` of the rows cannot be used; duplicates do not count."""
    unreadable = [row for row in rejected if row.reason != DUPLICATE]
    if len(unreadable) <= params.max_rejected * rows:
        return
    reasons = Counter(row.reason for row in unreadable).most_common(3)
    listed = list_counts(reasons)
    what = f"{len(unreadable):,} of {rows:,} rows cannot be used ({listed}), first {unreadable[0].source!r}"
    limit = f"ingest.max_rejected ({params.max_rejected:g})"
    help = find_remedy(reasons[0][0], form)
    raise UserError(what, where=where, do=f"fix those rows, {help}, or raise {limit} in params.yaml")


def find_remedy(reason: str, form: str) -> str:
    """What to change where rows are rejected for this reason."""
    if reason.startswith("no field "):
        return "map their fields with ingest.format: columns and ingest.columns"
    if "the base's chat template" in reason:
        return "take a base whose chat template shows what they hold"
    if reason in (f"field '{name}' is not text" for name in GROUPS):
        return "rename that field: it names the domain suite of a row"
    if reason.startswith(("field ", "no list of turns", "a turn that is not a record", "not a record")):
        return f"correct ingest.format ({form})"
    return REMEDIES.get(reason, "leave them out of the file")


REMEDIES = {
    "two turns of one role in a row": "set ingest.same_role: join to put such turns together",
    "longer than max_chars": "raise ingest.max_chars",
    PRINTED: "write that column with json.dumps, or write JSONL or Parquet",
    "unknown role": f"spell roles as one of {', '.join(ROLES)}; other fields than role are named by ingest.columns",
    conversations.OTHER_PROMPT: "set ingest.format: columns and ingest.columns: {messages: chosen}",
}


def require_group(rows: Iterable[Conversation], params: Ingest) -> None:
    """Raise UserError where params name a field for the group and no row has it."""
    named = params.columns.group if params.columns else None
    if named and not any(row.group for row in rows):
        what = f"no row has the field '{named}'"
        raise UserError(what, where="params.yaml: ingest.columns.group", do="correct it, or remove it")


def split_off_test(rows: list[Conversation], params: Ingest) -> tuple[list[Conversation], list[Conversation]]:
    """(train, test). Raises UserError where all rows have to stay together."""
    rows = sorted(rows, key=lambda row: row.id)
    contexts, keys = [row.contexts for row in rows], [row.split_key for row in rows]

    groups = splitting.find_groups(contexts, keys, map(join_texts, rows), params.near_duplicates)
    if len(groups) < 2:
        where, do = "params.yaml: ingest", "give a test set of its own (ingest.test)"
        if len({row[-1] for row in contexts}) < 2:
            raise UserError("no test set can be split off: all rows ask the same", where=where, do=do)
        what = "no test set can be split off: all rows are near-duplicates of one another"
        if params.split_by and len(set(keys)) < 2:
            what, do = (
                f"no test set can be split off: all rows have the same '{params.split_by}'",
                f"{do}, or another field",
            )
            raise UserError(what, where="params.yaml: ingest.split_by", do=do)
        raise UserError(what, where=where, do=f"{do}, or raise ingest.near_duplicates ({params.near_duplicates:g})")
    test = splitting.choose_test(contexts, groups, params.test_fraction, params.seed)
    return [row for i, row in enumerate(rows) if i not in test], [rows[i] for i in sorted(test)]


def remove_overlap(
    train: list[Conversation], test: list[Conversation], folder: str, near_duplicates: float = 1.0
) -> tuple[list[Conversation], list[Rejected]]:
    """Training rows that answer nothing a test row asks, and the others.

    `near_duplicates`: similarity from which a row is a copy of a test row; below 1 where both came in files of their own.
    Raises UserError, naming `folder`, if no row is left.
    """
    in_test = {row.contexts[-1] for row in test}
    copies = splitting.find_copies(map(join_texts, test), map(join_texts, train), near_duplicates)
    clean, rejected = list[Conversation](), list[Rejected]()
    for number, row in enumerate(train):
        reason = OVERLAP if not in_test.isdisjoint(row.contexts) else NEAR_COPY if number in copies else ""
        if reason:
            rejected.append(reject("train", row.source, reason, row.turns()))
        else:
            clean.append(row)
    if not clean:
        what = f"empty domain set: all {len(rejected):,} training rows overlap with the test split"
        do = "give a test set that asks other questions than the training set"
        raise UserError(what, where=folder, do=do)
    return clean, rejected


def join_texts(row: Conversation) -> str:
    return "\n".join([turn["content"] for turn in row.turns()])


def reject(split: str, source: str, reason: str, content: Any) -> Rejected:
    excerpt = json.dumps(content, ensure_ascii=False, default=str)[:MAX_EXCERPT]
    source = printable(source)
    return Rejected(records.text_id(split, source), source, printable(reason), printable(excerpt))


def write_domain(folder: Path, train: list[Conversation], test: list[Conversation], rejected: list[Rejected]) -> None:
    """Write train, test and rejected rows, or nothing: the files are moved into place only when the last is written."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ingest.", dir=folder) as name:
        partial = Path(name)
        write_rows("domain", partial / "train.parquet", train, domain_row)
        write_rows("domain", partial / "test.parquet", test, domain_row)
        write_rows("domain_rejected", partial / "rejected.parquet", rejected, Rejected._asdict)
        for file in ("train", "test", "rejected"):
            os.replace(partial / f"{file}.parquet", folder / f"{file}.parquet")


def write_rows(contract: str, path: Path, rows: list[Any], as_row: Callable[[Any], dict[str, Any]]) -> None:
    ordered = sorted(rows, key=lambda row: row.id)
    tables = [
        records.to_table(contract, [as_row(row) for row in ordered[start : start + CHUNK_ROWS]])
        for start in range(0, max(len(ordered), 1), CHUNK_ROWS)
    ]
    whole = tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="default")
    records.write_table(contract, path, whole)


def domain_row(row: Conversation) -> dict[str, Any]:
    content = {"id": row.id, "messages": row.turns(), "group": row.group, "source": row.source}
    return content | ({"tools": json.loads(row.tools)} if row.tools else {})
