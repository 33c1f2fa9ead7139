"""What an evaluation wrote: one model's items, read a suite at a time, and its settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.core import records
from holdfast.core.errors import UserError
from holdfast.evaluation import settings

KEY = {"item_hash": "content", "prompt_hash": "prompt", "target": "target"}  # what one item has in both evaluations
COLUMNS = ["suite", "item_id", "item_group", *KEY, "response", "correct"]  # no prompts: they are most of the bytes
Items = Callable[[str], pa.Table]  # a suite's name -> its items; millions of them would not fit into memory together


def load(folder: Path) -> tuple[Items, dict[str, Any]]:
    """(one model's items, read a suite at a time, and the settings of its evaluation). Raises UserError where a file is
    missing or holds something else, and where there are items of a suite that the settings do not name."""
    described, file = settings.read(folder), folder / "items.parquet"
    present = pc.unique(records.read_table("items", file, ["suite"])["suite"]).to_pylist()
    if surplus := sorted(set(present) - set(described["suites"])):
        what = f"holds items of '{surplus[0][:80]}', a suite that its settings do not name"
        raise UserError(what, where=file, do="remove it and run `dvc repro`")
    return partial(one_suite, file), described


def one_suite(file: Path, name: str) -> pa.Table:
    """Without the prompts, which are most of the bytes. Rows are sorted by suite, so little else is read."""
    return records.read_table("items", file, COLUMNS, [("suite", "==", name)])
