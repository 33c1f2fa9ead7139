"""Rows of Parquet and Arrow files, and of folders that `datasets.Dataset.save_to_disk` wrote."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from holdfast.core.errors import UserError, first_line
from holdfast.data.streams import COMPRESSED, open_bytes

Rows = Iterator[tuple[str, Any]]  # place (line, number from 1, or key), row


def read_parquet(path: Path, encoding: str, facts: dict[str, str]) -> Rows:
    try:
        with open_bytes(path) as stream:
            source = pa.BufferReader(stream.read()) if path.suffix.lower() in COMPRESSED else path
            file = pq.ParquetFile(source)  # not read_table: it takes a folder called a=b for a column
            yield from number_rows(file.iter_batches(batch_size=8192))
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise UserError(
            f"not a readable Parquet file ({first_line(error)})", where=path, do="write or download it again"
        ) from None


def check(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch, whose offsets and texts Arrow takes on trust: a damaged one would end the process. Raises ArrowInvalid."""
    batch.validate(full=True)
    return batch


def number_rows(batches: Iterator[pa.RecordBatch]) -> Rows:
    numbers = itertools.count(1)
    for batch in batches:
        if len(set(batch.schema.names)) != len(batch.schema.names):
            raise ValueError("two columns have the same name")
        for row in batch.to_pylist():
            yield str(next(numbers)), row


def read_arrow(path: Path, encoding: str, facts: dict[str, str]) -> Rows:
    """An Arrow file (Feather is one), or a stream, as the cache of `datasets` holds them."""
    try:
        with open_bytes(path) as stream:
            packed = path.suffix.lower() in COMPRESSED
            source = pa.BufferReader(stream.read()) if packed else pa.memory_map(str(path))
            as_file = (source.read(6) if packed else stream.peek(6)[:6]) == b"ARROW1"  # type: ignore[attr-defined]
        source.seek(0)
        if as_file:
            with pa.ipc.open_file(source) as file:
                yield from number_rows(check(file.get_batch(n)) for n in range(file.num_record_batches))
        else:
            with pa.ipc.open_stream(source) as batches:
                yield from number_rows(map(check, batches))
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        what = f"not a readable Arrow file ({first_line(error)})"
        raise UserError(what, where=path, do="write it again, or write Parquet") from None


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
                    yield from map(check, stream)

        yield from number_rows(batches())
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        what = f"not a readable folder of save_to_disk ({type(error).__name__}: {first_line(error)})"
        raise UserError(what, where=folder, do="save it again, or write Parquet: dataset.to_parquet(...)") from None
