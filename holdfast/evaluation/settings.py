"""What an evaluation was made with: settings.json beside its items. Scores made with other settings belong to another test."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from holdfast.core import storage
from holdfast.core.errors import UserError
from holdfast.params.base import MAX_CHANCE

# The suites of the self suite (self_suite.py). The first two decide; the others are shown (docs/verdict.md).
LIKELIHOOD, CHAT, AGREEMENT, OVERLAP = "self_likelihood", "self_chat", "self_agreement", "self_overlap"
DECIDING = (LIKELIHOOD, CHAT)
CHOICES = "every general suite is a choice by likelihood, which a model that has lost its chat may still pass"


class Suite(BaseModel):
    """What the gate reads of a suite; the evaluation writes more beside it."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    role: Literal["general", "self", "domain"]
    chance: Annotated[float, Field(ge=0, le=MAX_CHANCE)]
    items: Annotated[int, Field(ge=1, le=10**9)]


class Settings(BaseModel):
    model_config = ConfigDict(strict=True, protected_namespaces=())

    schema_: Annotated[Literal[1], Field(alias="schema")]
    engine: dict[str, Any]
    suites: Annotated[dict[str, Suite], Field(min_length=1)]
    weights: str | None = None  # fingerprint of the model that was asked


def read(folder: Path) -> dict[str, Any]:
    """The settings of one evaluation; raises UserError where the file is missing or says something else."""
    file = folder / "settings.json"
    content = storage.read_json(file)
    try:
        Settings.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part)[:80] for part in problem["loc"])
        what = (
            f"not the settings of an evaluation ({where}: {problem['msg']})"
            if where
            else "not the settings of an evaluation"
        )
        raise UserError(what, where=file, do="remove it and run `dvc repro`") from None
    return content


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
