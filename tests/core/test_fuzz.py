"""Files that were altered, cut or replaced by nonsense: no traceback, no silent change. Seeded; with the 1,500 mutated answers of
tests/engines/test_hostile_servers.py more than 2,500 mutations."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import ROOT, damage_tree

from holdfast.core import cache, checkpoint, shards
from holdfast.core.errors import UserError
from holdfast.engines import model_files
from holdfast.evaluation import settings
from holdfast.params.whole import Params
from holdfast.training import job


def damage_bytes(rng: random.Random, content: bytes) -> bytes:
    """A few bytes altered, a part cut off, zeroed, doubled, or everything replaced."""
    changed = bytearray(content)
    at, length = rng.randrange(len(changed)), rng.randrange(1, 200)
    kind = rng.randrange(6)
    if kind == 0:
        changed[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del changed[at:]
    elif kind == 2:
        changed[at : at + length] = bytes(len(changed[at : at + length]))
    elif kind == 3:
        changed[at:at] = changed[at : at + length]
    elif kind == 4:
        changed[at : at + length] = rng.randbytes(length)
    else:
        changed = bytearray(rng.choice([b"", b"null", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, rng.randbytes(500)]))
    return bytes(changed)


def attempts(count: int) -> Iterator[random.Random]:
    for n in range(count):
        yield random.Random(n)


def check_message(error: UserError) -> None:
    assert 1 <= len(str(error).splitlines()) <= 3, str(error)
    assert "\x1b" not in str(error)


def square(part: list[Any]) -> list[Any]:
    return [{"value": n * n, "text": f"⟦{n}⟧"} for n in part]


def test_altered_shards_never_change_a_result(project):
    rows = list(range(12))
    expected = shards.run_shards("respond", rows, 4, "m", square)
    files = sorted((project / ".cache").rglob("*.json"))
    whole = {file: file.read_bytes() for file in files}
    for rng in attempts(450):
        file = rng.choice(files)
        file.write_bytes(damage_bytes(rng, whole[file]))
        assert shards.run_shards("respond", rows, 4, "m", square) == expected


def test_altered_databases_never_change_a_reply(project):
    replies = cache.Replies("m")
    for n in range(40):
        replies.put(f"request {n}", {"text": f"answer {n}" * 20})
    replies.close()
    whole = replies.file.read_bytes()
    for rng in attempts(100):
        for file in (project / ".cache" / "replies").iterdir():
            file.unlink()
        replies.file.write_bytes(damage_bytes(rng, whole))
        again = cache.Replies("m")
        for n in range(0, 40, 5):
            assert again.get(f"request {n}") in (None, {"text": f"answer {n}" * 20})
        again.put("more", {"text": "x"})
        assert again.get("more") == {"text": "x"}
        again.close()


def test_altered_hashes_of_models_are_computed_again(project, monkeypatch):
    monkeypatch.setattr(model_files, "MIN_BYTES_TO_REMEMBER", 0)
    for name in ("a.safetensors", "b.safetensors"):
        (project / name).write_bytes(name.encode() * 100)
    expected = model_files.hash_files(project, ["a.safetensors", "b.safetensors"])
    file = project / ".cache" / model_files.HASHES
    whole = file.read_bytes()
    for rng in attempts(150):
        if rng.random() < 0.5:
            file.write_text(json.dumps(damage_tree(rng, json.loads(whole))))
        else:
            file.write_bytes(damage_bytes(rng, whole))
        assert model_files.hash_files(project, ["a.safetensors", "b.safetensors"]) == expected


def test_altered_checkpoints_are_not_resumed_from(project, capsys):
    rng = random.Random(1)
    folder = project / "scratch" / "checkpoint-5"
    content = {name: rng.randbytes(2000) for name in ("model.safetensors", "optimizer.pt", "trainer_state.json")}
    for rng in attempts(150):
        shutil.rmtree(folder.parent, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, data in content.items():
            (folder / name).write_bytes(data)
        job.seal_checkpoint(folder)
        file = rng.choice(sorted(folder.iterdir()))
        before = file.read_bytes()
        file.write_bytes(damage_bytes(rng, before))
        job.remove_damaged_checkpoints(folder.parent, "arm")
        left = job.last_checkpoint(folder.parent)
        if left is not None:  # then only if nothing that counts has changed
            assert {name: (left / name).read_bytes() for name in content} == content


def test_altered_settings_are_read_or_refused(project):
    suite = {"role": "general", "chance": 0.25, "items": 3, "metric": "acc", "filter": "none"}
    whole = {"schema": 1, "model": "base", "engine": {"batch": 4, "seed": 1}, "suites": {"a": suite, "b": suite}}
    file = project / "settings.json"
    refused = 0
    for rng in attempts(200):
        if rng.random() < 0.5:
            file.write_text(json.dumps(damage_tree(rng, whole)))
        else:
            file.write_bytes(damage_bytes(rng, json.dumps(whole).encode()))
        try:
            read = settings.read(project)
        except UserError as error:
            check_message(error)
            refused += 1
        else:
            assert isinstance(read["engine"], dict) and read["suites"]
    assert refused > 50


def test_altered_params_are_read_or_refused(project):
    whole = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    text = (ROOT / "params.yaml").read_bytes()
    refused = 0
    for rng in attempts(120):
        if rng.random() < 0.5:
            Path("params.yaml").write_text(yaml.safe_dump(damage_tree(rng, whole)), encoding="utf-8")
        else:
            Path("params.yaml").write_bytes(damage_bytes(rng, text))
        try:
            Params.load()
        except UserError as error:
            check_message(error)
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_altered_models_are_described_or_refused(tiny, tmp_path, name):
    folder = shutil.copytree(tiny, tmp_path / "model")
    whole = (folder / name).read_bytes()
    head = int.from_bytes(whole[:8], "little") + 8 if name == "model.safetensors" else len(whole)
    for rng in attempts(60):
        if name == "config.json" and rng.random() < 0.7:
            (folder / name).write_text(json.dumps(damage_tree(rng, json.loads(whole))))
        else:
            (folder / name).write_bytes(damage_bytes(rng, whole[:head]) + whole[head:])
        try:
            found = checkpoint.check_folder(folder)
        except UserError as error:
            check_message(error)
        else:
            assert found.parameters > 0 and found.context > 0
