"""requirements*.lock and docs/licences.md are those of this environment, and hold a hash for all that is installed."""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import version
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
