"""The identity of code: which library modules a file can reach, and a hash of each that a comment does not change.

Reach is computed from imports, wherever they stand but under `if TYPE_CHECKING`; a string that spells a module's dotted
name, or the name of a file beside the module, counts as one. A module's hash is over its syntax tree without comments,
docstrings and layout, in a form of our own that is the same on every Python from 3.11 on.
"""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]  # .../holdfast
SKIPPED = {"ctx", "kind", "type_comment", "type_ignores"}  # fields that say nothing, or not on every Python


def of_file(file: Path, root: Path = Path()) -> dict[str, str]:
    """Hash by name of `file` and of all that it can reach in the library and below `root`. Raises SyntaxError."""
    todo, hashes = [file.resolve()], dict[str, str]()
    while todo:
        current = todo.pop()
        name = _name(current, root)
        if name not in hashes:
            source = _read(current)
            hashes[name] = source.hash
            todo += sorted(_reach(current, source, root.resolve()))
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
class _Source:
    """What a file says by itself, wherever it is read from."""

    hash: str
    imports: frozenset[tuple[int, str]] = frozenset()  # (dots before it, dotted name)
    beside: frozenset[str] = frozenset()  # strings that may name a file in the same folder


def _read(file: Path) -> _Source:
    """Parsed once as long as the file does not change."""
    status = file.stat()
    return _parse(file, status.st_mtime_ns, status.st_size)


@cache
def _parse(file: Path, changed: int, size: int) -> _Source:
    if file.suffix != ".py":
        return _Source(digest(file.read_bytes()))
    tree = ast.parse(file.read_text(encoding="utf-8-sig"), str(file))
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
    return _Source(digest(repr(canonical(tree))), frozenset(imports), frozenset(beside))


def _name(file: Path, root: Path) -> str:
    for folder in (PACKAGE.parent, root.resolve()):
        if file.is_relative_to(folder):
            path = file.relative_to(folder)
            return ".".join(path.with_suffix("").parts) if path.suffix == ".py" else path.as_posix()
    return file.name


def _reach(file: Path, source: _Source, root: Path) -> set[Path]:
    """Files that a module imports, or names: modules of the library and below `root`, and data beside the module."""
    package = _name(file, root).split(".")
    files = {place for name in source.beside if (place := file.parent / name).is_file()}
    for level, name in source.imports:
        parts = [*(package[:-level] if level else ()), *filter(None, name.split("."))]
        folder = PACKAGE.parent if parts[:1] == [PACKAGE.name] else root
        for end in range(1, len(parts) + 1):  # packages on the way run too
            place = folder.joinpath(*parts[:end])
            files |= {f for f in (place.with_suffix(".py"), place / "__init__.py") if f.is_file()}
    return {f.resolve() for f in files}


def _find_running(tree: ast.AST) -> list[ast.AST]:
    """Every node but those that only a type checker sees."""
    todo, nodes = [tree], []
    while todo:
        node = todo.pop()
        nodes.append(node)
        typing = isinstance(node, ast.If) and ast.unparse(node.test).removeprefix("typing.") == "TYPE_CHECKING"
        todo += node.orelse if typing else list(ast.iter_child_nodes(node))  # type: ignore[attr-defined]
    return nodes


def canonical(node: Any) -> Any:
    """A syntax tree as nested tuples, without docstrings, and without what differs from one Python to the next."""
    if isinstance(node, list):
        return [canonical(one) for one in node if not _is_text(one)]
    if not isinstance(node, ast.AST):
        return type(node).__name__, ascii(node)  # repr escapes what this Python's Unicode tables lack
    fields = {name: value for name, value in ast.iter_fields(node) if name not in SKIPPED and value not in (None, [])}
    if isinstance(node, ast.JoinedStr):  # how an f-string is cut into constants differs
        fields["values"] = _join(node.values)
    return type(node).__name__, [(name, canonical(fields[name])) for name in sorted(fields)]


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
