"""Writes what this environment consists of. `make lock` calls it; it needs uv and an index.

    python .ci/lock.py [versions | licences]

versions   requirements.lock: the packages installed here, with the sha256 of every file that the index has of them, so for other
           platforms too. requirements-cpu.lock: torch's CPU build, which is on no public index under this name; with the hash of
           the one that pip finds here. requirements-cuda.lock: what torch's wheels for CUDA need besides.
licences   docs/licences.md, from the metadata of the packages installed here.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from importlib.metadata import Distribution, distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK, CPU_LOCK, CUDA_LOCK = (ROOT / f"requirements{kind}.lock" for kind in ("", "-cpu", "-cuda"))
LICENCES = ROOT / "docs" / "licences.md"
CUDA = re.compile(r"(nvidia-(?!ml-py)|cuda-|triton$)")
UNLOCKED = {"holdfast", "pip", "uv", "pandas-stubs"}  # mypy's findings change with every release of these stubs
HEADS = {
    LOCK: "Made by `make lock`; `make setup` installs it.",
    CPU_LOCK: "Made by `make lock`: torch's CPU build. `make setup` takes it where a folder or an index that pip knows has it.",
    CUDA_LOCK: "Made by `make lock`: what torch needs beside requirements.lock where it is a build for CUDA.",
}
COPYLEFT = re.compile(r"GPL|MPL|Mozilla|EPL|Eclipse")
PAGE = """# Licences of what `make setup` installs

Holdfast is under Apache-2.0. It is not linked with its dependencies into one file: pip installs each under its own licence. Made by
`make lock` from the packages' own metadata (`python .ci/lock.py licences`); a test compares it with what is installed.

## Worth knowing before you pass an environment on

DVC brings packages of the GPL family: `pygit2` (GPL-2.0 with an exception for linking), `grandalf` (GPL-2.0 or EPL-1.0, as you
choose) and `asyncssh` (EPL-2.0 or GPL-2.0-or-later). Running them asks nothing of you; whoever passes on an image or an archive with
them in it must keep to their terms. The CUDA libraries in requirements-cuda.lock (`nvidia-*`, `cuda-*`) are under NVIDIA's own
licences, which are not open-source licences, and are not in these tables: they are not installed where torch is a CPU build.

| not permissive, or not only | licence |
|---|---|
{copyleft}

## All

| package | licence |
|---|---|
{all}
"""


def normalise(name: str) -> str:
    """As indexes spell it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(file: Path) -> dict[str, tuple[str, set[str]]]:
    """name -> (requirement with its marker, hashes)."""
    entries = {}
    for entry in file.read_text(encoding="utf-8").replace("\\\n", " ").splitlines() if file.is_file() else []:
        requirement, *hashes = re.split(r"\s+--hash=", entry.strip())
        if "==" in requirement and not requirement.startswith("#"):
            entries[requirement.partition("==")[0]] = requirement, set(hashes)
    return entries


def write_lock(file: Path, entries: dict[str, tuple[str, set[str]]]) -> None:
    lines = [f"# {HEADS[file]}"]
    for _, (requirement, hashes) in sorted(entries.items()):
        lines.append(" \\\n    ".join([requirement, *(f"--hash={digest}" for digest in sorted(hashes))]))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def hash_local_build(name: str, version: str, folder: Path) -> str:
    """The hash of a build that has a local version (+cpu), as pip finds it."""
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "download", "--quiet", "--no-deps", "--dest", str(folder), f"{name}=={version}"], check=True)
    (file,) = folder.glob(f"{name.replace('-', '_')}-{version}-*.whl")
    done = subprocess.run([*pip, "hash", str(file)], check=True, capture_output=True, text=True)
    return done.stdout.rpartition("--hash=")[2].strip()


def write_locks() -> None:
    present = {normalise(found.name): found.version for found in distributions()}
    installed = {name: version for name, version in present.items() if name not in UNLOCKED}
    with tempfile.TemporaryDirectory() as place:
        pins, made = Path(place) / "pins.in", Path(place) / "all.lock"
        pins.write_text(
            "".join(f"{name}=={version.partition('+')[0]}\n" for name, version in sorted(installed.items()))
        )
        made.write_text("".join(f"{requirement}\n" for requirement, _ in read_lock(CUDA_LOCK).values()))  # as they were
        how = "--universal --generate-hashes --no-header --no-annotate --quiet --python-version 3.11".split()
        uv = [sys.executable, "-m", "uv", "pip", "compile", *how, str(pins), "--output-file", str(made)]
        subprocess.run(uv, check=True)
        entries = read_lock(made)
        for name in sorted(name for name, version in installed.items() if "+cpu" in version):
            digest = hash_local_build(name, installed[name], Path(place))
            write_lock(CPU_LOCK, {name: (f"{name}=={installed[name]}", {digest})})
    write_lock(LOCK, {name: entry for name, entry in entries.items() if not CUDA.match(name)})
    write_lock(CUDA_LOCK, {name: entry for name, entry in entries.items() if CUDA.match(name)})


def find_licence(package: Distribution) -> str:
    """What its metadata says in as few words as it has: the SPDX expression, the licence field, or the classifiers."""
    fields = package.metadata
    classifiers = [text.rpartition(" :: ")[2] for text in fields.get_all("Classifier", []) if "License ::" in text]
    short = next(iter((fields.get("License") or "").strip().splitlines()), "").strip()[
        :60
    ]  # some put the whole text there
    named = [text for text in classifiers if text != "OSI Approved"]
    return (fields.get("License-Expression") or short or ", ".join(named) or "not said").replace("|", "or")


def write_page() -> str:
    """docs/licences.md, of the packages in requirements.lock that are installed here."""
    locked = read_lock(LOCK)
    named = {normalise(found.name): find_licence(found) for found in distributions() if normalise(found.name) in locked}
    rows = {name: f"| {name} | {licence} |" for name, licence in sorted(named.items())}
    copyleft = [row for name, row in rows.items() if COPYLEFT.search(named[name])]
    return PAGE.format(copyleft="\n".join(copyleft), all="\n".join(rows.values()))


if __name__ == "__main__":
    what = sys.argv[1:] or ["versions", "licences"]
    if "versions" in what:
        write_locks()
    if "licences" in what:
        LICENCES.write_text(write_page(), encoding="utf-8")
