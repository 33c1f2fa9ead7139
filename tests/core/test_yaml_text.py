"""core/yaml_text.py: YAML that is deep, grows by its aliases, or holds values that are none, in bounded time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from helpers import ROOT
from hostile_yaml import BOMBS

from holdfast.commands import check, comment, explain
from holdfast.core import yaml_text
from holdfast.core.errors import UserError
from holdfast.core_suite import formatting
from holdfast.core_suite.items import Answer
from holdfast.params.gate import Gate
from holdfast.params.whole import Params
from holdfast.reporting import assembly
from holdfast.verdict import lock, snapshot

VALUES = {
    "a day that is none": "a: 2020-13-45",
    "a number of 5,000 digits": "a: " + "1" * 5000,
    "an integer in words": "a: !!int x",
    "a number in words": "a: !!float x",
    "a time in words": "a: !!timestamp x",
    "bytes in words": "a: !!binary x",
    "a list as a key": "? [a]\n: b",
    "a merge with a number": "<<: 3",
    "an alias of nothing": "a: *b",
    "an object of Python": "a: !!python/object/apply:os.system [ls]",
    "a zero byte": "a: \x00",
    "another version": "%YAML 9.9\n---\na: 1",
    "two documents": "a: 1\n---\nb: 2",
    "too long": "x" * 2_000_000,
}


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("loader", [yaml_text.Loader, yaml_text.FAST])
def test_what_grows_or_goes_deep_is_refused_before_it_is_built(kind, loader):
    text, reason = BOMBS[kind]
    start = time.process_time()
    with pytest.raises(yaml.YAMLError) as caught:
        yaml_text.parse(text, loader)
    assert time.process_time() - start < 2
    message = str(yaml_text.describe(caught.value, Path("params.yaml")))
    assert reason in message and message.startswith("params.yaml, line "), message
    assert len(message.splitlines()) == 2


@pytest.mark.parametrize("kind", VALUES)
def test_values_that_are_none_are_faults_of_the_yaml(kind):
    with pytest.raises(yaml.YAMLError) as caught:
        yaml_text.parse(VALUES[kind])
    message = str(yaml_text.describe(caught.value, Path("params.yaml")))
    assert len(message.splitlines()) == 2 and len(message) < 400 and "\x00" not in message


def test_anchors_that_people_write_are_read():
    text = "common: &common {rank: 8, rows: [1, 2]}\narms:\n" + "".join(
        f"  a{n}:\n    <<: *common\n    seed: {n}\n    more: *common\n" for n in range(500)
    )
    content = yaml_text.parse(text)
    assert content["arms"]["a499"] == {"rank": 8, "rows": [1, 2], "seed": 499, "more": {"rank": 8, "rows": [1, 2]}}
    assert yaml_text.parse("a: &x 1\nb: [*x, *x]\n") == {"a": 1, "b": [1, 1]}


@pytest.mark.parametrize("kind", BOMBS)
def test_every_reader_of_a_project_says_so_in_two_lines(project, monkeypatch, kind):
    """validate, plan, doctor, init, upgrade and every stage read params.yaml as Params and its sections do."""
    text = BOMBS[kind][0]
    for name in ("params.yaml", "dvc.yaml", "dvc.lock"):
        Path(name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(explain, "DAG", Path("dvc.yaml"))
    readers = {
        "Params": Params.load,
        "from_text": lambda: Params.from_text(text),
        "a section": Gate.load,
        "comment": lambda: comment.load(Path("params.yaml")),
        "gate, lock": lock.read_lock,
        "gate, pipeline": lock.read_pipeline,
        "report": lambda: assembly.read_lock(Path("dvc.lock")),
        "explain": lambda: explain.stages_of("gate.margin"),
        "check": check.inspect_lock,
    }
    start = time.process_time()
    for reader in readers.values():
        with pytest.raises((UserError, yaml.YAMLError)) as caught:
            reader()
        if isinstance(caught.value, UserError):
            assert len(str(caught.value).splitlines()) == 2
    assert snapshot.load(text) == {}, "the gate's comparison takes it as empty, and so as changed"
    assert time.process_time() - start < 5


@pytest.mark.parametrize("kind", [*BOMBS, *VALUES, "a time of nothing"])
def test_a_model_s_answer_in_yaml_is_wrong_and_no_crash(kind):
    text = BOMBS[kind][0] if kind in BOMBS else VALUES.get(kind, "- name: !!timestamp x")
    expected = {"form": "yaml", "rows": [{"name": "Ana"}]}
    assert formatting.score_form(expected, Answer(text)) in (0.0, 0.5)
    assert formatting.score_form(expected, Answer("```yaml\n- name: Ana\n```")) == 1.0


def test_what_dvc_will_read_is_looked_at_wherever_it_lies(project):
    """DVC reads every dvc.yaml and .dvc file of the repository."""
    import subprocess

    subprocess.run(["git", "init", "-q"], check=True)
    (project / "more").mkdir()
    for name in ("more/dvc.yaml", "more/data.csv.dvc", "more/dvc.lock"):
        for kind in ("billion laughs", "lists"):
            Path(name).write_text(BOMBS[kind][0], encoding="utf-8")
            subprocess.run(["git", "add", "-f", name], check=True)
            with pytest.raises(UserError, match=f"{name}, line .*not valid YAML"):
                yaml_text.check_files()
        Path(name).write_text("stages: {}\n", encoding="utf-8")
    yaml_text.check_files()


def test_this_repository_s_own_files_are_far_below_the_bounds():
    for name in ("params.yaml", "dvc.yaml", "dvc.lock"):
        yaml_text.check_shape((ROOT / name).read_text(encoding="utf-8"))
