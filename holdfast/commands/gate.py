"""Prints the committed verdict, and compares each arm with itself at a git revision. Runs nothing and writes nothing."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from holdfast.evaluation import gate, revision
from holdfast.params.gate import Gate
from holdfast.params.models import load_arms

VERDICT, EVALUATIONS = Path("reports/gate.json"), Path("reports/eval")


def main(against: str | None) -> int:
    """Prints the verdict; returns the exit code. `against`: a git revision, the worse of both exit codes then counts.

    Raises UserError where there is no verdict, or the evaluations of the revision are not available.
    """
    text, exit_code = gate.read_verdict(VERDICT)
    print(text)
    return max(exit_code, compare_with_revision(against)) if against else exit_code


def compare_with_revision(name: str) -> int:
    """Prints how each arm that decides compares with itself at a git revision; returns the worst exit code."""
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
