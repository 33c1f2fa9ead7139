"""The identity of code: which library modules a file can reach, and a hash of each that a comment does not change.

Reach is computed from imports, wherever they stand but under `if TYPE_CHECKING`; a string that spells a module's dotted
name, or the name of a file beside the module, counts as one. A module's hash is over its syntax tree without comments,
docstrings and layout, in a form of our own that is the same on every Python from 3.11 on.
"""

from __future__ import annotations

import ast
import hashlib
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]  # .../holdfast
SKIPPED = {"ctx", "kind", "type_comment", "type_ignores"}  # fields that say nothing, or not on every Python


Reach = dict[Path, tuple[str, str, set[Path]]]  # by file: its name, its hash, the files that it reaches by itself


def of_file(file: Path, root: Path = Path(), known: Reach | None = None) -> dict[str, str]:
    """Hash by name of `file` and of all that it can reach in the library and below `root`. Raises SyntaxError.

    `known`: what earlier calls found with the same `root`, while no file changed; it grows.
    """
    todo, hashes, known = [file.resolve()], dict[str, str](), {} if known is None else known
    done = set[Path]()
    while todo:
        current = todo.pop()
        if current in done:
            continue
        done.add(current)
        if current not in known:
            source, place = _read(current), root.resolve()
            known[current] = (_name(current, place), source.hash, _reach(current, source, place))
        name, hashes[name], reached = known[current]
        todo += reached - done
    return dict(sorted(hashes.items()))


@cache
def of_modules(*modules: str) -> str:
    """One hash of library modules (dotted names) and of all that they can reach."""
    hashes: dict[str, str] = {}
    for module in modules:
        hashes |= of_file(PACKAGE.parent / (module.replace(".", "/") + ".py"))
    return digest(repr(sorted(hashes.items())))


def source_hash(*files: str) -> str:
    """One hash of these source files and of no others: results of older code are not reused. Comments do not count."""
    trees = [canonical(ast.parse(Path(file).read_text(encoding="utf-8-sig"), file)) for file in sorted(set(files))]
    return digest(repr(trees))


@dataclass(frozen=True)
class Source:
    """What a file says by itself, wherever it is read from."""

    hash: str
    imports: frozenset[tuple[int, str]] = frozenset()  # (dots before it, dotted name)
    beside: frozenset[str] = frozenset()  # strings that may name a file in the same folder


parsed: dict[
    bytes, Source
] = {}  # by the SHA-256 of a module's bytes; `holdfast code` keeps it from one run to the next


def _read(file: Path) -> Source:
    """Read once as long as the file does not change."""
    status = file.stat()
    return _read_version(file, status.st_mtime_ns, status.st_size)


@cache
def _read_version(file: Path, changed: int, size: int) -> Source:
    content = file.read_bytes()
    if file.suffix != ".py":
        return Source(digest(content))
    key = hashlib.sha256(content).digest()
    if key not in parsed:
        parsed[key] = _parse(content.decode("utf-8-sig"), file)
    return parsed[key]


def _parse(text: str, file: Path) -> Source:
    tree = ast.parse(text, str(file))
    imports, beside = set[tuple[int, str]](), set[str]()
    for node in _find_running(tree):
        if isinstance(node, ast.ImportFrom):
            start = node.module or ""
            imports.add((node.level, start))
            imports |= {(node.level, f"{start}.{alias.name}".lstrip(".")) for alias in node.names}
        elif isinstance(node, ast.Import):
            imports |= {(0, alias.name) for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 100:
            if node.value.startswith(f"{PACKAGE.name}.") and node.value.replace(".", "").isidentifier():
                imports.add((0, node.value))
            elif "." in node.value and "/" not in node.value:
                beside.add(node.value)
    return Source(digest(repr(canonical(tree))), frozenset(imports), frozenset(beside))


def _name(file: Path, root: Path) -> str:
    for folder in (PACKAGE.parent, root):
        if file.is_relative_to(folder):
            path = file.relative_to(folder)
            return ".".join(path.with_suffix("").parts) if path.suffix == ".py" else path.as_posix()
    return file.name


def _reach(file: Path, source: Source, root: Path) -> set[Path]:
    """Files that a module imports, or names: modules of the library and below `root`, and data beside the module."""
    package = _name(file, root).split(".")
    modules: set[tuple[str, ...]] = set()
    for level, name in source.imports:
        parts = (*(package[:-level] if level else ()), *filter(None, name.split(".")))
        modules |= {parts[:end] for end in range(1, len(parts) + 1)}  # packages on the way run too
    candidates = [os.path.join(file.parent, name) for name in source.beside]
    for parts in modules:
        place = os.path.join(PACKAGE.parent if parts[0] == PACKAGE.name else root, *parts)
        candidates += [f"{place}.py", os.path.join(place, "__init__.py")]
    return {Path(place).resolve() for place in candidates if os.path.isfile(place)}


def _find_running(tree: ast.AST) -> list[ast.AST]:
    """Every node but those that only a type checker sees."""
    todo, nodes = [tree], list[ast.AST]()
    while todo:
        node = todo.pop()
        nodes.append(node)
        todo += node.orelse if isinstance(node, ast.If) and _is_typing(node.test) else ast.iter_child_nodes(node)
    return nodes


def _is_typing(test: ast.expr) -> bool:
    """TYPE_CHECKING or typing.TYPE_CHECKING."""
    if isinstance(test, ast.Attribute):
        return test.attr == "TYPE_CHECKING" and isinstance(test.value, ast.Name) and test.value.id == "typing"
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def canonical(node: Any) -> Any:
    """A syntax tree as nested tuples, without docstrings, and without what differs from one Python to the next."""
    if isinstance(node, ast.AST):
        fields = list[tuple[str, Any]]()
        for name in _sort_fields(type(node).__name__):
            value: Any = getattr(node, name, None)
            if name == "values" and isinstance(node, ast.JoinedStr):  # how an f-string is cut into constants differs
                fields.append((name, canonical(_join(value))))
            elif value is not None and value != []:
                fields.append((name, canonical(value)))
        return type(node).__name__, fields
    if isinstance(node, list):
        return [canonical(one) for one in node if not _is_text(one)]
    return type(node).__name__, ascii(node)  # repr escapes what this Python's Unicode tables lack


@cache
def _sort_fields(kind: str) -> list[str]:
    return sorted(set(getattr(ast, kind)._fields) - SKIPPED)


def _is_text(node: Any) -> bool:
    """A docstring: of a module, a class, a function or an attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _join(values: list[ast.expr]) -> list[ast.expr]:
    merged: list[ast.expr] = []
    for value in values:
        text = str(value.value) if isinstance(value, ast.Constant) else None
        last = merged[-1] if merged else None
        if text == "":
            continue
        if text is not None and isinstance(last, ast.Constant):
            merged[-1] = ast.Constant(str(last.value) + text)
        else:
            merged.append(value)
    return merged


def digest(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:16]
