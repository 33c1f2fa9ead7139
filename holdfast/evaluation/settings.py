"""What an evaluation was made with: settings.json beside its items. Scores made with other settings belong to another test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holdfast.core import storage
from holdfast.core.errors import UserError


def read(folder: Path) -> dict[str, Any]:
    """The settings of one evaluation; raises UserError where the file is missing or says something else."""
    file = folder / "settings.json"
    settings = storage.read_json(file)
    try:
        whole = settings["schema"] == 1 and isinstance(settings["engine"], dict) and len(settings["suites"]) > 0
        whole = whole and all({"role", "chance", "items"} <= suite.keys() for suite in settings["suites"].values())
    except (KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise UserError("not the settings of an evaluation", where=file, do="remove it and run `dvc repro`")
    return settings


def differences(base: dict[str, Any], other: dict[str, Any]) -> dict[str, list[str]]:
    """The keys on which two evaluations differ, below `engine` and below `suites`; empty where they compare."""
    differing: dict[str, list[str]] = {}
    for part in ("engine", "suites"):
        mine, theirs = base[part], other[part]
        keys = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
        differing |= {part: keys} if keys else {}
    return differing
