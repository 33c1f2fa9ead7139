"""requirements*.lock and docs/licences.md are those of this environment, and hold a hash for all that is installed."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from helpers import ROOT


@pytest.fixture(scope="module")
def lock() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lock", ROOT / ".ci" / "lock.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_requirement_is_pinned_and_has_hashes(lock):
    for file in (lock.LOCK, lock.CPU_LOCK, lock.CUDA_LOCK):
        entries = lock.read_lock(file)
        assert entries and len(entries) == len(re.findall(r"(?m)^[A-Za-z]", file.read_text(encoding="utf-8")))
        for requirement, hashes in entries.values():
            assert re.match(r"[a-z0-9-]+==[0-9A-Za-z.+!]+( ; .+)?$", requirement), requirement
            assert hashes and all(re.fullmatch("sha256:[0-9a-f]{64}", one) for one in hashes), requirement


def test_no_lock_names_an_index_or_a_path(lock):
    for file in (lock.LOCK, lock.CPU_LOCK, lock.CUDA_LOCK):
        assert not re.search(r"://|@ |--index|--find-links|^-", file.read_text(encoding="utf-8"), re.MULTILINE)


def test_what_is_installed_is_what_is_locked(lock):
    wrong = {
        name: (requirement, version(name))
        for name, (requirement, _) in lock.read_lock(lock.LOCK).items()
        if ";" not in requirement and requirement != f"{name}=={version(name).partition('+')[0]}"
    }
    assert wrong == {}, "run `make setup`, or `make lock` if the versions were meant to change"


def test_torch_is_locked_once_and_its_cuda_libraries_apart(lock):
    whole, cpu, cuda = (lock.read_lock(file) for file in (lock.LOCK, lock.CPU_LOCK, lock.CUDA_LOCK))
    assert list(cpu) == ["torch"] and cpu["torch"][0] == whole["torch"][0] + "+cpu"
    assert not cpu["torch"][1] & whole["torch"][1]
    assert not set(whole) & set(cuda) and all(map(lock.CUDA.match, cuda)) and "nvidia-ml-py" in whole


def test_set_up_takes_nothing_without_a_hash():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = makefile.partition("$(STAMP): ")[2]
    assert "--no-deps --require-hashes" in makefile.partition("INSTALL :=")[2].partition("\n")[0]
    plain = [line for line in recipe.splitlines() if "pip install" in line]
    assert len(plain) == 1 and "--no-deps --no-build-isolation --editable ." in plain[0], "this checkout itself"


def test_the_licences_are_those_of_what_is_installed(lock):
    page = lock.LICENCES.read_text(encoding="utf-8")
    assert page == lock.write_page(), "run `make lock`, or `python .ci/lock.py licences`"
    rows = dict(re.findall(r"(?m)^\| (\S+) \| (.+) \|$", page))
    assert "GPL" in rows["pygit2"] and "GPL" in rows["grandalf"] and "GPL" in rows["asyncssh"]
    for name in ("pygit2", "grandalf"):
        assert f"`{name}` (GPL-2.0" in page.partition("## All")[0], "what is not permissive is said before the list"


# --- `make setup` on packages of a few bytes: the Makefile's own recipe, with pip, and without an index


def write_wheel(folder: Path, name: str, version: str) -> str:
    """A package with one module; returns its line of a lock."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(file, text)
    return f"{name}=={version} \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile beside locks of three small packages. Its environment's Python is that of the suite, installs elsewhere, and
    does not install the checkout itself."""
    wheels, folder = tmp_path / "wheels", tmp_path / "checkout"
    wheels.mkdir()
    (folder / ".venv/bin").mkdir(parents=True)
    shutil.copyfile(ROOT / "Makefile", folder / "Makefile")
    locks = {
        "requirements.lock": write_wheel(wheels, "tiny", "1.0") + write_wheel(wheels, "setuptools", "80.0"),
        "requirements-cpu.lock": write_wheel(wheels, "torch", "2.0+cpu"),
        "requirements-cuda.lock": "",
        "pyproject.toml": "",
        "setup.py": "",
    }
    for name, text in locks.items():
        (folder / name).write_text(text, encoding="utf-8")
    python = folder / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\ncase "$*" in *--editable*) exit 0;; esac\nexec {sys.executable} "$@"\n', "utf-8")
    python.chmod(0o755)
    return folder


def make_setup(folder: Path) -> subprocess.CompletedProcess[str]:
    links = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder.parent / "wheels"), "PIP_TARGET": str(folder / "target")}
    environment = {**os.environ, **links, "PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHONPATH"):
        environment.pop(name, None)
    return subprocess.run(
        ["make", "setup"], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def is_set_up(folder: Path) -> bool:
    return (folder / ".venv/.installed").is_file()


def test_set_up_installs_what_the_locks_name(checkout):
    done = make_setup(checkout)
    assert (done.returncode, is_set_up(checkout)) == (0, True), done.stdout + done.stderr
    assert {"tiny.py", "setuptools.py", "torch.py"} <= {file.name for file in (checkout / "target").iterdir()}


@pytest.mark.parametrize(
    ("lock", "name"),
    [("requirements.lock", "tiny"), ("requirements.lock", "setuptools"), ("requirements-cpu.lock", "torch")],
)
def test_an_altered_hash_stops_the_set_up(checkout, lock, name):
    file = checkout / lock
    text = file.read_text(encoding="utf-8")
    altered = re.sub(rf"({name}==.*\n    --hash=sha256:)(.)", lambda m: m[1] + ("1" if m[2] == "0" else "0"), text)
    assert altered != text
    file.write_text(altered, encoding="utf-8")
    done = make_setup(checkout)
    assert done.returncode != 0 and "DO NOT MATCH THE HASHES" in done.stdout + done.stderr, done.stdout + done.stderr
    assert not is_set_up(checkout) and not (checkout / "target" / f"{name}.py").exists()


def test_a_lock_without_hashes_stops_the_set_up(checkout):
    file = checkout / "requirements.lock"
    file.write_text(re.sub(r" \\\n    --hash.*", "", file.read_text(encoding="utf-8")), encoding="utf-8")
    done = make_setup(checkout)
    assert done.returncode != 0 and "Hashes are required" in done.stderr, done.stderr
    assert not is_set_up(checkout)
