"""dvc.lock and dvc.yaml as the verdict is checked against them: what the stages before the gate ran with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from holdfast.core import yaml_text
from holdfast.core.errors import UserError
from holdfast.params.base import PARAMS, read_yaml
from holdfast.params.models import load_panel
from holdfast.verdict.fields import Json

LOCK, PIPELINE = Path("dvc.lock"), Path("dvc.yaml")


def entry(stage: Json | None, part: str, path: str) -> str | None:
    return next((one.get("md5") for one in (stage or {}).get(part) or [] if one.get("path") == path), None)


def changed_params(lock: Json, arms: list[str]) -> Iterator[str]:
    """Parameters of params.yaml that are others than those that the stages before the gate ran with."""
    if "gate" not in lock:
        return
    present = read_yaml(PARAMS)
    for name in sorted(before_gate(lock, {*arms, *load_panel()} if "panel" in present else set(arms))):
        for file, keys in sorted((lock[name].get("params") or {}).items()):
            if file != PARAMS.as_posix():
                continue
            for key, value in sorted(keys.items()):
                if lookup(present, key) != value:
                    yield f"{key} changed since {name} ran: the verdict is on another run"


def before_gate(lock: Json, cells: set[str]) -> set[str]:
    """The gate and all stages whose outputs lead to it, of dvc.yaml as it is: dvc.lock keeps entries of former ones."""
    stages = read_pipeline()

    def is_current(name: str) -> bool:
        stem, _, cell = name.partition("@")
        many = isinstance(stages.get(stem), dict) and ("matrix" in stages[stem] or "foreach" in stages[stem])
        return stem in stages and bool(cell) == many and (not cell or cell in cells)

    current, upstream, todo = {name for name in lock if is_current(name)}, set[str](), ["gate"]
    while todo:
        name = todo.pop()
        if name in upstream or name not in lock:
            continue
        upstream.add(name)
        read = [dep["path"] for dep in lock[name].get("deps") or []]
        for other in current - upstream:
            written = [out["path"] for out in lock[other].get("outs") or []]
            if any(overlap(one, out) for one in read for out in written):
                todo.append(other)
    frozen = {name for name in upstream if isinstance(stages.get(name), dict) and stages[name].get("frozen")}
    return upstream - frozen - {"code"}


def read_pipeline() -> Json:
    """The stages of dvc.yaml by name; empty where there is none. Raises UserError."""
    if not is_there(PIPELINE):
        return {}
    try:
        content = yaml_text.parse(PIPELINE.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise yaml_text.describe(error, PIPELINE) from None
    stages = content.get("stages") if isinstance(content, dict) else None
    return stages if isinstance(stages, dict) else {}


def is_there(file: Path) -> bool:
    """Whether there is such a file. Raises UserError for a folder, or a link to nowhere, in its place."""
    if not file.is_file() and os.path.lexists(file):
        raise UserError("is no file", where=file, do=f"take it back from git: git checkout -- {file}")
    return file.is_file()


def overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


def lookup(content: Any, key: str) -> Any:
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def read_lock() -> Json:
    """The stages of dvc.lock by name; empty where there is none. Raises UserError."""
    if not is_there(LOCK):
        return {}
    do = f"take it back from git: git checkout -- {LOCK}"
    try:
        content = yaml_text.parse(LOCK.read_text(encoding="utf-8"), yaml_text.FAST)
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError("is not valid YAML", where=LOCK, do=do) from None
    stages = content.get("stages") if isinstance(content, dict) else None
    listed = stages.values() if isinstance(stages, dict) else [None]
    entries = [
        e for stage in listed if isinstance(stage, dict) for part in ("deps", "outs") for e in stage.get(part) or []
    ]
    if not all(isinstance(stage, dict) for stage in listed) or not all(
        isinstance(e, dict) and "path" in e for e in entries
    ):
        raise UserError("is no lock file of DVC", where=LOCK, do=do)
    return stages or {}
