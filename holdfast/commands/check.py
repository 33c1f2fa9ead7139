"""Is dvc.lock up to date with code, params and data? For CI: runs no stage, needs no GPU and no data.

    holdfast check                   exit code 0 up to date, 1 stale (each stage with its reasons)
    holdfast check --against main    also 1 where a stage is frozen that was not there: a frozen stage is never stale

DVC's own status, read for a clone that has no data: an output that only git knows of by its hash in dvc.lock is no
change. Where a dependency is missing, dvc.lock itself is compared: what one stage wrote must be what the next one read.
The code of each stage and the hashes of local models are computed anew, as `holdfast code` would; of a model whose
weights are not here, models/sources.json counts.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.commands import comment
from holdfast.commands.code import CODE, describe_code
from holdfast.commands.run import STAGES
from holdfast.core import yaml_text
from holdfast.core.errors import UserError
from holdfast.engines import model_files
from holdfast.params.base import PARAMS, read_mapping
from holdfast.params.models import Models
from holdfast.verdict import yardstick

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import Stage

OF_CODE = "code"  # the stage that writes down the code of the others, anew each time
MAX_MODULES = 6  # named of a stage
OF_VALUES = (TypeError, ValueError, AttributeError, KeyError, RecursionError)
NEVER_RUN = "has never run: dvc.lock does not hold it"


def main(as_json: bool = False, against: str | None = None) -> int:
    """Prints what is stale and why; returns the exit code. `against`: a git revision; a stage that DVC cannot find stale
    here, and could there, counts as stale. Raises UserError where DVC cannot tell."""
    stages, stale, unchecked = inspect_lock()
    if against is not None:
        there = comment.take_snapshot(comment.find_start(against)).pipeline
        here = comment.take_snapshot().pipeline
        stale |= {
            name: [f"is frozen, or always_changed, and was not at {against}"] for name in yardstick.exempt(here, there)
        }
    if as_json:
        print(json.dumps({"stages": stages, "stale": stale, "unchecked": unchecked}, indent=2))
        return 1 if stale else 0
    if unchecked:
        print(f"not checked, for they are frozen or always_changed: {', '.join(unchecked)}")
    if len(stale) == stages and all(why == [NEVER_RUN] for why in stale.values()):
        print(f"stale: nothing has run yet, of {stages} stages. Run `dvc repro` and commit dvc.lock and reports.")
        return 1
    for name, why in stale.items():
        print(f"{name}: {'; '.join(why)}")
    if stale:
        print(f"stale: {len(stale)} of {stages} stages. Run `dvc repro` and commit dvc.lock and reports.")
        return 1
    print(f"up to date: dvc.lock fits code, params and data in all {stages} stages")
    return 0


def inspect_lock() -> tuple[int, dict[str, list[str]], list[str]]:
    """(number of stages, why by stale stage, stages that cannot be checked) of the dvc.yaml in the working directory.
    Raises UserError, also where no stage can be checked."""
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)  # it warns of every frozen stage
    file = Path("dvc.yaml").absolute()
    if not file.is_file():
        raise UserError(
            "no such file", where="dvc.yaml", do="go to the folder that holds it, or make one with `holdfast init`"
        )
    yaml_text.check_files()
    try:
        with Repo() as repo:  # of this folder, or of one above
            mine = [stage for stage in repo.index.stages if Path(stage.path).absolute() == file]
            # A frozen stage is not run again; what reads its outputs is stale if they changed. `code` only looks.
            checked = {stage.addressing: stage for stage in mine if not (stage.frozen or stage.always_changed)}
            unchecked = sorted(stage.addressing for stage in mine if stage.addressing not in checked)
            states = repo.status(targets=["dvc.yaml"])
            stale = {name: find_reasons(repo, stage, states.get(name, [])) for name, stage in sorted(checked.items())}
    except NotDvcRepoError:
        do = "make one with `git init` and `dvc init`, then run `dvc repro`"
        raise UserError("dvc.yaml belongs to no DVC project", where=".", do=do) from None
    except (DvcException, *OF_VALUES) as error:  # DVC's own parser breaks on a value of another type
        raise blame_file(error) from None
    if not checked:
        what = f"all {len(unchecked)} stages are frozen: nothing can be checked" if unchecked else "holds no stage"
        raise UserError(what, where="dvc.yaml", do="take it back from git, or make it with `holdfast init`")
    unchecked = [name for name in unchecked if name != OF_CODE]
    return len(checked), {name: why for name, why in stale.items() if why}, unchecked


def blame_file(error: Exception) -> UserError:
    """What DVC could not read, with the file that is to be corrected: params.yaml, dvc.lock or dvc.yaml."""
    text = " ".join(str(error).split())
    try:
        read_mapping(PARAMS)
        if missing := re.search(r"parse '([^']+)' .*Could not find '([\w.]+)'", text):
            place, key = missing.groups()
            do = f"add it (`holdfast explain {key}`), or correct dvc.yaml"
            return UserError(f"has no '{key}', which dvc.yaml reads in {place}", where=PARAMS, do=do)
        if isinstance(error, OF_VALUES):
            Models.load()
    except UserError as broken:
        return broken
    if "config file error" in text:
        return UserError(text, where=".dvc/config", do="correct it, or take it back from git")
    lock = "dvc.lock" in text
    do = "take it back from git, or remove it and run `dvc repro`" if lock else "correct it, or take it back from git"
    return UserError(text, where="dvc.lock" if lock else "dvc.yaml", do=f"{do}; if dvc is running here, wait for it")


def find_reasons(repo: Repo, stage: Stage, entries: list[Any]) -> list[str]:
    """Why a stage is stale, from its code and from its entries in DVC's status; empty where only data is missing."""
    if not stage.deps or all(dep.hash_info is None or not dep.hash_info.value for dep in stage.deps):
        return [NEVER_RUN]
    deps = {str(dep): dep for dep in stage.deps}
    outs = {str(out): out for out in stage.outs}
    code = {name for name, dep in deps.items() if Path(dep.fs_path).parent == CODE.absolute()}
    models = {name for name, dep in deps.items() if Path(dep.fs_path) == model_files.SOURCES.absolute()}
    why = [reason for name in sorted(code) for reason in describe_changed_code(deps[name])]
    why += [reason for name in sorted(models) for reason in describe_changed_models(deps[name])]
    for status in entries:
        if isinstance(status, str):  # "changed command"
            why.append("its command changed" if status == "changed command" else status)
            continue
        files: dict[str, list[str]] = {}  # by state: new, modified, deleted
        for name, state in sorted(status.get("changed deps", {}).items()):
            if name in code | models:
                continue
            if isinstance(state, dict):  # a params file, with a state per key
                why += [f"parameter {key} {change}" for key, change in sorted(state.items())]
            elif not (state in ("deleted", "modified") and is_as_recorded(repo, deps[name])):
                files.setdefault(state, []).append(name)
        why += [f"{', '.join(names)} {state}" for state, names in files.items()]
        for name in status.get("changed outs", {}):
            why += [f"output {name} {state}" for state in find_changes(outs[name])]
    return why


def describe_changed_code(dep: Output) -> list[str]:
    """How the code that a stage can reach differs from what dvc.lock holds; by module where the file of then is still here."""
    file = Path(dep.fs_path)
    script = STAGES / f"{file.name}.py"
    if not script.is_file():
        return [f"its script {script} is missing"]
    present, recorded = describe_code(script), dep.hash_info.value
    if md5(present) == recorded:
        return []
    former = file.read_text(encoding="utf-8") if file.is_file() else ""
    if md5(former) != recorded:
        return ["its code changed"]
    changed = sorted({line.split()[0] for line in set(former.splitlines()) ^ set(present.splitlines())})
    return [f"code changed: {', '.join(changed[:MAX_MODULES])}{' ...' if len(changed) > MAX_MODULES else ''}"]


def describe_changed_models(dep: Output) -> list[str]:
    """How the local models differ from what dvc.lock holds; by file where models/sources.json is still of then."""
    present, recorded = model_files.describe_sources(remember=False) or "", dep.hash_info.value
    if md5(present) == recorded:
        return []
    former = model_files.SOURCES.read_text(encoding="utf-8") if model_files.SOURCES.is_file() else ""
    if md5(former) != recorded:
        return [f"{model_files.SOURCES} {'modified' if former else 'deleted'}"]
    before, after = (list_hashes(text) for text in (former, present))
    return [f"model files changed: {', '.join(sorted({name for name, _ in before ^ after}))}"]


def list_hashes(sources: str) -> set[tuple[str, str]]:
    """(model/file, hash) of all that models/sources.json names."""
    models = json.loads(sources)["models"] if sources else {}
    return {(f"{m}/{f}", one["sha256"]) for m in models for f, one in models[m]["files"].items()}


def md5(text: str) -> str:
    """As DVC hashes a file."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def find_changes(out: Output) -> list[str]:
    """How an output differs from dvc.lock; that DVC would have to fetch it is no difference, that git lost it is one."""
    states = out.workspace_status().values()
    return [state for state in states if state != "deleted" or not out.use_cache]


def is_as_recorded(repo: Repo, dep: Output) -> bool:
    """Whether a dependency has the hash that its stage recorded, once the missing outputs are taken from dvc.lock."""
    from dvc_data.hashfile.hash import hash_file
    from dvc_data.hashfile.tree import Tree

    path = Path(dep.fs_path)
    missing = {Path(out.fs_path): out for out in repo.index.outs if out.hash_info and not out.exists}
    if path in missing:
        return missing[path].hash_info == dep.hash_info
    below = {place.relative_to(path).parts: out for place, out in missing.items() if path in place.parents}
    if any(out.hash_info.isdir for out in below.values()) or any(place in path.parents for place in missing):
        return True  # which files a missing folder holds stands in the cache only; its other readers are compared
    if not below:
        return False  # all of it is here: DVC is right
    tree = Tree()
    for folder, _, names in repo.dvcignore.walk(dep.fs, str(path)):
        for file in (Path(folder) / name for name in names):
            tree.add(file.relative_to(path).parts, None, hash_file(str(file), dep.fs, "md5")[1])
    for key, out in below.items():
        tree.add(key, None, out.hash_info)
    tree.digest()
    return tree.hash_info == dep.hash_info
