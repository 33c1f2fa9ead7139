"""Domain data in the formats that people keep it in: JSONL, JSON, CSV, Parquet, hub data sets; their rows as messages.

Used by `ingest`. What cannot be parsed is a UserError that names the line; a row that parses and still cannot
be understood raises Unreadable, whose text becomes the reason beside the rejected row.
"""

from __future__ import annotations

import csv
import json
import math
import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from holdfast.core.errors import UserError, first_line
from holdfast.params.ingest import Columns, Source

if TYPE_CHECKING:
    from holdfast.chat.encoding import Messages

NEEDED = {
    "messages": ["messages"],
    "sharegpt": ["conversations"],
    "alpaca": ["instruction", "output"],
    "prompt_completion": ["prompt", "completion"],
}
ROLES = {"system": "system", "user": "user", "assistant": "assistant"}
SHAREGPT_ROLES = ROLES | {"human": "user", "gpt": "assistant"}
FIRST_ROWS = 100  # that the format is detected from
Turn = tuple[str, str]  # role, content


class Unreadable(Exception):
    """A row that parses but is no conversation. The text is a fixed reason: it holds nothing from the row."""


# ---- files ---------------------------------------------------------------------------------------------------------


def read_file(path: Path) -> list[tuple[str, Any]]:
    """(place, row) for every row; place: line (JSONL, CSV), number from 1 (JSON list, Parquet) or key (JSON object)."""
    readers = {
        ".jsonl": read_jsonl,
        ".ndjson": read_jsonl,
        ".json": read_json,
        ".csv": read_csv,
        ".parquet": read_parquet,
    }
    if not path.is_file():
        raise UserError("no such file", where=path, do="correct ingest.folder or the source's path in params.yaml")
    if path.suffix.lower() not in readers:
        raise UserError(f"unknown kind of file '{path.suffix}'", where=path, do=f"known: {', '.join(readers)}")
    try:
        return list(readers[path.suffix.lower()](path))
    except UnicodeDecodeError:
        raise UserError("not UTF-8 text", where=path, do="convert the file to UTF-8") from None


def read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:  # as bytes: only \n ends a line; str.splitlines also cuts at U+2028 inside a text
        for number, line in enumerate(file, start=1):
            where = f"{path}:{number}"
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            try:
                yield str(number), json.loads(line.decode("utf-8"), object_pairs_hook=unique_keys)
            except UnicodeDecodeError:
                raise UserError("not UTF-8 text", where=where, do="convert the file to UTF-8") from None
            except (ValueError, RecursionError) as error:
                do = "fix or remove that line: every line of a JSONL file is one JSON object"
                raise UserError(f"not valid JSON ({reason_of(error)})", where=where, do=do) from None


def read_json(path: Path) -> Iterator[tuple[str, Any]]:
    """A list of rows, an object of rows (the key becomes the column `_key`), or an object with a single list."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique_keys)
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        where = f"{path}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else path
        do = "fix the file; where every line is an object of its own, name it .jsonl"
        raise UserError(f"not valid JSON ({reason_of(error)})", where=where, do=do) from None
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        if not lists and any(isinstance(value, dict) for value in content.values()):
            for key, row in content.items():
                yield key, row | {"_key": key} if isinstance(row, dict) else row
            return
        content = lists[0] if len(lists) == 1 else content
    if not isinstance(content, list):
        do = "give a list of rows, an object of rows keyed by id, or an object with a single list"
        raise UserError("no rows in this JSON", where=path, do=do)
    yield from ((str(number), row) for number, row in enumerate(content, start=1))


def read_csv(path: Path) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is shorter than one long document
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, strict=True)
        try:
            header = next(lines, [])
            if len(set(header)) != len(header):
                raise UserError("two columns have the same name", where=f"{path}:1", do="rename one in the header line")
            place = lines.line_num + 1
            for cells in lines:
                if (
                    cells
                ):  # else a blank line. More or fewer cells than the header: stays a list, and is rejected as such
                    yield str(place), dict(zip(header, cells, strict=True)) if len(cells) == len(header) else cells
                place = lines.line_num + 1
        except csv.Error as error:
            do = "fix the quotes of that line"
            raise UserError(f"not valid CSV ({error})", where=f"{path}:{lines.line_num}", do=do) from None


def read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = pq.ParquetFile(path).read().to_pylist()  # not read_table: it takes a folder called a=b for a column
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"not a readable Parquet file ({reason_of(error)})", where=path, do="write or download it again"
        ) from None
    yield from ((str(number), row) for number, row in enumerate(rows, start=1))


def read_hub(source: Source, where: str) -> list[tuple[str, Any]]:
    """(number from 1, row) for every row of a hub data set at its pinned revision."""
    import datasets

    assert source.hub
    if Path(source.hub).exists():  # load_dataset would take the folder, whatever the revision says
        do = "for local files give 'path' in place of 'hub', else rename that folder"
        raise UserError(f"a local folder has the name of the data set '{source.hub}'", where=where, do=do)
    try:
        rows = list(datasets.load_dataset(source.hub, source.config, split=source.split, revision=source.revision))
    except Exception as error:  # the library raises a dozen unrelated classes, from ConnectionError to ValueError
        what = f"cannot load the data set '{source.hub}' ({type(error).__name__}: {reason_of(error)})"
        do = "check its id, revision, config and split, and the network (HF_HUB_OFFLINE=1 sees only the local cache)"
        raise UserError(what, where=where, do=do) from None
    return [(str(number), row) for number, row in enumerate(rows, start=1)]


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as an object. Raises ValueError for two equal keys: json.loads would keep the last and say nothing."""
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return row


def reason_of(error: Exception) -> str:
    """What went wrong, on one line."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return first_line(error)


# ---- formats -------------------------------------------------------------------------------------------------------


def field(row: Any, path: str) -> Any:
    """The value at a dotted path, or None."""
    if isinstance(row, dict) and path in row:  # a CSV column may have a dot in its name
        return row[path]
    for part in path.split("."):
        row = row.get(part) if isinstance(row, dict) else None
    return row


def list_fields(rows: list[Any]) -> str:
    """The fields of the first rows, for an error message; names come from the data, hence repr and the cuts."""
    names = dict.fromkeys(name for row in rows[:FIRST_ROWS] if isinstance(row, dict) for name in row)
    return ", ".join(repr(name)[:40] for name in list(names)[:12]) + (", ..." if len(names) > 12 else "") or "none"


def detect_format(rows: list[Any], where: object) -> str:
    """The one format that the first rows have. Raises UserError where none or several fit."""
    first = rows[:FIRST_ROWS]
    fits = [
        name for name, needed in NEEDED.items() if any(all(field(row, f) is not None for f in needed) for row in first)
    ]
    if len(fits) == 1:
        return fits[0]
    what = f"the rows fit the formats {' and '.join(fits)}" if fits else "the rows fit no known format"
    do = f"set ingest.format ({', '.join(NEEDED)}), or to columns, with ingest.columns, in params.yaml"
    raise UserError(f"{what}; fields found: {list_fields(rows)}", where=where, do=do)


def check_fields(rows: list[Any], form: str, columns: Columns | None, where: object) -> None:
    """A field that no row has is a slip in params.yaml, not a fault of the rows."""
    if columns:
        wanted = [
            (f"ingest.columns.{key}", name)
            for key, name in columns.model_dump(exclude_none=True).items()
            if key != "group"
        ]
    else:
        wanted = [("ingest.format", name) for name in NEEDED[form]]
    for key, name in wanted:
        if not any(field(row, name) is not None for row in rows):
            do = f"fields found: {list_fields(rows)}; correct {key} in params.yaml"
            raise UserError(f"no row has the field '{name}' that {key} asks for", where=where, do=do)


def parse_conversation(row: Any, form: str, columns: Columns | None) -> Messages:
    """The messages of one row, normalised: NFC, outer whitespace stripped. Raises Unreadable."""
    if not isinstance(row, dict):
        raise Unreadable("not a record of named fields")
    system = columns.system if columns else "system"  # several formats keep the system turn in a field beside the turns
    if columns:
        context = join_passages(field(row, columns.context)) if columns.context else ""
        prompt = text(row, columns.prompt).strip()
        question = "\n\n".join(filter(None, [context, prompt])) if prompt else ""  # a context alone asks nothing
        turns = [("user", question), ("assistant", text(row, columns.response))]
    elif form == "messages":
        turns = parse_turns(row.get("messages"), "role", "content", ROLES)
    elif form == "sharegpt":
        turns = parse_turns(row.get("conversations"), "from", "value", SHAREGPT_ROLES)
    elif form == "alpaca":
        parts = [text(row, "instruction"), "" if row.get("input") is None else text(row, "input")]
        question = "\n\n".join(part.strip() for part in parts if part.strip())
        turns = [("user", question), ("assistant", text(row, "output"))]
    else:
        turns = read_turns(row, "prompt", "user") + read_turns(row, "completion", "assistant")
    if system and field(row, system) is not None:
        turns = [("system", text(row, system)), *turns]
    return normalise_turns(turns)


def normalise_turns(turns: list[Turn]) -> Messages:
    """[system,] user, assistant, ... assistant. An empty system turn is left out, any other is Unreadable."""
    messages = [
        {"role": role, "content": unicodedata.normalize("NFC", storable(content)).strip()} for role, content in turns
    ]
    messages = [m for m in messages if m["content"] or m["role"] != "system"]
    roles = [m["role"] for m in messages]
    if not all(m["content"] for m in messages):
        raise Unreadable("empty turn")
    if any(one == other for one, other in pairwise(roles)):
        raise Unreadable("two turns of one role in a row")
    dialogue = roles[1:] if roles[:1] == ["system"] else roles
    if "system" in dialogue:
        raise Unreadable("a system turn that is not the first")
    if dialogue[:1] != ["user"]:
        raise Unreadable("does not begin with the user")
    if dialogue[-1] != "assistant":
        raise Unreadable("does not end with the assistant")
    return messages


def group(row: dict[str, Any], columns: Columns | None) -> str:
    """The name of the domain suite that a row belongs to, or ""."""
    if columns and columns.group:
        return storable(text(row, columns.group).strip()) if field(row, columns.group) is not None else ""
    named = next((row[key] for key in ("group", "suite") if isinstance(row.get(key), str)), "")
    return storable(named.strip())


def read_turns(row: dict[str, Any], name: str, role: str) -> list[Turn]:
    """A field of the prompt-completion format: one turn as a string, or a list of messages."""
    return (
        parse_turns(row[name], "role", "content", ROLES)
        if isinstance(row.get(name), list)
        else [(role, text(row, name))]
    )


def parse_turns(turns: Any, role_field: str, content_field: str, roles: dict[str, str]) -> list[Turn]:
    if not isinstance(turns, list) or not turns:
        raise Unreadable("no list of turns")
    parsed = []
    for turn in turns:
        role = turn.get(role_field) if isinstance(turn, dict) else None
        if not isinstance(role, str) or role not in roles:
            raise Unreadable("unknown role")
        parsed.append((roles[role], text(turn, content_field)))
    return parsed


def join_passages(context: Any) -> str:
    """One text, or a list of texts joined by blank lines; none at all where the row has no context."""
    parts = context if isinstance(context, list) else [] if context is None else [context]
    return "\n\n".join(filter(None, (text({"context": part}, "context").strip() for part in parts)))


def text(row: dict[str, Any], path: str) -> str:
    """A field as text. Numbers count as text (labels often are); a truth value, a list or nothing at all does not."""
    value = field(row, path)
    if value is None:
        raise Unreadable(f"no field '{path}'")
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    raise Unreadable(f"field '{path}' is not text")


def storable(value: str) -> str:
    """The value, unless it holds half a surrogate pair, which JSON can spell and UTF-8 cannot. Raises Unreadable."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Unreadable("not valid Unicode") from None
    return value
