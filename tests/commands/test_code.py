"""`holdfast code` parses a module once; what it keeps of it is never believed once it was altered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.commands import code
from holdfast.core import fingerprint


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/mine.py").write_text("VALUE = 1\n", encoding="utf-8")
    (tmp_path / "stages/mix.py").write_text("from stages.mine import VALUE\n\n\ndef main(): return VALUE\n", "utf-8")
    (tmp_path / "params.yaml").write_text("{}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    start_process(monkeypatch)
    return tmp_path


def start_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was parsed in this process is forgotten."""
    monkeypatch.setattr(fingerprint, "parsed", {})
    fingerprint._read_version.cache_clear()


def read_code(monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[str]]:
    """What a new process writes for the stage, and the names of the modules that it parses for it."""
    start_process(monkeypatch)
    names, parse = list[str](), fingerprint._parse
    with monkeypatch.context() as patch:
        patch.setattr(fingerprint, "_parse", lambda text, file: names.append(file.name) or parse(text, file))
        code.write_code()
    return (code.CODE / "mix").read_text(encoding="utf-8"), names


def test_a_module_is_parsed_again_only_when_its_text_changed(project, monkeypatch):
    first, names = read_code(monkeypatch)
    assert {"mix.py", "mine.py", "ledger.py"} <= set(names)
    assert read_code(monkeypatch) == (first, [])
    (project / "stages/mine.py").write_text("VALUE = 2\n", encoding="utf-8")
    second, names = read_code(monkeypatch)
    assert names == ["mine.py"]
    assert [a.split()[0] for a, b in zip(first.splitlines(), second.splitlines(), strict=True) if a != b] == [
        "stages.mine"
    ]
    (project / "stages/mine.py").write_text("VALUE = 1\n", encoding="utf-8")
    assert read_code(monkeypatch) == (first, [])


@pytest.mark.parametrize("damage", ["hash", "module", "cut", "list", "deep", "bytes", "many", "parser"])
def test_an_altered_file_counts_as_absent(project, monkeypatch, damage):
    first, _ = read_code(monkeypatch)
    content = json.loads(code.PARSED.read_text(encoding="utf-8"))
    if damage == "hash":
        content["modules"] = {key: ["0" * 16, *rest] for key, (_, *rest) in content["modules"].items()}
    if damage == "module":
        content["modules"].popitem()
    text = {
        "cut": json.dumps(content)[:-100],
        "list": "[]",
        "deep": "[" * 100_000,
        "bytes": "\0",
    }.get(damage, json.dumps(content))
    code.PARSED.write_text(text, encoding="utf-8")
    if damage == "many":
        monkeypatch.setattr(code, "MAX_PARSED", 3)
    if damage == "parser":  # what it says of a module was said by other code
        monkeypatch.setattr(fingerprint, "__file__", str(project / "stages/mine.py"))
    again, names = read_code(monkeypatch)
    assert again == first
    assert {"mix.py", "mine.py", "ledger.py"} <= set(names)
