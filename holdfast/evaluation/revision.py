"""Evaluations of a git revision, through DVC: settings from git, items from DVC's cache or from a remote."""

from __future__ import annotations

from pathlib import Path

from holdfast.core.errors import UserError


def evaluations(revision: str | None, names: list[str], folder: Path, into: Path) -> None:
    """Writes <name>/{settings.json,items.parquet} of `folder` as of `revision` below `into`; unknown names are left out.

    No revision: what the working tree has, and what it lacks from where its dvc.lock says. Raises UserError where git
    does not know the revision, or where its items are neither in the cache nor on a remote.
    """
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException

    whose = f"at {revision}" if revision else "of the working tree"
    try:
        files = DVCFileSystem(".", rev=revision)
        files.info("params.yaml")  # `exists` below answers no, whatever is wrong
        known = [name for name in names if files.exists((folder / name / "items.parquet").as_posix())]
    except DvcException as error:
        do = "give a branch, tag or commit of this clone; `git fetch --unshallow` gets those that a shallow one lacks"
        raise UserError(str(error), where=f"--against {revision}", do=do) from None
    for name in known:
        (into / name).mkdir(parents=True)
        for file in ("settings.json", "items.parquet"):
            path = (folder / name / file).as_posix()
            try:
                (into / name / file).write_bytes(files.read_bytes(path))
            except (OSError, DvcException):
                what = f"the items of '{name}' {whose} are not available: not in DVC's cache, nor on a remote"
                do = "run `dvc fetch` there if a remote has them, or check that revision out and run `dvc repro`"
                raise UserError(what, where=path, do=do) from None
