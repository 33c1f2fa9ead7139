"""The bytes of a data file, unpacked, and the encoding of its text."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from holdfast.core.checkpoint_files import POINTER
from holdfast.core.errors import UserError

COMPRESSED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": None}  # .zst: by pyarrow
MARKS = [  # byte order marks; UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]
UNPACKING = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, pa.ArrowException)
ENCODING_HELP = "convert it to UTF-8, or name its encoding in params.yaml (ingest.encoding: cp1252, utf-16, ...)"
UNPACK, AS_CSV = "unpack it, and give the file or folder in it", "save the sheet as CSV (UTF-8)"
OTHER_KINDS = {  # what to do about files that are not read
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".rar", ".lz4", ".br"), UNPACK),
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".ods"), AS_CSV),
}
SIGNATURES = {  # the first bytes of files that are no text, whatever their names
    b"PK\x03\x04": ("a ZIP archive or an Excel file", f"{UNPACK}, or {AS_CSV}"),
    b"\xd0\xcf\x11\xe0": ("an old Excel or Word file", AS_CSV),
    b"\x1f\x8b": ("compressed by gzip", "add .gz to its name"),
    b"BZh": ("compressed by bzip2", "add .bz2 to its name"),
    b"\xfd7zXZ\x00": ("compressed by xz", "add .xz to its name"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "add .zst to its name"),
    b"7z\xbc\xaf": ("a 7z archive", UNPACK),
    b"PAR1\x15": ("a Parquet file", "give it the ending .parquet"),
    b"ARROW1": ("an Arrow file", "give it the ending .arrow"),
    b"SQLite format 3": ("an SQLite database", "export the table as CSV"),
    b"%PDF": ("a PDF", "give the text as JSONL or CSV"),
}


class UnmarkedUTF16(Exception):
    """A file with zero bytes at its beginning; the text is the encoding that it may have."""


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


def find_encoding(path: Path, stream: IO[bytes], encoding: str, facts: dict[str, str]) -> str:
    """What a byte order mark says, else the encoding that the params name. Raises UserError for what is no text, and
    UnmarkedUTF16."""
    start = stream.peek(16)[:16]  # type: ignore[attr-defined]
    for signature, (kind, do) in SIGNATURES.items():
        if start.startswith(signature):
            raise UserError(f"is {kind}, whatever its name says", where=path, do=do)
    marked = next((name for mark, name in MARKS if start.startswith(mark)), None)
    if marked and marked != "utf-8":
        facts["encoding"] = marked
    if not marked and b"\0" in start[:4] and encoding.lower() == "utf-8":
        raise UnmarkedUTF16("utf-16-be" if start[:1] == b"\0" else "utf-16-le")
    return {"utf-8": "utf-8-sig"}.get(marked or encoding.lower(), marked or encoding)
