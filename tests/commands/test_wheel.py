"""A wheel, installed outside of any clone. tests/project/test_pipeline.py runs `init --pocket` and `dvc repro` with it."""

from __future__ import annotations

import re
import subprocess
import zipfile
from pathlib import Path

from helpers import ROOT, run, shell


def test_the_wheel_holds_the_scaffold_and_no_caches(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    held = {name.removeprefix("holdfast/scaffold/") for name in names if name.startswith("holdfast/scaffold/")}
    tracked = run(
        ROOT, "git", "ls-files", "stages", "profiles", "data/pocket", "data/prompts", "models/pocket"
    ).stdout.split()
    assert {name for name in tracked if (ROOT / name).is_file()} <= held
    assert {"dvc.yaml", ".gitignore", ".dvcignore", ".ci/gate.sh", ".github/workflows/gate.yml"} <= held
    assert {".github/actions/holdfast-gate/action.yml", ".ci/gitlab.yml"} <= held
    assert not [name for name in names if "__pycache__" in name or name.startswith(("stages/", "tests/"))]
    assert wheel.stat().st_size < 12e6


def test_the_command_is_the_wheel_s_and_not_this_checkout_s(installed, tmp_path):
    where = shell(tmp_path, installed, "python", "-c", "import holdfast; print(list(holdfast.__path__)[0])").strip()
    assert not Path(where).is_relative_to(ROOT)
    assert re.match(r"holdfast \d+\.\d+\.\d+", shell(tmp_path, installed, "holdfast", "--version"))


def test_core_and_report_need_no_torch(installed, tmp_path):
    """Neither the core (tests/commands/test_core.py has more of it) nor what the extra `report` is for."""
    heavy = [
        "torch",
        "transformers",
        "trl",
        "datasets",
        "peft",
        "accelerate",
        "evidently",
        "great_expectations",
        "lm_eval",
        "sklearn",
    ]
    modules = [
        f"holdfast.commands.{name}" for name in ("gate", "check", "comment", "init", "upgrade", "costs", "doctor")
    ]
    modules += ["holdfast.reporting.page", "holdfast.reporting.card", "holdfast.verdict.gate", "holdfast.cli"]
    code = f"import importlib, sys; [importlib.import_module(m) for m in {modules}]; print([m for m in {heavy} if m in sys.modules])"
    assert shell(tmp_path, installed, "python", "-c", code).strip() == "[]"


def test_what_is_not_installed_is_named_with_the_extra_that_brings_it(installed, tmp_path):
    shell(tmp_path, installed, "holdfast", "init", "--pocket")
    (tmp_path / "stages" / "own.py").write_text("import torch\n\n\ndef main() -> None: ...\n")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    command = ["holdfast", "run", "own"]
    hidden = {**installed, "PYTHONPATH": str(tmp_path / "hidden")}
    done = subprocess.run(command, cwd=tmp_path, env=hidden, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.splitlines() == ["error: torch: is not installed", "  pip install 'holdfast[pipeline]'"]
