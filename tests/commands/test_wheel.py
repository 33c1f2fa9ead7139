"""A wheel, installed outside of any clone: `holdfast init --pocket` and `dvc repro` end with the verdict, in a folder of any kind."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from helpers import ROOT, environment, make_miniature, run, set_params

BUILT = ("holdfast", "stages", "profiles", "data", "models", ".ci", ".github")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the files that git has, as from a clean clone."""
    clone, out = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("dist")
    for name in run(ROOT, "git", "ls-files", "-co", "--exclude-standard").stdout.splitlines():
        if ("/" not in name or name.split("/")[0] in BUILT) and (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, clone / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(out),
        ".",
    ]
    done = run(clone, *command)
    assert done.returncode == 0, done.stderr
    return next(out.glob("holdfast-*.whl"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a shell in which this wheel is installed, and of Holdfast nothing else."""
    place = tmp_path_factory.mktemp("venv")
    venv.create(place, with_pip=False, symlinks=True)
    site = next((place / "lib").glob("python*")) / "site-packages"
    with zipfile.ZipFile(wheel) as archive:  # a wheel of pure Python is installed by unpacking it
        archive.extractall(site)
    ours = next(Path(entry) for entry in sys.path if entry.endswith("site-packages"))
    (site / "zz-dependencies.pth").write_text(f"{ours}\n")  # found after the wheel; its .pth files do not run
    for name, module in (("holdfast", "holdfast.cli"), ("dvc", "dvc.cli")):
        script = place / "bin" / name
        script.write_text(f"#!{place}/bin/python\nimport sys\nfrom {module} import main\nsys.exit(main())\n")
        script.chmod(0o755)
    return {**environment(), "PATH": f"{place}/bin{os.pathsep}{os.environ['PATH']}"}


def shell(folder: Path, environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


def test_the_wheel_holds_the_scaffold_and_no_caches(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    held = {name.removeprefix("holdfast/scaffold/") for name in names if name.startswith("holdfast/scaffold/")}
    tracked = run(
        ROOT, "git", "ls-files", "stages", "profiles", "data/pocket", "data/prompts", "models/pocket"
    ).stdout.split()
    assert {name for name in tracked if (ROOT / name).is_file()} <= held
    assert {"dvc.yaml", ".gitignore", ".dvcignore", ".ci/gate.sh", ".github/workflows/gate.yml"} <= held
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
    modules += ["holdfast.reporting.page", "holdfast.reporting.card", "holdfast.evaluation.gate", "holdfast.cli"]
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


@pytest.mark.slow
@pytest.mark.parametrize("place", ["empty folder", "subfolder of a project with its own pipeline and stages package"])
def test_init_and_repro_end_with_the_verdict(installed, tmp_path, place):
    folder = tmp_path
    if place != "empty folder":
        shell(tmp_path, installed, "git", "init", "-q")
        shell(tmp_path, installed, "dvc", "init", "-q")
        (tmp_path / "stages").mkdir()
        (tmp_path / "stages" / "__init__.py").write_text("raise RuntimeError('not of this project')\n")
        (tmp_path / "dvc.yaml").write_text("stages:\n  theirs: {cmd: echo theirs > theirs.txt, outs: [theirs.txt]}\n")
        folder = tmp_path / "llm"
        shell(tmp_path, installed, "holdfast", "init", "--pocket", "--into", "llm")
    else:
        shell(folder, installed, "holdfast", "init", "--pocket")
    make_miniature(folder)
    if place != "empty folder":  # fewer cells, so that it takes less time
        set_params(folder, panel=["base"], arms=["holdfast"], gate__control=None)
    shell(folder, installed, "git", "add", "-A")
    shell(folder, installed, "git", "commit", "-qm", "start")
    output = shell(folder, installed, "dvc", "repro")
    cells = 23 if place == "empty folder" else 18
    assert len(re.findall(r"Running stage '(?!code|llm/dvc.yaml:code)", output)) == cells, output
    verdict = json.loads((folder / "reports/gate.json").read_text(encoding="utf-8"))
    assert "holdfast" in verdict["arms"]
    assert verdict["verdict"] in ("pass", "fail", "cannot-compare")
    assert (folder / "reports/report.md").stat().st_size > 1000
    assert not (tmp_path / "theirs.txt").exists()
