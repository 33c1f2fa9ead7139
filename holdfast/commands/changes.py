"""What an upgrade would change in a project: shown, and written whole or not at all."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.params.base import PARAMS
from holdfast.planning import file_writer, scaffold


@dataclass
class Changes:
    """What an upgrade would do. `files`: new content by path; `removed`, `conflicts`, `left_alone`: paths."""

    files: dict[str, bytes] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    conflicts: dict[str, int] = field(default_factory=dict)  # number of conflicts by file
    left_alone: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)  # what is said of params.yaml
    params: list[str] = field(default_factory=list)  # dotted names of the parameters that go


def show(changes: Changes) -> None:
    for name, content in changes.files.items():
        if name in changes.conflicts:
            print(f"conflict {name}")
            for block in re.findall(rb"^<{7} .*?^>{7} .*?\r?$", content, re.DOTALL | re.MULTILINE):
                print("".join(f"    {line}\n" for line in block.decode(errors="replace").splitlines()), end="")
        else:
            edited = Path(name).exists() and name != PARAMS.as_posix()
            print(f"{'changes ' if edited else 'writes  '} {name}")
    for name in changes.removed:
        print(f"removes  {name}")
    for line in changes.left_alone:
        print(f"keeps    {line}")
    for line in changes.lines:
        print(line)


def write(changes: Changes, bookkeeping: dict[str, bytes]) -> None:
    """All files or none; the project file with them."""
    writer = file_writer.Writer(changes.files | bookkeeping)
    writer.prepare()
    try:
        writer.commit()
    finally:
        writer.close()
    for name in changes.removed:
        Path(name).unlink()
        scaffold.base_copy(name).unlink(missing_ok=True)
