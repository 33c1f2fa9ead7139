"""Files that are replaced whole or not at all, and JSON in the one form that git sees."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast.core.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; moved into place if the block succeeds, removed if it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        yield Path(partial)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Replace a folder: the old one is removed only when the new one is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield partial
        os.chmod(partial, 0o755)
        if path.exists():
            old = partial.with_name(partial.name + ".old")
            os.replace(path, old)
            os.replace(partial, path)
            shutil.rmtree(old)
        else:
            os.replace(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_text(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Sorted keys, two blanks, newline at the end: a small diff in a pull request."""
    write_text(
        path, json.dumps(round_floats(content), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    )


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises UserError, also for a duplicate key in an object: another reader may take the other value."""
    if not path.is_file():
        raise UserError("no such file", where=path, do="run `dvc repro`, or `dvc pull` where a remote has it")
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=refuse_twice)
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or thousands of brackets
        raise UserError(f"not valid JSON ({error})", where=path, do="remove it and run `dvc repro`") from None


def refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:80]!r} appears twice")
    return content


def round_floats(content: Any) -> Any:
    """Floats to six significant digits: what a person compares, and stable where the last bits are not."""
    if isinstance(content, float):
        return float(f"{content:.6g}")
    if isinstance(content, dict):
        return {str(k): round_floats(v) for k, v in content.items()}
    if isinstance(content, (list, tuple)):
        return [round_floats(v) for v in content]
    return content


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
