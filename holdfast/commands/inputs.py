"""What a stage reads, by dvc.yaml: its parameters and its files, as they are now.

DVC looks at both when a stage has ended. One that was edited meanwhile would be recorded in dvc.lock beside an output that was
made of what had stood there before; so `holdfast run` compares, and stops.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from holdfast.core import storage, yaml_text
from holdfast.core.errors import UserError
from holdfast.params.base import PARAMS, read_yaml

PIPELINE = Path("dvc.yaml")
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
    items = dict(zip(re.findall(r"\$\{item\.([^}]+)\}", str(entry["cmd"])), cells, strict=False))
    keys = [fill_in(key, items, content) for key in entry.get("params") or [] if isinstance(key, str)]
    files: dict[str, Any] = {}
    for dep in entry.get("deps") or []:
        place = Path(fill_in(str(dep), items, content))
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            files[file.as_posix()] = describe_file(file)
    return Inputs({key: look_up(content, key) for key in keys}, files)


def find_entry(stage: str, *cells: str) -> dict[str, Any] | None:
    """The stage of dvc.yaml that runs this: one that names the cell comes before one with a matrix."""
    try:
        stages = yaml_text.parse(PIPELINE.read_text(encoding="utf-8"))["stages"].values()
        commands = [(str(entry.get("cmd", "")).split(), entry) for entry in stages if isinstance(entry, dict)]
    except (yaml.YAMLError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    wanted = ["holdfast", "run", stage]
    exact = [entry for command, entry in commands if command == [*wanted, *cells]]
    matrix = [
        entry
        for command, entry in commands
        if command[:3] == wanted and len(command) == 3 + len(cells) and all("${item." in one for one in command[3:])
    ]
    return next(iter([*exact, *matrix]), None)


def fill_in(text: str, items: dict[str, str], content: dict[str, Any]) -> str:
    """A text of dvc.yaml with its ${...} replaced."""

    def value(match: re.Match[str]) -> str:
        name = match[1].removeprefix("item.")
        return items.get(name, "") if name != match[1] else str(look_up(content, name))

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
