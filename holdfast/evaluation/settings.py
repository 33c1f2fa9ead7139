"""What an evaluation was made with: settings.json beside its items. Scores made with other settings belong to another test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holdfast.core import storage
from holdfast.core.errors import UserError

# The suites of the self suite (self_suite.py). The first two decide; the others are shown (docs/verdict.md).
LIKELIHOOD, CHAT, AGREEMENT, OVERLAP = "self_likelihood", "self_chat", "self_agreement", "self_overlap"
DECIDING = (LIKELIHOOD, CHAT)
CHOICES = "every general suite is a choice by likelihood, which a model that has lost its chat may still pass"


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


def of_role(suites: dict[str, Any], role: str) -> list[str]:
    """The names of the suites that make up a role's score; of the self suite those that decide."""
    names = [name for name, suite in suites.items() if suite["role"] == role]
    return [name for name in names if name in DECIDING] if role == "self" else names


def only_choices(suites: dict[str, Any]) -> bool:
    """Whether no general suite has the model write: a model that lost its chat may still choose well."""
    general = of_role(suites, "general")
    return bool(general) and all(suites[name].get("written") is False for name in general)


def differences(base: dict[str, Any], other: dict[str, Any]) -> dict[str, list[str]]:
    """The keys on which two evaluations differ, below `engine` and below `suites`; empty where they compare."""
    differing: dict[str, list[str]] = {}
    for part in ("engine", "suites"):
        mine, theirs = base[part], other[part]
        keys = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
        differing |= {part: keys} if keys else {}
    return differing
