"""Which files of a project may be written over: those that an earlier `init` wrote and nobody edited."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from holdfast.core.errors import UserError
from holdfast.params.base import PARAMS
from holdfast.planning import profiles, scaffold
from holdfast.planning.start import Start, parse_params


def find_edited(files: Iterable[str], before: scaffold.Project | None) -> set[str]:
    """Those of an earlier `init` that are here and no longer as it wrote them."""
    known = before.files if before else {}
    return {n for n in files if n in known and Path(n).is_file() and not scaffold.is_unedited(n, before)}


def find_obsolete(names: Iterable[str], recorded: dict[str, str]) -> list[str]:
    """Those that are here as they were written; what was edited stays."""
    return sorted(n for n in names if Path(n).is_file() and scaffold.digest(Path(n).read_bytes()) == recorded[n])


def has_content(name: str, content: bytes) -> bool:
    return Path(name).is_file() and Path(name).read_bytes() == content


def refuse_foreign_files(pipeline: dict[str, bytes], before: scaffold.Project | None) -> None:
    """Raises UserError where a file would be overwritten that an earlier `init` did not write, or that was edited."""
    ours = before.files if before else {}
    do = "choose a folder of its own: holdfast init --into llm ..."
    pipeline_file = Path(scaffold.PIPELINE)
    for name, content in pipeline.items():
        if Path(name).exists() and name not in ours and not has_content(name, content):
            if name == pipeline_file.name:
                raise UserError("another pipeline is here", where=pipeline_file, do=do)
            workflow = name.startswith("../") or name.startswith((".github", ".ci/"))
            raise UserError(
                "is here already, and not from Holdfast",
                where=os.path.normpath(name),
                do="move it away, or leave --ci out" if workflow else do,
            )


def refuse_foreign_params(before: scaffold.Project | None, force: bool) -> None:
    """Raises UserError where a params.yaml would be lost that is neither of `init` nor a profile."""
    ours = before.files if before else {}
    profile = PARAMS.is_file() and profiles.find_name(PARAMS.read_bytes())
    if PARAMS.exists() and not profile and not force and not scaffold.is_unedited(PARAMS.as_posix(), before):
        what = (
            "was edited since `holdfast init` wrote it"
            if PARAMS.as_posix() in ours
            else "is here already, and not from Holdfast"
        )
        ours_to_replace = "edit it by hand, or give --force to replace it"
        do = (
            ours_to_replace
            if PARAMS.as_posix() in ours
            else "give the project a folder of its own: --into llm (--force would replace this file)"
        )
        raise UserError(what, where=PARAMS, do=do)


def place_copies(start: Start) -> dict[Path, Path]:
    """Where each file goes; not those that are there themselves."""
    return {file: target for file, target in start.list_copies() if target.resolve() != file.resolve()}


def check_copies(start: Start, before: scaffold.Project | None, force: bool) -> None:
    """Raises UserError where another file or model of the same name is there, or params.yaml would not be valid."""
    former = before.data if before else {}
    for file, target in place_copies(start).items():
        name = target.as_posix()
        ours = name in former and bool(find_obsolete([name], former))  # of an earlier init, and unedited
        if target.exists() and not (ours or force) and not has_content(name, file.read_bytes()):
            raise UserError("another file of this name is there", where=target, do="rename yours, or give --force")
    for source, target in start.links:  # a link loses nothing when it is replaced
        if target.exists() and not target.is_symlink() and target.resolve() != source:
            raise UserError("another model of this name is there", where=target, do="rename one of the two folders")
    parse_params(start.params)
