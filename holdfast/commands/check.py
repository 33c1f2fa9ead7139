"""check: is dvc.lock up to date with code, params and data? For CI: runs no stage, needs no GPU and no data.

    holdfast check           exit code 0 up to date, 1 stale (each stage with its reasons)

DVC's own status, read for a clone that has no data: an output that only git knows of by its hash in dvc.lock is no
change. Where a dependency is missing, dvc.lock itself is compared: what one stage wrote must be what the next one read.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import UserError

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import Stage


def main() -> int:
    """Prints what is stale and why; returns the exit code. Raises UserError where DVC cannot tell."""
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)  # it warns of every frozen stage
    try:
        with Repo(".") as repo:
            found = repo.status()
            stages = {stage.addressing: stage for stage in repo.index.stages}
            # a frozen stage is not run again; whoever reads what it wrote is stale if that changed
            judged = {name: stage for name, stage in stages.items() if not stage.frozen}
            stale = {name: reasons(repo, judged[name], found[name]) for name in sorted(found.keys() & judged.keys())}
    except NotDvcRepoError:
        raise UserError("no DVC project", where=".", do="run this from the project's folder") from None
    except DvcException as error:
        do = "mend dvc.yaml or dvc.lock; where dvc is at work on it, wait"
        raise UserError(" ".join(str(error).split()), where="dvc.yaml", do=do) from None

    stale = {name: why for name, why in stale.items() if why}
    for name, why in stale.items():
        print(f"{name}: {'; '.join(why)}")
    if stale:
        print(f"stale: {len(stale)} of {len(judged)} stages. Run `dvc repro` and commit dvc.lock and reports.")
        return 1
    print(f"up to date: dvc.lock fits code, params and data in all {len(judged)} stages")
    return 0


def reasons(repo: Repo, stage: Stage, entries: list[Any]) -> list[str]:
    """Why a stage is stale, from its entries in DVC's status; empty where only data is missing."""
    if not stage.deps or all(dep.hash_info is None or not dep.hash_info.value for dep in stage.deps):
        return ["has never run: dvc.lock does not hold it"]
    found = []
    deps = {str(dep): dep for dep in stage.deps}
    outs = {str(out): out for out in stage.outs}
    for entry in entries:
        if isinstance(entry, str):  # "changed command", "always changed"
            found.append("its command changed" if entry == "changed command" else entry)
            continue
        files: dict[str, list[str]] = {}  # by state: new, modified, deleted
        for name, state in sorted(entry.get("changed deps", {}).items()):
            if isinstance(state, dict):  # a params file, with a state per key
                found += [f"parameter {key} {was}" for key, was in sorted(state.items())]
            elif not (state in ("deleted", "modified") and as_recorded(repo, deps[name])):
                files.setdefault(state, []).append(name)
        found += [f"{', '.join(names)} {state}" for state, names in files.items()]
        for name in entry.get("changed outs", {}):
            found += [f"output {name} {state}" for state in altered(outs[name])]
    return found


def altered(out: Output) -> list[str]:
    """How an output differs from dvc.lock; that DVC would have to fetch it is no difference, that git lost it is one."""
    states = out.workspace_status().values()
    return [state for state in states if state != "deleted" or not out.use_cache]


def as_recorded(repo: Repo, dep: Output) -> bool:
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
