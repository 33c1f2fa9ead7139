"""Prints the committed verdict, and compares each arm with itself at a git revision. Runs nothing and writes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from holdfast.core import storage
from holdfast.core.errors import ExitCode, UserError
from holdfast.evaluation import gate, revision
from holdfast.params.gate import Gate
from holdfast.params.models import load_arms

VERDICT, EVALUATIONS = Path("reports/gate.json"), Path("reports/eval")


def main(against: str | None) -> int:
    """Prints the verdict; returns the exit code. `against`: a git revision, the worse of both exit codes then counts.

    Raises UserError where there is no verdict, or the evaluations of the revision are not available.
    """
    text, exit_code = gate.read_verdict(VERDICT)
    check_whole(storage.read_json(VERDICT))
    print(text)
    return exit_code if against is None else max(exit_code, compare_with_revision(against))


def check_whole(verdict: dict[str, Any]) -> None:
    """Raises UserError where gate.json is not as the stage writes it: no arm, a number that is none, a word that does not follow."""
    arms = {name: arm["verdict"] for name, arm in verdict["arms"].items()}
    deciding = [name for name in arms if name != verdict.get("control")] or list(arms)
    do = "run `dvc repro`: it is written from the evaluations, never by hand"
    if not arms:
        raise UserError("holds no arm", where=VERDICT, do=do)
    worst = max((arms[name] for name in deciding), key=lambda word: gate.EXIT_CODES.get(word, ExitCode.BROKEN))
    if verdict["verdict"] != worst:
        raise UserError(f"says '{verdict['verdict']}', but its arms say '{worst}'", where=VERDICT, do=do)
    if not all(map(math.isfinite, numbers(verdict))):
        raise UserError("holds a number that is not finite", where=VERDICT, do=do)


def numbers(content: Any) -> Iterator[float]:
    """Every number in a JSON value."""
    if isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            yield from numbers(value)
    elif isinstance(content, float):
        yield content


def compare_with_revision(name: str) -> int:
    """Prints how each arm that decides compares with itself at a git revision; returns the worst exit code."""
    if not name.strip():
        raise UserError("is empty", where="--against", do="name a git revision, such as origin/main")
    params, arms = Gate.load(), load_arms()
    with TemporaryDirectory() as temporary:
        former, present = Path(temporary) / "former", Path(temporary) / "present"
        revision.copy_evaluations(name, arms, EVALUATIONS, former)
        revision.copy_evaluations(None, arms, EVALUATIONS, present)
        verdict, new_arms = gate.decide_against(params, arms, former, present, name)
    for arm in new_arms:
        print(f"{arm}: not evaluated at {name}")
    print(f"before: the arm at {name}; after: the arm as it is now")
    print(gate.table(verdict))
    return gate.EXIT_CODES[verdict["verdict"]]
