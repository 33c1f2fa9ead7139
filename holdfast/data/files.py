"""Rows of data files: JSONL, JSON, CSV, TSV, Parquet, plain or compressed; folders of shards; folders of `save_to_disk`; hub data sets.

Rows come one after the other, so that a large file is never in memory as a whole. What cannot be parsed is a UserError
that names the file and the line.
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import csv
import gzip
import io
import itertools
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from holdfast.core.checkpoint_files import POINTER
from holdfast.core.errors import UserError, first_line
from holdfast.data.fields import TURNS, unique_keys
from holdfast.params.ingest import Source

Rows = Iterator[tuple[str, Any]]  # place (line, number from 1, or key), row
COMPRESSED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": None}  # .zst: by pyarrow
MARKS = [  # byte order marks; UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]
DELIMITERS = ",;\t|"
FIRST_LINES = 20  # of a CSV file, that its delimiter is found from
UNPACKING = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, pa.ArrowException)
ENCODING_HELP = "convert it to UTF-8, or name its encoding in params.yaml (ingest.encoding: cp1252, utf-16, ...)"


class UnmarkedUTF16(Exception):
    """A file with zero bytes at its beginning; the text is the encoding that it may have."""


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
        known = ", ".join(READERS) + "; also compressed as " + ", ".join(COMPRESSED)
        raise UserError(f"unknown kind of file '{path.suffix[:20]}'", where=path, do=f"known: {known}")
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


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    suffix = path.suffix.lower()
    if suffix == ".zst":
        with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
            yield io.BufferedReader(stream)  # type: ignore[type-var]
        return
    opener: Any = COMPRESSED.get(suffix) or open
    with opener(path, "rb") as stream:
        buffered = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream)
        if buffered.peek(len(POINTER))[: len(POINTER)] == POINTER:
            do = "fetch it: `git lfs install`, then `git lfs pull` in that repository; or download the file itself"
            raise UserError("is a pointer of Git LFS, and not the file itself", where=path, do=do)
        yield buffered


def find_encoding(stream: IO[bytes], encoding: str, facts: dict[str, str]) -> str:
    """What a byte order mark says, else the encoding that the params name. Raises UnmarkedUTF16."""
    start = stream.peek(4)[:4]  # type: ignore[attr-defined]
    marked = next((name for mark, name in MARKS if start.startswith(mark)), None)
    if marked and marked != "utf-8":
        facts["encoding"] = marked
    if not marked and b"\0" in start and encoding.lower() == "utf-8":
        raise UnmarkedUTF16("utf-16-be" if start[:1] == b"\0" else "utf-16-le")
    return {"utf-8": "utf-8-sig"}.get(marked or encoding.lower(), marked or encoding)


def read_jsonl(path: Path, encoding: str, facts: dict[str, str]) -> Rows:
    with open_bytes(path) as stream:
        charset = find_encoding(stream, encoding, facts)
        if charset == "utf-8-sig":
            yield from parse_lines(path, stream)
        else:
            yield from parse_lines(path, io.TextIOWrapper(stream, encoding=charset, newline="\n"))


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
            do = "fix or remove that line: every line of a JSONL file is one JSON object"
            raise UserError(f"not valid JSON ({reason_of(error)})", where=f"{path}:{number}", do=do) from None


def read_json(path: Path, encoding: str, facts: dict[str, str]) -> Rows:
    """A list of rows, an object of rows (the key becomes the column `_key`), or an object with a single list.

    A file whose lines are objects of their own is JSONL, whatever its name."""
    with open_bytes(path) as stream:
        charset = find_encoding(stream, encoding, facts)
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
        charset = find_encoding(stream, encoding, facts)
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
            if len(set(header)) != len(header):
                raise UserError(
                    "two columns have the same name", where=f"{path}:{place}", do="rename one in the header line"
                )
            place = above + lines.line_num + 1
            for cells in lines:
                if (
                    cells
                ):  # else a blank line. More or fewer cells than the header: stays a list, and is rejected as such
                    yield str(place), dict(zip(header, cells, strict=True)) if len(cells) == len(header) else cells
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


def read_parquet(path: Path, encoding: str, facts: dict[str, str]) -> Rows:
    try:
        with open_bytes(path) as stream:
            source = pa.BufferReader(stream.read()) if path.suffix.lower() in COMPRESSED else path
            file = pq.ParquetFile(source)  # not read_table: it takes a folder called a=b for a column
            yield from number_rows(file.iter_batches(batch_size=8192))
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise UserError(
            f"not a readable Parquet file ({reason_of(error)})", where=path, do="write or download it again"
        ) from None


def number_rows(batches: Iterator[pa.RecordBatch]) -> Rows:
    numbers = itertools.count(1)
    for batch in batches:
        if len(set(batch.schema.names)) != len(batch.schema.names):
            raise ValueError("two columns have the same name")
        for row in batch.to_pylist():
            yield str(next(numbers)), row


READERS = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".tab": read_csv,
    ".parquet": read_parquet,
    ".pq": read_parquet,
}


def is_saved_to_disk(folder: Path) -> bool:
    """Whether `datasets.Dataset.save_to_disk` wrote this folder."""
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def read_saved(folder: Path) -> Rows:
    """Rows of a folder of `save_to_disk`, from its Arrow files, in the order that its state.json names them."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        names = [str(entry["filename"]) for entry in state["_data_files"]]
        if any(Path(name).name != name for name in names):
            raise ValueError("a data file lies elsewhere")

        def batches() -> Iterator[pa.RecordBatch]:
            for name in names:
                with pa.memory_map(str(folder / name)) as file, pa.ipc.open_stream(file) as stream:
                    yield from stream

        yield from number_rows(batches())
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        what = f"not a readable folder of save_to_disk ({type(error).__name__}: {reason_of(error)})"
        raise UserError(what, where=folder, do="save it again, or write Parquet: dataset.to_parquet(...)") from None


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
    return first_line(error)


decode = json.JSONDecoder(object_pairs_hook=unique_keys).decode  # json.loads makes a decoder for every line
