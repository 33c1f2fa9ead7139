"""Brings a project up to the installed Holdfast: merges the new scaffold with what was edited, and tidies params.yaml.

holdfast upgrade            shows what would change, and which stages would run again; asks before it writes
holdfast upgrade --dry-run  only shows
holdfast upgrade --yes      writes without asking

Each file is merged three ways, as git does: what `init` wrote (.holdfast/scaffold), what is there, and the new scaffold.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from holdfast.commands.changes import Changes, show, write
from holdfast.commands.params_upgrade import tidy_params
from holdfast.commands.reruns import describe_reruns
from holdfast.core.errors import UserError
from holdfast.params.base import PARAMS
from holdfast.planning import scaffold
from holdfast.planning.overwriting import has_content
from holdfast.planning.repository import find_git_root


def main(dry_run: bool = False, yes: bool = False) -> int:
    """Returns the exit code: 1 where conflicts were written. Raises UserError, with nothing written, on bad input."""
    project = load_project()
    git_root = find_git_root()
    if git_root is None:
        what, do = "no git repository here", "git init, and commit the project: an upgrade must be undoable"
        raise UserError(what, where=".", do=do)
    new = scaffold.read(project.pocket, project.ci, git_root, project.files)
    changes = merge_scaffold(project, new)
    tidy_params(changes)
    hashes = {name: scaffold.digest(content) for name, content in new.items()}
    params = {PARAMS.as_posix(): project.files[PARAMS.as_posix()]} if PARAMS.as_posix() in project.files else {}
    if PARAMS.as_posix() in changes.files and scaffold.is_unedited(PARAMS.as_posix(), project):
        params = {PARAMS.as_posix(): scaffold.digest(changes.files[PARAMS.as_posix()])}
    record = replace(project, holdfast=scaffold.version(), files=dict(sorted((hashes | params).items())))
    scaffold.add_ignore_files(changes.files)
    dirty = find_dirty(sorted({*changes.files, *changes.removed}))
    if dirty and not dry_run:
        raise dirty

    print(f"made with Holdfast {project.holdfast}; this is {scaffold.version()}")
    show(changes)
    bookkeeping = {n: c for n, c in scaffold.record_files(record, new).items() if not has_content(n, c)}
    if not changes.files and not changes.removed and not bookkeeping:
        print("up to date: nothing to do")
        return 0
    for line in describe_reruns(changes):
        print(line)
    if dirty:
        print(f"note     {dirty.where}: {dirty.what}; {dirty.do}")
    if dry_run or not (yes or confirm()):
        print("nothing was written; `holdfast upgrade --yes` writes it")
        return 0
    write(changes, bookkeeping)
    if changes.conflicts:
        print(
            f"conflicts in {', '.join(changes.conflicts)}: edit between the markers <<<<<<< and >>>>>>>, then dvc repro"
        )
        return 1
    print("next     git diff; dvc repro; git commit")
    return 0


def load_project() -> scaffold.Project:
    """Raises UserError where no `init` made this project, or a version that this one does not know."""
    project = scaffold.load_project()
    if project is None:
        do = "run this in a folder that `holdfast init` made; it begins a new one elsewhere with --into FOLDER"
        raise UserError("not made by `holdfast init`", where=scaffold.PROJECT, do=do)
    made, installed = parse_version(project.holdfast), parse_version(scaffold.version())
    if made is None:
        do = "take the file back from git, or run `holdfast init` in a new folder and copy your edits there"
        raise UserError(f"unknown version '{project.holdfast}'", where=scaffold.PROJECT, do=do)
    if installed is not None and made > installed:
        what = f"made with Holdfast {project.holdfast}; this is {scaffold.version()}, which is older"
        raise UserError(what, where=scaffold.PROJECT, do=f"pip install 'holdfast>={project.holdfast}'")
    return project


def parse_version(text: str) -> tuple[int, ...] | None:
    matched = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    return tuple(int(part) for part in matched.groups()) if matched else None


def merge_scaffold(project: scaffold.Project, new: dict[str, bytes]) -> Changes:
    """Computes every file of the project after the upgrade; writes none."""
    changes = Changes()
    for name, content in new.items():
        there, copy = Path(name), scaffold.base_copy(name)
        if has_content(name, content):
            continue
        recorded = project.files.get(name)
        if recorded == scaffold.digest(content):
            continue  # Holdfast did not change it: what was edited, or removed on purpose, stays
        if not there.exists():
            if recorded is None:
                changes.files[name] = content
            else:
                changes.left_alone.append(f"{name}: you removed it")
        elif scaffold.is_unedited(name, project):
            changes.files[name] = content
        elif copy.is_file() or recorded is None:
            text, conflicts = merge(name, copy.read_bytes() if copy.is_file() else b"", content, project.holdfast)
            if text == there.read_bytes():
                continue
            changes.files[name] = text
            if conflicts:
                changes.conflicts[name] = conflicts
        else:
            changes.left_alone.append(f"{name}: yours, and Holdfast has a newer one")
    for name in sorted(project.files.keys() - new.keys() - {PARAMS.as_posix()}):
        if scaffold.is_unedited(name, project):
            changes.removed.append(name)
        elif Path(name).exists():
            changes.left_alone.append(f"{name}: Holdfast has it no more, and you edited it")
    return changes


def merge(name: str, base: bytes, new: bytes, version: str) -> tuple[bytes, int]:
    """(the merged file, number of conflicts), by `git merge-file`; conflicts stand between git's markers.

    Line endings are those of the user's file: an editor that wrote others has changed no line.
    """
    labels = ("yours", f"Holdfast {version}", f"Holdfast {scaffold.version()}")
    mine = Path(name).read_bytes()
    windows = 2 * mine.count(b"\r\n") > mine.count(b"\n")
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / part for part in ("yours", "base", "new")]
        for place, content in zip(places, (mine, base, new), strict=True):
            place.write_bytes(content.replace(b"\r\n", b"\n"))
        command = ["git", "merge-file", "-p", *(part for label in labels for part in ("-L", label)), *map(str, places)]
        done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode > 127:
        raise UserError("git cannot merge it", where=name, do="move your version away, and merge it by hand afterwards")
    return done.stdout.replace(b"\n", b"\r\n") if windows else done.stdout, done.returncode


def find_dirty(names: list[str]) -> UserError | None:
    """What is to be said where a file that would change has edits that git does not have."""
    present = [name for name in names if Path(name).exists()]
    done = subprocess.run(
        ["git", "--literal-pathspecs", "status", "--porcelain", "--", *present, str(scaffold.PROJECT)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(done.stderr.strip().splitlines()[-1], where="git status", do="correct that, and run it again")
    if lines := done.stdout.splitlines():
        what = (
            f"has edits that are not committed ({len(lines)} such files)"
            if len(lines) > 1
            else "has edits that are not committed"
        )
        return UserError(what, where=lines[0][3:], do="commit them first, so that the upgrade can be undone")
    return None


def confirm() -> bool:
    return sys.stdin.isatty() and input("write this? [y/N] ").strip().lower() in ("y", "yes")
