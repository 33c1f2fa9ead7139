"""What of a project travels with a stage to another machine: its declared inputs, its code, and the secrets it is given."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from holdfast.commands import inputs
from holdfast.core import fingerprint, storage
from holdfast.core.errors import UserError
from holdfast.launch import transfer
from holdfast.launch.settings import LAUNCH, Machine
from holdfast.params.base import PARAMS, read_yaml

MANIFESTS, SOURCES = "models/manifest/", "models/sources.json"
OUTS = ("outs", "metrics", "plots")  # what DVC calls them in a stage


@dataclass(frozen=True)
class Work:
    """What goes to the machine, and what comes back."""

    stage: str
    cells: tuple[str, ...]  # a model or an arm, and a seed
    files: transfer.Hashes  # all that is sent
    folders: list[str]  # of the stage's inputs: what else lies in them there is removed
    outs: list[str]
    key: str  # digest of all that the stage reads: parameters, inputs, code


def collect_work(stage: str, cells: tuple[str, ...], machine: Machine, code: str) -> Work:
    """Raises UserError where dvc.yaml does not say what the stage reads and writes, or an input is missing."""
    entry = inputs.find_entry(stage, *cells)
    if entry is None:
        what = f"no stage runs `holdfast run {' '.join([stage, *cells])}`"
        do = f"add it: what it reads and writes is what travels; or take it out of {LAUNCH}"
        raise UserError(what, where=inputs.PIPELINE, do=do)
    content, items = read_yaml(PARAMS), inputs.read_items(entry, cells)
    keys, deps = ([inputs.fill_in(text, items, content) for text in texts] for texts in inputs.list_reads(entry))
    listed = [next(iter(out)) if isinstance(out, dict) else out for kind in OUTS for out in entry.get(kind) or []]
    outs = [inputs.fill_in(str(out), items, content) for out in listed]
    for path in [*deps, *outs]:
        if path.startswith("/") or ".." in Path(path).parts:
            do = f"move it into the project, or let the stage run here (in {LAUNCH}: {stage}: here)"
            raise UserError("lies outside the project, and cannot be sent", where=path, do=do)
    if missing := [dep for dep in deps if not Path(dep).exists()]:
        raise UserError("is missing", where=missing[0], do="run `dvc repro`, or `dvc pull` where a remote has it")
    read = transfer.hash_here(deps, machine.there)
    weights = {
        name: digest for name, digest in list_weights(read).items() if not transfer.is_below(name, machine.there)
    }
    if absent := [name for name in weights if not Path(name).is_file()]:
        do = f"put it there, or name it under 'there' in {LAUNCH} if the machine has it"
        raise UserError("is missing: the weights are neither here nor there", where=absent[0], do=do)
    identity = [{key: inputs.look_up(content, key) for key in keys}, read, weights, code]
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    scripts = transfer.hash_here([PARAMS.as_posix(), inputs.PIPELINE.as_posix(), *list_scripts(stage)])
    folders = [dep for dep in deps if Path(dep).is_dir()]
    return Work(stage, cells, {**read, **weights, **scripts}, folders, outs, key)


def list_scripts(stage: str) -> list[str]:
    """The stage's script, and what it can reach of the project's own modules."""
    here, known = Path.cwd().resolve(), dict[Path, tuple[str, str, set[Path]]]()
    fingerprint.of_file(Path("stages") / f"{stage}.py", Path(), known)
    own = [file for file in known if not file.is_relative_to(fingerprint.PACKAGE)]
    return sorted(file.relative_to(here).as_posix() for file in own if file.is_relative_to(here))


def list_weights(read: transfer.Hashes) -> transfer.Hashes:
    """The files of local models whose manifests, or whose hashes, are among what a stage reads; by what those say."""
    weights = {}
    for name in read:
        content = storage.read_json(Path(name)) if name.startswith(MANIFESTS) or name == SOURCES else {}
        if name == SOURCES:
            folder = read_yaml(PARAMS).get("model_folder", "models")
            models = [(f"{folder}/{model['path']}", model["files"]) for model in content["models"].values()]
        else:
            models = [] if content.get("hub") else [(content.get("source", ""), content.get("files", {}))]
        for folder, files in models:
            place = Path(folder)
            if not place.is_absolute() and ".." not in place.parts:  # else it has to be at the same place there
                weights.update({(place / file).as_posix(): entry["sha256"] for file, entry in files.items()})
    return weights


def read_secrets(machine: Machine) -> dict[str, str]:
    """The values of the variables that the machine is given. Raises UserError where one is not set."""
    values = {}
    for name in machine.secrets:
        value = os.environ.get(name, "")
        if not value or "\n" in value:
            do = f"export it in this shell, or take it out of 'secrets' in {LAUNCH}"
            raise UserError("is not set, or has several lines", where=f"${name}", do=do)
        values[name] = value
    return values
