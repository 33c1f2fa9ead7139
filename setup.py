"""Puts the scaffold of a user's project into the wheel: copies of this repository's own pipeline, profiles and pocket lab."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SCAFFOLD = (
    "dvc.yaml",
    "params.yaml",
    ".gitignore",
    ".dvcignore",
    "stages/*.py",
    "profiles/*",
    "data/prompts/*",
    "data/pocket/**/*",
    "models/pocket/**/*",
    ".ci/gate.sh",
    ".ci/comment.py",
    ".github/workflows/*.yml",
    ".github/actions/**/*.yml",
    ".ci/gitlab.yml",
)


class BuildWithScaffold(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:  # a checkout is its own scaffold
            return
        target = Path(self.build_lib) / "holdfast" / "scaffold"
        shutil.rmtree(target, ignore_errors=True)
        for file in (f for pattern in SCAFFOLD for f in ROOT.glob(pattern) if f.is_file()):
            copy = target / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


setup(cmdclass={"build_py": BuildWithScaffold})
