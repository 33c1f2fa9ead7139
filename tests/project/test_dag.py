"""dvc.yaml tells the whole truth: params are what a script loads, code is what it can reach, and imports point down."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml
from helpers import ROOT

from holdfast.commands.code import describe_code
from holdfast.core import fingerprint
from holdfast.params.base import MODELS, SECTIONS, Section
from holdfast.params.whole import Params

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
SCRIPTS = {
    name: stage["cmd"].split()[2] for name, stage in STAGES.items() if name != "code"
}  # `holdfast run SCRIPT ...`
PIPELINE = [name for name in SCRIPTS if name != "pocket"]
LIBRARY = [file for file in (ROOT / "holdfast").rglob("*.py") if "scaffold/" not in file.relative_to(ROOT).as_posix()]
PROGRAMS = [*LIBRARY, *(ROOT / "stages").glob("*.py")]


def script(stage: str) -> Path:
    return ROOT / "stages" / f"{SCRIPTS[stage]}.py"


@cache
def reach(stage: str) -> frozenset[str]:
    return frozenset(fingerprint.of_file(script(stage), ROOT))


@pytest.mark.parametrize("stage", SCRIPTS)
def test_a_stage_runs_its_script_and_depends_on_its_fingerprint_and_no_other_code(stage):
    command = STAGES[stage]["cmd"].split()
    assert command[:2] == ["holdfast", "run"]
    assert SCRIPTS[stage] == stage.split("-")[0], "stage name = script"
    assert script(stage).is_file()
    deps = STAGES[stage].get("deps", [])
    assert [dep for dep in deps if "code" in dep or dep.endswith(".py")] == [f".holdfast/code/{SCRIPTS[stage]}"]


def test_every_script_is_a_stage():
    assert {file.stem for file in (ROOT / "stages").glob("*.py")} == set(SCRIPTS.values())


def loaded(file: Path) -> set[str]:
    """The params keys that a script loads: a section, its leaves where it takes only some, or names at the top."""
    tree, keys = ast.parse(file.read_text(encoding="utf-8")), set[str]()
    imported = {
        alias.asname or alias.name: getattr(importlib.import_module(node.module), alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("holdfast.params.")
        for alias in node.names
    }
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        if name == "load_trainings":
            keys |= {"arms", "retrain"}
        elif name in ("load_base", "load_panel", "load_arms"):
            keys.add(name.removeprefix("load_"))
        elif (
            isinstance(call.func, ast.Attribute) and call.func.attr == "load" and isinstance(call.func.value, ast.Name)
        ):
            section = imported.get(call.func.value.id)
            if not (isinstance(section, type) and issubclass(section, Section)):
                continue
            if section.partial:
                keys |= {f"{section.section}.{field}" for field in section.model_fields}
            else:
                keys |= {section.section} if section.section else set(MODELS)
    return keys


@pytest.mark.parametrize("stage", SCRIPTS)
def test_params_are_exactly_what_the_script_loads(stage):
    listed, read = set(STAGES[stage]["params"]), loaded(script(stage))
    leaves = {key for key in read if "." in key}  # read leaf by leaf: then these and no others of the section
    sections = {key.split(".")[0] for key in leaves}
    assert {key for key in listed if key.split(".")[0] in sections} == leaves
    listed, read = listed - leaves, read - leaves
    assert {key.split(".")[0] for key in listed} == read
    for section in {key.split(".")[0] for key in listed if "." in key}:  # listed leaf by leaf: then every leaf
        fields = set(Params.model_fields[section].annotation.model_fields)
        assert {key.split(".")[1] for key in listed if key.startswith(section + ".")} == fields


@pytest.mark.parametrize("stage", SCRIPTS)
def test_what_a_script_names_is_a_dep_or_an_out(stage):
    """Every file or folder that a script spells out lies in, or holds, something that dvc.yaml lists for the stage."""
    tree = ast.parse(script(stage).read_text(encoding="utf-8"))
    spelled = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Path" and node.args:
            text = ast.unparse(node.args[0]).removeprefix("f").strip("'\"")
            spelled.add(re.sub(r"\{[^}]*\}", "*", text))
    entries = [*STAGES[stage].get("deps", []), *STAGES[stage].get("outs", []), *STAGES[stage].get("metrics", [])]
    paths = [re.sub(r"\$\{[^}]*\}", "*", next(iter(e)) if isinstance(e, dict) else e) for e in entries]
    own_folders = {"data", "models", "reports", "", "dvc.lock"}
    for place in spelled - own_folders:
        near = [
            path for path in paths if path.startswith(place.split("*")[0]) or place.startswith(path.rstrip("/") + "/")
        ]
        assert near or place.startswith(("*", "params")), f"{stage}: {place}"


@pytest.mark.parametrize("stage", STAGES)
def test_outs_persist_so_that_bad_input_leaves_them(stage):
    for out in [*STAGES[stage].get("outs", []), *STAGES[stage].get("metrics", [])]:
        assert isinstance(out, dict), out
        assert next(iter(out.values())).get("persist"), out


def test_no_pipeline_stage_can_read_what_the_base_was_trained_on():
    for stage in PIPELINE:
        assert not any(module.startswith("holdfast.pocket") for module in reach(stage)), stage
        assert not any(dep.startswith(("data/pocket/train", "benchmarks")) for dep in STAGES[stage]["deps"]), stage
    # the recipe draws the training examples in memory; what it leaves behind holds none of them
    left = {p.name for p in (ROOT / "data" / "pocket").iterdir()}
    assert left == {"domain", "suites", "development", "rubric.txt"}
    assert not any(dep.startswith("data/pocket/development") for stage in PIPELINE for dep in STAGES[stage]["deps"])


BELOW = {  # what a room may import beside itself
    room: set(below.split())
    for room, below in {
        "core": "",
        "params": "core",
        "chat": "core params",
        "engines": "core params chat",
        "data": "core params chat engines",
        "reconstruction": "core params chat engines data",
        "panel": "core params chat engines data",
        "training": "core params chat engines data",
        "core_suite": "core params chat data",
        "evaluation": "core params chat engines data core_suite",
        "verdict": "core params evaluation",
        "reporting": "core params chat engines data evaluation verdict training",
        "launch": "core",
        "planning": "core params chat engines data core_suite reconstruction panel training evaluation verdict launch",
        "pocket": "core params chat engines",
        "comparison": "core params chat engines data reconstruction evaluation verdict reporting planning",
        "repair": "core params chat data evaluation verdict",
        "commands": "core params chat engines data reconstruction panel training evaluation verdict reporting launch "
        "planning comparison repair",
    }.items()
}


def rooms_imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    assert not any(name.split(".")[0] in ("stages", "tests", "benchmarks") for name in names), file
    return {name.split(".")[1] for name in names if name.startswith("holdfast.")} & BELOW.keys()


def test_imports_point_down_and_the_rooms_have_an_order():
    order = list(BELOW)
    assert all(order.index(lower) < order.index(room) for room, below in BELOW.items() for lower in below), "no circles"
    files = [file for file in LIBRARY if file.parent != ROOT / "holdfast"]
    assert {file.parent.name for file in files} == BELOW.keys()
    for file in files:
        room = file.parent.name
        assert rooms_imported(file) <= BELOW[room] | {room}, file.relative_to(ROOT)
    for file in (ROOT / "stages").glob("*.py"):
        allowed = (
            {"pocket", "params"}
            if file.stem == "pocket"
            else BELOW.keys() - {"pocket", "commands", "planning", "launch"}
        )
        assert rooms_imported(file) <= allowed, file.name


def test_every_stage_reads_in_one_sitting():
    for stage in SCRIPTS:
        assert len(script(stage).read_text(encoding="utf-8").splitlines()) <= 60, stage
    assert len((ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines()) <= 330


def test_no_module_is_named_for_its_leftovers():
    leftovers = {"utils", "util", "common", "misc", "manager", "handler", "helpers"}
    assert not {file.stem for file in PROGRAMS} & leftovers
    names = [
        node.name
        for file in LIBRARY
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    ]
    assert "main" not in {
        node.name
        for file in LIBRARY
        if file.parent.name not in ("commands", "holdfast", "pocket", "chat")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    assert names


def test_the_parameters_of_a_stage_have_its_name():
    assert set(SCRIPTS.values()) >= set(SECTIONS)


def test_these_top_level_folders_and_only_these():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    folders = {line.split("/")[0] for line in tracked if "/" in line}
    assert {f for f in folders if not f.startswith(".")} == {
        "benchmarks",
        "data",
        "docs",
        "holdfast",
        "models",
        "profiles",
        "reports",
        "stages",
        "tests",
    }
    assert {f for f in folders if f.startswith(".")} <= {".ci", ".dvc", ".github"}


def test_pocket_models_are_small_enough_for_git():
    weights = list((ROOT / "models" / "pocket").glob("*/model.safetensors"))
    assert len(weights) == 3
    assert sum(f.stat().st_size for f in weights) <= 15e6


def test_nothing_trusts_remote_code_or_loads_pickles():
    for file in PROGRAMS:
        text = file.read_text(encoding="utf-8")
        assert "trust_remote_code=True" not in text, file
        if file.name == "sandbox.py":  # what a model wrote runs there, and only after the process has given up all else
            assert text.count("exec(") == 1 and text.index("    confine()\n") < text.index("exec(")
            text = text.replace("exec(", "")
        assert not re.search(r"\b(pickle|torch\.load|eval|exec)\(|import pickle", text.replace(".eval()", "")), file


def test_the_formatter_is_on_everywhere_in_the_library():
    for file in PROGRAMS:
        assert not re.search(r"# fmt: (skip|off)", file.read_text(encoding="utf-8")), file


def test_test_files_import_neither_one_another_nor_benchmarks():
    for file in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            names = (
                [name, *(alias.name for alias in node.names)] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            )
            wrong = [n for n in names if n.split(".")[0].startswith("test_") or n.split(".")[0] == "benchmarks"]
            assert not wrong or file.name == "test_dag.py", f"{file.name}: {wrong}"


@pytest.mark.parametrize("stage", ["gate", "respond", "report"])
def test_a_stage_s_code_holds_what_writes_its_costs(stage):
    code = describe_code(script(stage), ROOT)
    assert ("holdfast.core.ledger " in code) == (stage != "report")
