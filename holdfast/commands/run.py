"""Runs one stage: `main` of stages/STAGE.py of this project, with its cost written to reports/costs. Here, or on the machine
that launch.yaml names for it (holdfast/commands/jobs.py).

holdfast run STAGE [CELL]      CELL: the model or the arm, where the stage has one for each
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

from holdfast.commands import inputs
from holdfast.core.errors import ExitCode, UserError

STAGES, COSTS = Path("stages"), Path("reports/costs")
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"  # of a stage, a model or an arm
NO_COSTS = ("report", "pocket")  # the report reads the costs; the lab's recipe is frozen


def main(stage: str, *cells: str) -> int:
    """The exit code. `cells`: what dvc.yaml gives the script, a model or an arm, and a seed. Raises UserError where there is no
    such stage, or it takes another number of arguments."""
    for name in (stage, *cells):
        if not re.fullmatch(NAME, name):  # it becomes part of paths
            raise UserError(
                f"'{name[:80]}' cannot be a name", where="holdfast run", do="give a stage, and a model or an arm"
            )
    script = load(stage)
    taken = inspect.signature(script.main).parameters.values()
    needed = sum(one.default is inspect.Parameter.empty for one in taken)
    if not needed <= len(cells) <= len(taken):
        named = ("no name", "the name of a model or an arm", "the name of an arm and a seed")
        what = f"stage '{stage}' takes {named[min(needed if len(cells) < needed else len(taken), 2)]}"
        raise UserError(what, where=STAGES / f"{stage}.py", do="as dvc.yaml calls it, or `dvc repro`")
    from holdfast.commands import code, launch
    from holdfast.core import ledger
    from holdfast.launch import settings
    from holdfast.planning import room

    recorded = "DVC_STAGE" in os.environ  # DVC will write down what this was made from
    if recorded:
        code.refuse_other_code(stage)
    plan = settings.load() if "RANK" not in os.environ else None  # torchrun has been started here
    if plan and (machine := plan.find(stage, *cells)):
        from holdfast.commands import jobs

        description = code.describe_code(STAGES / f"{stage}.py")
        place = plan.find_place(stage, *cells)
        exit_code = jobs.run_elsewhere(stage, cells, place, plan.machines[machine], description)
        if recorded:
            code.refuse_other_code(stage)
        return exit_code
    launch.refuse_second(stage, cells)
    if "RANK" not in os.environ and (shortage := room.find_shortage(stage, *cells)):
        print(f"warning: {shortage}", file=sys.stderr, flush=True)
    before = inputs.read_inputs(stage, *cells)
    free = stage in NO_COSTS or cells == ("base-repeat",)
    with nullcontext() if free else ledger.record_cost(COSTS, stage, "-".join(cells) or None):
        script.main(*cells)
        inputs.refuse_changes(before, stage, *cells)
        if recorded:
            code.refuse_other_code(stage)
    return ExitCode.OK


def load(stage: str) -> ModuleType:
    """The script as a module. Modules of the project's own, in stages/ too, can be imported by it."""
    file = STAGES / f"{stage}.py"
    if not file.is_file():
        known = ", ".join(sorted(f.stem for f in STAGES.glob("*.py"))) if STAGES.is_dir() else ""
        do = f"known: {known}" if known else "go to the folder that holds dvc.yaml and stages/"
        raise UserError("no such stage", where=file, do=do)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    spec = importlib.util.spec_from_file_location(f"stages.{stage}", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        where = f"{error.filename or file}, line {error.lineno}"
        raise UserError(error.msg, where=where, do="fix it, or take back the edit") from None
    if not callable(getattr(module, "main", None)):
        raise UserError("has no function `main`", where=file, do="define it: a stage does its work there")
    return module
