"""dvc.yaml tells the whole truth: code deps are the import closure, params are what a stage is handed, nothing hidden is read."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

from holdfast.params.models import Models

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
PIPELINE = {name: stage for name, stage in STAGES.items() if name != "pocket"}


@cache
def imports(file: Path) -> frozenset[Path]:
    """Project modules that a file imports anywhere, inside functions too."""
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    found = {ROOT / (name.replace(".", "/") + ".py") for name in names if name.startswith("stages.")}
    # a package's data (page.css, page.js) is read by the module of the same folder that names it
    text = file.read_text(encoding="utf-8")
    found |= {
        sibling
        for sibling in file.parent.glob("*.[cj]s*")
        if sibling.suffix in (".css", ".js") and f'"{sibling.name}"' in text
    }
    return frozenset(f for f in found if f.is_file())


def closure(file: Path) -> set[str]:
    seen: set[Path] = set()
    todo = [file]
    while todo:
        if (current := todo.pop()) not in seen:
            seen.add(current)
            todo += [f for f in imports(current) if f.suffix == ".py"] if current.suffix == ".py" else []
            seen |= {f for f in (imports(current) if current.suffix == ".py" else ()) if f.suffix != ".py"}
    return {f.relative_to(ROOT).as_posix() for f in seen}


def module_of(stage: str) -> Path:
    command = STAGES[stage]["cmd"].split()
    assert command[0] == "holdfast"
    assert command[1] == stage.split("-")[0], "stage name = command"
    return ROOT / "stages" / ("pocket/recipe.py" if stage == "pocket" else f"{command[1]}.py")


@pytest.mark.parametrize("stage", STAGES)
def test_code_deps_are_the_import_closure(stage):
    # holdfast/cli.py is no dep: it only passes paths and params on, and those are listed here in full.
    listed = {dep for dep in STAGES[stage]["deps"] if dep.startswith("stages/")}
    assert listed == closure(module_of(stage))


def handed(command: str) -> set[str]:
    """The params keys that a command of cli.py reads."""
    tree = ast.parse((ROOT / "stages" / "cli.py").read_text(encoding="utf-8"))
    function = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == command)
    keys: set[str] = set()
    for call in (n for n in ast.walk(function) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)):
        if call.func.attr in ("load", "load_names") and call.args:
            keys.add(ast.literal_eval(call.args[0]))
        elif call.func.attr == "load_lineup":
            keys |= set(Models.model_fields)
        elif call.func.attr == "load_leaves":
            section, *names = (ast.literal_eval(arg) for arg in call.args)
            keys |= {f"{section}.{name}" for name in names}
    return keys


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_exactly_what_the_stage_is_handed(stage):
    listed, read = set(STAGES[stage]["params"]), handed(module_of(stage).stem if stage != "pocket" else "pocket")
    leaves = {key for key in read if "." in key}  # read leaf by leaf: then these and no others of the section
    sections = {key.split(".")[0] for key in leaves}
    assert {key for key in listed if key.split(".")[0] in sections} == leaves
    listed, read = listed - leaves, read - leaves
    assert {key.split(".")[0] for key in listed} == read
    for section in {key.split(".")[0] for key in listed if "." in key}:  # listed leaf by leaf: then every leaf
        fields = set(Params.model_fields[section].annotation.model_fields)
        assert {key.split(".")[1] for key in listed if key.startswith(section + ".")} == fields


@pytest.mark.parametrize("stage", STAGES)
def test_outs_persist_so_that_bad_input_leaves_them(stage):
    for out in [*STAGES[stage].get("outs", []), *STAGES[stage].get("metrics", [])]:
        assert isinstance(out, dict), out
        assert next(iter(out.values())).get("persist"), out


def test_no_pipeline_stage_can_read_what_the_base_was_trained_on():
    for stage in PIPELINE:
        assert not any(f.startswith("stages/pocket") for f in closure(module_of(stage))), stage
        assert not any(
            dep.startswith(("stages/pocket", "data/pocket/train", "benchmarks")) for dep in PIPELINE[stage]["deps"]
        ), stage
    # the recipe draws the training examples in memory; what it leaves behind holds none of them
    left = {p.name for p in (ROOT / "data" / "pocket").iterdir()}
    assert left == {"domain", "suites", "development", "rubric.txt"}
    assert not any(dep.startswith("data/pocket/development") for stage in PIPELINE for dep in PIPELINE[stage]["deps"])


LAYERS = {  # what a package may import beside itself
    "core": {"sections"},
    "sections": {"core"},
    "engines": {"core", "sections"},
    "objectives": {"core", "sections"},
    "evaluation": {"core", "sections"},
    "reporting": {"core", "sections", "evaluation"},
    "planning": {"core", "sections", "engines", "objectives"},
    "pocket": set(),
}


def test_stages_import_no_stage_and_packages_only_what_lies_below_them():
    for file in (ROOT / "stages").glob("*.py"):
        if file.stem not in ("cli", "tools", "__init__"):  # the two that hold the commands
            assert {f.parent.name for f in imports(file)} <= LAYERS.keys() - {"pocket"}, file.name
    files = [file for file in (ROOT / "stages").rglob("*.py") if file.parent != ROOT / "stages"]
    assert {file.parent.name for file in files} == LAYERS.keys()
    for file in files:
        package = file.parent.name
        assert {f.parent.name for f in imports(file)} <= LAYERS[package] | {package}, file


def test_these_top_level_folders_and_only_these():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    folders = {line.split("/")[0] for line in tracked if "/" in line}
    assert {f for f in folders if not f.startswith(".")} == {
        "benchmarks",
        "data",
        "docs",
        "models",
        "profiles",
        "reports",
        "stages",
        "tests",
    }
    assert {f for f in folders if f.startswith(".")} <= {".ci", ".dvc", ".github"}


def test_every_stage_reads_in_one_sitting():
    for stage in PIPELINE:
        assert len(module_of(stage).read_text(encoding="utf-8").splitlines()) <= 260, stage


def test_pocket_models_are_small_enough_for_git():
    weights = list((ROOT / "models" / "pocket").glob("*/model.safetensors"))
    assert len(weights) == 3
    assert sum(f.stat().st_size for f in weights) <= 15e6


def test_nothing_trusts_remote_code_or_loads_pickles():
    for file in (ROOT / "stages").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert "trust_remote_code=True" not in text, file
        assert not re.search(r"\b(pickle|torch\.load|eval|exec)\(|import pickle", text.replace(".eval()", "")), file
