"""What a stage reads, by dvc.yaml: its parameters and its files, as they are now.

DVC looks at both when a stage has ended. One that was edited meanwhile would be recorded in dvc.lock beside an output that was
made of what had stood there before; so `holdfast run` compares, and stops.
"""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from holdfast.core import storage, yaml_text
from holdfast.core.errors import UserError
from holdfast.params.base import PARAMS, read_yaml
from holdfast.verdict import yardstick

PIPELINE = Path("dvc.yaml")
OF_CELL = re.compile(r"\$\{(item(?:\.[^}]+)?|key)\}")  # what dvc.yaml calls a cell of a matrix, or of foreach
MAX_READ_BYTES = 2**20  # of a file that is compared by its content; a larger one by size and time of its last change


class Inputs(NamedTuple):
    params: dict[str, Any]  # value by key, as dvc.yaml lists them
    files: dict[str, Any]  # what tells a change, by path


def read_inputs(stage: str, *cells: str) -> Inputs | None:
    """None where dvc.yaml has no such stage, or there is none."""
    if not PIPELINE.is_file() or not PARAMS.is_file():
        return None
    content = read_yaml(PARAMS)
    entry = find_entry(stage, *cells)
    if entry is None:
        return None
    items = read_items(entry, cells)
    keys, paths = list_reads(entry)
    files: dict[str, Any] = {}
    for path in paths:
        place = Path(fill_in(path, items, content))
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            files[file.as_posix()] = describe_file(file)
    return Inputs({key: look_up(content, key) for key in (fill_in(key, items, content) for key in keys)}, files)


def find_entry(stage: str, *cells: str) -> dict[str, Any] | None:
    """What dvc.yaml says of the stage that runs this: the one that DVC has started; else one that names the cell, and then one
    with a matrix."""
    try:
        stages = yaml_text.parse(PIPELINE.read_text(encoding="utf-8"))["stages"]
        entries = {name: yardstick.unwrap(entry) for name, entry in stages.items() if isinstance(entry, dict)}
    except (yaml.YAMLError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    started = os.environ.get("DVC_STAGE", "").rpartition(":")[2].partition("@")[0]
    calls = {name: find_cells(entry.get("cmd"), stage) for name, entry in entries.items()}
    mine = sorted((name for name in entries if calls[name]), key=lambda name: name != started)
    exact = [entries[name] for name in mine if list(cells) in calls[name]]
    matrix = [
        entries[name]
        for name in mine
        if any(len(call) == len(cells) and all(map(OF_CELL.fullmatch, call)) for call in calls[name])
    ]
    return next(iter([*exact, *matrix]), None)


def find_cells(commands: Any, stage: str) -> list[list[str]]:
    """What `holdfast run STAGE` is given in a command, or a list of some, whatever stands around it."""
    words = " ".join(map(str, commands)).split() if isinstance(commands, list) else str(commands).split()
    return [
        list(itertools.takewhile(re.compile(r"[\w$]").match, words[n + 3 :]))
        for n in range(len(words))
        if Path(words[n]).name == "holdfast" and words[n + 1 : n + 3] == ["run", stage]
    ]


def read_items(entry: dict[str, Any], cells: tuple[str, ...]) -> dict[str, str]:
    """What ${item.NAME}, ${item} and ${key} stand for in a stage with cells, by what stands in the braces."""
    return dict(zip(OF_CELL.findall(str(entry["cmd"])), cells, strict=False))


def list_reads(entry: dict[str, Any]) -> tuple[list[str], list[str]]:
    """(keys of params.yaml, paths) that a stage depends on, with their ${...}."""
    keys = list[str]()
    paths = [str(name) for dep in entry.get("deps") or [] for name in (dep if isinstance(dep, dict) else [dep])]
    for key in entry.get("params") or []:  # KEY, or {FILE: [KEY, ...]}
        for file, more in key.items() if isinstance(key, dict) else [(PARAMS.name, [key])]:
            if str(file) == PARAMS.name and isinstance(more, list):
                keys += map(str, more)
            else:
                paths.append(str(file))
    return keys, paths


def fill_in(text: str, items: dict[str, str], content: dict[str, Any]) -> str:
    """A text of dvc.yaml with its ${...} replaced."""

    def value(match: re.Match[str]) -> str:
        of_cell = match[1] in ("item", "key") or match[1].startswith("item.")
        return items.get(match[1], "") if of_cell else str(look_up(content, match[1]))

    return re.sub(r"\$\{([^}]+)\}", value, text)


def look_up(content: Any, key: str) -> Any:
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def describe_file(file: Path) -> Any:
    """What tells whether a file has changed; None where it is none."""
    try:
        status = file.stat()
        if not file.is_file():
            return "folder" if file.is_dir() else None
        small = status.st_size <= MAX_READ_BYTES
        return storage.file_sha256(file) if small else [status.st_size, status.st_mtime_ns]
    except OSError:
        return None


def refuse_changes(before: Inputs | None, stage: str, *cells: str) -> None:
    """Raises UserError where something that the stage reads is another than it was."""
    if before is None:
        return
    after = read_inputs(stage, *cells)
    do = "run `dvc repro` again: what was written now is not recorded, and is made anew"
    if after is None:
        raise UserError("dvc.yaml was edited while the stage ran", where=f"stage {stage}", do=do)
    for kind, earlier, now in (("params.yaml", before.params, after.params), ("input", before.files, after.files)):
        changed = [name for name in earlier.keys() | now.keys() if earlier.get(name) != now.get(name)]
        if changed:
            name = min(changed)
            what = f"{name} of params.yaml was edited" if kind == "params.yaml" else f"{name} was changed"
            raise UserError(f"{what} while the stage ran", where=f"stage {stage}", do=do)
