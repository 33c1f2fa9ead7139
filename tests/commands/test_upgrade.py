"""`holdfast upgrade`: a project of the previous scaffold, with edited params and stages, comes up to date; bad input changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from pathlib import Path

import pytest
import yaml
from helpers import run, set_params
from hostile_yaml import BOMBS

from holdfast.commands import code, init, params_upgrade, upgrade
from holdfast.core import yaml_text
from holdfast.core.errors import UserError
from holdfast.params.whole import Params
from holdfast.planning import scaffold

OLD = "0.1.0"
STAGE = "stages/balance.py"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed project of the pocket lab, made with the installed version."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    assert run(tmp_path, "git", "init", "-q").returncode == 0
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").touch()
    monkeypatch.chdir(tmp_path)
    init.main(None, None, pocket=True)
    commit(tmp_path)
    return tmp_path


def commit(folder: Path) -> None:
    for command in (["git", "add", "-A"], ["git", "commit", "-qm", "x"]):
        done = run(folder, *command)
        assert done.returncode == 0, done.stdout + done.stderr


def make_old(folder: Path, version: str = OLD, **old: str | None) -> None:
    """Makes `project` one of an older version, in which these files (`stages__curate_py`) were as given; None: not there."""
    file = folder / ".holdfast/project.json"
    record = json.loads(file.read_text()) | {"holdfast": version}
    for key, text in old.items():
        name = key.replace("__", "/").replace("_py", ".py").replace("_yaml", ".yaml")
        for place in (folder / name, folder / ".holdfast/scaffold" / name):
            if text is None:
                place.unlink()
            else:
                place.write_text(text, encoding="utf-8")
        if text is None:
            del record["files"][name]
        else:
            record["files"][name] = scaffold.digest(text.encode())
    file.write_text(json.dumps(record))
    commit(folder)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def tree(folder: Path) -> dict[str, bytes]:
    files = (f for f in folder.rglob("*") if f.is_file() and ".git" not in f.relative_to(folder).parts)
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in files}


def as_before(text: str) -> str:
    """A stage script of the previous scaffold: it has a first line more."""
    return f"# An older line.\n{text}"


def test_a_project_of_the_previous_scaffold_is_merged_with_what_was_edited(project, capsys):
    new = tree(project)
    stage = (project / STAGE).read_text(encoding="utf-8")
    gate = (project / "stages/gate.py").read_text(encoding="utf-8")
    make_old(project, stages__balance_py=as_before(stage), stages__gate_py=as_before(gate), stages__report_py=None)
    with (project / STAGE).open("a", encoding="utf-8") as file:
        file.write("\n# my own ending\n")
    edit(project / "params.yaml", "  k: ", "  old_knob: 3  # no more\n  k: ")
    edit(project / "params.yaml", "samples: 10000", "samples: 700  # my comment")
    edit(project / "data/prompts/README.md", "\n", "\nmine\n")
    commit(project)
    before = tree(project)

    assert upgrade.main(dry_run=True) == 0
    output = capsys.readouterr().out
    assert f"made with Holdfast {OLD}; this is {scaffold.version()}" in output
    assert (
        f"changes  {STAGE}" in output and "changes  stages/gate.py" in output and "writes   stages/report.py" in output
    )
    assert "old_knob is no more" in output
    assert "nothing was written" in output
    assert tree(project) == before

    assert upgrade.main(yes=True) == 0
    merged = (project / STAGE).read_text(encoding="utf-8")
    assert "An older line" not in merged and merged.endswith("# my own ending\n")
    assert merged.startswith(stage.rstrip("\n"))
    assert (project / "stages/gate.py").read_bytes() == new["stages/gate.py"]
    assert (project / "stages/report.py").read_bytes() == new["stages/report.py"]
    assert "mine" in (project / "data/prompts/README.md").read_text(encoding="utf-8")
    text = (project / "params.yaml").read_text(encoding="utf-8")
    assert "old_knob" not in text and "samples: 700  # my comment" in text
    assert Params.load().reconstruct.samples == 700
    assert json.loads((project / ".holdfast/project.json").read_text())["holdfast"] == scaffold.version()
    commit(project)
    capsys.readouterr()
    assert upgrade.main(yes=True) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert run(project, "dvc", "stage", "list").returncode == 0


def test_params_keep_their_shape_where_nothing_is_removed(project):
    before = (project / "params.yaml").read_bytes()
    make_old(project)
    assert upgrade.main(yes=True) == 0
    assert (project / "params.yaml").read_bytes() == before


@pytest.mark.parametrize("flow", [False, True])
def test_a_new_parameter_that_the_pipeline_lists_by_its_name_is_written_down(project, capsys, flow):
    """DVC refuses a parameter that does not stand in the file, whatever its default."""
    make_old(project)
    text = (project / "params.yaml").read_text(encoding="utf-8")
    curate = yaml.safe_load(text)["curate"]
    without = re.sub(r"^  refusals: 0\n", "", text, flags=re.MULTILINE)
    if flow:
        curate.pop("refusals")
        without = re.sub(r"^curate:\n(  .*\n)+", f"curate: {json.dumps(curate)}\n", text, flags=re.MULTILINE)
    without = re.sub(r"^retrain: .*\n", "", without, flags=re.MULTILINE)  # of which dvc.yaml takes cells
    (project / "params.yaml").write_text(without, encoding="utf-8")
    assert without != text
    commit(project)
    assert upgrade.main(yes=True) == 0
    output = capsys.readouterr().out
    assert "curate.refusals is new: 0.0, its default" in output
    assert 'retrain is new: {"arms": [], "seeds": []}, its default' in output
    written = (project / "params.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(written) == yaml.safe_load(text) | {"retrain": {"arms": [], "seeds": []}}
    assert len(written.splitlines()) == len(without.splitlines()) + (not flow) + 1


def test_a_renamed_parameter_keeps_its_value(project, monkeypatch, capsys):
    make_old(project)
    edit(project / "params.yaml", "samples: 10000", "draws: 123")
    commit(project)
    monkeypatch.setattr(params_upgrade, "RENAMED", {"reconstruct.draws": "reconstruct.samples"})
    assert upgrade.main(yes=True) == 0
    assert "reconstruct.draws is now reconstruct.samples" in capsys.readouterr().out
    assert Params.load().reconstruct.samples == 123


def test_a_file_that_the_scaffold_has_no_more_goes_unless_it_was_edited(project):
    (project / "stages/old.py").write_text("# old\n")
    (project / "stages/older.py").write_text("# older\n")
    make_old(project)
    file = project / ".holdfast/project.json"
    record = json.loads(file.read_text())
    record["files"] |= {f"stages/{n}.py": scaffold.digest(f"# {n}\n".encode()) for n in ("old", "older")}
    file.write_text(json.dumps(record))
    (project / "stages/older.py").write_text("# mine\n")
    commit(project)
    assert upgrade.main(yes=True) == 0
    assert not (project / "stages/old.py").exists()
    assert (project / "stages/older.py").read_text() == "# mine\n"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    from holdfast.planning import generation_speed, training_speed

    for module in (generation_speed, training_speed):
        monkeypatch.setattr(module, "MEASURE_SECONDS", 0.01)


def lock(project: Path) -> None:
    """As after a run: dvc.lock has the code of every stage."""
    code.write_code()
    folder = project / ".holdfast/code"
    stages = {
        f.name: {"deps": [{"path": f".holdfast/code/{f.name}", "hash": "md5", "md5": md5(f), "size": 1}]}
        for f in sorted(folder.iterdir())
    }
    (project / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}), encoding="utf-8")
    commit(project)


DOWNSTREAM = "quality, pilot, mix, finetune, evaluate, drift, gate, report"


def test_it_says_which_stages_run_again_why_and_how_long_that_takes(project, capsys, quick):
    set_params(project, panel=["base"], reconstruct__samples=200, respond__k=1, finetune__micro_batch=1)
    stage = (project / STAGE).read_text(encoding="utf-8")
    make_old(project, stages__balance_py=stage.replace("def main(", "def before() -> None: ...\n\n\ndef main("))
    lock(project)
    assert upgrade.main(dry_run=True) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("again")] == ["again    balance: stages.balance"]
    assert f"then     {DOWNSTREAM}: they read what these write" in lines
    time = next(line for line in lines if line.startswith("time"))
    assert re.fullmatch(r"time     about [\d.,]+ \w+ on this machine \(\w+.*\.\.\.\), by `holdfast plan`", time), time


def test_a_changed_entry_and_a_parameter_that_goes_run_stages_again_too(project, capsys):
    pipeline = (project / "dvc.yaml").read_text(encoding="utf-8")
    make_old(project, dvc_yaml=pipeline.replace("params: [balance, curate.refusals]", "params: [balance, gate]"))
    set_params(project, models={"base": {"path": "elsewhere"}}, panel=["base"])
    edit(project / "params.yaml", "consensus:\n", "consensus:\n  old_knob: 3\n")
    lock(project)
    assert upgrade.main(dry_run=True) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("again")] == [
        "again    consensus: parameter consensus.old_knob",
        "again    balance: its entry in dvc.yaml",
    ]
    assert f"then     {DOWNSTREAM}: they read what these write" in lines
    assert "time     not known: the base's weights are not here; `holdfast plan --device h100` reckons" in lines


def test_line_endings_of_an_editor_are_no_conflict_and_stay(project, capsys):
    stage = (project / STAGE).read_text(encoding="utf-8")
    gate = (project / "stages/gate.py").read_bytes()
    make_old(project, stages__balance_py=as_before(stage))
    (project / STAGE).write_bytes((as_before(stage) + "# mine\n").replace("\n", "\r\n").encode())
    (project / "stages/gate.py").write_bytes(gate.replace(b"\n", b"\r\n"))
    commit(project)
    assert upgrade.main(yes=True) == 0
    assert (project / STAGE).read_bytes() == (stage + "# mine\n").replace("\n", "\r\n").encode()
    assert (project / "stages/gate.py").read_bytes() == gate.replace(b"\n", b"\r\n")
    commit(project)
    capsys.readouterr()
    assert upgrade.main(yes=True) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_a_conflict_in_a_file_of_other_line_endings_is_of_the_lines_that_differ(project, capsys):
    text = (project / STAGE).read_text(encoding="utf-8")
    make_old(project, stages__balance_py=text.replace("def main(", "def older("))
    (project / STAGE).write_bytes(text.replace("def main(", "def mine(").replace("\n", "\r\n").encode())
    commit(project)
    assert upgrade.main(yes=True) == 1
    merged = (project / STAGE).read_bytes()
    assert merged.count(b"\n") == merged.count(b"\r\n") < text.count("\n") + 8
    assert b"<<<<<<< yours\r\ndef mine(" in merged
    shown = capsys.readouterr().out
    assert "    def mine(" in shown and "\r" not in shown


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()


# ---- bad input


def test_a_conflict_is_shown_as_in_git_and_written_only_on_request(project, capsys):
    text = (project / STAGE).read_text(encoding="utf-8")
    make_old(project, stages__balance_py=text.replace("def main(", "def older("))
    edit(project / STAGE, "def older(", "def mine(")
    commit(project)
    before = tree(project)
    assert upgrade.main(dry_run=True) == 0
    output = capsys.readouterr().out
    assert f"conflict {STAGE}" in output
    assert "<<<<<<< yours" in output and f">>>>>>> Holdfast {scaffold.version()}" in output
    assert "def mine(" in output and "def main(" in output
    assert tree(project) == before
    assert upgrade.main() == 0  # no terminal to ask at: the same
    assert tree(project) == before
    capsys.readouterr()
    assert upgrade.main(yes=True) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"conflicts in {STAGE}: edit between the markers")
    assert "<<<<<<< yours" in (project / STAGE).read_text(encoding="utf-8")


def refused(folder: Path) -> str:
    before = tree(folder)
    with pytest.raises(UserError) as caught:
        upgrade.main(yes=True)
    assert tree(folder) == before
    assert len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


@pytest.mark.parametrize(
    ("version", "expected"), [("99.0.0", "pip install 'holdfast>=99.0.0'"), ("of mine", "unknown version 'of mine'")]
)
def test_another_version_is_refused(project, version, expected):
    make_old(project, version)
    assert expected in refused(project)


def test_a_dirty_tree_is_refused_where_a_file_would_change(project, capsys):
    text = (project / STAGE).read_text(encoding="utf-8")
    make_old(project, stages__balance_py=as_before(text))
    (project / "notes.txt").write_text("mine", encoding="utf-8")  # no file of the scaffold: no matter
    edit(project / STAGE, "def main(", "def  main(")
    assert "not committed" in refused(project) and STAGE in refused(project)
    before = tree(project)
    assert upgrade.main(dry_run=True) == 0  # looking is allowed, and says it
    shown = capsys.readouterr().out
    assert f"note     {STAGE}: has edits that are not committed; commit them first" in shown
    assert "nothing was written" in shown and tree(project) == before


def test_without_a_project_it_is_refused(project):
    (project / ".holdfast/project.json").unlink()
    assert "not made by `holdfast init`" in refused(project)


@pytest.mark.parametrize("content", ["{", "[]", '{"files": 3, "holdfast": "0.1.0"}', '{"new": 1, "holdfast": "0.1.0"}'])
def test_a_damaged_project_file_is_refused(project, content):
    (project / ".holdfast/project.json").write_text(content)
    assert "cannot be read" in refused(project)


def test_without_git_it_is_refused(project):
    (project / ".git").rename(project / "elsewhere")
    assert "no git repository" in refused(project)


def test_broken_params_are_refused(project):
    make_old(project)
    (project / "params.yaml").write_text("a: [\n", encoding="utf-8")
    commit(project)
    assert "params.yaml" in refused(project)
    (project / "params.yaml").unlink()
    assert "no such file" in refused(project)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("params.yaml", b""),
        ("params.yaml", b"- a\n"),
        ("params.yaml", b"text\n"),
        ("params.yaml", b"\xff\xfe\x00"),
        ("params.yaml", b"3: 4\n"),
        ("params.yaml", b"a: [1\n"),
        ("dvc.lock", b"stages: 3\n"),
        ("dvc.lock", b"stages: {a: 3}\n"),
        ("dvc.yaml", b"a: [\n"),
        ("dvc.yaml", b"stages: {a: 3}\n"),
        ("dvc.yaml", b"\xff"),
        ("dvc.lock", b"stages: {a: {deps: [{md5: x}]}}\n"),
        ("dvc.lock", b"text\n"),
        ("dvc.lock", b"\xff\xfe\x00"),
    ],
)
def test_damaged_files_are_refused_in_a_few_lines(project, file, content):
    make_old(project, stages__balance_py="# older\n")
    if file == "dvc.yaml":  # read where there is something to run again
        lock(project)
    (project / file).write_bytes(content)
    commit(project)
    assert Path(file).name in refused(project)


def test_comments_blank_lines_and_line_endings_of_params_stay(project):
    file = project / "params.yaml"
    text = file.read_text(encoding="utf-8")
    note = "\n# MY NOTE: the margin was agreed upon\n"
    old = "  old_list:\n    - 1\n\n    - 2\n  old_text: |\n    several\n\n    lines\n"
    expected = text.replace("\ngate:\n", f"{note}\ngate:\n")
    with_old = text.replace("\ngate:\n", f"{old}{note}\ngate:\n").replace(
        "gate:\n", "gate:\n  # kept\n  nonsense: {a: 1}\n"
    )
    expected = expected.replace("gate:\n", "gate:\n  # kept\n")
    file.write_bytes(with_old.replace("\n", "\r\n").encode())
    make_old(project)
    assert upgrade.main(yes=True) == 0
    assert file.read_bytes().decode().replace("\r\n", "\n") == expected
    assert file.read_bytes().count(b"\r\n") == expected.count("\n")


def test_hostile_yaml_is_one_message_of_init_and_upgrade_and_changes_nothing(project, monkeypatch):
    """Every one is refused by the bounded parser, or not parsed at all: `init` compares the file's hash."""
    whole = Path("params.yaml").read_text(encoding="utf-8")
    faults = {kind: (text, reason) for kind, (text, reason) in BOMBS.items()} | {
        "a key twice": (whole + "\ngate: {}\n", "the key 'gate' appears twice"),
        "a tab": ("gate:\n\tmargin: 1\n", "cannot start any token"),
        "marks of a merge": (f"<<<<<<< HEAD\n{whole}>>>>>>> x\n", "not valid YAML"),
        "too long": ("x" * 2_000_000, "longer than"),
        "an object of Python": ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    }
    seen, parse = list[str](), yaml_text.check_shape
    monkeypatch.setattr(yaml_text, "check_shape", lambda text: seen.append(text) or parse(text))
    start = time.process_time()
    for kind, (text, reason) in faults.items():
        Path("params.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="was edited since") as refused:
            init.main(None, None, pocket=True)
        with pytest.raises(UserError) as caught:
            upgrade.main()
        assert reason in str(caught.value), kind
        assert all(len(str(one.value).splitlines()) == 2 for one in (caught, refused))
        assert Path("params.yaml").read_text(encoding="utf-8") == text
        assert text in seen or kind == "too long", "the bounded parser refused it"
    assert time.process_time() - start < 10
