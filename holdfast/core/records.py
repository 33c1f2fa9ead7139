"""Data contracts: the schema of every Parquet file that flows between stages, and the only way to read and write one.

Rows are sorted by id; no clock, host or path goes inside, so the same rows give the same bytes. Reading validates.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from holdfast.core.errors import UserError
from holdfast.core.storage import replacing

if TYPE_CHECKING:
    import pandas as pd

VERSION = 3
TEXT, INT, FLOAT, BOOL = pa.string(), pa.int64(), pa.float64(), pa.bool_()
MESSAGES = pa.list_(pa.struct([("role", TEXT), ("content", TEXT)]))


def _schema(**columns: pa.DataType) -> pa.Schema:
    """Every column is required to be there; a column marked nullable in NULLABLE may hold nulls."""
    return pa.schema([pa.field(name, kind, nullable=name in NULLABLE) for name, kind in columns.items()])


NULLABLE = {
    "extra",
    "score",
    "mass",
    "logprob",
    "score_std",
    "base_logprob",
    "temperature",
    "top_p",
    "tokens",
    "item_group",
}

# context: the turns before the user turn `text` (a system turn, earlier turns), often none. temperature and top_p are null,
# and model, revision and sample name file, hash and row, where the text is from a corpus. family: what the row is to keep
# (holdfast/core/rows.py)
_raw = dict(
    id=TEXT,
    family=TEXT,
    context=MESSAGES,
    text=TEXT,
    finish_reason=TEXT,
    n_tokens=INT,
    temperature=FLOAT,
    top_p=FLOAT,
    sample=INT,
    seed=INT,
    model=TEXT,
    revision=TEXT,
)
_candidate = dict(
    id=TEXT,  # the instruction's
    family=TEXT,  # the instruction's
    context=MESSAGES,  # the turns before it
    instruction=TEXT,
    response=TEXT,
    response_id=TEXT,
    model=TEXT,  # who wrote the response
    revision=TEXT,
    score=FLOAT,  # mean over the judges' valid scores, 1 to 5
    score_std=FLOAT,  # disagreement between judges (population standard deviation)
    n_judges=INT,  # valid scores behind the mean
    agreement=FLOAT,  # part of all responses to this instruction whose text equals the chosen one
    base_logprob=FLOAT,  # mean log-probability per response token under the base (nats)
    refusal=BOOL,  # the response turns the request down (holdfast/data/refusals.py)
    cluster=INT,
)
SCHEMAS: dict[str, pa.Schema] = {
    # one conversation of the domain; group names the domain suite of a test row ("" = none)
    "domain": _schema(id=TEXT, messages=MESSAGES, group=TEXT, source=TEXT),
    "domain_rejected": _schema(id=TEXT, source=TEXT, reason=TEXT, excerpt=TEXT),
    # finish_reason: "stop" (the model ended its turn) or "length" (it did not)
    "instructions_raw": _schema(**_raw),
    # bait: asks for what deserves a refusal, so that it is replayed only where the base refuses
    "instructions_kept": _schema(**_raw, cluster=INT, bait=BOOL),
    "instructions_rejected": _schema(**_raw, reason=TEXT, detail=TEXT),
    # finish_reason may also be "withheld": an answer to bait that is no refusal, whose text is not kept; or "unreadable": an
    # answer under tools that names none of them, or that the template would write otherwise; or "misfit": a call whose arguments
    # do not fit the schema of its function
    "responses": _schema(
        id=TEXT,
        instruction_id=TEXT,
        text=TEXT,
        finish_reason=TEXT,
        n_tokens=INT,
        sample=INT,
        seed=INT,
        model=TEXT,
        revision=TEXT,
    ),
    # id is the response's; no row: this judge was not asked; score 1..5 or null (no valid judgement); mass: probability on the
    # five score tokens, null where no score could be read; logprob: mean log-probability per response token under this judge
    # (nats), filled by the base only; tokens: of the judge's prompt, where they can be counted here; audit: of an instruction
    # of the random sample, whose responses every judge scored
    "scores": _schema(
        id=TEXT,
        instruction_id=TEXT,
        judge=TEXT,
        score=FLOAT,
        mass=FLOAT,
        logprob=FLOAT,
        tokens=INT,
        audit=BOOL,
    ),
    "candidates": _schema(**_candidate),
    "candidates_rejected": _schema(**_candidate, reason=TEXT),
    "replay": _schema(**_candidate, difficulty=INT),  # difficulty: quantile bin, 0 = easiest for the base
    # in the order of training; source: "domain" or "replay"; repeat counts the uses of one row from 0;
    # trained_tokens counts the tokens with a loss
    "mix": _schema(id=TEXT, source=TEXT, source_id=TEXT, epoch=INT, repeat=INT, messages=MESSAGES, trained_tokens=INT),
    # one evaluation item's outcome: correct in 0..1; hashes guard the pairing of base and tuned; item_group: items
    # that share one, such as those about one passage, are right or wrong together (null: alone)
    "items": _schema(
        id=TEXT,
        suite=TEXT,
        item_id=TEXT,
        item_group=TEXT,
        item_hash=TEXT,
        prompt_hash=TEXT,
        correct=FLOAT,
        prompt=TEXT,
        target=TEXT,
        response=TEXT,
    ),
}

# A column that only a file has some of whose conversations hold more than roles and texts: JSON with "tools" (the tools that
# may be called), "thinking" (the switch for thoughts is on or off), "results" (what calls return), "after" (turns that follow a
# response) and "turns" (for each turn an object: reasoning_content, tool_calls, train, ...). `read` puts it in place.
EXTRA = pa.field("extra", TEXT)
MAY_HAVE_EXTRA = {
    "domain",
    "mix",
    "instructions_raw",
    "instructions_kept",
    "instructions_rejected",
    "responses",
    "candidates",
    "replay",
}


def text_id(*parts: object) -> str:
    """A stable 16-hex-digit id of the parts."""
    whole = parts[0] if len(parts) == 1 else "\x1f".join(map(str, parts))
    return hashlib.blake2b(str(whole).encode(), digest_size=8).hexdigest()


def write(name: str, path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows under the contract `name`, sorted by id, atomically. A row that breaks the contract is a bug of ours."""
    write_table(name, path, to_table(name, sorted(rows, key=lambda row: row["id"])))


def to_table(name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows in their order under the contract `name`; what does not fit into its columns goes into `extra`."""
    schema = SCHEMAS[name]
    extras = [pack_extra(row) for row in rows] if name in MAY_HAVE_EXTRA else []
    if any(extras):
        schema = schema.append(EXTRA)
        rows = [{**row, "extra": extra} for row, extra in zip(rows, extras, strict=True)]
    return pa.Table.from_pylist(list(rows), schema=schema)


def pack_extra(row: Mapping[str, Any]) -> str | None:
    messages = row.get("messages", ())
    turns = [{key: value for key, value in m.items() if key not in ("role", "content")} for m in messages]
    extra = ({"tools": row["tools"]} if row.get("tools") else {}) | ({"turns": turns} if any(turns) else {})
    extra |= {key: row[key] for key in ("thinking", "results", "after") if key in row}
    return json.dumps(extra, ensure_ascii=False) if extra else None


def unpack_extra(row: dict[str, Any]) -> dict[str, Any]:
    extra = json.loads(row.pop("extra", None) or "{}")
    if "turns" in extra:
        row["messages"] = [m | more for m, more in zip(row["messages"], extra["turns"], strict=True)]
    return row | {key: extra[key] for key in ("tools", "thinking", "results", "after") if key in extra}


def write_table(name: str, path: Path, table: pa.Table) -> None:
    """Write an Arrow table whose rows are sorted by id already: for what is too large for Python rows."""
    metadata = {"holdfast.schema": name, "holdfast.version": str(VERSION)}
    schema = SCHEMAS[name].append(EXTRA) if "extra" in table.column_names else SCHEMAS[name]
    table = table.select(schema.names).cast(schema).replace_schema_metadata(metadata)
    validate(name, path, table)
    with replacing(path) as partial:
        pq.write_table(table, partial, compression="zstd", row_group_size=65_536)


def read(name: str, path: Path) -> list[Any]:
    """The rows of a file; holdfast/core/rows.py has their types."""
    rows = read_table(name, path).to_pylist()
    return [unpack_extra(row) for row in rows] if name in MAY_HAVE_EXTRA else rows


def read_frame(name: str, path: Path) -> pd.DataFrame:
    return read_table(name, path).to_pandas()


def read_table(
    name: str, path: Path, columns: list[str] | None = None, filters: list[tuple[str, str, Any]] | None = None
) -> pa.Table:
    """`columns`, `filters` (as in pyarrow): only these columns, only such rows are read and checked, where a file is
    large; the schema is checked whole."""
    if not path.is_file():
        raise UserError("no such file", where=path, do="run `dvc repro`, or `dvc pull` where a remote has it")
    try:
        schema, table = pq.read_schema(path), pq.read_table(path, columns=columns, filters=filters)
    except (pa.ArrowInvalid, OSError) as error:  # no Parquet, or damaged further in
        raise UserError(
            f"not a readable Parquet file ({str(error).splitlines()[0]})",
            where=path,
            do="remove it and run `dvc repro`",
        ) from None
    written = (schema.metadata or {}).get(b"holdfast.schema", b"?").decode()
    known = [SCHEMAS[name], *([SCHEMAS[name].append(EXTRA)] if name in MAY_HAVE_EXTRA else [])]
    if written != name or not any(map(schema.equals, known)):
        raise UserError(
            f"is not a '{name}' file of version {VERSION} (found '{written}')",
            where=path,
            do="remove it and run `dvc repro`",
        )
    try:
        validate(name, path, table)
    except ValueError as error:
        what = str(error).removeprefix(f"{path}: ")
        raise UserError(what, where=path, do="remove it and run `dvc repro`") from None
    return table


def validate(name: str, path: Path, table: pa.Table) -> None:
    """Raises ValueError where a required column holds a null or an id appears twice."""
    for column in table.column_names:
        if not table.schema.field(column).nullable and table.column(column).null_count:
            raise ValueError(f"{path}: null in required column '{column}' of '{name}'")
    if "id" in table.column_names and len(table["id"].unique()) != len(table):
        raise ValueError(f"{path}: an id appears twice in '{name}'")
