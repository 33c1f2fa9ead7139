"""Finished shards of work, kept outside DVC's outs so that a killed stage repeats at most the shard it was in.

A shard's key is the hash of everything that decides its result: payload, model fingerprint, params, code. Files are
written atomically; a file that does not parse is treated as absent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stages.core import records
from stages.core.progress import Progress

FOLDER = Path(".cache")


def key(*parts: Any) -> str:
    """sha256 of the canonical JSON of the parts. Raises TypeError on a value that JSON cannot carry."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()).hexdigest()


def code_version(*files: str) -> str:
    """Hash of source files: results of older code are not reused."""
    return hashlib.sha256(b"".join(Path(f).read_bytes() for f in sorted(set(files)))).hexdigest()


def shards(
    stage: str,
    rows: Sequence[Any],
    size: int,
    identity: Any,
    work: Callable[[list[Any]], list[dict[str, Any]]],
    unit: str = "rows",
) -> list[dict[str, Any]]:
    """work(rows of one shard) for every shard, in order: one result per row. Finished ones come from the cache. `rows`
    must be JSON."""
    results: list[dict[str, Any]] = []
    progress = Progress(stage, len(rows), unit)
    for start in range(0, len(rows), size):
        part = list(rows[start : start + size])
        name = key(identity, part)
        file = FOLDER / stage / name[:2] / f"{name}.json"
        done = load(file)
        if done is None or len(done) != len(part):
            done = work(part)
            records.write_text(file, json.dumps(done, ensure_ascii=False))
        results.extend(done)
        progress.advance(len(part))
    progress.close()
    return results


def load(file: Path) -> list[dict[str, Any]] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, list) else None
