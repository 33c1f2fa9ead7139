"""The verdict for other programs: JUnit XML, GitHub's annotations and its job summary. Strings in, strings out.

Names and reasons may hold what a data set wrote, so each format escapes them here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from xml.etree import ElementTree

from holdfast.params.gate import Gate
from holdfast.reporting.markup import markdown, points, score
from holdfast.verdict.fields import SET_ASIDE, UNMEASURED, WATCHED
from holdfast.verdict.thresholds import deciding_arms

Json = dict[str, Any]
ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # not allowed in XML 1.0, escaped or not
ANNOTATIONS = 10  # GitHub shows that many errors and warnings of a step
MESSAGE = 1000  # characters
COUNTED = {"failures": "failure", "errors": "error", "skipped": "skipped"}  # attributes of JUnit's test suites


class Case(NamedTuple):
    """One demand of the gate: `outcome` is passed, failure (a drop is shown), error (cannot be compared) or skipped."""

    group: str  # the arm
    name: str
    outcome: str
    message: str


def list_cases(content: Json, against: str = "") -> Iterator[Case]:
    """Each arm, and each suite of each arm. What the control fails is skipped: failing is what it is for; and
    so is what one training of several fails, which decide together.

    `against`: the revision that the arms were compared with, where that is not the base.
    """
    methods = content.get("methods") or {}  # a verdict of an earlier version has none
    together = {name for method in methods.values() for name in method["arms"]}
    deciding = [n for n in deciding_arms(Gate(control=content["control"]), list(content["arms"])) if n not in together]
    words = {"pass": "passed", "fail": "failure", "cannot-compare": "error", SET_ASIDE: "skipped", WATCHED: "skipped"}
    for name, method in methods.items():
        group = f"{len(method['arms'])} trainings of {name}"
        yield Case(group, "verdict", words[method["verdict"]], "; ".join(method["reasons"]))
    for arm, entry in content["arms"].items():
        decides, group = arm in deciding, f"{arm} against {against}" if against else arm
        reasons = "; ".join(map(str, entry["reasons"]))
        outcome = words[entry["verdict"]]
        yield Case(group, "verdict", outcome if decides or outcome == "passed" else "skipped", reasons)
        for name, suite in entry["suites"].items():
            outcome = words.get(suite["verdict"], "error")
            text = f"{score(suite['before_adjusted'])} -> {score(suite['after_adjusted'])} points"
            text += f", change {points(suite['change'])}, margin {score(suite['margin'])}"
            text += f", lost {suite['lost']}, gained {suite['gained']}"
            yield Case(group, name, outcome if decides or outcome == "passed" else "skipped", text)


def list_refusals(reasons: list[str]) -> list[Case]:
    """Why the verdict is not that of what is checked out: then nothing else is known."""
    return [Case("holdfast", "evidence", "error", reason) for reason in reasons]


def junit(cases: list[Case]) -> str:
    """JUnit XML: a test suite for each arm, a test case for each of its suites and for the arm as a whole."""
    root = ElementTree.Element("testsuites", name="holdfast gate")
    for group in dict.fromkeys(case.group for case in cases):
        own = [case for case in cases if case.group == group]
        counts = {key: str(sum(case.outcome == word for case in own)) for key, word in COUNTED.items()}
        element = ElementTree.SubElement(root, "testsuite", {"name": clean(group), "tests": str(len(own))} | counts)
        for case in own:
            one = ElementTree.SubElement(element, "testcase", classname=clean(group), name=clean(case.name))
            if case.outcome != "passed":
                ElementTree.SubElement(one, case.outcome, message=clean(case.message))
            else:
                ElementTree.SubElement(one, "system-out").text = clean(case.message)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def clean(text: str) -> str:
    return ILLEGAL.sub("\ufffd", text)[:MESSAGE]


def list_annotations(cases: list[Case], domain_measured: bool = True) -> list[str]:
    """Workflow commands for GitHub: an error for each reason not to pass, warnings for what is odd or was not measured."""
    errors = [annotate("error", f"{c.group}: {c.name}", c.message) for c in cases if c.outcome in ("failure", "error")]
    notes = [c for c in cases if c.name == "verdict" and c.outcome == "passed" and c.message]
    warnings = [annotate("warning", f"{case.group}: notes", case.message) for case in notes]
    if not domain_measured:
        warnings.append(annotate("warning", "holdfast", UNMEASURED))
    return errors[:ANNOTATIONS] + warnings[:ANNOTATIONS]


def annotate(level: str, title: str, message: str) -> str:
    """One line, which ends where the message does: https://docs.github.com/actions/reference/workflow-commands-for-github-actions"""
    head = escape(title[:200]).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={head}::{escape(message[:MESSAGE])}"


def escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def summarise_refusal(reasons: list[str]) -> str:
    return "\n".join(["## Holdfast: refused", "", *(f"- {markdown(reason, MESSAGE)}" for reason in reasons), ""])


def summary(content: Json) -> str:
    """Markdown for the job's summary page: the verdict, a line per arm, and the reasons."""
    word = content["verdict"].upper() + ("" if content["domain_measured"] else f" ({UNMEASURED})")
    lines = [
        f"## Holdfast: {word}",
        "",
        "| Arm | Verdict | General | Change | Domain | Why |",
        "|---|---|---|---|---|---|",
    ]
    for arm, entry in content["arms"].items():
        general, domain = entry["general"], entry["domain"] or {}
        cells = [
            arm,
            entry["verdict"],
            f"{score(general['before'])} → {score(general['after'])}",
            points(general["change"]),
        ]
        cells += [
            f"{score(domain.get('before'))} → {score(domain.get('after'))}",
            "; ".join(map(str, entry["reasons"][:3])),
        ]
        lines.append("| " + " | ".join(markdown(cell, 400) for cell in cells) + " |")
    return "\n".join([*lines, ""])
