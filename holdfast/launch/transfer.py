"""Files to a machine and back, by content: sha256 there against sha256 here, and a tar stream of what differs.

Needs a POSIX shell, find, sha256sum, tar and xargs there. A transfer that broke off goes on with the next file.
"""

from __future__ import annotations

import hashlib
import io
import os
import shlex
import shutil
import tarfile
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO

from holdfast.core import storage
from holdfast.core.errors import UserError
from holdfast.core.progress import Progress
from holdfast.launch.shells import Shell

MIN_BYTES_TO_SHOW = 2**24  # of a transfer that shows its progress
PACKAGE = Path(__file__).parents[1]
LEFT_OUT = {"__pycache__", "scaffold"}  # of the package: what `init` writes is not needed there
WHOLE = "whole"  # comes last: the package is there to the end
OWNER = "project"  # file of the machine's folder: what works in it
# Two projects in one folder would remove each other's files
CLAIM = """file={file}; owner={owner}; mkdir -p "$(dirname "$file")" || exit 1
if [ -s "$file" ] && [ "$(cat "$file")" != "$owner" ]; then
  echo "its folder is that of another project ($(head -c 200 "$file")): give another 'folder', or remove $file there" >&2; exit 1
fi
printf '%s' "$owner" > "$file" || exit 1
"""
Hashes = dict[str, str]  # sha256 by path, relative to the project


def hash_there(shell: Shell, tree: str, paths: Collection[str], skipped: Collection[str] = ()) -> Hashes:
    """Every file at or below `paths` of a folder on the machine, those below `skipped` left out. Raises UserError where one
    cannot be read."""
    return parse_hashes(shell.run(list_script(tree, skipped), list_names(paths)))


def list_names(paths: Iterable[str]) -> bytes:
    """What list_script reads."""
    return "".join(f"./{path}\n" for path in paths).encode()


def list_script(tree: str, skipped: Collection[str]) -> str:
    prune = " -o ".join(f"-path {shlex.quote('./' + path)}" for path in skipped)
    prune = f"\\( {prune} \\) -prune -o " if skipped else ""
    return f"""for tool in find sha256sum tar tr xargs; do
  command -v $tool > /dev/null || {{ echo "$tool is not installed there" >&2; exit 1; }}
done
mkdir -p {shlex.quote(tree)} && cd {shlex.quote(tree)} || exit 1
while IFS= read -r path; do
  if [ -e "$path" ]; then find -H "$path" {prune}\\( -type f -o -type l \\) -print; fi
done | tr '\\n' '\\0' | xargs -0 -r sha256sum --"""


def parse_hashes(output: bytes) -> Hashes:
    """What sha256sum printed. Names that lead elsewhere, or that it marks as odd with a backslash, are left out."""
    hashes = {}
    for line in output.decode(errors="surrogateescape").split("\n"):
        digest, _, path = line.partition("  ")
        pure = PurePosixPath(path)
        if len(digest) == 64 and path == f"./{pure}" and ".." not in pure.parts:
            hashes[path[2:]] = digest
    return hashes


def hash_here(paths: Iterable[str], skipped: Collection[str] = ()) -> Hashes:
    """Every file at or below `paths` of the working directory. Raises UserError for a name that cannot travel."""
    hashes = {}
    for path in paths:
        place = Path(path)
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            name = file.as_posix()
            if "__pycache__" in file.parts or not file.is_file() or is_below(name, skipped):
                continue
            if not name.isprintable() or "\\" in name:
                do = "rename it: letters, digits, dots and dashes travel everywhere"
                raise UserError("this name cannot be sent to another machine", where=ascii(name), do=do)
            hashes[name] = storage.file_sha256(file)
    return hashes


def is_below(name: str, folders: Collection[str]) -> bool:
    return any(name == folder or name.startswith(folder + "/") for folder in folders)


@dataclass(frozen=True)
class Cargo:
    """What goes to the machine's folder for one job."""

    files: Hashes  # of the project, to tree/
    folders: list[str]  # of tree/, in which no other file may lie
    clear: list[str]  # in the machine's folder, removed: the stage's outputs of before
    skipped: list[str]  # in tree/, left alone: the machine has its own
    notes: dict[str, bytes]  # small files, by path in the machine's folder
    owner: str = ""  # the project; "": the folder's name is its alone


def send(shell: Shell, folder: str, cargo: Cargo) -> int:
    """Brings the cargo and this Holdfast there, as far as they are not there yet. Returns the bytes sent.

    Raises UserError where a file changes meanwhile, or there is no room.
    """
    tree, package = f"{folder}/tree", read_package()
    where = shlex.quote(f"{folder}/{package.place}/{WHOLE}")
    clear = " ".join(shlex.quote(f"{folder}/{path}") for path in cargo.clear)
    prelude = CLAIM.format(file=shlex.quote(f"{folder}/{OWNER}"), owner=shlex.quote(cargo.owner)) if cargo.owner else ""
    prelude += f"if [ -f {where} ]; then echo package; fi\nrm -rf -- {clear}\n"
    alone = [name for name in cargo.files if not is_below(name, cargo.folders)]
    output = shell.run(prelude + list_script(tree, cargo.skipped), list_names(sorted([*cargo.folders, *alone])))
    present = parse_hashes(output)
    if extra := "".join(f"./{name}\0" for name in present if name not in cargo.files):
        shell.run(f"cd {shlex.quote(tree)} && xargs -0 rm -rf --", extra.encode(errors="surrogateescape"))
    changed = sorted(name for name, digest in cargo.files.items() if present.get(name) != digest)
    sizes = {name: os.stat(name).st_size for name in changed}
    code = {} if output.startswith(b"package\n") else package.content
    total = sum(sizes.values())
    progress = Progress(f"{shell.machine}: sending", total, "bytes") if total >= MIN_BYTES_TO_SHOW else None

    def pack(out: IO[bytes]) -> None:
        with tarfile.open(mode="w|", fileobj=out, format=tarfile.PAX_FORMAT) as archive:
            for name, data in {**code, **cargo.notes}.items():
                add(archive, name, len(data), io.BytesIO(data))
            for name in changed:
                with open(name, "rb") as file:
                    add(archive, f"tree/{name}", sizes[name], Counted(file, progress) if progress else file)

    try:
        shell.run(f"cd {shlex.quote(folder)} && exec tar -xf - --no-same-owner", pack)
    finally:
        if progress:
            progress.close()
    return total + sum(map(len, code.values()))


@dataclass(frozen=True)
class Counted:
    """A file whose reading shows as progress."""

    file: IO[bytes]
    progress: Progress

    def read(self, size: int = -1) -> bytes:
        content = self.file.read(size)
        self.progress.advance(len(content))
        return content


def add(archive: tarfile.TarFile, name: str, size: int, file: IO[bytes] | Counted) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, int(time.time())
    try:
        archive.addfile(info, file)  # type: ignore[arg-type]
    except BrokenPipeError:
        raise
    except OSError:  # it is shorter than it was
        raise UserError("was changed while it was sent", where=name, do="run it again once nothing writes it") from None


@dataclass(frozen=True)
class Package:
    """This Holdfast as files of the machine's folder."""

    place: str
    content: dict[str, bytes]


@cache
def read_package() -> Package:
    """Its place bears the hash of its content, so that a job that runs keeps the code that it began with."""
    files = sorted(
        file
        for file in PACKAGE.rglob("*")
        if file.is_file() and not LEFT_OUT & set(file.relative_to(PACKAGE).parts) and file.suffix != ".pyc"
    )
    content = {file.relative_to(PACKAGE.parent).as_posix(): file.read_bytes() for file in files}
    hashes = [(name, hashlib.sha256(data).hexdigest()) for name, data in content.items()]
    place = f"code/{hashlib.sha256(repr(hashes).encode()).hexdigest()[:16]}"
    return Package(place, {**{f"{place}/{name}": data for name, data in content.items()}, f"{place}/{WHOLE}": b""})


def fetch(shell: Shell, tree: str, outs: Collection[str], staging: Path) -> list[str]:
    """Copies those of `outs` that differ from what is here to `staging`, checked against their hashes there. Returns these outs.

    Raises UserError where something else comes than what was asked for.
    """
    there, here = hash_there(shell, tree, outs), hash_here(outs)
    names = [name for name in there if is_below(name, outs)]
    changed = []
    for out in outs:
        theirs = {name: there[name] for name in names if is_below(name, (out,))}
        if theirs and theirs != {name: digest for name, digest in here.items() if is_below(name, (out,))}:
            changed.append(out)
    wanted = {name: there[name] for name in names if is_below(name, changed)}
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    if not wanted:
        return []
    script = f"cd {shlex.quote(tree)} && tar -chf - --null --files-from=-"  # symbolic links: what they point to
    received: Hashes = {}
    progress = Progress(f"{shell.machine}: fetching", len(wanted), "files")

    def unpack(stream: IO[bytes]) -> None:
        with tarfile.open(mode="r|", fileobj=stream) as archive:
            for member in archive:
                name = PurePosixPath(member.name).as_posix()
                source = archive.extractfile(member) if member.isfile() and name in wanted else None
                if source is None or name in received:
                    raise describe_mismatch(shell.machine, member.name)
                file = staging / name
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("wb") as target:
                    shutil.copyfileobj(source, target, 2**20)
                received[name] = storage.file_sha256(file)
                progress.advance(1)

    try:
        shell.stream(script, "".join(f"./{name}\0" for name in wanted).encode(), unpack)
    finally:
        progress.close()
    if different := sorted(name for name, digest in wanted.items() if received.get(name) != digest):
        raise describe_mismatch(shell.machine, different[0])
    return changed


def describe_mismatch(machine: str, name: str) -> UserError:
    do = "run it again: it fetches them anew; nothing was changed here"
    return UserError(f"'{name[:120]}' did not come back as it is there", where=f"machine {machine}", do=do)


def put_in_place(staging: Path, outs: Iterable[str]) -> None:
    """Replaces each of `outs` by what was fetched; each is whole at any moment."""
    for out in outs:
        source, target = staging / out, Path(out)
        if source.is_dir():
            with storage.replacing_folder(target) as partial_folder:
                for child in source.iterdir():
                    shutil.move(child, partial_folder / child.name)
        else:
            with storage.replacing(target) as partial_file:
                shutil.move(source, partial_file)
    shutil.rmtree(staging, ignore_errors=True)
