"""What `holdfast doctor` says of DVC remotes elsewhere."""

from __future__ import annotations

import functools
import http.server
import threading
from pathlib import Path

import pytest
from dvc.fs import HTTPFileSystem

from holdfast.planning import machine
from holdfast.planning.machine import NEEDED, OK, UNKNOWN


def check(project: Path, url: str) -> list[tuple[str, str]]:
    (project / ".dvc").mkdir(exist_ok=True)
    (project / ".dvc" / "config").write_text(
        f"[core]\n    no_scm = true\n    remote = far\n['remote \"far\"']\n    url = {url}\n"
    )
    return list(machine.check_remote())


def test_a_remote_is_read_not_only_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        assert check(tmp_path, url) == [(OK, f"dvc remote far: {url} can be read")]
        (line,) = check(tmp_path, f"{url}/no-such")
        assert line[0] == UNKNOWN
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_remote_that_refuses_is_said_without_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> bool:
        raise PermissionError("me:password@example.org")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(HTTPFileSystem, "exists", refuse)
    ((mark, text),) = check(tmp_path, "https://example.org/data")
    assert mark == NEEDED
    assert text.startswith("dvc remote far: https://example.org/data cannot be read from here (PermissionError)")
    assert "password" not in text
    monkeypatch.setattr(HTTPFileSystem, "exists", lambda *arguments: threading.Event().wait(60))
    monkeypatch.setattr(machine, "PATIENCE", 0.1)
    assert [mark for mark, _ in check(tmp_path, "https://example.org/data")] == [UNKNOWN]
