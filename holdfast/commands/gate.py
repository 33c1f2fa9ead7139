"""Prints the committed verdict if it is that of what is checked out; recomputes it, and compares each arm with itself at a
git revision, where asked to. Writes nothing.

    holdfast gate                          reads reports/gate.json, params.yaml, dvc.lock and settings: needs no data
    holdfast gate --verify [--spot 100]    decides anew from the items, and asks the tuned models 100 of them once more
    holdfast gate --against main           each arm against itself there
    holdfast gate --junit FILE --github    the same for a forge: JUnit XML; annotations and a job summary
    holdfast gate --power                  what drop the suites can show: before anything has run, too
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from holdfast.commands import comment
from holdfast.core import storage
from holdfast.core.errors import ExitCode, UserError
from holdfast.params.base import parse
from holdfast.params.evaluate import Evaluate
from holdfast.params.gate import Gate
from holdfast.params.ingest import Ingest
from holdfast.params.models import Retrain, load_trainings, name_trainings
from holdfast.reporting import exports
from holdfast.verdict import decision, fields, gate_file, provenance, run, summary, target, thresholds, yardstick

VERDICT, EVALUATIONS = Path("reports/gate.json"), Path("reports/eval")
DOMAIN_TEST_SPLIT = Path("data/domain/test.parquet")
TRUSTED = "HOLDFAST_TRUSTED_GATE"  # environment: 1 decides with the gate settings of the revision that --against names
MAX_REASONS = 12  # printed of those for which a verdict is refused


@dataclass(frozen=True)
class Export:
    """Where else the verdict goes."""

    junit: Path | None = None  # a file of JUnit XML
    github: bool = False  # annotations on stdout, and the job's summary

    def write(self, cases: list[exports.Case], text: str, domain_measured: bool = True) -> None:
        if self.junit is not None:
            storage.write_text(self.junit, exports.junit(cases))
        if self.github:
            for line in exports.list_annotations(cases, domain_measured):
                print(line)
            if summary_file := os.environ.get("GITHUB_STEP_SUMMARY"):
                with Path(summary_file).open("a", encoding="utf-8") as file:
                    file.write(text)


def main(
    against: str | None,
    verify: bool = False,
    spot: int = 0,
    allow_gate_change: bool = False,
    export: Export = Export(),
) -> int:
    """Prints the verdict; returns the exit code, the worst of what was asked for.

    `against`: a git revision. A gate that is looser than there fails unless `allow_gate_change`; with HOLDFAST_TRUSTED_GATE=1 the
    thresholds of the revision decide, and the code that runs, whatever code decided gate.json, and looser is what is measured. Raises UserError where there is no
    verdict, or the evaluations that are asked for are not available.
    """
    trusted = against is not None and os.environ.get(TRUSTED) == "1"
    content = gate_file.read_gate(VERDICT)
    refused = provenance.find_mismatches(content, any_code=trusted)
    if not refused and (verify or spot):
        refused = find_differences(content)
    if not refused and spot:
        refused = ask_again(content, spot)
    if refused:
        print_refusal(refused)
        export.write(exports.list_refusals(refused), exports.summarise_refusal(refused))
        return ExitCode.CANNOT_COMPARE
    if against is None:
        print(summary.table(content))
        export.write(list(exports.list_cases(content)), exports.summary(content), content["domain_measured"])
        return fields.EXIT_CODES[content["verdict"]]
    if not against.strip():
        raise UserError("is empty", where="--against", do="name a git revision, such as origin/main")
    looser = compare_yardsticks(against, trusted)
    if trusted:
        content = decide_as_at(against, content)
        print(f"decided with the gate settings of {against} ({TRUSTED}=1)")
    print(summary.table(content))
    compared = compare_with_revision(against)
    exit_code = max(fields.EXIT_CODES[one["verdict"]] for one in (content, compared))
    cases = [*exports.list_cases(content), *exports.list_cases(compared, against)]
    if looser and not allow_gate_change:
        reason = f"the gate is looser than at {against}; --allow-gate-change accepts that"
        print(f"fail: {reason}")
        cases.append(exports.Case("holdfast", "gate settings", "failure", reason))
        exit_code = max(exit_code, ExitCode.FAIL)
    export.write(cases, exports.summary(content), content["domain_measured"])
    return exit_code


def print_power() -> None:
    """What the suites of params.yaml can show, from the base's evaluation and an earlier verdict where they are here."""
    from holdfast.planning import prospects
    from holdfast.verdict import power

    params = Gate.load()
    outlook = prospects.survey_suites(params, Evaluate.load(), Ingest.load())
    print(power.table(outlook.power, params))
    for source in outlook.sources:
        print(f"note: {source}")


def compare_yardsticks(revision: str, trusted: bool) -> bool:
    """Prints what of the yardstick the branch moved since it left `revision`; whether it may be looser. `trusted`: the gate of
    the revision decides, so only what is measured may be."""
    there, here = comment.take_snapshot(comment.find_start(revision)), comment.take_snapshot()
    shifts = yardstick.compare(there, here)
    for shift in shifts:
        print(f"{'GATE LOOSENED' if shift.looser else 'yardstick moved'}: {shift.text}")
    if trusted:
        shifts = yardstick.compare(there, target.leave_to_target(there, here))
    return any(shift.looser for shift in shifts)


def decide_as_at(revision: str, content: dict[str, Any]) -> dict[str, Any]:
    """The verdict on the same evaluations with the gate's settings of a revision, whatever this branch made of them.

    From the numbers in gate.json where they do for that and the code that runs has written them, else from the items. What the revision judges and this branch does
    not cannot be compared.
    """
    there = comment.take_snapshot(revision)
    params = parse(Gate, there.params.get("gate") or {}, "gate", Path(f"params.yaml at {revision}"))
    here = Gate(**content["provenance"]["gate"])
    same = all(getattr(params, key) == getattr(here, key) for key in ("confidence", "resamples", "seed"))
    for reason in provenance.changed_code(content):
        print(f"{reason}; decided anew from the items")
        same = False
    arms = {}
    for name, arm in content["arms"].items():
        missing = [
            f"suite '{suite}' is not judged as at {revision}"
            for suite, entry in target.list_judged(there).items()
            if any(arm["suites"].get(suite, {}).get(key) != value for key, value in entry.items())
        ]
        arms[name] = arm | {"problems": [*arm["problems"], *missing]}
        for suite in arm["suites"]:
            counted = [thresholds.is_counted(one, arm["suites"], suite) for one in (params, here)]
            same = same and counted[0] == counted[1]
    if not same:
        problems = {name: arm["problems"] for name, arm in arms.items()}
        arms = recompute(params)["arms"]
        arms = {name: arm | {"problems": [*arm["problems"], *problems[name]]} for name, arm in arms.items()}
    retrain = parse(Retrain, there.params.get("retrain") or {}, "retrain", Path(f"params.yaml at {revision}"))
    trainings = name_trainings(there.params.get("arms") or [], retrain)
    for name in chain.from_iterable(trainings.values()):
        if name not in arms:
            raise UserError(f"the arm '{name}' is judged there, and not here", where=revision, do="evaluate it")
    decided = {name: decision.decide_arm(params, arm, content["noise"]) for name, arm in arms.items()}
    return storage.round_floats(run.decide_run(params, decided, content["noise"], trainings))


def find_differences(content: dict[str, Any]) -> list[str]:
    """How gate.json differs from the verdict decided anew from the items, which are here, in DVC's cache or on a remote."""
    computed = recompute(Gate.load())
    items = sum(suite["items"] for suite in next(iter(computed["arms"].values()))["suites"].values())
    differences = [
        f"{path} is {provenance.quote(value)}, and computed from the items {provenance.quote(expected)}"
        for path, value, expected in provenance.differences(content, computed, close=provenance.CLOSE)
    ]
    if not differences:
        print(f"verified: decided anew from {items:,} items of the base and of each of {len(computed['arms'])} arms")
    return differences


def recompute(params: Gate) -> dict[str, Any]:
    """The content of gate.json from the items, which are here, in DVC's cache or on its remote."""
    from holdfast.verdict import gate, revision

    trainings = load_trainings()
    names = [
        "base",
        *chain.from_iterable(trainings.values()),
        *([provenance.REPEAT] if (EVALUATIONS / provenance.REPEAT).is_dir() else []),
    ]
    here = all((EVALUATIONS / name / "items.parquet").is_file() for name in names)
    with TemporaryDirectory() as temporary:
        folder = EVALUATIONS if here else Path(temporary) / "eval"
        if not here:
            revision.copy_evaluations(None, names, EVALUATIONS, folder)
        return storage.round_floats(gate.decide_all(params, trainings, folder))


def ask_again(content: dict[str, Any], number: int) -> list[str]:
    """Asks the model of each arm that decides so many of its items once more; reasons to refuse its evaluation."""
    from holdfast.evaluation import spot

    reasons = []
    for arm in thresholds.deciding_arms(Gate.load(), list(content["arms"])):
        answers = spot.ask_again(Evaluate.load(), arm, EVALUATIONS / arm, number, DOMAIN_TEST_SPLIT)
        other = f", with another {', '.join(answers.engine)}" if answers.engine else ""
        outcome = f"{arm} was asked {answers.items:,} of its items again{other}"
        if len(answers.worse) > answers.tolerated:
            named = ", ".join(answers.worse[:5])
            reasons.append(f"{outcome}: {len(answers.worse):,} are right in its evaluation and wrong now ({named})")
        else:
            print(f"verified: {outcome}: {len(answers.worse):,} came out worse, {answers.tolerated:,} may by rounding")
    return reasons


def as_json(exit_code: int) -> str:
    """gate.json for programs; its verdict is cannot-compare where it was refused."""
    content = storage.read_json(VERDICT)
    if exit_code != fields.EXIT_CODES[content["verdict"]]:
        content |= {"verdict": "cannot-compare", "refused": True}
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def print_refusal(reasons: list[str]) -> None:
    print(f"refused: {VERDICT} is not the verdict on what is checked out")
    for reason in reasons[:MAX_REASONS]:
        print(f"  {reason}")
    if len(reasons) > MAX_REASONS:
        print(f"  and {len(reasons) - MAX_REASONS} more")
    print("run `dvc repro` and commit what it writes, or take the files back from git")
    print("verdict: cannot-compare")


def compare_with_revision(name: str) -> dict[str, Any]:
    """Prints how each arm that decides compares with itself at a git revision; returns that verdict."""
    from holdfast.verdict import gate, revision

    params, trainings = Gate.load(), load_trainings()
    names = list(chain.from_iterable(trainings.values()))
    with TemporaryDirectory() as temporary:
        former, present = Path(temporary) / "former", Path(temporary) / "present"
        revision.copy_evaluations(name, names, EVALUATIONS, former)
        revision.copy_evaluations(None, names, EVALUATIONS, present)
        content, new_arms = gate.decide_against(params, trainings, former, present, name)
    for arm in new_arms:
        print(f"{arm}: not evaluated at {name}")
    print(f"before: the arm at {name}; after: the arm as it is now")
    print(summary.table(content))
    return content
