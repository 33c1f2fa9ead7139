"""`holdfast init` in folders of every kind: what it writes, what it leaves alone, and what it refuses with nothing written."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import tempfile
from pathlib import Path

import pytest
import yaml
from helpers import ROOT, run

from holdfast.commands import init
from holdfast.core.errors import UserError
from holdfast.params.whole import Params
from holdfast.planning import file_writer, scaffold


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with an empty git repository and DVC project, made by hand, which is quick."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    place = tmp_path / "mine"
    place.mkdir()
    assert run(place, "git", "init", "-q").returncode == 0
    (place / ".dvc").mkdir()
    (place / ".dvc" / "config").touch()
    monkeypatch.chdir(place)
    return place


def start(**options: object) -> None:
    init.main(None, None, pocket=True, **options)  # type: ignore[arg-type]


def tree(folder: Path) -> dict[str, bytes]:
    return {
        f.relative_to(folder).as_posix(): f.read_bytes()
        for f in folder.rglob("*")
        if f.is_file() and ".git" not in f.relative_to(folder).parts
    }


def test_an_empty_folder_becomes_a_project(tmp_path):
    place = tmp_path / "mine"
    place.mkdir()
    done = run(place, "holdfast", "init", "--pocket")
    assert done.returncode == 0, done.stderr
    assert "started  a git repository (git init)" in done.stdout
    assert "started  a DVC project (dvc init)" in done.stdout
    for word in ("dvc.yaml", "params.yaml", "stages/", "data/pocket/", "models/pocket/", ".gitignore"):
        assert word in done.stdout
    assert run(place, "holdfast", "validate").returncode == 0
    assert run(place, "dvc", "stage", "list").returncode == 0
    assert "holdfast run" not in run(place, "dvc", "status", "pocket").stdout  # no such stage in a user's project


def test_what_is_written_is_recorded(folder):
    start()
    project = json.loads((folder / ".holdfast/project.json").read_text())
    assert project["holdfast"] == scaffold.version()
    for name, digest in project["files"].items():
        assert scaffold.digest((folder / name).read_bytes()) == digest
    assert {"dvc.yaml", "params.yaml", "stages/curate.py", "models/pocket/base/model.safetensors"} <= set(
        project["files"]
    )
    assert (folder / ".holdfast/scaffold/stages/curate.py").read_bytes() == (folder / "stages/curate.py").read_bytes()
    assert not list((folder / ".holdfast/scaffold").rglob("*.safetensors"))


def test_the_scaffold_is_this_repository_s_own_pipeline_and_says_nothing_of_its_tests(folder):
    start(ci="github")
    ours = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    theirs = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert theirs == {name: stage for name, stage in ours.items() if name != "pocket"}
    for file in [folder / "dvc.yaml", *(folder / "stages").glob("*.py"), *(folder / ".ci").iterdir()]:
        assert "tests/" not in file.read_text(encoding="utf-8"), file
    for file in (folder / "stages").glob("*.py"):
        assert file.read_bytes() == (ROOT / "stages" / file.name).read_bytes()


def test_lines_are_added_to_ignore_files_and_none_is_lost(folder):
    (folder / ".gitignore").write_text("secret.txt\n.cache/", encoding="utf-8")
    start()
    lines = (folder / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["secret.txt", ".cache/"] and lines.count(".cache/") == 1 and ".holdfast/code/" in lines
    assert ".pytest_cache/" not in lines
    before = tree(folder)
    start()
    assert tree(folder) == before


def test_a_subfolder_of_a_dvc_project_with_its_own_pipeline_and_stages_package(folder):
    (folder / "dvc.yaml").write_text("stages:\n  theirs: {cmd: echo}\n", encoding="utf-8")
    (folder / "stages").mkdir()
    (folder / "stages" / "__init__.py").write_text("raise RuntimeError('theirs')\n", encoding="utf-8")
    before = tree(folder)
    start(into=Path("llm"))
    assert {name: content for name, content in tree(folder).items() if not name.startswith("llm/")} == before
    assert Path.cwd() == folder
    assert not (folder / "llm" / ".dvc").exists()  # it belongs to the project above
    done = run(folder / "llm", "dvc", "stage", "list", "--name-only")
    assert "gate" in done.stdout.split(), done.stderr


def test_a_subfolder_of_a_git_repository_without_dvc(folder):
    (folder / ".dvc" / "config").unlink()
    (folder / ".dvc").rmdir()
    done = run(folder, "holdfast", "init", "--pocket", "--into", "llm")
    assert done.returncode == 0, done.stderr
    assert "dvc init --subdir" in done.stdout
    assert (folder / "llm" / ".dvc" / "config").is_file() and not (folder / ".dvc").exists()


def test_correcting_an_init_needs_no_force_and_keeps_edited_stages(folder, capsys):
    start()
    (folder / "stages" / "curate.py").write_text("# mine\n", encoding="utf-8")
    (folder / "params.yaml").unlink()
    start(ci="gitlab")
    assert (folder / "stages" / "curate.py").read_text(encoding="utf-8") == "# mine\n"
    assert "kept     stages/curate.py: edited by hand" in capsys.readouterr().out
    assert Params.load().base == "base"
    assert (folder / ".gitlab-ci.yml").is_file()
    start()
    assert not scaffold.is_unedited("stages/curate.py", scaffold.load_project())


@pytest.mark.parametrize("place", ["llm", "my llm's", "a: b #c", "größe/$HOME"])
def test_workflows_lie_where_the_forge_looks_and_call_the_subfolder_s_scripts(folder, place):
    start(into=Path(place), ci="github")
    suffix = {"llm": "-llm", "my llm's": "-my-llm-s", "a: b #c": "-a-b-c", "größe/$HOME": "-gr-e-HOME"}[place]
    workflows = folder / ".github/workflows"
    workflow = yaml.load((workflows / f"holdfast-gate{suffix}.yml").read_text(encoding="utf-8"), yaml.BaseLoader)
    own = workflow["jobs"]["gate"]["steps"][-1]["uses"]
    assert own == f"./.github/actions/holdfast-gate{suffix}"
    action = yaml.load((folder / own / "action.yml").read_text(encoding="utf-8"), yaml.BaseLoader)
    commands = [step.get("run", "") for step in action["runs"]["steps"]]
    assert action["runs"]["steps"][0]["with"]["cache-dependency-path"] == f"{place}/.holdfast/project.json"
    assert f"`uses: {own}`" in (folder / own / "action.yml").read_text(encoding="utf-8")
    gate = next(command for command in commands if "gate.sh" in command)
    assert shlex.split(gate)[:2] == ["bash", f"{place}/.ci/gate.sh"]
    assert any(f"holdfast=={scaffold.version()}" in command for command in commands)
    assert not any("make " in command for command in commands)
    comment = yaml.load((workflows / f"holdfast-comment{suffix}.yml").read_text(encoding="utf-8"), yaml.BaseLoader)
    assert comment["on"]["workflow_run"]["workflows"] == [workflow["name"]] == [f"holdfast-gate{suffix}"]
    script = comment["jobs"]["comment"]["steps"][-1]["run"]
    assert shlex.split(script) == ["python3", f"{place}/.ci/comment.py", "github"]
    done = run(folder, "bash", "-c", f"{script.removesuffix('github')} x")  # the shell finds it
    assert "IndexError" in done.stderr
    assert (folder / place / ".ci" / "gate.sh").stat().st_mode & 0o100


def test_a_second_project_in_one_repository_has_workflows_and_a_comment_of_its_own(folder, capsys):
    for place in ("one", "two"):
        start(into=Path(place), ci="github")
    names = sorted(file.name for file in (folder / ".github/workflows").iterdir())
    assert names == [f"holdfast-{job}-{place}.yml" for job in ("comment", "gate") for place in ("one", "two")]
    code = "import runpy, sys; print(runpy.run_path(sys.argv[1])['MARK'])"
    marks = {run(folder, "python3", "-c", code, f"{place}/.ci/comment.py").stdout for place in ("one", "two")}
    assert marks == {"<!-- holdfast one -->\n", "<!-- holdfast two -->\n"}
    (folder / ".github/workflows/holdfast-gate-one-b.yml").write_text("theirs\n")
    with pytest.raises(UserError, match=r"\.github/workflows/holdfast-gate-one-b.yml: is here already"):
        start(into=Path("one/b"), ci="github")
    with pytest.raises(UserError, match="cannot stand in a workflow"):
        start(into=Path("a ${{ b }}"), ci="github")


def test_gitlab_gets_jobs_without_our_tests_and_a_file_that_includes_them(folder, capsys):
    for place in ("one", "my two"):
        start(into=Path(place), ci="gitlab")
    files = {place: (folder / place / ".ci/gitlab.yml").read_text(encoding="utf-8") for place in ("one", "my two")}
    spec, jobs = {}, {}
    for place, text in files.items():
        spec[place], jobs[place] = yaml.safe_load_all(text.replace("$[[ inputs.tags ]]", "[]"))
    assert spec["one"] == spec["my two"]
    assert spec["one"]["spec"]["inputs"]["package"]["default"] == f"holdfast=={scaffold.version()}"
    assert set(jobs["one"]) == {".holdfast-one", "holdfast-gate-one", "holdfast-comment-one"}
    assert not set(jobs["one"]) & set(jobs["my two"])
    content = jobs["my two"]
    assert content["holdfast-gate-my-two"]["extends"] == ".holdfast-my-two"
    assert content["holdfast-comment-my-two"]["needs"][0]["job"] == "holdfast-gate-my-two"
    assert shlex.split(content["holdfast-gate-my-two"]["script"][1])[1] == "my two/.ci/gate.sh"
    assert "pip install" in content[".holdfast-my-two"]["before_script"][0] and "make" not in str(content)
    root = (folder / ".gitlab-ci.yml").read_text(encoding="utf-8")
    assert yaml.safe_load(root) == {"include": [{"local": "/one/.ci/gitlab.yml"}]}  # it was there when the second came
    assert '- local: "/my two/.ci/gitlab.yml"' in capsys.readouterr().out


@pytest.mark.parametrize("ci", ["github", "gitlab"])
def test_ci_alone_adds_workflows_to_a_project_and_touches_nothing_else(folder, capsys, ci):
    start()
    (folder / "params.yaml").write_text("# mine, whatever it is\n", encoding="utf-8")
    before = tree(folder)
    capsys.readouterr()
    init.main(None, None, ci=ci)
    after = tree(folder)
    new = after.keys() - before.keys()
    assert {name for name in new if not name.startswith(".holdfast/")} == {
        ".ci/gate.sh",
        ".ci/comment.py",
        *(
            {
                ".github/workflows/holdfast-gate.yml",
                ".github/workflows/holdfast-comment.yml",
                ".github/actions/holdfast-gate/action.yml",
            }
            if ci == "github"
            else {".ci/gitlab.yml", ".gitlab-ci.yml"}
        ),
    }
    assert {name for name in before if before[name] != after[name]} == {".holdfast/project.json"}
    assert not [line for line in capsys.readouterr().out.splitlines() if "../" in line or "dvc.yaml" in line]
    project = scaffold.load_project()
    assert project is not None and project.ci == ci and "dvc.yaml" in project.files and ".ci/gate.sh" in project.files
    (folder / ".ci/gate.sh").write_text("# mine\n")
    init.main(None, None, ci=ci)
    assert (folder / ".ci/gate.sh").read_text() == "# mine\n"


def test_ci_alone_needs_a_project(folder, tmp_path):
    before = tree(folder)
    for into in (Path(), Path("nowhere")):
        with pytest.raises(UserError, match="no project is here|no such folder"):
            init.main(None, None, ci="github", into=into)
    assert tree(folder) == before and not (folder / "nowhere").exists()


def test_another_kind_of_project_replaces_what_the_first_wrote(folder, tiny):
    start(ci="github")
    (folder / "data/pocket/rubric.txt").write_text("mine\n")
    (folder / "my.jsonl").write_text('{"prompt": "q", "completion": "a"}\n' * 3)
    init.main(str(tiny), Path("my.jsonl"))
    assert not (folder / "models/pocket/base/model.safetensors").exists()
    assert (folder / "data/pocket/rubric.txt").read_text() == "mine\n"
    assert (folder / ".ci/gate.sh").is_file()
    assert Params.load().model_folder == "models/local"


def test_a_user_s_pocket_lab_has_no_section_for_making_the_lab_s_models(folder):
    start()
    assert "pocket:" not in (folder / "params.yaml").read_text(encoding="utf-8")
    assert "pocket:" in (ROOT / "params.yaml").read_text(encoding="utf-8")


def test_what_is_written_points_to_nothing_that_a_user_of_the_wheel_lacks(folder, tiny):
    start(ci="github", into=Path("a"))
    (folder / "my.jsonl").write_text('{"prompt": "q", "completion": "a"}\n' * 3)
    init.main(str(tiny), Path("my.jsonl"), into=Path("b"), ci="gitlab")
    texts = (
        f
        for f in folder.rglob("*")
        if f.is_file() and ".git" not in f.parts and "pocket" not in f.parts and "scaffold" not in f.parts
    )
    for file in texts:
        named = re.findall(r"(?<![\w/.])(?:docs|tests|benchmarks|holdfast)/[\w/.-]+", file.read_text(encoding="utf-8"))
        assert not [name for name in named if not name.startswith("holdfast/data")], (file, named)


FOREIGN = {
    "another pipeline of the same stages": ("dvc.yaml", "stages:\n  curate: {cmd: echo}\n", "--into llm"),
    "another stage script": ("stages/curate.py", "print()\n", "--into llm"),
    "params of their own": ("params.yaml", "lr: 0.1\n", "--into llm"),
    "another prompt": ("profiles/rubric.txt", "mine\n", "--into llm"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_foreign_file_is_refused_and_nothing_is_written(folder, case):
    name, text, remedy = FOREIGN[case]
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    before = tree(folder)
    with pytest.raises(UserError) as caught:
        start()
    assert name in str(caught.value) and remedy in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3
    assert tree(folder) == before


def test_edited_params_are_refused(folder):
    start()
    file = folder / "params.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("k: 4", "k: 5", 1) + "# mine\n", encoding="utf-8")
    before = tree(folder)
    with pytest.raises(UserError, match="edited since"):
        start()
    assert tree(folder) == before
    start(force=True)
    assert "# mine" not in file.read_text(encoding="utf-8")


def test_without_git_it_says_so_and_writes_nothing(folder, monkeypatch):
    before = tree(folder)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="git is not installed"):
        start()
    assert tree(folder) == before


def test_a_read_only_folder_is_refused(folder, monkeypatch):
    before = tree(folder)
    monkeypatch.setattr(os, "access", lambda _, mode: mode != os.W_OK)
    with pytest.raises(UserError, match="cannot be written to"):
        start()
    with pytest.raises(UserError):
        start(into=Path("a/b"))
    assert tree(folder) == before and not (folder / "a").exists()


def test_a_disk_that_is_full_leaves_nothing_behind(folder, monkeypatch):
    before = tree(folder)
    written, make = [], tempfile.mkstemp

    def run_full(**place: object) -> tuple[int, str]:
        written.append(place)
        if len(written) > 20:
            raise OSError(28, "No space left on device")
        return make(**place)

    monkeypatch.setattr(tempfile, "mkstemp", run_full)
    with pytest.raises(OSError, match="No space"):
        start()
    assert len(written) == 21
    assert tree(folder) == before and not list(folder.glob(".holdfast*"))


def test_holdfast_s_own_repository_is_refused(monkeypatch):
    monkeypatch.chdir(ROOT)
    for into in (Path(), Path("llm")):
        with pytest.raises(UserError, match="folder of your own"):
            start(into=into)
    assert not (ROOT / "llm").exists() and not (ROOT / ".holdfast" / "project.json").exists()


@pytest.mark.parametrize(
    "arguments", [[], ["--pocket", "--base", "x", "--domain", "y"], ["--base", "x"], ["--pocket", "--ci", "jenkins"]]
)
def test_unclear_arguments_are_refused(folder, arguments):
    done = run(folder, "holdfast", "init", *arguments)
    assert done.returncode == 3
    assert 1 <= len(done.stderr.strip().splitlines()) <= 3 and "Traceback" not in done.stderr


def test_a_project_of_another_version_is_sent_to_upgrade(folder):
    start()
    file = folder / ".holdfast/project.json"
    file.write_text(file.read_text().replace(f'"holdfast": "{scaffold.version()}"', '"holdfast": "0.1.0"'))
    with pytest.raises(UserError, match="holdfast upgrade"):
        start()
    subprocess.run(["git", "status"], check=True, capture_output=True)


@pytest.mark.parametrize(
    "place", ["stages", "data", "data/pocket", "profiles", "params.yaml/", "dvc.yaml/", "loose link"]
)
def test_what_is_in_the_way_is_named_and_nothing_is_written(folder, place):
    if place == "loose link":
        (folder / "stages").symlink_to("/nonexistent")
    elif place.endswith("/"):
        (folder / place).mkdir()
    else:
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_text("in the way")
    before = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    with pytest.raises(UserError):
        start(force=True)
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) == before


def test_a_folder_on_another_disk_is_written_to(folder):
    disk = Path("/dev/shm")
    if not disk.is_dir() or disk.stat().st_dev == folder.stat().st_dev:
        pytest.skip("no second file system here")
    with tempfile.TemporaryDirectory(dir=disk) as elsewhere:
        (folder / "data").symlink_to(elsewhere)
        start()
        assert (Path(elsewhere) / "pocket" / "rubric.txt").is_file()


@pytest.mark.parametrize(
    "stop", [KeyboardInterrupt, PermissionError(1, "Operation not permitted"), OSError(16, "Busy")]
)
def test_a_write_that_is_stopped_puts_back_what_it_replaced(folder, monkeypatch, stop):
    (folder / "a.txt").write_text("old")
    moved, replace = [], os.replace

    def third_fails(source, target):
        moved.append(target)
        if len(moved) == 3:
            raise stop
        replace(source, target)

    writer = file_writer.Writer({"a.txt": b"new", "one/b.txt": b"new", "two/c.txt": b"new", "two/d.txt": b"new"})
    writer.prepare()
    monkeypatch.setattr(os, "replace", third_fails)
    with pytest.raises(KeyboardInterrupt if stop is KeyboardInterrupt else UserError):
        writer.commit()
    writer.close()
    assert (folder / "a.txt").read_text() == "old"
    assert [path.name for path in folder.iterdir() if path.name not in (".git", ".dvc")] == ["a.txt"]


def test_ignore_files_that_are_no_utf8_are_refused(folder):
    (folder / ".gitignore").write_bytes("größe\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"\.gitignore: is not UTF-8"):
        start()
    assert not (folder / "dvc.yaml").exists()


def test_training_and_test_data_of_one_name_are_not_one_file(folder, tiny):
    rows = '{"messages": [{"role": "user", "content": "%s"}, {"role": "assistant", "content": "b"}]}\n'
    for name in ("one", "two"):
        (folder / name).mkdir()
        (folder / name / "data.jsonl").write_text("".join(rows % f"{name} {n}" for n in range(20)))
    for test, what in (
        ("two/data.jsonl", "has the name of the training data"),
        ("one/data.jsonl", "is the training data too"),
    ):
        with pytest.raises(UserError, match=what):
            init.main(str(tiny), folder / "one" / "data.jsonl", test=folder / test)
    with pytest.raises(UserError, match="'main' is no commit"):
        init.main("owner/name", folder / "one" / "data.jsonl", revision="main")
    assert not (folder / "dvc.yaml").exists()
