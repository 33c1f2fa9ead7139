"""Files of every kind, and files that are not what their names say: read, or refused with what to do."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from holdfast.core.errors import UserError
from holdfast.data import ingestion
from holdfast.data.files import SpelledFloat, decode
from holdfast.params.ingest import Ingest

ROW = {"prompt": "Where is it?", "completion": "On shelf 4."}
LINE = json.dumps(ROW).encode() + b"\n"
TABLE = pa.Table.from_pylist([ROW])


def read(folder: Path, path: str) -> ingestion.Split:
    settings = Ingest.model_validate({"folder": str(folder), "train": {"path": path}, "max_rejected": 1.0})
    return ingestion.read_split("train", settings.train, settings, None)


def texts(split: ingestion.Split) -> list[str]:
    return [turn["content"] for row in split.kept for turn in row.turns()]


def write_arrow(path: Path, as_file: bool) -> None:
    open_writer = pa.ipc.new_file if as_file else pa.ipc.new_stream
    with pa.OSFile(str(path), "wb") as sink, open_writer(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)


def pack(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.arrow", lambda path: write_arrow(path, as_file=False)),
        ("a.arrow", lambda path: write_arrow(path, as_file=True)),
        ("a.feather", lambda path: feather.write_feather(TABLE, str(path))),
        ("a.pq", lambda path: pq.write_table(TABLE, path)),
        ("a.JSONL", lambda path: pack(path, LINE)),
        ("a.jsonlines", lambda path: pack(path, LINE)),
        ("a.jl", lambda path: pack(path, b"\xef\xbb\xbf" + LINE.replace(b"\n", b"\r\n"))),
        ("a.jsonl", lambda path: pack(path, json.dumps([ROW], indent=1).encode())),
        ("a.jsonl.bz2", lambda path: pack(path, bz2.compress(LINE))),
        ("a.jsonl.xz", lambda path: pack(path, lzma.compress(LINE))),
        ("a.csv", lambda path: pack(path, b"prompt,completion,,\nWhere is it?,On shelf 4.,,\n")),
        ("a.csv", lambda path: pack(path, b"prompt,completion\rWhere is it?,On shelf 4.\r")),
    ],
)  # fmt: skip
def test_the_row_of_a_file_of_this_kind(tmp_path: Path, name: str, write: Any) -> None:
    write(tmp_path / name)
    split = read(tmp_path, name)
    assert texts(split) == list(ROW.values())
    assert not split.report["unused"] and not split.rejected


@pytest.mark.parametrize(
    ("name", "content", "says", "do"),
    [
        ("a.csv", b"PK\x03\x04" + bytes(30), "is a ZIP archive or an Excel file", "save the sheet as CSV"),
        ("a.jsonl", gzip.compress(LINE, mtime=0), "is compressed by gzip", "add .gz to its name"),
        ("a.jsonl.gz", gzip.compress(gzip.compress(LINE, mtime=0), mtime=0), "is compressed by gzip", "add .gz to its name"),
        ("a.jsonl", bz2.compress(LINE), "is compressed by bzip2", "add .bz2 to its name"),
        ("a.json", pa.compress(LINE, codec="zstd", asbytes=True), "is compressed by zstd", "add .zst to its name"),
        ("a.tsv", b"SQLite format 3\0", "is an SQLite database", "export the table as CSV"),
        ("a.arrow", b"no arrow at all", "not a readable Arrow file", "write Parquet"),
        ("a.arrow", b"", "not a readable Arrow file", "write Parquet"),
        ("a.tar.gz", gzip.compress(b"x", mtime=0), "unknown kind of file '.tar'", "unpack it"),
        ("a.xlsx", b"PK", "unknown kind of file '.xlsx'", "save the sheet as CSV"),
        ("a.json", b'{"train": [{}], "test": [{}]}', "several lists in this JSON ('train', 'test')", "a file of its own"),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", "(4300 digits) for integer string conversion: value has 5000 digits)", "fix"),
    ],
    ids=range(12),
)  # fmt: skip
def test_a_file_that_is_something_else_is_named_as_such(tmp_path: Path, name: str, content: bytes, says: str, do: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(tmp_path, name)
    assert says in caught.value.what and do in str(caught.value.do)
    assert len(str(caught.value).splitlines()) == 2


def test_a_parquet_file_by_another_name(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a.jsonl")
    with pytest.raises(UserError, match="is a Parquet file, whatever its name says"):
        read(tmp_path, "a.jsonl")


@pytest.mark.parametrize("kind", ["file", "stream", "saved"])
def test_arrow_whose_offsets_are_damaged_is_refused_and_ends_no_process(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "a" if kind == "saved" else tmp_path
    folder.mkdir(exist_ok=True)
    file = folder / "a.arrow"
    write_arrow(file, as_file=kind == "file")
    whole = file.read_bytes()
    if kind == "saved":
        (folder / "state.json").write_text('{"_data_files": [{"filename": "a.arrow"}]}')
        (folder / "dataset_info.json").write_text("{}")
    offsets = (0).to_bytes(4, "little") + len(ROW["prompt"]).to_bytes(4, "little")  # of the column's only text
    assert whole.count(offsets) >= 1
    file.write_bytes(whole.replace(offsets, bytes(4) + (2**30).to_bytes(4, "little")))
    with pytest.raises(UserError, match="not a readable"):
        read(tmp_path, "a" if kind == "saved" else "a.arrow")


def test_numbers_of_json_stay_as_they_are_spelled(tmp_path: Path) -> None:
    spelled = ["1.10", "1e5", "-0.0", "12345678901234567890123", "7"]
    lines = "\n".join(f'{{"prompt": "How much?", "completion": {number}}}' for number in spelled)
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    assert [row.turns()[1]["content"] for row in read(tmp_path, "a.jsonl").kept] == spelled
    number = decode("1.50")
    assert isinstance(number, SpelledFloat) and number == 1.5 and json.dumps(number) == "1.5"


def test_files_that_describe_the_data_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "train" / "a.jsonl").write_bytes(LINE)
    for name in ("dataset_info.json", "dataset_infos.json"):
        (tmp_path / "data" / name).write_text('{"default": {"features": {}}}')
    split = read(tmp_path, "data")
    assert texts(split) == list(ROW.values()) and not split.rejected
