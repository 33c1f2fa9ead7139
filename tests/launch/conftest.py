"""What the tests of all launchers share. A module has a fixture `settings`: what launch.yaml says of its machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_clusters
import pytest
from launch_project import Sshd, go, lend, make_project, write_launch

from holdfast.commands import jobs
from holdfast.launch import watching
from holdfast.launch.interface import Launcher
from holdfast.launch.launchers import make_launcher


@pytest.fixture(autouse=True)
def quick(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder without a profile, which every job reads, and no long pauses between two looks at a job."""

    def make(*arguments: Any) -> Launcher:
        return replace(make_launcher(*arguments), interval=0.2)  # type: ignore[type-var]

    monkeypatch.setattr(jobs, "make_launcher", make)
    monkeypatch.setattr(watching, "FIRST_PAUSE", 0.1)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    yield from lend(Sshd)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-ins for kubectl and sky keep what they know."""
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setenv("FAKE_CLUSTER", "")
    return fake_clusters.install(tmp_path)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The machine's folder, with this Holdfast in it after the first test."""
    return tmp_path_factory.mktemp("machine")


@pytest.fixture
def project(tmp_path: Path, settings: dict[str, Any], machine: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project whose stage goes to the machine; what an earlier test left there is gone."""
    for name in ("tree", "jobs"):
        shutil.rmtree(machine / name, ignore_errors=True)
    (machine / "project").unlink(missing_ok=True)
    monkeypatch.chdir(make_project(tmp_path / "project"))
    write_launch(tmp_path / "project", folder=str(machine), **settings)
    yield tmp_path / "project"
    if (machine / "tree").is_dir():
        go(machine)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for four MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(options, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
