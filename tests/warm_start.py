"""`holdfast` and `dvc` as commands that start in a moment: a server that has the libraries loaded forks a process for each call.

`start()` returns a folder to put first on PATH. Its two scripts hand their arguments, environment, working directory, limits
and file descriptors to the server and end with the exit code of the process that it forks. What runs is the real command in
a process of its own; only the seconds of importing are saved, of which a pipeline of two dozen stages has hundreds.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

COMMANDS = {"holdfast": "holdfast.cli", "dvc": "dvc.cli"}
ALWAYS = ["holdfast.cli", "holdfast.params.whole", "holdfast.core.fingerprint", "holdfast.verdict.gate", "dvc.cli"]
ALWAYS += ["dvc.repo", "dvc.commands.repro", "dvc.stage", "dvc_data.index", "pandas", "pyarrow.parquet"]
MODELS = ["torch", "transformers.models.llama.modeling_llama", "transformers.generation", "sklearn.cluster"]
STAGES = {
    "finetune": ["trl", "peft"],
    "drift": ["evidently"],
    "quality": ["great_expectations"],
    "ingest": ["datasets"],
}
STAGES["evaluate"] = [*MODELS, "lm_eval.models.huggingface", "lm_eval.tasks", "sklearn.feature_extraction.text"]
LIMITS = ("RLIMIT_FSIZE", "RLIMIT_DATA", "RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_NOFILE")

CLIENT = """#!{python} -IS
import json, os, resource, socket, sys
limits = {{name: resource.getrlimit(getattr(resource, name)) for name in {limits}}}
umask = os.umask(0o077)
call = [{command!r}, sys.argv, dict(os.environ), os.getcwd(), limits, umask]
content = json.dumps(call).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [len(content).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(content)
    code = int(server.recv(16) or b"3")
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@lru_cache
def start(python: str = sys.executable, root: str = str(Path(__file__).resolve().parents[1])) -> Path:
    """The folder with the scripts of a server under this interpreter; it ends with this process. `root` goes on its path
    for Holdfast to be imported from; '' for what the interpreter has installed."""
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    address = str(folder / "socket")
    paths = [entry for entry in (root, str(Path(__file__).parent)) if entry]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        command = [python, "-m", "warm_start", str(listener.fileno())]
        server = subprocess.Popen(
            command, env=environment, cwd=folder, pass_fds=[listener.fileno()], stdin=subprocess.PIPE
        )
    atexit.register(server.kill)
    for name, module in COMMANDS.items():
        script = folder / name
        script.write_text(CLIENT.format(python=sys.executable, limits=LIMITS, command=module, address=address))
        script.chmod(0o755)
    return folder


def serve(listener: socket.socket) -> NoReturn:
    """Forks for each connection, for ever; ends when the process that started it does (its end of our stdin closes)."""
    load(ALWAYS)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the children are not waited for here
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            os._exit(0)
        connection, _ = listener.accept()
        head, descriptors, _, _ = socket.recv_fds(connection, 8, 3)
        content = b""
        while len(content) < int.from_bytes(head, "big"):
            content += connection.recv(1 << 20)
        call = json.loads(content)
        if call[1][1:2] == ["run"] and (Path(call[3]) / "stages" / f"{call[1][2]}.py").is_file():
            load(STAGES.get(call[1][2], MODELS))
        if os.fork() == 0:
            listener.close()
            attend(connection, descriptors, *call)
        connection.close()
        for descriptor in descriptors:
            os.close(descriptor)


def load(modules: list[str]) -> None:
    for name in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def attend(connection: socket.socket, descriptors: list[int], *call: Any) -> NoReturn:
    """Runs one call in a process of its own and sends its exit code; kills it where the caller has gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    worker = os.fork()
    if worker == 0:
        connection.close()
        execute(descriptors, *call)
    ended = os.pidfd_open(worker)
    if ended not in select.select([connection, ended], [], [])[0]:
        os.kill(worker, signal.SIGKILL)
    _, status = os.waitpid(worker, 0)
    with contextlib.suppress(OSError):
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def execute(
    descriptors: list[int],
    module: str,
    arguments: list[str],
    environment: dict[str, str],
    folder: str,
    limits: dict[str, list[int]],
    umask: int,
) -> NoReturn:
    """The call itself. The standard streams of this process, and handlers of loggers that hold them, write to the caller's
    descriptors from here on."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    os.umask(umask)
    for name, (soft, hard) in limits.items():
        resource.setrlimit(getattr(resource, name), (soft, hard))
    sys.argv = arguments
    ours = (str(Path(__file__).parent), str(Path(arguments[0]).parent))
    sys.path[:] = [entry for entry in sys.path if entry not in ours]
    code: Any = 1
    try:
        code = importlib.import_module(module).main()
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        if isinstance(code, str):
            print(code, file=sys.stderr)
        atexit._run_exitfuncs()
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
