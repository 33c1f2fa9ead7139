"""The sandbox against what a hostile model could write, and the scorer of code."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast.core_suite import sandbox, writing_code
from holdfast.core_suite.items import Answer

pytestmark = pytest.mark.skipif(not sandbox.is_available(), reason="this system has no seccomp")
LIBC = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"


def attack(body: str, arguments: list | None = None) -> object:
    """What `f` returns, or None: each line of the body is one of `f`'s."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return sandbox.call_function(f"{LIBC}def f(*given):\n{lines}\n", "f", [arguments or []])


def test_nothing_leaves_the_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One process: each attempt says whether it was refused, by Python's door and by the system's own."""
    secret, target = tmp_path / "secret.txt", tmp_path / "written.txt"
    secret.write_text("key", encoding="utf-8")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    attempts = [
        "open(given[0]).read()",
        "open(given[1], 'w')",
        "open('/proc/self/mem', 'rb')",
        "posix.listdir('/')",
        "posix.mkdir(given[1])",
        "posix.fork()",
        "posix.execv('/bin/sh', ['sh'])",
        "posix.kill(given[2], 9)",
        "posix.kill(-1, 9)",
        "posix.setpriority(0, 0, -5)",
        "posix.memfd_create('x')",
        "posix.pipe()",
        "posix.dup2(0, 9)",
        "resource_limit()",
        *(
            f"system_call({number})"
            for number in (101, 310, 321, 425, 435, 272, 165, 169, 59, 41, 56, 317, 157, 1 << 30)
        ),
    ]
    body = "import posix\nrefused = []\n"
    body += "def system_call(number):\n    if libc.syscall(number, 0, 0, 0, 0, 0, 0) == -1: raise PermissionError\n"
    body += "def resource_limit():\n    if libc.setrlimit(0, ctypes.byref((ctypes.c_long * 2)(-1, -1))): raise PermissionError\n"
    for attempt in attempts:
        body += f"try:\n    {attempt}\nexcept PermissionError:\n    refused.append(1)\nelse:\n    refused.append({attempt!r})\n"
    body += "return [refused, dict(__import__('os').environ), [str(n) for n in given[3:]]]"
    result = attack(body, [str(secret), str(target), os.getpid()])
    assert isinstance(result, list)
    refused, environment, _ = result[0]
    assert refused == [1] * len(attempts)
    assert "hf_secret" not in str(environment) and set(environment) <= {"PYTHONHASHSEED", *sandbox.NEEDED, "LC_CTYPE"}
    assert not target.exists()


@pytest.mark.parametrize(
    "body",
    [
        "return 'a' * 10**9",
        "x = [0]\nwhile True: x = x * 2",
        "import os\nwhile True: os.write(1, b'[1]' * 1000)",
        "libc.exit(0)",
        "return f",
        "ctypes.string_at(0)",
        "return __import__('threading').Thread(target=print).start() or 1",
        "raise SystemExit(0)",
        "x = []\nx.append(x)\nreturn x",
        "import os\nos.write(1, b'[' * 60000)\nos._exit(0)",
        "import os\nos.write(1, b'[1, 2]')\nos._exit(0)",
    ],
)
def test_what_is_too_much_or_ends_otherwise_has_no_result(body: str):
    assert attack(body) is None


def test_an_endless_loop_ends_soon():
    assert sandbox.call_function("def f():\n    while True: pass", "f", [[]]) is None


@pytest.mark.parametrize(
    "source", ["", "f = 1", "def g(): return 1", "x" * 10**6, "(" * 10**5, "def f(:", "\0", "def f():\n return \ud800"]
)
def test_what_is_no_such_function_has_no_result(source: str):
    assert sandbox.call_function(source, "f", [[]]) is None


EXPECTED = {"name": "add", "calls": [[1], [5]], "results": [4, 8]}


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("```python\ndef add(n):\n    return n + 3\n```\nThis adds 3.", 1),
        ("Here you are:\ndef add(n):\n    return n + 3\nIt adds 3 to n.", 1),
        ("```\nimport math\ndef add(n):\n    print(n)\n    return math.floor(n) + 3.0\n```", 1),
        ("```py\ndef add(n):\n    return helper(n)\n```\nand\n```py\ndef helper(n):\n    return n + 3\n```", 1),
        ("def add(n):\n    return 4", 0),
        ("def add(n):\n    return str(n + 3)", 0),
        ("add(n) is n + 3", 0),
        ("```python\nopen('x', 'w')\ndef add(n): return n + 3\n```", 0),
        ("lambda n: n + 3", 0),
        ("", 0),
    ],
)
def test_a_function_is_right_where_every_call_is(text: str, score: float):
    assert writing_code.WRITING_CODE.score(EXPECTED, Answer(text)) == score


def test_where_nothing_can_be_confined_the_family_is_left_out_and_nothing_runs(monkeypatch: pytest.MonkeyPatch):
    from holdfast.core_suite import families

    monkeypatch.setattr(sandbox.platform, "machine", lambda: "riscv64")
    sandbox.is_available.cache_clear()
    try:
        assert "cannot confine" in families.find_reason_to_leave_out(None, "core/code")  # type: ignore[arg-type]
        with pytest.raises(RuntimeError):
            sandbox.call_function("def f(): return 1", "f", [[]])
    finally:
        monkeypatch.undo()
        sandbox.is_available.cache_clear()
