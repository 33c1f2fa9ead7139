"""Prompts that other people wrote, as they keep them: system prompts, and corpora of instruction data.

Used by `holdfast reconstruct`. A source is a local file or a pinned hub data set; of each conversation the first user turn
counts (and a system turn before it): what follows is somebody else's style. Rows that hold no prompt are counted by reason.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.chat.encoding import Messages
from holdfast.core import records
from holdfast.core.errors import UserError
from holdfast.data import formats
from holdfast.data.formats import Unreadable
from holdfast.data.instructions import normalised
from holdfast.params.reconstruct import CorpusSource, Reconstruct, Systems


@dataclass(frozen=True, slots=True)
class Prompts:
    """One source, read."""

    name: str
    revision: str  # sha256 of the file, or the hub's commit
    read: int  # rows
    unreadable: dict[str, int]  # reason -> rows
    rows: list[dict[str, Any]]  # sample (the row's number in the source, from 1), context, text


def below(folder: str, name: str, key: str) -> Path:
    """The path of a file in the folder. Raises UserError if it lies elsewhere or is missing."""
    path = Path(folder) / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        do = f"give a path below reconstruct.folder ({folder})"
        raise UserError(f"path '{name}' leaves reconstruct.folder", where=f"params.yaml: reconstruct.{key}", do=do)
    if not path.is_file():
        raise UserError(
            "no such file", where=path, do=f"correct reconstruct.{key} in params.yaml, or put the file there"
        )
    return path


def systems(folder: str, params: Systems) -> list[str]:
    """The system prompts of a file. Raises UserError if a line holds none, or the file is empty."""
    path = below(folder, params.file, "systems.file")
    if path.suffix.lower() not in (".jsonl", ".ndjson"):
        found = [text for line in path.read_text(encoding="utf-8").split("\n") if (text := normalised(line))]
    else:
        found = []
        for place, row in formats.read_jsonl(path):
            given = row.get("system") if isinstance(row, dict) else row
            if not isinstance(given, str) or not given.strip():
                raise UserError("no system prompt", where=f"{path}:{place}", do='write "..." or {"system": "..."}')
            found.append(normalised(given))
    if not found:
        raise UserError(
            "no system prompt in the file", where=path, do="write one per line, or remove reconstruct.systems"
        )
    return found


def load(params: Reconstruct, source: CorpusSource) -> Prompts:
    """All prompts of a source. Raises UserError if it cannot be read, or holds no prompt at all."""
    if source.hub:
        where = f"params.yaml: reconstruct.corpus: {source.hub}"
        name, revision = "/".join(filter(None, [source.hub, source.config, source.split])), str(source.revision)
        found: list[Any] = [row for _, row in formats.read_hub(source, where)]
    else:
        path = below(params.folder, str(source.path), "corpus.sources")
        where, name, revision = str(path), str(source.path), records.file_sha256(path)
        lines = path.suffix.lower() in (".jsonl", ".ndjson")
        found = list(read_lines(path)) if lines else [row for _, row in formats.read_file(path)]
    unreadable: Counter[str] = Counter()
    rows = []
    for number, row in enumerate(found, start=1):
        try:
            context, text = prompt(row, source.field)
        except Unreadable as why:
            unreadable[str(why)] += 1
        else:
            rows.append(dict(sample=number, context=context, text=text))
    if not rows:
        most = ", ".join(f"{why} {n:,}" for why, n in unreadable.most_common(3)) or "the file is empty"
        do = "name the field that holds the user's text (corpus.sources: field), or mend the file"
        raise UserError(f"no prompt in {len(found):,} rows ({most})", where=where, do=do)
    return Prompts(name, revision, len(found), dict(unreadable), rows)


def read_lines(path: Path) -> Iterator[Any]:
    """The rows of a JSONL file; a line that is no JSON is Unreadable, and not the end: public corpora have such lines."""
    with path.open("rb") as file:
        for number, line in enumerate(file):
            line = line.removeprefix(b"\xef\xbb\xbf") if not number else line
            if line.strip():
                try:
                    yield json.loads(line.decode("utf-8"), object_pairs_hook=formats.unique_keys)
                except (ValueError, RecursionError):
                    yield Unreadable("not valid JSON")


def prompt(row: Any, field: str | None) -> tuple[Messages, str]:
    """(context, user's text) of one row, whose format is known by its fields. Raises Unreadable."""
    if isinstance(row, Unreadable):
        raise row
    if not isinstance(row, dict):
        raise Unreadable("not an object")
    if field:
        said = [("user", formats.text(row, field))]
    elif "messages" in row or isinstance(row.get("prompt"), list):
        said = formats.listed(row.get("messages", row.get("prompt")), "role", "content", formats.ROLES)
    elif "conversations" in row:
        said = formats.listed(row["conversations"], "from", "value", formats.SHAREGPT_ROLES)
    elif "instruction" in row:
        parts = [formats.text(row, key) for key in ("instruction", "input") if row.get(key) is not None]
        said = [("user", "\n\n".join(part.strip() for part in parts if part.strip()))]
    else:
        said = [("user", formats.text(row, "prompt"))]
    if isinstance(row.get("system"), str):
        said = [("system", row["system"]), *said]
    said = [(role, normalised(formats.storable(content))) for role, content in said[:3]]
    said = [turn for turn in said if turn != ("system", "")]
    context = [{"role": "system", "content": said[0][1]}] if said[:1] and said[0][0] == "system" else []
    if len(said) <= len(context) or said[len(context)][0] != "user":
        raise Unreadable("does not begin with the user")
    if not (text := said[len(context)][1]):
        raise Unreadable("empty turn")
    return context, text
