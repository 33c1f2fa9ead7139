"""gate.json with numbers that are none, or that no measurement gives: refused in a few lines, whatever was altered."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gate_project
import pytest

from holdfast.core.errors import UserError
from holdfast.params.gate import Gate
from holdfast.verdict import gate_file, measured, provenance

NASTY: list[Any] = [None, True, -1, 10**40, 0.5, 1e308, "", "0.5", "\x1b]0;t\x07", [], {}, ["x"], {"a": 1}]


@pytest.fixture(scope="module")
def verdict(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    project = gate_project.make_project(tmp_path_factory.mktemp("gate") / "project")
    return json.loads((project / "reports/gate.json").read_text(encoding="utf-8"))


def leaves(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(content, dict | list):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield from leaves(content[key], (*path, key))
    yield path


def change(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    content = copy.deepcopy(content)
    *within, last = path
    place = content
    for key in within:
        place = place[key]
    place[last] = value
    return content


def check_message(text: str) -> None:
    assert len(text.splitlines()) <= 3 and "\x1b" not in text, text


def refuse(content: Any, tmp_path: Path) -> str | None:
    """What `holdfast gate` says of a gate.json; None where it finds nothing wrong with what it holds. No other error leaves it."""
    file = tmp_path / "gate.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    try:
        read = gate_file.read_gate(file)
        reasons = list(provenance.contradictions(read, Gate(**gate_project.GATE), {}))
    except UserError as error:
        check_message(str(error))
        return str(error)
    return reasons[0] if reasons else None


def test_altered_verdicts_are_refused_and_never_a_crash(verdict, tmp_path):
    """400 mutations. What is taken lies within what could have been measured; `gate --verify` compares it with the items."""
    assert refuse(verdict, tmp_path) is None
    rng = random.Random(1)
    places = [path for path in leaves(verdict) if path and path[0] != "provenance"]
    taken = 0
    for _ in range(400):
        path, value = rng.choice(places), rng.choice(NASTY)
        content = change(verdict, path, value)
        if refuse(content, tmp_path) is None and content != verdict:
            taken += 1
            assert isinstance(value, int | float) or path[-1] in ("group_size", "cluster_p", "written"), (path, value)
    assert taken < 40


SUITE = ("arms", "holdfast", "suites", "facts")


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ((*SUITE, "lost"), "x", "suites.facts.lost: Input should be a valid integer"),
        ((*SUITE, "lost"), None, "has some of its numbers, and lacks others"),
        ((*SUITE, "low"), 0.5, "low 0.5 is above high"),
        ((*SUITE, "mcnemar_p"), -1, "mcnemar_p: Input should be greater than or equal to 0"),
        ((*SUITE, "items"), 10**400, "items: Input should be less than"),
        ((*SUITE, "gained"), 10**6, "1000000 gained of 200 items"),
        ((*SUITE, "constant_after"), "no", "constant_after: Input should be a valid boolean"),
        ((*SUITE, "role"), "control", "role: Input should be 'general', 'domain' or 'self'"),
        ((*SUITE, "chance"), 1.0, "chance: Input should be less than 1"),
        (("arms", "holdfast", "general", "high"), "x", "is not a verdict of this version"),
        (("arms", "holdfast", "problems"), "none", "is not a verdict of this version"),
        (("noise",), [], "noise: "),
    ],
)
def test_a_number_that_cannot_have_been_measured_is_named(verdict, tmp_path, path, value, reason):
    said = refuse(change(verdict, path, value), tmp_path)
    assert said is not None and "is not a verdict of this version" in said and reason in said, said


@pytest.mark.parametrize("content", ["null", "[]", "1", '"x"'])
def test_a_manifest_that_is_no_object_is_another_base_and_no_crash(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    provenance.MANIFEST.parent.mkdir(parents=True)
    provenance.MANIFEST.write_text(content, encoding="utf-8")
    gate = {"provenance": {"evaluations": {"base": {"weights": "w"}}}}
    assert list(provenance.changed_models(gate, {}, {})) == [
        f"the base in {provenance.MANIFEST} is not the model that was evaluated"
    ]


def test_what_the_stage_measures_is_what_is_checked():
    from holdfast.verdict.fields import MEASURED_SCORE, MEASURED_SUITE

    assert set(MEASURED_SUITE) <= measured.Suite.model_fields.keys()
    assert set(MEASURED_SCORE) <= measured.Score.model_fields.keys()
