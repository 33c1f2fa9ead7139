"""What a branch changed of the yardstick that judges it, in words; and which of it fails."""

from __future__ import annotations

import json
from typing import Any

import pytest

from holdfast.verdict import snapshot, target, yardstick

PARAMS: dict[str, Any] = {
    "arms": ["control", "arm"],
    "retrain": {"arms": ["arm"], "seeds": [2, 3]},
    "finetune": {"seed": 1},
    "gate": {"margin": 0.03, "control": "control", "min_domain_gain": 0.2, "suite_margins": {"facts": 0.05}, "seed": 1},
    "evaluate": {
        "tasks": "tasks",
        "suites": {
            "facts": {"role": "general"},
            "judging": {"role": "general", "chance": 0.5},
            "own": {"role": "domain"},
        },
    },
}
FILES: dict[str, Any] = {
    "params.yaml": PARAMS,
    "dvc.yaml": {"stages": {"code": {"cmd": "holdfast code", "always_changed": True}, "gate": {"cmd": "holdfast run gate", "deps": [".holdfast/code/gate", "reports/eval"], "params": ["gate", {"more.yaml": ["a", "b"]}]}, "finetune": {"matrix": {}, "cmd": "x"}, "each": {"foreach": "${arms}", "do": {"cmd": "x", "deps": ["y"]}}}},
    "dvc.lock": {"stages": {"evaluate-base": {"deps": [{"path": "tasks", "md5": "1"}, {"path": ".holdfast/code/evaluate", "md5": "1"}]}}},
    "reports/gate.json": {"provenance": {"code": {"stages.gate": "1", "holdfast.verdict.stats": "1"}}},
    "reports/eval/base/settings.json": {"suites": {"facts": {"items": 240}, "judging": {"items": 240}, "self_chat": {"items": 240}}},
    ".ci/gate.sh": "exit 1",
    ".dvc/config": "[core]\nremote = a\n['remote \"a\"']\nurl = s3://ours\n",
}  # fmt: skip


def changed(path: str, *keys: str, to: Any) -> dict[str, Any]:
    """FILES with one value changed, or removed where it is ...."""
    files = json.loads(json.dumps(FILES))
    if not keys:
        return files | {path: to}
    inner = files[path]
    for key in keys[:-1]:
        inner = inner.setdefault(key, {})
    if to is ...:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = to
    return files


def take_files(files: dict[str, Any]) -> snapshot.Snapshot:
    texts = {name: content if isinstance(content, str) else json.dumps(content) for name, content in files.items()}
    return snapshot.take(texts.get)


MOVES: dict[str, tuple[dict[str, Any], bool]] = {
    "margin loosened from 3.0 to 10.0 points": (changed("params.yaml", "gate", "margin", to=0.1), True),
    "margin tightened from 3.0 to 1.0 points": (changed("params.yaml", "gate", "margin", to=0.01), False),
    "margin of each suite loosened from 10.0 to 20.0 points": (changed("params.yaml", "gate", "suite_margin", to=0.2), True),
    "margin of suite facts loosened from 5.0 to 50.0 points": (changed("params.yaml", "gate", "suite_margins", "facts", to=0.5), True),
    "margin of suite facts loosened from 5.0 to 10.0 points": (changed("params.yaml", "gate", "suite_margins", "facts", to=...), True),
    "domain gain asked for loosened from 20.0 to 0.0 points": (changed("params.yaml", "gate", "min_domain_gain", to=0.0), True),
    "least score of the base loosened from 10.0 to 90.0 points": (changed("params.yaml", "gate", "min_base", to=0.9), True),
    "confidence loosened from 0.95 to 0.6": (changed("params.yaml", "gate", "confidence", to=0.6), True),
    "resamples of the bootstrap loosened from 10000 to 200": (changed("params.yaml", "gate", "resamples", to=200), True),
    "gate.seed changed from 1 to 7": (changed("params.yaml", "gate", "seed", to=7), True),
    "the control, which does not count, is arm instead of control": (changed("params.yaml", "gate", "control", to="arm"), True),
    "arm arm removed": (changed("params.yaml", "arms", to=["control"]), True),
    "new new among the arms": (changed("params.yaml", "arms", to=["control", "arm", "new"]), False),
    "further trainings removed: arm-3": (changed("params.yaml", "retrain", "seeds", to=[2]), True),
    "further trainings added: arm-4": (changed("params.yaml", "retrain", "seeds", to=[2, 3, 4]), False),
    "suite judging is watched only, and decides nothing": (changed("params.yaml", "gate", "watched", to=["judging"]), True),
    "suite judging removed": (changed("params.yaml", "evaluate", "suites", "judging", to=...), True),
    "suite more added": (changed("params.yaml", "evaluate", "suites", "more", to={"role": "general"}), False),
    "role of suite facts changed from general to domain": (changed("params.yaml", "evaluate", "suites", "facts", "role", to="domain"), True),
    "chance of suite judging changed from 0.5 to 0.0": (changed("params.yaml", "evaluate", "suites", "judging", "chance", to=...), True),
    "metric of suite facts changed from None to lenient": (changed("params.yaml", "evaluate", "suites", "facts", "metric", to="lenient"), True),
    "items per suite limited to 30 instead of all": (changed("params.yaml", "evaluate", "limit", to=30), True),
    "evaluate.domain_test changed from off to answer": (changed("params.yaml", "evaluate", "domain_test", to="answer"), True),
    "evaluate.self_suite changed from {'rows': 250, 'max_tokens': 64} to {'rows': 0, 'max_tokens': 64}": (changed("params.yaml", "evaluate", "self_suite", to={"rows": 0}), True),
    "not evaluated any more: self_chat": (changed("reports/eval/base/settings.json", "suites", "self_chat", to=...), True),
    "evaluate.tasks changed from tasks to others": (changed("params.yaml", "evaluate", "tasks", to="others"), True),
    "evaluate.batch changed from 64 to 8": (changed("params.yaml", "evaluate", "batch", to=8), False),
    "suite facts has 30 items instead of 240": (changed("reports/eval/base/settings.json", "suites", "facts", "items", to=30), True),
    "the items in tasks changed": (changed("dvc.lock", "stages", "evaluate-base", "deps", to=[{"path": "tasks", "md5": "2"}]), True),
    "the code of the gate changed: holdfast.verdict.stats": (changed("reports/gate.json", "provenance", "code", "holdfast.verdict.stats", to="2"), True),
    "['remote \"a\"'] of .dvc/config changed: where the items are": (changed(".dvc/config", to="[core]\nremote = a\n['remote \"a\"']\nurl = /tmp/theirs\n"), True),
    "[core] of .dvc/config removed: where the items are": (changed(".dvc/config", to="['remote \"a\"']\nurl = s3://ours\n"), True),
    ".dvc/config has ['remote \"b\"'] more": (changed(".dvc/config", to=FILES[".dvc/config"] + "['remote \"b\"']\nurl = b\n"), False),
    ".ci/gate.sh changed, which runs the gate": (changed(".ci/gate.sh", to="exit 0"), True),
    "stage finetune removed from dvc.yaml": (changed("dvc.yaml", "stages", "finetune", to=...), True),
    "stage gate is not checked any more: frozen, or always_changed, in dvc.yaml": (changed("dvc.yaml", "stages", "gate", "frozen", to=True), True),
    "stage finetune is not checked any more: frozen, or always_changed, in dvc.yaml": (changed("dvc.yaml", "stages", "finetune", "always_changed", to=True), True),
    "stage gate runs another command": (changed("dvc.yaml", "stages", "gate", "cmd", to="cp good.json reports/gate.json"), True),
    "stage each runs another command": (changed("dvc.yaml", "stages", "each", "do", "cmd", to="true"), True),
    "stage each no longer depends on y": (changed("dvc.yaml", "stages", "each", "do", "deps", to=[]), True),
    "stage finetune runs another command": (changed("dvc.yaml", "stages", "finetune", "wdir", to="elsewhere"), True),
    "stage finetune runs for other cells": (changed("dvc.yaml", "stages", "finetune", "matrix", to={"arm": ["holdfast"]}), True),
    "stage gate no longer depends on .holdfast/code/gate": (changed("dvc.yaml", "stages", "gate", "deps", to=["reports/eval", "new"]), True),
    "stage gate no longer depends on gate, more.yaml: b": (changed("dvc.yaml", "stages", "gate", "params", to=[{"more.yaml": ["a"]}]), True),
    "seed of finetune changed from 1 to 2: other luck": (changed("params.yaml", "finetune", "seed", to=2), False),
}  # fmt: skip


@pytest.mark.parametrize("text", MOVES)
def test_each_move_of_the_yardstick_is_named(text: str) -> None:
    files, looser = MOVES[text]
    assert yardstick.compare(take_files(FILES), take_files(files)) == [(text, looser)]


def test_what_decides_nothing_is_no_move() -> None:
    other = changed("params.yaml", "report", to={"title": "Another"})
    assert yardstick.compare(take_files(FILES), take_files(other)) == []
    assert yardstick.compare(take_files({}), take_files(FILES)) == [], "a project that is new has no yardstick to move"


def test_the_target_s_gate_decides_and_what_is_measured_stays_the_branch_s() -> None:
    there = take_files(FILES)
    for path, *keys, value in (
        ("params.yaml", "gate", "margin", 0.5),
        ("params.yaml", "gate", ...),
        (".ci/gate.sh", "exit 0"),
        ("reports/gate.json", {"provenance": {"code": {"stages.gate": "2"}}}),
    ):
        here = take_files(changed(str(path), *map(str, keys), to=value))
        assert [one.looser for one in yardstick.compare(there, here)][:1] == [True]
        assert not any(one.looser for one in yardstick.compare(there, target.leave_to_target(there, here))), path
    fewer = take_files(changed("params.yaml", "evaluate", "limit", to=30))
    assert yardstick.compare(there, target.leave_to_target(there, fewer)) == yardstick.compare(there, fewer)


def test_the_suites_that_a_target_judges_are_those_of_its_evaluation() -> None:
    core = {"core/tools": {"role": "general", "chance": 0.0, "items": 96}, "self_chat": {"role": "self", "chance": 0.0}}
    shown = {"self_agreement": {"role": "self", "chance": 0.0}}
    evaluated = take_files(changed("reports/eval/base/settings.json", "suites", to=core | shown))
    assert target.list_judged(evaluated).keys() == core.keys(), "not 'core' of params.yaml, nor what is only shown"
    bare = take_files({"params.yaml": PARAMS})
    assert target.list_judged(bare)["judging"] == {"role": "general", "chance": 0.5}


@pytest.mark.parametrize("text", ["[", "[1]", "a: b: c", "{", "null", "gate: 3", "arms: 5\ngate: {margin: wide}"])
def test_what_cannot_be_read_is_no_crash(text: str) -> None:
    yardstick.compare(take_files(dict.fromkeys(FILES, text)), take_files(FILES))
    yardstick.compare(take_files(FILES), take_files(dict.fromkeys(FILES, text)))
