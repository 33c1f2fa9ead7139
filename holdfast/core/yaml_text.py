"""YAML from a repository, in bounded time and memory: how deep it goes, and what its aliases stand for, is counted before
anything is built. A pull request may hold any file, and both ours and DVC's code walk what they have read.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from holdfast.core.errors import UserError, first_line

MAX_DEPTH = 64  # levels; no file of a pipeline has ten
MAX_COPIES = 100_000  # values that aliases stand for, each counted as often as it is referred to
MAX_LENGTH = 2**20  # characters that people write; Loader, which is Python, reads some 100,000 a second
FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's: for what DVC writes, and to count
FILES = ("params.yaml", "dvc.yaml", "dvc.lock", "*.dvc", "*/dvc.yaml", "*/dvc.lock")  # that DVC reads


class Loader(yaml.SafeLoader):
    """YAML 1.2, as DVC reads it: a key stands once (PyYAML lets the last one win), 1e-3 is a number, and off is a text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key.value}' appears twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+|\d*\.\d+|\d+\.)[eE][-+]?\d+$"), list("-+.0123456789")
)


BOOL = "tag:yaml.org,2002:bool"
Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag != BOOL or first in "tTfF"]
    for first, resolvers in Loader.yaml_implicit_resolvers.items()
}


def parse(text: str, loader: Any = Loader) -> Any:
    """The content of a YAML text. Raises yaml.YAMLError and nothing else, also for what is too deep or grows too large."""
    if loader is Loader and len(text) > MAX_LENGTH:
        raise yaml.YAMLError(f"it is longer than {MAX_LENGTH:,} characters")
    check_shape(text)
    try:
        return yaml.load(text, loader)  # noqa: S506 (a SafeLoader)
    except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:  # a 30th of February, say
        raise yaml.YAMLError(first_line(error)) from None


def check_shape(text: str) -> None:
    """Raises yaml.MarkedYAMLError, with the line, where a text goes deeper than MAX_DEPTH or its aliases stand for more than
    MAX_COPIES values or for themselves. Other faults are left to whoever parses it."""
    open_nodes: list[tuple[str | None, int]] = []  # (anchor, values before it) of the collections around
    sizes: dict[str | None, int] = {}  # values in what an anchor names
    values = copies = 0
    events = yaml.parse(text, Loader=FAST)
    while True:
        try:
            event = next(events)
        except (StopIteration, yaml.YAMLError, ValueError):
            return
        fault = None
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, values))
            sizes.pop(event.anchor, None)
            values += 1
            fault = f"it is nested more than {MAX_DEPTH} deep" if len(open_nodes) > MAX_DEPTH else None
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = values - before
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor, 1)
            values, copies = values + size, copies + size
            if any(anchor == event.anchor for anchor, _ in open_nodes) and event.anchor not in sizes:
                fault = f"*{event.anchor} stands for itself"
            elif copies > MAX_COPIES:
                fault = f"its aliases stand for more than {MAX_COPIES:,} values"
        if fault:
            mark: Any = event.start_mark
            raise yaml.MarkedYAMLError(problem=fault, problem_mark=mark)


def check_files() -> None:
    """Looks at every file that DVC will read here: those of the working directory and those that git has below it. Raises
    UserError for one that check_shape refuses."""
    listed = subprocess.run(["git", "ls-files", "-z", "--", *FILES], capture_output=True, check=False)
    names = listed.stdout.decode(errors="replace").split("\0") if listed.returncode == 0 else []
    for name in dict.fromkeys([*FILES[:3], *filter(None, names)]):
        file = Path(name)
        if file.is_file():
            try:
                check_shape(file.read_text(encoding="utf-8"))
            except yaml.MarkedYAMLError as error:
                raise describe(error, file) from None
            except (OSError, UnicodeDecodeError):
                continue  # DVC says so


def describe(error: Exception, file: Path, do: str = "fix that line, or take the file back from git") -> UserError:
    """A UserError with the line, where the error knows it."""
    line = getattr(getattr(error, "problem_mark", None), "line", None)
    where = file if line is None else f"{file}, line {line + 1}"
    return UserError(f"not valid YAML: {getattr(error, 'problem', None) or first_line(error)}", where=where, do=do)
