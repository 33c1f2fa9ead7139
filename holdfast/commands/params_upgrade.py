"""params.yaml as this version has it: renamed and removed parameters, and new ones that the pipeline lists by name."""

from __future__ import annotations

import json
import re
import tempfile
from io import StringIO
from pathlib import Path
from typing import Any

from holdfast.commands.changes import Changes
from holdfast.core.errors import UserError, first_line
from holdfast.params.base import KEYS, PARAMS, Section, read_mapping
from holdfast.params.whole import Params
from holdfast.planning import scaffold

RENAMED: dict[str, str] = {}  # parameters that have another name now: old -> new, both dotted


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
    for name in find_lacking_mappings(content, changes):
        default = json.dumps(Params.model_fields[name].default.model_dump())
        end = "\r\n" if "\r\n" in text else "\n"
        text = f"{text.rstrip()}{end}{name}: {default}{end}"
        content = editor.load(text)
        changes.lines.append(f"params   {name} is new: {default}, its default")
        changes.params.append(name)
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


def find_lacking_mappings(content: Any, changes: Changes) -> list[str]:
    """What the pipeline takes the cells of a stage from, `${retrain.arms}`, and the file lacks as a whole."""
    pipeline = changes.files.get(scaffold.PIPELINE) or Path(scaffold.PIPELINE).read_bytes()
    names = {name.decode() for name in re.findall(rb"\$\{([a-z]+)\.[a-z_]+\}", pipeline)} & Params.model_fields.keys()
    return sorted(name for name in names - set(content) if isinstance(Params.model_fields[name].default, Section))


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
