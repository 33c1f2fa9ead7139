"""Prompts that other people wrote, in the files they keep them in: system prompts, and corpora of instruction data.

Used by `reconstruct`. A source is a local file or a pinned hub data set. Of each conversation the first user turn
counts, with a system turn before it: what follows is another author's style. Rows without a prompt are counted by reason.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from holdfast.chat.encoding import Messages
from holdfast.core import storage
from holdfast.core.counts import list_counts
from holdfast.core.errors import UserError
from holdfast.data import files, row_values, turns
from holdfast.data.instructions import normalise
from holdfast.data.row_values import Unreadable
from holdfast.params.reconstruct import CorpusSource, Reconstruct


class Prompt(NamedTuple):
    sample: int  # the row's number in the source, from 1
    context: Messages  # a system turn, or none
    text: str


@dataclass(frozen=True, slots=True)
class Prompts:
    """One source, read."""

    name: str
    revision: str  # sha256 of the file, or the hub's commit
    read: int  # rows
    unreadable: dict[str, int]  # reason -> rows
    prompts: list[Prompt]


def resolve_below(folder: str, name: str, key: str) -> Path:
    """The path of a file in the folder. Raises UserError if it lies elsewhere or is missing."""
    path = Path(folder) / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        do = f"give a path below reconstruct.folder ({folder})"
        raise UserError(f"path '{name}' leaves reconstruct.folder", where=f"params.yaml: reconstruct.{key}", do=do)
    if not path.is_file():
        do = f"correct reconstruct.{key} in params.yaml, or put the file there"
        raise UserError("no such file", where=path, do=do)
    return path


def read_system_prompts(params: Reconstruct) -> list[str]:
    """The system prompts of params; none where there is no such file. Raises UserError if a line or the file has none."""
    if not params.systems:
        return []
    path = resolve_below(params.folder, params.systems.file, "systems.file")
    prompts: list[str] = []
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        for line, row in files.read_jsonl(path, "utf-8", {}):
            content = row.get("system") if isinstance(row, dict) else row
            if not isinstance(content, str) or not content.strip():
                raise UserError("no system prompt", where=f"{path}:{line}", do='write "..." or {"system": "..."}')
            prompts.append(normalise(content))
    else:
        prompts = [text for line in path.read_text(encoding="utf-8").split("\n") if (text := normalise(line))]
    if not prompts:
        do = "write one per line, or remove reconstruct.systems"
        raise UserError("no system prompt in the file", where=path, do=do)
    return prompts


def read_openings(params: Reconstruct) -> dict[str, list[str]]:
    """First words of user turns by language, of the languages of params. Raises UserError where one has none."""
    if not params.languages:
        return {}
    path = resolve_below(params.folder, params.languages.file, "languages.file")
    content = storage.read_json(path)
    openings: dict[str, list[str]] = {}
    for code in params.languages.codes:
        words = content.get(code) if isinstance(content, dict) else None
        if not (isinstance(words, list) and words and all(isinstance(one, str) and one.strip() for one in words)):
            do = f'add "{code}": ["...", "..."], or take it out of reconstruct.languages.codes'
            raise UserError(f"no first words for the language '{code}'", where=path, do=do)
        openings[code] = list(map(normalise, words))
    return openings


def read_corpora(params: Reconstruct) -> list[Prompts]:
    """The prompts of every source of the corpus. Raises UserError as `read_prompts` does."""
    return [read_prompts(params, source) for source in params.corpus.sources] if params.corpus else []


def read_prompts(params: Reconstruct, source: CorpusSource) -> Prompts:
    """All prompts of a source. Raises UserError if it cannot be read, or holds no prompt at all."""
    if source.hub:
        where = f"params.yaml: reconstruct.corpus: {source.hub}"
        name, revision = "/".join(filter(None, [source.hub, source.config, source.split])), str(source.revision)
        rows: list[Any] = [row for _, row in files.read_hub(source, where)]
    else:
        path = resolve_below(params.folder, str(source.path), "corpus.sources")
        where, name, revision = str(path), str(source.path), storage.file_sha256(path)
        lines = path.suffix.lower() in (".jsonl", ".ndjson")
        rows = list(read_lines(path)) if lines else [row for _, row in files.read_file(path)]
    unreadable: Counter[str] = Counter()
    prompts = []
    for number, row in enumerate(rows, start=1):
        try:
            context, text = parse_prompt(row, source.field)
        except Unreadable as error:
            unreadable[str(error)] += 1
        else:
            prompts.append(Prompt(number, context, text))
    if not prompts:
        most = list_counts(unreadable.most_common(3)) or "the file is empty"
        do = "name the field that holds the user's text (corpus.sources: field), or fix the file"
        raise UserError(f"no prompt in {len(rows):,} rows ({most})", where=where, do=do)
    return Prompts(name, revision, len(rows), dict(unreadable), prompts)


def read_lines(path: Path) -> Iterator[Any]:
    """The rows of a JSONL file; a line that is not JSON comes as Unreadable: public corpora have such lines."""
    with path.open("rb") as file:
        for number, line in enumerate(file):
            line = line.removeprefix(b"\xef\xbb\xbf") if not number else line
            if line.strip():
                try:
                    yield json.loads(line.decode("utf-8"), object_pairs_hook=files.unique_keys)
                except (ValueError, RecursionError):
                    yield Unreadable("not valid JSON")


def parse_prompt(row: Any, field: str | None) -> tuple[Messages, str]:
    """(context, user's text) of one row, whose format is known by its fields. Raises Unreadable."""
    if isinstance(row, Unreadable):
        raise row
    if not isinstance(row, dict):
        raise Unreadable("not an object")
    spoken = read_turns(row, field)
    if isinstance(row.get("system"), str):
        spoken = [("system", row["system"]), *spoken]
    spoken = [(role, normalise(row_values.storable(content))) for role, content in spoken[:3]]
    spoken = [turn for turn in spoken if turn != ("system", "")]
    context = [{"role": "system", "content": spoken[0][1]}] if spoken[:1] and spoken[0][0] == "system" else []
    if len(spoken) <= len(context) or spoken[len(context)][0] != "user":
        raise Unreadable("does not begin with the user")
    if not (text := spoken[len(context)][1]):
        raise Unreadable("empty turn")
    return context, text


def read_turns(row: dict[str, Any], field: str | None) -> list[tuple[str, str]]:
    """The turns of one row, the user's at least. Raises Unreadable."""
    if field:
        return [("user", row_values.text(row, field))]
    if "messages" in row or isinstance(row.get("prompt"), list):
        return roles_and_texts(row.get("messages", row.get("prompt")))
    if "conversations" in row:
        return roles_and_texts(row["conversations"])
    if "instruction" in row:
        parts = [row_values.text(row, key) for key in ("instruction", "input") if row.get(key) is not None]
        return [("user", "\n\n".join(part.strip() for part in parts if part.strip()))]
    return [("user", row_values.text(row, "prompt"))]


def roles_and_texts(messages: Any) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in turns.parse_turns(messages, "messages", [])]
