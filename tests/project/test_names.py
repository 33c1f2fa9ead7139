"""The rule of names in CONTRIBUTING.md, as far as a machine can tell: what works is no participle, private words stay local."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ROOT

FILES = sorted(file for folder in ("holdfast", "stages") for file in (ROOT / folder).rglob("*.py"))
PARTICIPLES = set("chosen done drawn found given held kept known made said shown taken told written".split())
VERBS = {"embed", "feed", "need", "seed", "speed"}  # that end like participles
PRIVATE = {"found", "told", "asked", "kept", "said", "how", "was", "now"}
LINES = 5  # of the scope in which a private word may be a name
Function = (ast.FunctionDef, ast.AsyncFunctionDef)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node


def is_participle(name: str) -> bool:
    word = name.strip("_")
    return word in PARTICIPLES or (word.endswith("ed") and "_" not in word and word not in VERBS)


def participles(tree: ast.AST) -> list[str]:
    """Functions and methods whose name is a lone participle. Properties are values, so theirs may be."""
    return [
        function.name
        for function in functions(tree)
        if is_participle(function.name)
        and not any("property" in ast.unparse(decorator) for decorator in function.decorator_list)
    ]


def private_words(tree: ast.AST) -> list[str]:
    """Private words that name a variable for more than LINES lines, or a parameter of a longer function."""
    spans = []
    for scope in (tree, *functions(tree)):
        lines: dict[str, list[int]] = {}
        todo = list(ast.iter_child_nodes(scope))
        while todo:
            node = todo.pop()
            if isinstance(node, ast.Name) and node.id in PRIVATE:
                lines.setdefault(node.id, []).append(node.lineno)
            if not isinstance(node, Function):  # a function inside is a scope of its own
                todo += ast.iter_child_nodes(node)
        if isinstance(scope, Function):
            for argument in (*scope.args.posonlyargs, *scope.args.args, *scope.args.kwonlyargs):
                if argument.arg in PRIVATE:
                    lines[argument.arg] = [scope.body[0].lineno, scope.end_lineno or 0]
        spans += [f"{name}, line {min(at)}" for name, at in lines.items() if max(at) - min(at) >= LINES]
    return spans


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_names_keep_the_rule(file: Path):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert participles(tree) == []
    assert private_words(tree) == []


def test_the_rule_sees_what_it_forbids():
    source = """
def parsed(text):
    found = text.split()
    a = 1
    b = 2
    c = 3
    d = 4
    return found

def parse(text):
    kept = text
    return kept

def embed(told):
    return told

class Model:
    @property
    def served(self):
        return True

    def _asked(self, how):
        a = how
        b = a
        c = b
        d = c
        e = d
        return e
"""
    tree = ast.parse(source)
    assert participles(tree) == ["parsed", "_asked"]
    assert private_words(tree) == ["found, line 3", "how, line 23"]
