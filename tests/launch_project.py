"""A project with one stage of milliseconds for the tests of launchers, and an sshd on 127.0.0.1 that they start."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from holdfast.commands import jobs, run
from holdfast.core import meter
from holdfast.launch.shells import Unreachable

STAGE = '''
"""Writes what it reads; `mode` says how it ends. .cache/ stays on the machine, as caches do."""

import os
import sys
import time
from pathlib import Path

from holdfast.core.errors import UserError
from stages.own import text


def main() -> None:
    cache = Path(".cache")
    cache.mkdir(exist_ok=True)
    with (cache / "starts").open("a") as starts:
        starts.write(f"{os.getpid()}\\n")
    mode = Path("data/mode").read_text()
    print("begins\\x1b[31m in", mode)
    meets = {"wait": "go", "meet": "respond/by-1"}.get(mode)
    while meets and not (cache / meets).exists():
        if not cache.exists():  # its folder was removed: the test is over
            sys.exit(9)
        time.sleep(0.02)
    if mode == "fill":
        Path("out/large").parent.mkdir(exist_ok=True)
        with open("out/large", "wb") as file:
            while True:
                file.write(bytes(2**16))
    if mode == "refuse":
        raise UserError("is not good", where="data/mode", do="write another")
    if mode == "seven":
        sys.exit(7)
    if mode == "secret":
        (cache / "secret").write_text(os.environ.get("A_SECRET", ""))
    Path("out").mkdir(exist_ok=True)
    for file in sorted(Path("data").rglob("*")):
        if file.is_file():
            (Path("out") / file.name).write_bytes(file.read_bytes()[::-1])
    Path("note.txt").write_text(text)
'''
SHARDED_STAGE = '''
"""Halves numbers in shards of two; `.cache/respond/by-N` says which part did which. `data/mode`: "wait", "meet" (until the other stage
has begun), or a part that ends with code 7."""

import os
import sys
import time
from pathlib import Path

from holdfast.core import shards

CACHE = Path(".cache/respond")


def main(model: str) -> None:
    number, count = shards.read_part()
    if Path("data/mode").read_text() == str(number):
        print("gives up")
        sys.exit(7)
    results = shards.run_shards("respond", range(int(Path("data/rows").read_text())), 2, "one", work)
    Path("answers.txt").write_text("".join(f"{result}\\n" for result in results))


def work(rows: list[int]) -> list[float]:
    number, count = shards.read_part()
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"by-{number}").open("a") as file:
        file.write(f"{rows[0]} {os.getpid()}\\n")
    meets = {"wait": CACHE / "go", "meet": Path(".cache/starts")}.get(Path("data/mode").read_text(), CACHE)
    end = time.monotonic() + 30
    while time.monotonic() < end and (not meets.exists() or len(list(CACHE.glob("by-*"))) < count):
        time.sleep(0.02)
    return [n / 2 for n in rows]
'''
PIPELINE = {
    "stages": {
        "code": {
            "cmd": "holdfast code",
            "always_changed": True,
            "outs": [{".holdfast/code": {"cache": False, "persist": True}}],
        },
        "gate": {
            "cmd": "holdfast run gate",
            "deps": [".holdfast/code/gate", "data"],
            "params": ["gate"],
            "outs": [{"out": {"persist": True}}, {"note.txt": {"cache": False, "persist": True}}],
            "metrics": [{"reports/costs/gate.json": {"cache": False, "persist": True}}],
        },
    }
}
FILES = {
    "params.yaml": "gate: {margin: 0.03}\n",
    ".gitignore": ".holdfast/\n.cache/\nlaunch.yaml\n",
    "stages/gate.py": STAGE,
    "stages/own.py": 'text = "mine"\n',
    "data/mode": "ok",
    "data/deep/a b.txt": "first",
    "data/deep/Ü.txt": "second",
}


def make_project(folder: Path) -> Path:
    """The project, with its code written down as `holdfast code` does."""
    from holdfast.commands.code import describe_code

    for name, text in {**FILES, "dvc.yaml": yaml.safe_dump(PIPELINE, sort_keys=False)}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / ".holdfast/code").mkdir(parents=True)
    (folder / ".holdfast/code/gate").write_text(describe_code(folder / "stages/gate.py", folder))
    return folder


def add_sharded_stage(project: Path, machine: Path, jobs: int) -> bytes:
    """Adds `respond`, which several jobs may do together; returns what it writes here. launch.yaml sends it to `box` then."""
    content = yaml.safe_load((project / "dvc.yaml").read_text(encoding="utf-8"))
    outs = {"deps": ["data"], "outs": ["answers.txt"], "metrics": ["reports/costs/respond/m.json"]}
    content["stages"]["respond"] = {"cmd": "holdfast run respond m", **outs}
    (project / "dvc.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    (project / "stages/respond.py").write_text(SHARDED_STAGE, encoding="utf-8")
    (project / "data/rows").write_text("10")
    assert run.main("respond", "m") == 0
    outputs = (project / "answers.txt").read_bytes()
    meter.total = meter.Spent()
    for left in (project / "answers.txt", project / ".cache", machine / "tree/.cache"):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
    launch = yaml.safe_load((project / "launch.yaml").read_text(encoding="utf-8"))
    launch["stages"]["respond"] = {"machine": "box", "jobs": jobs}
    (project / "launch.yaml").write_text(yaml.safe_dump(launch), encoding="utf-8")
    return outputs


def write_launch(project: Path, **machine: object) -> None:
    """launch.yaml that sends the stage to the machine `box`."""
    content = {"machines": {"box": {"python": sys.executable, **machine}}, "stages": {"gate": "box"}}
    (project / "launch.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def change_machine(project: Path, **changes: object) -> None:
    """Other keys of the machine in launch.yaml."""
    file = project / "launch.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    content["machines"]["box"].update(changes)
    file.write_text(yaml.safe_dump(content), encoding="utf-8")


def go(machine: Path) -> None:
    """Lets a stage that waits go on. `machine`: its folder."""
    (machine / "tree" / ".cache").mkdir(parents=True, exist_ok=True)
    (machine / "tree" / ".cache" / "go").touch()


def starts(machine: Path) -> int:
    file = machine / "tree" / ".cache" / "starts"
    return len(file.read_text().split()) if file.is_file() else 0


def leave(monkeypatch: pytest.MonkeyPatch, machine: Path) -> None:
    """Runs the stage's command until the job runs; then the command ends, as one whose terminal is closed."""

    def watch(*arguments: object) -> None:
        wait_for(lambda: starts(machine))
        raise Unreachable("is gone", where="test", do="-")

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "watch", watch)
        with pytest.raises(Unreachable):
            run.main("gate")


def wait_for(true: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.02)


def read_outputs(folder: Path) -> dict[str, bytes]:
    """All that the stage declares."""
    files = [*(folder / "out").rglob("*"), folder / "note.txt", folder / "reports/costs/gate.json"]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files if file.is_file()}


def lend(start: Callable[[], Any]) -> Iterator[Any]:
    """A server of this machine while tests use it; they are skipped where its programs are not installed."""
    try:
        server = start()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    yield server
    server.stop()


class Sshd:
    """OpenSSH's server for this user, with keys of its own."""

    def __init__(self) -> None:
        program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
        if program is None or shutil.which("ssh") is None:
            raise FileNotFoundError("no sshd here (apt install openssh-server)")
        self.program = program
        self.folder = Path(tempfile.mkdtemp(prefix="sshd-"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / key)], check=True)
        host_key = (self.folder / "host.pub").read_text()
        (self.folder / "known").write_text(f"[127.0.0.1]:{self.port} {host_key}")
        (self.folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder}/host\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {self.folder}/user.pub\nStrictModes no\nPasswordAuthentication no\n"
            f"PermitRootLogin yes\nMaxStartups 100\nSetEnv HOME={self.folder}\n"
        )
        self.config = self.folder / "ssh_config"
        common = f"  HostName 127.0.0.1\n  Port {self.port}\n  IdentityFile {self.folder}/user\n  IdentitiesOnly yes\n"
        shared = f"  ControlMaster auto\n  ControlPersist 60\n  ControlPath {self.folder}/%n\n"
        self.config.write_text(
            f"Host gpubox\n{common}{shared}  UserKnownHostsFile {self.folder}/known\n"
            f"Host changed\n{common}  ControlPath {self.folder}/%n\n  UserKnownHostsFile {self.folder}/other\n"
        )
        other = (self.folder / "user.pub").read_text()
        (self.folder / "other").write_text(f"[127.0.0.1]:{self.port} {other}")
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        self.start()

    def start(self) -> None:
        log = (self.folder / "log").open("ab")
        command = [self.program, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        self.server = subprocess.Popen(command, stderr=log, start_new_session=True)
        wait_for(self.listens)

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def cut(self) -> None:
        """Ends the server and every connection, as a cable that is pulled; what runs behind it goes on."""
        os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait()
        for process in Path("/proc").glob("[0-9]*"):  # the shared connection
            try:
                line = (process / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if line.startswith(b"ssh: ") and str(self.folder).encode() in line:
                os.kill(int(process.name), signal.SIGKILL)

    def stop(self) -> None:
        self.cut()
        shutil.rmtree(self.folder, ignore_errors=True)
