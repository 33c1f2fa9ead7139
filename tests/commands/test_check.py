"""`holdfast check` tells a stale dvc.lock from missing data, without running a stage; and the verdict against a revision."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from holdfast.commands import check
from holdfast.core.errors import UserError

PIPELINE = """
stages:
  recipe:
    frozen: true
    cmd: cat recipe.txt > inputs/lines.txt
    deps: [recipe.txt]
    outs:
      - inputs: {cache: false}
  part:
    matrix:
      name: ${names}
    cmd: cat inputs/lines.txt code.txt > data/${item.name}.txt
    deps: [inputs, code.txt]
    params: [part.size]
    outs: ["data/${item.name}.txt"]
  whole:
    cmd: mkdir -p model tables/one && cat data/a.txt data/b.txt | tee model/weights.txt > tables/one/all.txt && echo 1 > score.json
    deps: [data]
    outs:
      - model
      - tables/one
      - score.json: {cache: false}
  told:
    cmd: cat score.json model/weights.txt > told.txt
    deps: [score.json, model, tables]
    outs: [told.txt]
"""
FILES = {
    ".dvcignore": ".gitignore\n.gitkeep\n",
    "dvc.yaml": PIPELINE,
    "params.yaml": "names: [a, b]\npart: {size: 1}\n",
    "recipe.txt": "one\ntwo\n",
    "code.txt": "three\n",
}


def git(folder: Path, *words: str) -> str:
    person = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]
    done = subprocess.run(["git", *person, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with a small pipeline that has run, its frozen first stage included. Do not write to it."""
    folder = tmp_path_factory.mktemp("lab") / "project"
    for name, text in {**FILES, "inputs/lines.txt": "one\ntwo\n", "data/.gitkeep": ""}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "init", "--quiet", "--initial-branch=main")
    for words in ("init", "commit --force recipe", "repro"):
        done = subprocess.run([sys.executable, "-m", "dvc", *words.split()], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "All of it")
    return folder


@pytest.fixture
def whole(lab: Path, tmp_path: Path) -> Path:
    """A copy with all of its data."""
    return shutil.copytree(lab, tmp_path / "whole", symlinks=True)


@pytest.fixture
def clone(lab: Path, tmp_path: Path) -> Path:
    """What CI has: a clone, and no data that only DVC holds."""
    git(tmp_path, "clone", "--quiet", str(lab), "clone")
    assert not (tmp_path / "clone" / "data" / "a.txt").exists()
    return tmp_path / "clone"


@pytest.fixture(autouse=True)
def stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever folder a test goes to, the next one does not start there."""
    monkeypatch.chdir(tmp_path)


def run(folder: Path) -> int:
    os.chdir(folder)
    return check.main()


LISTED = "not checked, for they are frozen or always_changed"


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())


def test_what_has_run_is_up_to_date_with_its_data_and_without(
    whole: Path, clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(whole) == 0
    assert run(clone) == 0
    said = f"{LISTED}: recipe\nup to date: dvc.lock fits code, params and data in all 4 stages\n"
    assert capsys.readouterr().out == 2 * said


CHANGES = {
    "code": ("code.txt", "four\n", {"part@a": "code.txt modified", "part@b": "code.txt modified"}),
    "data": ("inputs/lines.txt", "other\n", {"part@a": "inputs modified", "part@b": "inputs modified"}),
    "params": (
        "params.yaml",
        FILES["params.yaml"].replace("1", "2"),
        dict.fromkeys(["part@a", "part@b"], "parameter part.size modified"),
    ),
    "command": (
        "dvc.yaml",
        PIPELINE.replace("score.json model/weights.txt >", "score.json >"),
        {"told": "its command changed"},
    ),
    "a new arm": (
        "params.yaml",
        FILES["params.yaml"].replace("b]", "b, c]"),
        {"part@c": "has never run: dvc.lock does not hold it"},
    ),
    "an output in git": ("score.json", "9\n", {"whole": "output score.json modified", "told": "score.json modified"}),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("has_data", [True, False])
def test_each_change_is_named_with_its_stages(
    lab: Path,
    tmp_path: Path,
    what: str,
    has_data: bool,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    folder = request.getfixturevalue("whole" if has_data else "clone")
    name, text, expected = CHANGES[what]
    (folder / name).write_text(text)
    assert run(folder) == 1
    found = told(capsys)
    assert found.pop(LISTED) == "recipe"
    assert found.pop("stale").startswith(f"{len(expected)} of ")
    assert found == expected


def test_a_changed_recipe_of_a_frozen_stage_is_not_stale(whole: Path, clone: Path) -> None:
    for folder in (whole, clone):
        (folder / "recipe.txt").write_text("changed\n")
        assert run(folder) == 0


@pytest.mark.parametrize(
    ("stage", "out", "reader", "reason"),
    [("part@a", "data/a.txt", "whole", "data modified"), ("whole", "model", "told", "model deleted")],
)
def test_a_lock_that_does_not_fit_itself_is_stale_without_any_data(
    clone: Path, stage: str, out: str, reader: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a merge of two branches leaves it: one stage wrote something else than the next one read."""
    lock = yaml.safe_load((clone / "dvc.lock").read_text())
    entry = next(entry for entry in lock["stages"][stage]["outs"] if entry["path"] == out)
    entry["md5"] = "0" * 32 + entry["md5"][32:]
    (clone / "dvc.lock").write_text(yaml.safe_dump(lock))
    assert run(clone) == 1
    assert told(capsys)[reader] == reason


def test_an_output_that_git_lost_is_stale(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (clone / "score.json").unlink()
    assert run(clone) == 1
    assert told(capsys)["whole"] == "output score.json deleted"


def test_an_output_changed_by_hand_is_stale(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (whole / "told.txt").unlink()  # a link into the cache perhaps: never write through it
    (whole / "told.txt").write_text("better numbers\n")
    assert run(whole) == 1
    assert told(capsys)["told"] == "output told.txt modified"


def test_nothing_is_run_and_nothing_is_written(clone: Path) -> None:
    (clone / "code.txt").write_text("four\n")
    before = git(clone, "status", "--porcelain", "--ignored")
    run(clone)
    assert git(clone, "status", "--porcelain", "--ignored").replace("!! .dvc/tmp/\n", "") == before
    assert not (clone / "told.txt").exists()


def test_where_nothing_has_run_one_line_says_so(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (clone / "dvc.lock").unlink()
    assert run(clone) == 1
    assert capsys.readouterr().out == (
        "not checked, for they are frozen or always_changed: recipe\n"
        "stale: nothing has run yet, of 4 stages. Run `dvc repro` and commit dvc.lock and reports.\n"
    )


DAMAGED = {
    "no YAML": (b"names: [a\n", "params.yaml, line 2: not valid YAML"),
    "a key twice": (b"names: [a]\nnames: [b]\n", "params.yaml, line 2: not valid YAML: the key 'names' appears twice"),
    "no UTF-8": (b"\xff\xfe", "params.yaml: not valid YAML"),
    "a text": (b"text\n", "params.yaml: not a mapping"),
    "a key too few": (b"part: {size: 1}\n", "params.yaml: has no 'names', which dvc.yaml reads in stages.part.matrix"),
    "no list": (
        b"model_folder: x\npanel: 3\nnames: 3\n",
        "params.yaml: unknown parameter 'names'|params.yaml: missing",
    ),
    "not there": (None, "params.yaml: no such file"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_broken_params_file_is_what_is_blamed(clone: Path, damage: str) -> None:
    content, expected = DAMAGED[damage]
    if content is None:
        (clone / "params.yaml").unlink()
    else:
        (clone / "params.yaml").write_bytes(content)
    with pytest.raises(UserError, match=expected) as caught:
        run(clone)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("damage", "where"),
    [
        ("no dvc.yaml", "dvc.yaml: no such file"),
        ("no project", "no DVC project"),
        ("dvc.yaml", "dvc.yaml"),
        ("dvc.lock", "dvc.lock"),
    ],
)
def test_what_dvc_cannot_read_is_a_user_error(tmp_path: Path, clone: Path, damage: str, where: str) -> None:
    folder = tmp_path if damage.startswith("no ") else clone
    if damage == "no project":
        (folder / "dvc.yaml").write_text("stages: {}\n")
    elif damage != "no dvc.yaml":
        (folder / damage).write_text("stages: [\n")
    with pytest.raises(UserError, match=where):
        run(folder)


@pytest.mark.parametrize("how", ["frozen", "always_changed"])
def test_a_stage_that_is_frozen_and_was_not_at_the_target_is_stale(
    clone: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`recipe` is frozen there, too: it is listed and no more."""
    os.chdir(clone)
    assert check.main(against="main") == 0
    pipeline = yaml.safe_load((clone / "dvc.yaml").read_text())
    pipeline["stages"]["told"][how] = True
    (clone / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    assert check.main() == 0, "nothing to compare it with"
    capsys.readouterr()
    assert check.main(against="main") == 1
    found = told(capsys)
    assert found["told"] == "is frozen, or always_changed, and was not at main"
    assert found[LISTED] == "recipe, told"
    for stage in pipeline["stages"].values():
        stage[how] = True
    (clone / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    with pytest.raises(UserError, match="nothing can be checked"):
        check.main()
