"""Rows of data files: JSONL, JSON, CSV, TSV, Parquet, plain or compressed; folders of shards; folders of `save_to_disk`; hub data sets.

Rows come one after the other, so that a large file is never in memory as a whole. What cannot be parsed is a UserError
that names the file and the line.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import re
from pathlib import Path
from typing import IO, Any

from holdfast.core.errors import UserError, first_line
from holdfast.data.arrow_files import Rows, is_saved_to_disk, read_arrow, read_parquet, read_saved
from holdfast.data.fields import TURNS, unique_keys
from holdfast.data.streams import (
    COMPRESSED,
    ENCODING_HELP,
    OTHER_KINDS,
    UNPACKING,
    UnmarkedUTF16,
    find_encoding,
    open_bytes,
)
from holdfast.params.ingest import Source

DELIMITERS = ",;\t|"
FIRST_LINES = 20  # of a CSV file, that its delimiter is found from


class SpelledFloat(float):
    """A number of a JSON file, whose text is as the file spells it: 1.10, 1e5."""

    spelling: str

    def __new__(cls, spelling: str) -> SpelledFloat:
        number = super().__new__(cls, spelling)
        number.spelling = spelling
        return number

    def __str__(self) -> str:
        return self.spelling


def kind_of(path: Path) -> str:
    """The suffix that says how a file is read, without that of a compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return next((s for s in reversed(suffixes) if s not in COMPRESSED), "")


def read_file(path: Path, encoding: str = "utf-8", facts: dict[str, str] | None = None) -> Rows:
    """(place, row) for every row; place: line (JSONL, CSV), number from 1 (JSON list, Parquet) or key (JSON object).

    `facts` takes in what was found out: the delimiter and header of a CSV file, an encoding by a byte order mark.
    """
    facts = {} if facts is None else facts
    if path.is_dir() and is_saved_to_disk(path):
        yield from read_saved(path)
        return
    if not path.is_file():
        raise UserError("no such file", where=path, do="correct ingest.folder or the source's path in params.yaml")
    if (kind := kind_of(path)) not in READERS:
        known = "known: " + ", ".join(READERS) + "; also compressed as " + ", ".join(COMPRESSED)
        ending = path.suffix.lower() if path.suffix.lower() not in COMPRESSED else kind
        raise UserError(f"unknown kind of file '{ending[:20]}'", where=path, do=OTHER_KINDS.get(ending, known))
    try:
        yield from READERS[kind](path, encoding, facts)
    except UnmarkedUTF16 as error:
        do = f"set ingest.encoding: {error} in params.yaml, or convert it to UTF-8"
        raise UserError("seems to be UTF-16 without a byte order mark", where=path, do=do) from None
    except UnicodeError:
        wanted = facts.get("encoding", encoding).upper()
        raise UserError(f"not {wanted} text", where=path, do=ENCODING_HELP) from None
    except UNPACKING as error:
        raise UserError(
            f"cannot be unpacked ({first_line(error) or 'cut off'})", where=path, do="write or download it again"
        ) from None
    except OSError as error:
        what = "cannot be unpacked" if path.suffix.lower() in COMPRESSED else "cannot be read"
        raise UserError(f"{what} ({first_line(error)})", where=path, do="write or download it again") from None


def read_jsonl(path: Path, encoding: str, facts: dict[str, str]) -> Rows:
    with open_bytes(path) as stream:
        charset = find_encoding(path, stream, encoding, facts)
        if charset == "utf-8-sig":
            start = stream.peek(64).removeprefix(codecs.BOM_UTF8).lstrip()  # type: ignore[attr-defined]
            yield from parse_list(path, stream, facts) if start[:1] == b"[" else parse_lines(path, stream)
        else:
            yield from parse_lines(path, io.TextIOWrapper(stream, encoding=charset, newline="\n"))


def parse_list(path: Path, stream: IO[bytes], facts: dict[str, str]) -> Rows:
    """A file named JSONL that is one JSON list of rows; lines that are lists of their own are left to `parse_lines`."""
    content = stream.read()
    try:
        rows = decode(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        yield from parse_lines(path, io.BytesIO(content))
        return
    facts["format"] = "JSON"
    yield from ((str(number), row) for number, row in enumerate(rows, start=1))


def parse_lines(path: Path, lines: Any) -> Rows:
    """Of bytes, only \\n ends a line (str.splitlines also cuts at U+2028 inside a text), and a fault has its line number."""
    for number, line in enumerate(lines, start=1):
        try:
            if isinstance(line, bytes):
                line = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).decode("utf-8")
            if line.isspace() or not line:
                continue
            yield str(number), decode(line)
        except UnicodeDecodeError:
            raise UserError("not UTF-8 text", where=f"{path}:{number}", do=ENCODING_HELP) from None
        except (ValueError, RecursionError) as error:
            do = "fix or remove that line: every line is one JSON object (a file of one JSON value is named .json)"
            raise UserError(f"not valid JSON ({reason_of(error)})", where=f"{path}:{number}", do=do) from None


def read_json(path: Path, encoding: str, facts: dict[str, str]) -> Rows:
    """A list of rows, an object of rows (the key becomes the column `_key`), or an object with a single list.

    A file whose lines are objects of their own is JSONL, whatever its name."""
    with open_bytes(path) as stream:
        charset = find_encoding(path, stream, encoding, facts)
        text = stream.read().decode(charset)
    try:
        content = decode(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and is_jsonl(text):
            facts["format"] = "JSONL"
            yield from parse_lines(path, io.StringIO(text, newline="\n"))
            return
        where = f"{path}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else path
        raise UserError(f"not valid JSON ({reason_of(error)})", where=where, do="fix the file at that place") from None
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        if not lists and any(isinstance(value, dict) for value in content.values()):
            for key, row in content.items():
                yield key, row | {"_key": key} if isinstance(row, dict) else row
            return
        if len(lists) > 1:
            named = ", ".join(repr(name)[:40] for name, value in content.items() if isinstance(value, list))
            do = "write the one that holds the rows to a file of its own"
            raise UserError(f"several lists in this JSON ({named:.120})", where=path, do=do)
        if len(lists) == 1:
            content = [content] if is_conversation(content) else lists[0]
    if not isinstance(content, list):
        do = "give a list of rows, an object of rows keyed by id, or an object with a single list"
        raise UserError("no rows in this JSON", where=path, do=do)
    yield from ((str(number), row) for number, row in enumerate(content, start=1))


def is_conversation(content: dict[str, Any]) -> bool:
    """Whether an object is one row with its turns, and no list of rows under some name."""
    turns: list[Any] = next(
        (content[name] for name in (*TURNS, "conversations") if isinstance(content.get(name), list)), []
    )
    return bool(turns) and all(isinstance(turn, dict) and not {"role", "from"}.isdisjoint(turn) for turn in turns)


def is_jsonl(text: str) -> bool:
    """Whether the first two lines that are not empty are objects of their own."""
    first = list(itertools.islice((line for line in io.StringIO(text) if line.strip()), 2))
    try:
        return len(first) == 2 and all(isinstance(json.loads(line), dict) for line in first)
    except (ValueError, RecursionError):
        return False


def read_csv(path: Path, encoding: str, facts: dict[str, str]) -> Rows:
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is shorter than one long document
    with open_bytes(path) as stream:
        charset = find_encoding(path, stream, encoding, facts)
        file = io.TextIOWrapper(stream, encoding=charset, newline="")
        first = list(itertools.islice(file, FIRST_LINES))
        named = re.fullmatch(r"\ufeff?\"?sep=(.)\"?[,;\s]*", first[0]) if first else None  # Excel's own first line
        if named:
            del first[0]
        delimiter = named[1] if named else find_delimiter(first, "\t" if kind_of(path) in (".tsv", ".tab") else ",")
        lines = csv.reader(itertools.chain(first, file), strict=True, delimiter=delimiter)
        above = 1 if named else 0
        place = above + 1  # of the row that is read
        try:
            header = next(lines, [])
            facts |= {"delimiter": delimiter, "header": ", ".join(header)[:200]}
            header = [name if name.strip() else f"(column {number})" for number, name in enumerate(header, start=1)]
            if len(set(header)) != len(header):
                do = "rename one in the header line"
                raise UserError("two columns have the same name", where=f"{path}:{place}", do=do)
            unnamed = {name for name in header if name.startswith("(column ")}
            place = above + lines.line_num + 1
            for cells in lines:
                if len(cells) != len(header):
                    if cells:  # else a blank line. Stays a list, and is rejected as such
                        yield str(place), cells
                elif unnamed:  # what a spreadsheet leaves beside the table is no field
                    pairs = zip(header, cells, strict=True)
                    yield str(place), {name: cell for name, cell in pairs if cell or name not in unnamed}
                else:
                    yield str(place), dict(zip(header, cells, strict=True))
                place = above + lines.line_num + 1
        except csv.Error as error:
            do = f"fix the quotes of the row that begins there; cells are taken to be delimited by {delimiter!r}"
            raise UserError(f"not valid CSV ({error})", where=f"{path}:{place}", do=do) from None


def find_delimiter(first: list[str], usual: str) -> str:
    """What cuts the header into several cells, and most of the first lines into as many; `usual` where nothing does."""

    def fit(delimiter: str) -> tuple[float, bool, int]:
        try:
            rows = [cells for cells in csv.reader(first, delimiter=delimiter) if cells]
        except csv.Error:
            return 0.0, False, 0
        width = len(rows[0]) if rows else 0
        if width < 2:
            return 0.0, False, 0
        rows = rows[1:-1] or rows  # the last may go on beyond the first lines
        return sum(len(cells) == width for cells in rows) / len(rows), delimiter == usual, width

    best = max(DELIMITERS, key=fit)
    return best if fit(best)[0] else usual


READERS = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".tab": read_csv,
    ".jsonlines": read_jsonl,
    ".jl": read_jsonl,
    ".parquet": read_parquet,
    ".pq": read_parquet,
    ".arrow": read_arrow,
    ".feather": read_arrow,
}


def read_hub(source: Source, where: str) -> Rows:
    """(number from 1, row) for every row of a hub data set at its pinned revision."""
    import datasets

    assert source.hub
    if Path(source.hub).exists():  # load_dataset would take the folder, whatever the revision says
        do = "for local files give 'path' in place of 'hub', else rename that folder"
        raise UserError(f"a local folder has the name of the data set '{source.hub}'", where=where, do=do)
    try:
        rows = datasets.load_dataset(source.hub, source.config, split=source.split, revision=source.revision)
        numbered = enumerate(rows, start=1)
        while (numbered_row := next(numbered, None)) is not None:
            yield str(numbered_row[0]), numbered_row[1]
    except Exception as error:  # the library raises a dozen unrelated classes, from ConnectionError to ValueError
        what = f"cannot load the data set '{source.hub}' ({type(error).__name__}: {reason_of(error)})"
        do = "check its id, revision, config and split, and the network (HF_HUB_OFFLINE=1 sees only the local cache)"
        raise UserError(what, where=where, do=do) from None


def reason_of(error: Exception) -> str:
    """What went wrong, on one line."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return first_line(error).partition("; use sys.")[0]  # Python's own advice on long numbers


decode = json.JSONDecoder(
    object_pairs_hook=unique_keys, parse_float=SpelledFloat
).decode  # json.loads makes a decoder for every line
