"""The code's identity in a small DVC project: `dvc repro` and `holdfast check` see every change of a statement, and no other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers import repro, run

PIPELINE = """
stages:
  code:
    cmd: holdfast code
    always_changed: true
    outs:
      - .holdfast/code: {cache: false, persist: true}
  gate:
    cmd: holdfast run gate
    deps: [.holdfast/code/gate]
    outs: [one.txt]
  mix:
    matrix: {arm: [a, b]}
    cmd: holdfast run mix ${item.arm}
    deps: [.holdfast/code/mix, one.txt]
    outs: ["two-${item.arm}.txt"]
"""
FILES = {
    "dvc.yaml": PIPELINE,
    "params.yaml": "{}\n",
    ".gitignore": ".holdfast/\n",
    "stages/gate.py": 'from pathlib import Path\n\nfrom stages.own import text\n\n\ndef main():\n    Path("one.txt").write_text(text)\n',
    "stages/mix.py": 'from pathlib import Path\n\n\ndef main(arm):\n    Path(f"two-{arm}.txt").write_text(arm)\n',
    "stages/own.py": 'text = "1"\n',
}


@pytest.fixture(scope="module", params=["alone", "below another"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has run: a repository of its own, or a subfolder of one with a pipeline and a stages package of its own."""
    root = tmp_path_factory.mktemp("identity")
    folder = root / "llm" if request.param == "below another" else root
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    if folder != root:
        (root / "stages").mkdir()
        (root / "stages" / "__init__.py").write_text("raise ImportError('not this one')\n")
        (root / "dvc.yaml").write_text("stages:\n  theirs:\n    cmd: echo 1 > theirs.txt\n    outs: [theirs.txt]\n")
    for command in ("git init -q", "dvc init -q"):
        assert run(root, *command.split()).returncode == 0
    assert repro(folder)[0] == ["gate", "mix@a", "mix@b"]
    for command in ("git add -A", "git commit -qm start"):
        assert run(root, *command.split()).returncode == 0
    return folder


@pytest.fixture
def project(lab: Path, tmp_path: Path) -> Path:
    top = lab if (lab / ".dvc").is_dir() else lab.parent
    shutil.copytree(top, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy" / lab.relative_to(top)


def stale(project: Path) -> dict[str, list[str]]:
    done = run(project, "holdfast", "check", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == bool(found["stale"]), done.stderr
    assert found["stages"] == 3
    return found["stale"]


def test_a_second_repro_only_looks(project):
    assert stale(project) == {}
    assert repro(project)[0] == []
    assert run(project, "git", "status", "--porcelain").stdout == ""


@pytest.mark.parametrize(
    ("file", "old", "new", "stages"),
    [
        ("stages/own.py", '"1"', '"2"', ["gate", "mix@a", "mix@b"]),  # mix reads what gate writes
        ("stages/own.py", 'text = "1"', 'text = "1"\nmore = 2', ["gate"]),  # what it writes is the same
        ("stages/mix.py", "write_text(arm)", "write_text(arm * 2)", ["mix@a", "mix@b"]),
    ],
)
def test_a_changed_statement_reruns_the_stages_that_can_reach_it(project, file, old, new, stages):
    text = (project / file).read_text(encoding="utf-8")
    (project / file).write_text(text.replace(old, new), encoding="utf-8")
    name = file.removesuffix(".py").replace("/", ".")
    own = [stage for stage in stages if stage.startswith("gate") or file == "stages/mix.py"]
    assert stale(project) == {stage: [f"code changed: {name}"] for stage in own}
    assert repro(project)[0] == stages
    assert stale(project) == {}


@pytest.mark.parametrize("file", ["stages/own.py", "stages/gate.py", "stages/mix.py"])
def test_a_changed_comment_reruns_nothing(project, file):
    text = (project / file).read_text(encoding="utf-8")
    (project / file).write_text(f'"""What it does."""\n\n# why\n{text}\n\n', encoding="utf-8")
    assert stale(project) == {}
    assert repro(project)[0] == []


def test_a_clone_without_the_written_fingerprints_is_checked_too(project):
    shutil.rmtree(project / ".holdfast")
    assert stale(project) == {}
    (project / "stages" / "own.py").write_text('text = "3"\n', encoding="utf-8")
    assert stale(project) == {"gate": ["its code changed"]}
    assert not (project / ".holdfast").exists(), "it only looks"


def test_a_script_that_is_no_python_is_said_in_two_lines(project):
    (project / "stages" / "own.py").write_text("text = = 1\n", encoding="utf-8")
    for command in (["check"], ["code"]):
        done = run(project, "holdfast", *command)
        assert done.returncode == 3
        assert len(done.stderr.strip().splitlines()) == 2, done.stderr
        assert "own.py, line 1" in done.stderr


def test_a_removed_script_is_named(project):
    (project / "stages" / "mix.py").unlink()
    assert stale(project) == {f"mix@{arm}": ["its script stages/mix.py is missing"] for arm in "ab"}
