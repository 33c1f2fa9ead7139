"""Evaluations of a git revision, through DVC: settings from git, items from DVC's cache or from a remote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.core.errors import UserError, first_line

if TYPE_CHECKING:
    from dvc.api import DVCFileSystem


def copy_evaluations(revision: str | None, names: list[str], folder: Path, into: Path) -> None:
    """Copies <name>/{settings.json,items.parquet} of `folder` as of `revision` to `into`; unknown names are left out.

    No revision: what the working tree has, and what it lacks from where its dvc.lock says. The project may be a
    subfolder of the DVC project or of the git repository. Raises UserError where git does not know the revision, where
    the revision has no such project, or where its items are neither in the cache nor on a remote.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import NoSCM

    whose = f"at {revision}" if revision else "of the working tree"
    do = "give a branch, tag or commit of this clone; `git fetch --unshallow` gets those that a shallow one lacks"
    try:
        with Repo(".") as repo:
            if isinstance(repo.scm, NoSCM):
                raise UserError("no git repository", where=".", do="run this in a clone")
            with repo.switch(revision or "workspace"):  # the working directory is the same folder of the revision
                repo.dvcfs.info("params.yaml")  # `exists` below answers no, whatever is wrong
                for name in names:
                    if repo.dvcfs.exists((folder / name / "items.parquet").as_posix()):
                        copy_evaluation(repo.dvcfs, folder / name, into / name, whose)
    except FileNotFoundError:
        raise UserError("no params.yaml of this project there", where=f"--against {revision}", do=do) from None
    except DvcException as error:
        raise UserError(first_line(error), where=f"--against {revision}", do=do) from None


def copy_evaluation(files: DVCFileSystem, folder: Path, into: Path, whose: str) -> None:
    """Copies one evaluation; raises UserError where a file of it cannot be had."""
    from dvc.exceptions import DvcException

    into.mkdir(parents=True)
    for file in ("settings.json", "items.parquet"):
        path = (folder / file).as_posix()
        try:
            content = files.read_bytes(path)
        except (OSError, DvcException):
            what = f"the items of '{folder.name}' {whose} are not available: not in DVC's cache, nor on a remote"
            do = "run `dvc fetch` there if a remote has them, or check that revision out and run `dvc repro`"
            raise UserError(what, where=path, do=do) from None
        (into / file).write_bytes(content)
