"""Which stages run again after an upgrade, why, and how long that takes."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import yaml

from holdfast.commands import explain
from holdfast.commands.changes import Changes
from holdfast.commands.code import CODE, describe_code
from holdfast.core import yaml_text
from holdfast.core.errors import UserError, first_line
from holdfast.params.base import PARAMS
from holdfast.params.whole import Params
from holdfast.planning import scaffold

LOCK = Path("dvc.lock")


def describe_reruns(changes: Changes) -> list[str]:
    """Which stages run again, why, and how long that takes."""
    recorded = read_recorded_code()
    if not recorded:
        return ["runs     nothing has run yet"]
    name = scaffold.PIPELINE
    if name in changes.conflicts:
        return [f"again    not known before the conflicts in {name} are resolved"]
    present = Path(name).read_bytes() if Path(name).is_file() else b"stages: {}"
    try:
        former, bodies = (explain.read_stages(text.decode()) for text in (present, changes.files.get(name, present)))
    except UnicodeDecodeError:
        raise UserError("is not UTF-8", where=name, do=f"take it back from git: git checkout -- {name}") from None
    why = {stage: reason for stage, reason in find_changed_code(changes, recorded).items() if stage in bodies}
    for stage, body in bodies.items():
        if stage not in former:
            why.setdefault(stage, "is new")
        elif former[stage] != body and not body.get("always_changed"):
            why.setdefault(stage, f"its entry in {name}")
    for parameter in changes.params:
        for stage in explain.stages_of(parameter)[0]:
            why.setdefault(stage, f"parameter {parameter}")
    again = [stage for stage in explain.find_downstream(why, bodies) if stage != "code"]
    if not again:
        return ["again    no stage: the code that the stages reach is the same"]
    after = [stage for stage in again if stage not in why]
    lines = [f"again    {stage}: {why[stage]}" for stage in again if stage in why]
    lines += [f"then     {', '.join(after)}: they read what these write"] if after else []
    return [*lines, estimate_time(changes, again)]


def find_changed_code(changes: Changes, recorded: dict[str, str]) -> dict[str, str]:
    """What of a stage's code changes, by stage of dvc.yaml that has run."""
    why: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        stages = Path(folder) / "stages"
        stages.mkdir()
        names = {file.as_posix() for file in Path("stages").glob("*.py")} | set(changes.files)
        for name in names - set(changes.removed):
            if name.startswith("stages/") and name.endswith(".py"):
                content = changes.files[name] if name in changes.files else Path(name).read_bytes()
                (Path(folder) / name).write_bytes(content)
        for file in sorted(stages.glob("*.py")):
            if file.stem not in recorded:
                continue
            try:
                text = describe_code(file, Path(folder))
            except UserError:
                why[file.stem] = "has a conflict"
                continue
            if hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() == recorded[file.stem]:
                continue
            before = CODE / file.stem
            known = before.read_text(encoding="utf-8").splitlines() if before.is_file() else []
            changed = [line.split()[0] for line in text.splitlines() if line not in known] if known else []
            why[file.stem] = ", ".join(changed[:3]) + (" ..." if len(changed) > 3 else "") if changed else "its code"
    if "evaluate" in why:  # one script, several stages
        why["evaluate-base"] = why["evaluate-retrain"] = why["evaluate"]
    if "finetune" in why:
        why["finetune-retrain"] = why["finetune"]
    return why


def estimate_time(changes: Changes, again: list[str]) -> str:
    """What these stages take on this machine by `holdfast plan`, or why that is not known."""
    from holdfast.commands import plan

    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / PARAMS
            file.write_bytes(changes.files.get(PARAMS.as_posix()) or PARAMS.read_bytes())
            params = Params.load(file)
        if params.base not in plan.find_weights(params):
            return "time     not known: the base's weights are not here; `holdfast plan --device h100` reckons"
        lines = [line for line in plan.make_plan(params).lines if find_stage(line.stage) in again]
    except ModuleNotFoundError as error:
        return f"time     not known: {error.name} is not installed (pip install 'holdfast[pipeline]')"
    except UserError as error:
        return f"time     not known: {error.where}: {error.what}"
    seconds = sum(line.seconds or 0.0 for line in lines)
    longest = sorted(lines, key=lambda line: -(line.seconds or 0.0))[:3]
    parts = ", ".join(f"{line.stage} {format_seconds(line.seconds or 0.0)}" for line in longest)
    return f"time     about {format_seconds(seconds)} on this machine ({parts} ...), by `holdfast plan`"


def find_stage(line: str) -> str:
    """The stage of dvc.yaml that a line of the plan is about."""
    return "evaluate-base" if line == "evaluate@base" else line.partition("@")[0]


def format_seconds(seconds: float) -> str:
    unit, length = next(((u, n) for u, n in (("h", 3600), ("min", 60)) if seconds >= n), ("s", 1))
    return f"{seconds / length:,.3g} {unit}"


def read_recorded_code() -> dict[str, str]:
    """md5 of .holdfast/code/STAGE by stage, as dvc.lock has it of the last run."""
    if not LOCK.is_file():
        return {}
    try:
        stages = (yaml_text.parse(LOCK.read_text(encoding="utf-8"), yaml_text.FAST) or {}).get("stages") or {}
        deps = [dep for stage in stages.values() for dep in stage.get("deps") or []]
        return {Path(dep["path"]).name: dep["md5"] for dep in deps if Path(dep["path"]).parent == CODE and "md5" in dep}
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, TypeError, KeyError) as error:
        do = "take it back from git: git checkout -- dvc.lock"
        raise UserError(f"is not a lock file of DVC ({first_line(error)})", where=LOCK, do=do) from None
