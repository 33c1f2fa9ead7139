"""DVC remotes and disk, as docs/remotes.md has them: push, a fresh clone, pull, nothing to do; weights take their disk once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers import ROOT, repro, run

STAGES = """\
stages:
  finetune:
    cmd: cp input.txt weights.new && mv weights.new model/model.safetensors && echo ran >> {log}
    deps:
      - input.txt
    outs:
      - model: {{persist: true}}
"""


def ran(folder: Path, *command: str) -> str:
    done = run(folder, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def author(tmp_path: Path) -> Path:
    """A git repository with this project's DVC settings, one stage, its output in DVC's cache, and a folder as remote."""
    folder = tmp_path / "author"
    (folder / "model").mkdir(parents=True)
    (folder / "dvc.yaml").write_text(STAGES.format(log=tmp_path / "log"), encoding="utf-8")
    (folder / "input.txt").write_text("weights\n" * 1000, encoding="utf-8")
    (folder / ".gitignore").write_text("/model\n", encoding="utf-8")
    ran(folder, "git", "init", "-q")
    (folder / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copyfile(ROOT / ".dvc" / name, folder / ".dvc" / name)
    ran(folder, "dvc", "remote", "add", "-d", "store", str(tmp_path / "store"))
    return folder


def test_a_clone_pulls_what_was_pushed_and_has_nothing_to_do(author, tmp_path):
    assert repro(author)[0] == ["finetune"]
    ran(author, "git", "add", "-A")
    ran(author, "git", "commit", "-qm", "results")
    ran(author, "dvc", "push", "-q")

    clone = tmp_path / "clone"
    ran(tmp_path, "git", "clone", "-q", str(author), str(clone))
    assert not (clone / "model").exists()
    ran(clone, "dvc", "pull", "-q")
    assert (clone / "model" / "model.safetensors").read_bytes() == (author / "input.txt").read_bytes()
    assert json.loads(ran(clone, "dvc", "status", "--json")) == {}
    assert repro(clone)[0] == []
    assert (tmp_path / "log").read_text(encoding="utf-8") == "ran\n"  # once, at the author's


def test_linked_to_the_cache_weights_take_their_disk_once_and_a_new_run_leaves_the_old_ones_whole(author):
    ran(author, "dvc", "config", "cache.type", "hardlink")
    repro(author)
    weights = author / "model" / "model.safetensors"
    before = weights.read_bytes()
    (in_cache,) = [
        file
        for file in (author / ".dvc" / "cache" / "files").rglob("*")
        if file.is_file() and file.read_bytes() == before
    ]
    assert in_cache.samefile(weights)
    (author / "input.txt").write_text("other weights\n", encoding="utf-8")
    assert repro(author)[0] == ["finetune"]
    assert weights.read_text(encoding="utf-8") == "other weights\n"
    assert in_cache.read_bytes() == before  # replaced, not written over
