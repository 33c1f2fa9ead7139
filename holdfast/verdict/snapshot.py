"""A project at one revision, as far as it decides how a model is judged, from its files as they stand there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import yaml

from holdfast.core import yaml_text

Json = dict[str, Any]
Read = Callable[[str], str | None]  # a path relative to the project -> its text; None where there is no such file
SCRIPTS = (  # what runs the gate
    *(".ci/gate.sh", ".ci/gitlab.yml", ".gitlab-ci.yml"),
    *(".github/workflows/gate.yml", ".github/workflows/holdfast-gate.yml", ".github/actions/holdfast-gate/action.yml"),
)
REMOTES = ".dvc/config"  # where the items are that `gate --verify` computes from


class Snapshot(NamedTuple):
    """A project at one revision, as far as it decides how a model is judged. What is not there is empty."""

    params: Json
    pipeline: Json  # stages of dvc.yaml
    lock: Json  # stages of dvc.lock
    gate: Json  # gate.json
    settings: Json  # of the base's evaluation
    scripts: dict[str, str]
    remotes: str | None  # DVC's configuration


def take(read: Read) -> Snapshot:
    """The snapshot of the project whose files `read` reads; what cannot be parsed counts as empty."""
    pipeline, lock = (stages_of(load(read(name))) for name in ("dvc.yaml", "dvc.lock"))
    gate, settings = (load(read(f"reports/{name}")) for name in ("gate.json", "eval/base/settings.json"))
    scripts = {name: text for name in SCRIPTS if (text := read(name)) is not None}
    return Snapshot(load(read("params.yaml")), pipeline, lock, gate, settings, scripts, read(REMOTES))


def load(text: str | None) -> Json:
    if not text:
        return {}
    try:
        content = json.loads(text) if text.lstrip().startswith("{") else yaml_text.parse(text)
    except (ValueError, yaml.YAMLError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def stages_of(content: Json) -> Json:
    stages = content.get("stages")
    return {str(k): v for k, v in stages.items() if isinstance(v, dict)} if isinstance(stages, dict) else {}


def dependencies(lock: Json, stage: str) -> dict[str, Any]:
    deps = part(lock, stage).get("deps")
    listed = deps if isinstance(deps, list) else []
    return {str(dep["path"]): dep.get("md5") for dep in listed if isinstance(dep, dict) and "path" in dep}


def part(content: Any, *keys: str) -> Json:
    """A mapping some levels down; empty where there is none."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else {}
