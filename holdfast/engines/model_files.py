"""The files of local models: which there are, their hashes, and models/sources.json, on which `acquire` depends.

Weights may be too large for git and for DVC's cache, and CI has none. So no stage depends on a model's folder. In every
repro `holdfast code` writes the hashes of its files to models/sources.json, which git holds. Of a model whose weights are
not on this machine it keeps what that file says.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from holdfast.core import cache, checkpoint_files, storage
from holdfast.core.errors import UserError
from holdfast.params.base import PARAMS, read_yaml
from holdfast.params.models import Models

SOURCES, HASHES = Path("models/sources.json"), "hashes.json"  # the latter below cache.FOLDER
MIN_BYTES_TO_REMEMBER = 2**20  # smaller files are hashed at once


@dataclass(frozen=True)
class Source:
    """One local model in models/sources.json: its folder below model_folder, and {"sha256", "bytes"} by file."""

    path: str
    files: dict[str, dict[str, str | int]]


def list_files(folder: Path, nested: bool) -> list[str]:
    """Names of a model's files. `nested`: of a sentence-transformers model, which has a folder for each module.

    Raises UserError where the weights are missing.
    """
    names = set(checkpoint_files.list_files(folder))
    if nested:
        below = (
            file
            for pattern in (*checkpoint_files.OTHER_FILES, checkpoint_files.WEIGHTS)
            for file in folder.glob(f"*/**/{pattern}")
        )
        names |= {file.relative_to(folder).as_posix() for file in below if file.is_file()}
    return sorted(names)


def hash_files(folder: Path, names: list[str], remember: bool = True) -> dict[str, dict[str, Any]]:
    """{"sha256", "bytes"} by name. A large file is read again only when its size, time or inode has changed since; `remember`:
    write down its hash for the next time."""
    known = read_hashes()
    hashes, before = {}, dict(known)
    for name in names:
        file = (folder / name).resolve()
        status = file.stat()
        state = [status.st_size, status.st_mtime_ns, status.st_ino]
        entry = known.get(str(file))
        if not (isinstance(entry, list) and entry[:3] == state):
            entry = [*state, storage.file_sha256(file)]
        if status.st_size >= MIN_BYTES_TO_REMEMBER:
            known[str(file)] = entry
        hashes[name] = {"sha256": entry[3], "bytes": status.st_size}
    if remember and known != before:
        storage.write_json(cache.FOLDER / HASHES, {"files": known, "sha256": cache.key(known)})
    return hashes


def read_hashes() -> dict[str, Any]:
    """Size, time, inode and hash of large files by path, as `hash_files` left them; nothing where that was altered since."""
    try:
        content = json.loads((cache.FOLDER / HASHES).read_text(encoding="utf-8"))
        return content["files"] if content["sha256"] == cache.key(content["files"]) else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def read_sources() -> dict[str, Source]:
    """The models of models/sources.json by name; none where there is no such file. Raises UserError where it is damaged."""
    if not SOURCES.is_file():
        return {}
    content = storage.read_json(SOURCES)
    try:
        return TypeAdapter(dict[str, Source]).validate_python(content["models"])
    except (ValidationError, KeyError, TypeError):
        do = f"take it back from git: git checkout -- {SOURCES}"
        raise UserError("does not list models and the hashes of their files", where=SOURCES, do=do) from None


def describe_sources(remember: bool) -> str | None:
    """What models/sources.json is to hold for params.yaml; None where that names no models.

    Raises UserError for params that are not valid.
    """
    if "models" not in read_yaml(PARAMS):
        return None
    params = Models.load()
    former = read_sources()
    models = {}
    for name in sorted({*params.panel, params.embedder or params.base}):
        path = params.models[name].path
        if path is not None:
            folder = Path(params.model_folder) / path
            entry = former.get(name)
            recorded = entry.files if entry and entry.path == path else {}
            if list(folder.glob("*.safetensors")):
                try:
                    names = list_files(folder, (folder / "modules.json").is_file())
                except UserError:  # a shard is missing, or the index is damaged: `acquire` says so
                    names = sorted(file.name for file in folder.iterdir() if file.is_file())
                files = hash_files(folder, names, remember)
            else:  # the weights are elsewhere; of what is recorded, what is here is looked at
                here = [file for file in recorded if (folder / file).is_file()]
                files = recorded | hash_files(folder, here, remember)
            models[name] = {"path": path, "files": files}
    return json.dumps({"schema": 1, "models": models}, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def write_sources() -> None:
    text = describe_sources(remember=True)
    if text is not None and not (SOURCES.is_file() and SOURCES.read_text(encoding="utf-8") == text):
        storage.write_text(SOURCES, text)
