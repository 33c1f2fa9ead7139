"""The identity of code on a miniature: statements count, comments do not, and only for who can reach them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import ROOT

from holdfast.core import fingerprint

ODD = r'''"""doc"""
from __future__ import annotations
import a.b as c
x = f"a{1!r:>{2}}b" f"{3:}" "c" f"{x=}" f"{'nested ' f'{y}'}" f"{{}}" rf"\d{z:%Y-%m}"
def f(a, /, b=1, *c, d: int = 2, **e) -> "int":
    """doc"""
    match a:
        case {"k": [1, *rest], **kw} if (n := rest): return -1
        case Point(x=0) | None: return 1.5e300 + 2j
        case _: pass
    return [*a, *b][1:2, ...], {**a}, lambda: (yield)
@dec(1)
class C(B, metaclass=M):
    y: int = 3
    """attr doc"""
    async def g(self):
        async with a as b, c: await d
        try: ...
        except* (A, B) as e: raise e from None
        return b"\x00", u"\ud83d\ude00"[0], '\udcff'
'''
HASH_OF_ODD = "e8b9994c6c30fa70"  # as Python 3.11.7, 3.12.1 and 3.13.0 have it


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two stages and the modules that they reach, in every way that an import can be spelled."""
    files = {
        "stages/near.py": "from stages.mine import value\n\n\ndef main():\n    return value\n",
        "stages/far.py": "def main():\n    from pack.lazy import late\n\n    return late\n",
        "stages/mine.py": "value = 1\n",
        "pack/__init__.py": "FLAG = True\n",
        "pack/lazy.py": "from typing import TYPE_CHECKING\n\nfrom .deep import inner\n\nif TYPE_CHECKING:\n"
        "    from stages.mine import value\n\nlate = inner\n",
        "pack/deep/__init__.py": "import pack.deep.inner as inner\n",
        "pack/deep/inner.py": 'STYLE = "page.css"\n',
        "pack/deep/page.css": "p { color: red }\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def stages(project: Path) -> dict[str, dict[str, str]]:
    return {name: fingerprint.of_file(project / "stages" / f"{name}.py", project) for name in ("near", "far")}


def test_a_stage_reaches_what_it_imports_and_nothing_else(project):
    assert list(stages(project)["near"]) == ["stages.mine", "stages.near"]
    far = ["pack.__init__", "pack.deep.__init__", "pack.deep.inner", "pack.lazy", "pack/deep/page.css", "stages.far"]
    assert list(stages(project)["far"]) == far


@pytest.mark.parametrize(
    ("file", "text", "changed"),
    [
        ("stages/mine.py", "value = 2\n", {"near"}),
        ("stages/near.py", "def main():\n    return 1\n", {"near"}),
        ("pack/lazy.py", "late = 2\n", {"far"}),
        ("pack/__init__.py", "FLAG = False\n", {"far"}),
        ("pack/deep/inner.py", 'STYLE = "page.css"\nx = 1\n', {"far"}),
        ("pack/deep/page.css", "p { color: blue }\n", {"far"}),
    ],
)
def test_a_changed_statement_changes_the_stages_that_can_reach_it(project, file, text, changed):
    before = stages(project)
    (project / file).write_text(text, encoding="utf-8")
    assert {name for name, code in stages(project).items() if code != before[name]} == changed


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("stages/mine.py", '"""What it is worth."""\n\n# a comment\nvalue = (\n    1\n)  # another\n'),
        ("pack/deep/inner.py", "STYLE = 'page.css'\n\n\n"),
        ("stages/near.py", 'from stages.mine import value\ndef main():\n  """Say it."""\n  return (value)\n'),
    ],
)
def test_a_changed_comment_docstring_or_layout_changes_nothing(project, file, text):
    before = stages(project)
    (project / file).write_text(text, encoding="utf-8")
    assert stages(project) == before


def test_a_module_named_in_a_string_is_reached():
    code = fingerprint.of_file(ROOT / "stages" / "finetune.py", ROOT)
    assert "holdfast.training.process" in code, "torchrun's launcher imports it by its name"
    assert "holdfast/reporting/page.css" in fingerprint.of_file(ROOT / "stages" / "report.py", ROOT)


def test_a_hash_of_sources_counts_statements_of_these_files_alone(tmp_path):
    file = tmp_path / "a.py"
    file.write_text("x = 1\n")
    before = fingerprint.source_hash(str(file))
    assert fingerprint.source_hash(str(file), str(file)) == before
    file.write_text("x = 1  # one\n")
    assert fingerprint.source_hash(str(file)) == before
    file.write_text("x = 2\n")
    assert fingerprint.source_hash(str(file)) != before


def test_the_form_is_pinned(tmp_path):
    """Another hash here makes every stage of every project run again: say so in the changelog."""
    (tmp_path / "odd.py").write_text(ODD, encoding="utf-8")
    assert fingerprint.source_hash(str(tmp_path / "odd.py")) == HASH_OF_ODD


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14", "3.15"])
def test_every_python_has_the_same_hash(version, tmp_path):
    """Also of a character that the Unicode tables of some do not know."""
    pythons = [*(Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"), shutil.which(f"python{version}")]
    code = "import sys; from holdfast.core import fingerprint; print(*map(fingerprint.source_hash, sys.argv[1:]))"
    (tmp_path / "odd.py").write_text(ODD, encoding="utf-8")
    (tmp_path / "new.py").write_text('x = "\U0001fae8"\n', encoding="utf-8")
    files = [str(tmp_path / "odd.py"), str(tmp_path / "new.py")]
    done = [
        subprocess.run([str(python), "-c", code, *files], cwd=ROOT, capture_output=True, text=True)
        for python in filter(None, pythons)
    ]
    hashes = {one.stdout.strip() for one in done if one.returncode == 0}
    if not hashes:
        pytest.skip(f"no python{version} here")
    assert hashes == {f"{HASH_OF_ODD} {fingerprint.source_hash(files[1])}"}


def test_a_byte_order_mark_changes_nothing(tmp_path):
    for name, encoding in (("plain.py", "utf-8"), ("marked.py", "utf-8-sig")):
        (tmp_path / name).write_text("x = 1\n", encoding=encoding)
    assert fingerprint.source_hash(str(tmp_path / "plain.py")) == fingerprint.source_hash(str(tmp_path / "marked.py"))
