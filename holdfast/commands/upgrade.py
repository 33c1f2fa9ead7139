"""Brings a project up to the installed Holdfast: merges the new scaffold with what was edited, and tidies params.yaml.

holdfast upgrade            shows what would change, and which stages would run again; asks before it writes
holdfast upgrade --dry-run  only shows
holdfast upgrade --yes      writes without asking

Each file is merged three ways, as git does: what `init` wrote (.holdfast/scaffold), what is there, and the new scaffold.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Any

import yaml

from holdfast.commands import explain
from holdfast.commands.code import describe_code
from holdfast.commands.init import find_git_root, has_content
from holdfast.core import yaml_text
from holdfast.core.errors import UserError, first_line
from holdfast.params.base import KEYS, PARAMS, read_mapping
from holdfast.params.whole import Params
from holdfast.planning import scaffold

RENAMED: dict[str, str] = {}  # parameters that have another name now: old -> new, both dotted
CODE, LOCK = Path(".holdfast/code"), Path("dvc.lock")


@dataclass
class Changes:
    """What an upgrade would do. `files`: new content by path; `removed`, `conflicts`, `kept`: paths."""

    files: dict[str, bytes] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    conflicts: dict[str, int] = field(default_factory=dict)  # number of conflicts by file
    kept: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)  # what is said of params.yaml
    params: list[str] = field(default_factory=list)  # dotted names of the parameters that go


def main(dry_run: bool = False, yes: bool = False) -> int:
    """Returns the exit code: 1 where conflicts were written. Raises UserError, with nothing written, on bad input."""
    project = load_project()
    git_root = find_git_root()
    if git_root is None:
        what, do = "no git repository here", "git init, and commit the project: an upgrade must be undoable"
        raise UserError(what, where=".", do=do)
    new = scaffold.read(project.pocket, project.ci, git_root, project.files)
    changes = merge_scaffold(project, new)
    tidy_params(changes)
    hashes = {name: scaffold.digest(content) for name, content in new.items()}
    params = {PARAMS.as_posix(): project.files[PARAMS.as_posix()]} if PARAMS.as_posix() in project.files else {}
    if PARAMS.as_posix() in changes.files and scaffold.is_unedited(PARAMS.as_posix(), project):
        params = {PARAMS.as_posix(): scaffold.digest(changes.files[PARAMS.as_posix()])}
    record = replace(project, holdfast=scaffold.version(), files=dict(sorted((hashes | params).items())))
    scaffold.add_ignore_files(changes.files)
    dirty = find_dirty(sorted({*changes.files, *changes.removed}))
    if dirty and not dry_run:
        raise dirty

    print(f"made with Holdfast {project.holdfast}; this is {scaffold.version()}")
    show(changes)
    bookkeeping = {n: c for n, c in scaffold.record_files(record, new).items() if not has_content(n, c)}
    if not changes.files and not changes.removed and not bookkeeping:
        print("up to date: nothing to do")
        return 0
    for line in describe_reruns(changes):
        print(line)
    if dirty:
        print(f"note     {dirty.where}: {dirty.what}; {dirty.do}")
    if dry_run or not (yes or confirm()):
        print("nothing was written; `holdfast upgrade --yes` writes it")
        return 0
    write(changes, bookkeeping)
    if changes.conflicts:
        print(
            f"conflicts in {', '.join(changes.conflicts)}: edit between the markers <<<<<<< and >>>>>>>, then dvc repro"
        )
        return 1
    print("next     git diff; dvc repro; git commit")
    return 0


def load_project() -> scaffold.Project:
    """Raises UserError where no `init` made this project, or a version that this one does not know."""
    project = scaffold.load_project()
    if project is None:
        do = "run this in a folder that `holdfast init` made; it begins a new one elsewhere with --into FOLDER"
        raise UserError("not made by `holdfast init`", where=scaffold.PROJECT, do=do)
    made, installed = parse_version(project.holdfast), parse_version(scaffold.version())
    if made is None:
        do = "take the file back from git, or run `holdfast init` in a new folder and copy your edits there"
        raise UserError(f"unknown version '{project.holdfast}'", where=scaffold.PROJECT, do=do)
    if installed is not None and made > installed:
        what = f"made with Holdfast {project.holdfast}; this is {scaffold.version()}, which is older"
        raise UserError(what, where=scaffold.PROJECT, do=f"pip install 'holdfast>={project.holdfast}'")
    return project


def parse_version(text: str) -> tuple[int, ...] | None:
    matched = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    return tuple(int(part) for part in matched.groups()) if matched else None


def merge_scaffold(project: scaffold.Project, new: dict[str, bytes]) -> Changes:
    """Computes every file of the project after the upgrade; writes none."""
    changes = Changes()
    for name, content in new.items():
        there, copy = Path(name), scaffold.base_copy(name)
        if has_content(name, content):
            continue
        recorded = project.files.get(name)
        if recorded == scaffold.digest(content):
            continue  # Holdfast did not change it: what was edited, or removed on purpose, stays
        if not there.exists():
            if recorded is None:
                changes.files[name] = content
            else:
                changes.kept.append(f"{name}: you removed it")
        elif scaffold.is_unedited(name, project):
            changes.files[name] = content
        elif copy.is_file() or recorded is None:
            text, conflicts = merge(name, copy.read_bytes() if copy.is_file() else b"", content, project.holdfast)
            if text == there.read_bytes():
                continue
            changes.files[name] = text
            if conflicts:
                changes.conflicts[name] = conflicts
        else:
            changes.kept.append(f"{name}: yours, and Holdfast has a newer one")
    for name in sorted(project.files.keys() - new.keys() - {PARAMS.as_posix()}):
        if scaffold.is_unedited(name, project):
            changes.removed.append(name)
        elif Path(name).exists():
            changes.kept.append(f"{name}: Holdfast has it no more, and you edited it")
    return changes


def merge(name: str, base: bytes, new: bytes, version: str) -> tuple[bytes, int]:
    """(the merged file, number of conflicts), by `git merge-file`; conflicts stand between git's markers.

    Line endings are those of the user's file: an editor that wrote others has changed no line.
    """
    labels = ("yours", f"Holdfast {version}", f"Holdfast {scaffold.version()}")
    mine = Path(name).read_bytes()
    windows = 2 * mine.count(b"\r\n") > mine.count(b"\n")
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / part for part in ("yours", "base", "new")]
        for place, content in zip(places, (mine, base, new), strict=True):
            place.write_bytes(content.replace(b"\r\n", b"\n"))
        command = ["git", "merge-file", "-p", *(part for label in labels for part in ("-L", label)), *map(str, places)]
        done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode > 127:
        raise UserError("git cannot merge it", where=name, do="move your version away, and merge it by hand afterwards")
    return done.stdout.replace(b"\n", b"\r\n") if windows else done.stdout, done.returncode


def tidy_params(changes: Changes) -> None:
    """Renames and removes parameters that this version names otherwise or has no more; new ones have their defaults.

    A new one is written down where the pipeline lists it by its name: DVC refuses what does not stand in the file.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if not PARAMS.is_file():
        raise UserError("no such file", where=PARAMS, do="take it back from git: git checkout -- params.yaml")
    editor = YAML()
    editor.width, editor.preserve_quotes = 4096, True
    read_mapping(PARAMS)  # says where it is not valid, or no mapping
    text = PARAMS.read_bytes().decode()  # line endings as they are
    try:
        content = editor.load(text)
    except YAMLError as error:
        raise UserError(f"not valid YAML: {first_line(error)}", where=PARAMS, do="fix that line") from None
    for old, new in RENAMED.items():
        *path, leaf = old.split(".")
        *target, name = new.split(".")
        inner, outer = descend(content, path), descend(content, target)
        if inner is not None and outer is not None and leaf in inner:
            outer[name] = inner.pop(leaf)
            text = dump(editor, content)
            changes.lines.append(f"params   {old} is now {new}")
            changes.params += [old, new]
    while unknown := find_unknown(content):
        parent = descend(content, unknown[0][:-1])
        if parent.fa.flow_style() or len(parent) == 1:  # of `{a: 1, b: 2}` a part of a line goes
            parent.pop(unknown[0][-1])
            text = dump(editor, content)
        else:
            text = remove_lines(text, *parent.lc.key(unknown[0][-1]))
        content = editor.load(text)
        changes.lines.append(f"params   {'.'.join(unknown[0])} is no more, and is removed")
        changes.params.append(".".join(unknown[0]))
    for section, leaf, default in find_lacking(content, changes):
        text = add_line(text, content[section], leaf, default)
        content = editor.load(text)
        changes.lines.append(f"params   {section}.{leaf} is new: {default}, its default")
        changes.params.append(f"{section}.{leaf}")
    if changes.lines:
        changes.files[PARAMS.as_posix()] = text.encode()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / PARAMS
            file.write_bytes(text.encode())
            try:
                Params.load(file)
            except UserError as error:
                raise UserError(error.what, where=PARAMS, do=error.do) from None
    else:
        Params.load()


def find_lacking(content: Any, changes: Changes) -> list[tuple[str, str, str]]:
    """(section, parameter, default as YAML) of what the pipeline lists by its name and the sections of the file lack."""
    pipeline = changes.files.get(scaffold.PIPELINE) or Path(scaffold.PIPELINE).read_bytes()
    lacking = []
    for name in sorted(set(re.findall(rb"\b([a-z]+\.[a-z_]+)\b", pipeline))):
        section, leaf = name.decode().split(".")
        kind: Any = Params.model_fields[section].annotation if section in Params.model_fields else None
        field: Any = getattr(kind, "model_fields", {}).get(leaf)
        simple = field is not None and isinstance(field.default, (bool, int, float, str))
        if simple and isinstance(content.get(section), dict) and leaf not in content[section]:
            lacking.append((section, leaf, json.dumps(field.default)))
    return lacking


def add_line(text: str, section: Any, key: str, value: str) -> str:
    """The text with one more key at the head of a section that is written in block style, or within its braces."""
    lines = text.splitlines(keepends=True)
    first = next(iter(section))
    line, column = section.lc.key(first)
    if section.fa.flow_style():
        lines[line] = f"{lines[line][:column]}{key}: {value}, {lines[line][column:]}"
    else:
        end = "\r\n" if lines[line].endswith("\r\n") else "\n"
        lines.insert(line, f"{' ' * column}{key}: {value}{end}")
    return "".join(lines)


def dump(editor: Any, content: Any) -> str:
    stream = StringIO()
    editor.dump(content, stream)
    return stream.getvalue()


def remove_lines(text: str, line: int, column: int) -> str:
    """The text without the key that begins there and its value. Blank lines and comments after them stay."""
    lines = text.splitlines(keepends=True)
    end = line + 1
    for number, following in enumerate(lines[line + 1 :], start=line + 1):
        written = following.strip()
        if not written or written.startswith("#"):
            continue
        indent = len(following) - len(following.lstrip())
        if indent < column or (indent == column and not written.startswith("- ")):
            break
        end = number + 1
    return "".join(lines[:line] + lines[end:])


def descend(content: Any, path: list[str]) -> Any:
    for key in path:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def find_unknown(content: Any) -> list[list[str]]:
    """Paths of the keys that no parameter of this version has."""
    from pydantic import ValidationError

    top = [[str(key)] for key in content if key not in KEYS]
    if top:
        return top
    try:
        Params.model_validate(content)
    except ValidationError as error:
        paths = [[str(part) for part in e["loc"]] for e in error.errors() if e["type"] == "extra_forbidden"]
        # a union adds the name of its alternative to the place
        paths = [[p for n, p in enumerate(path) if n == 0 or leads_somewhere(content, path[: n + 1])] for path in paths]
        return [
            path for path in paths if isinstance(parent := descend(content, path[:-1]), dict) and path[-1] in parent
        ]
    return []


def leads_somewhere(content: Any, path: list[str]) -> bool:
    parent = descend(content, path[:-1])
    return isinstance(parent, dict) and path[-1] in parent


def find_dirty(names: list[str]) -> UserError | None:
    """What is to be said where a file that would change has edits that git does not have."""
    present = [name for name in names if Path(name).exists()]
    done = subprocess.run(
        ["git", "--literal-pathspecs", "status", "--porcelain", "--", *present, str(scaffold.PROJECT)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(done.stderr.strip().splitlines()[-1], where="git status", do="correct that, and run it again")
    if lines := done.stdout.splitlines():
        what = (
            f"has edits that are not committed ({len(lines)} such files)"
            if len(lines) > 1
            else "has edits that are not committed"
        )
        return UserError(what, where=lines[0][3:], do="commit them first, so that the upgrade can be undone")
    return None


def show(changes: Changes) -> None:
    for name, content in changes.files.items():
        if name in changes.conflicts:
            print(f"conflict {name}")
            for block in re.findall(rb"^<{7} .*?^>{7} .*?\r?$", content, re.DOTALL | re.MULTILINE):
                print("".join(f"    {line}\n" for line in block.decode(errors="replace").splitlines()), end="")
        else:
            edited = Path(name).exists() and name != PARAMS.as_posix()
            print(f"{'changes ' if edited else 'writes  '} {name}")
    for name in changes.removed:
        print(f"removes  {name}")
    for line in changes.kept:
        print(f"keeps    {line}")
    for line in changes.lines:
        print(line)


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
    if "evaluate" in why:  # one script, two stages
        why["evaluate-base"] = why["evaluate"]
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


def confirm() -> bool:
    return sys.stdin.isatty() and input("write this? [y/N] ").strip().lower() in ("y", "yes")


def write(changes: Changes, bookkeeping: dict[str, bytes]) -> None:
    """All files or none; the project file with them."""
    writer = scaffold.Writer(changes.files | bookkeeping)
    writer.prepare()
    try:
        writer.commit()
    finally:
        writer.close()
    for name in changes.removed:
        Path(name).unlink()
        scaffold.base_copy(name).unlink(missing_ok=True)
