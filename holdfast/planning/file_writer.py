"""Writes many files of a project, all or none."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path

from holdfast.core.errors import UserError

PARTIAL = ".holdfast-"  # how the names of files begin that are being written


class Writer:
    """Writes many files or none: each is first written beside its place, and all are moved at the end.

    `prepare` fails on a full disk, or where a folder or a file cannot be, before anything has changed. Where `commit` is
    stopped, by Ctrl-C too, what it replaced is put back.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.staged: dict[str, Path] = {}
        self.made: list[Path] = []  # folders, outermost first

    def prepare(self) -> None:
        """Raises UserError or OSError, and leaves nothing behind, where a file cannot be written."""
        for name in self.files:
            place = _existing(Path(name).parent)
            if not place.is_dir():
                what = "is no folder" if place.exists() else "is a link that leads nowhere"
                raise UserError(what, where=place, do=f"{name} goes below it: move it away; nothing was written")
            if not os.access(place, os.W_OK):
                do = "allow writing, or choose another folder; nothing was written"
                raise UserError("cannot be written to", where=place, do=do)
            if Path(name).is_dir():
                raise UserError("is a folder", where=name, do="a file goes there: move it away; nothing was written")
        try:
            for name, content in self.files.items():
                self._stage(Path(name), content)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
                do = "allow writing, or choose another folder; nothing was written"
                raise UserError(
                    f"cannot be written ({error.strerror})", where=error.filename or "disk", do=do
                ) from None
            raise

    def _stage(self, target: Path, content: bytes) -> None:
        for folder in reversed([p for p in target.parents if not p.exists()]):
            folder.mkdir()
            self.made.append(folder)
        handle, partial = tempfile.mkstemp(prefix=PARTIAL, dir=target.parent)
        self.staged[target.as_posix()] = Path(partial)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        if target.is_file():
            shutil.copymode(target, partial)
        else:
            os.chmod(partial, 0o755 if target.suffix == ".sh" else 0o644)

    def commit(self) -> None:
        """Moves every file to its place. Raises UserError where one cannot be replaced; the others are then as before."""
        former: dict[Path, bytes | None] = {}
        try:
            for name, partial in self.staged.items():
                target = Path(name)
                former[target] = target.read_bytes() if target.is_file() else None
                os.replace(partial, target.resolve() if target.is_symlink() else target)
            self.made = []
        except BaseException as error:
            for target, content in former.items():
                with contextlib.suppress(OSError):
                    if content is None:
                        target.unlink(missing_ok=True)
                    elif target.read_bytes() != content:
                        target.write_bytes(content)
            if isinstance(error, OSError):
                do = "allow replacing it; every file is as it was before"
                raise UserError(
                    f"cannot be replaced ({error.strerror})", where=error.filename2 or name, do=do
                ) from None
            raise

    def close(self) -> None:
        """Removes what was staged and not moved, and the folders made for it that are empty."""
        for partial in self.staged.values():
            partial.unlink(missing_ok=True)
        for folder in reversed(self.made):
            with contextlib.suppress(OSError):
                folder.rmdir()


def _existing(folder: Path) -> Path:
    """The nearest of a folder and those above it that is there, if only as a link that leads nowhere."""
    while not (folder.exists() or folder.is_symlink()):
        folder = folder.parent
    return folder
