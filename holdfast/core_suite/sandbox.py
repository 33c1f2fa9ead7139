"""Runs small Python functions that a model wrote: in a process that can compute, and do nothing else.

What a model wrote is hostile. It runs in an interpreter of its own, without environment, site packages or open files, and behind a
seccomp filter (Linux, kernel's Documentation/userspace-api/seccomp_filter.rst) that lets some twenty system calls pass: memory,
clocks, its own two pipes, its end. So it opens no file and no connection, starts no process, signals none and cannot lift its
limits of time, memory and output. Where a system has no such filter, nothing is run (`is_available`).

The parent hands over source and arguments as JSON, and reads results as JSON: it never evaluates anything. This file is also the
script of the child, so it imports nothing but the standard library.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from functools import lru_cache
from typing import Any

PROCESSOR_SECONDS, SECONDS = 1, 10  # of all calls of one function; the second by the clock
MEMORY = 512 * 2**20  # bytes of address space
OUTPUT = 2**16  # bytes
NEEDED = ("LD_LIBRARY_PATH", "PYTHONHOME")  # of the environment: all that an interpreter may need to start
LONGEST_SOURCE = 20_000  # characters
MODULES = (
    "bisect collections datetime functools heapq itertools json math operator re string typing".split()
)  # may be imported

# By machine: its AUDIT_ARCH (include/uapi/linux/audit.h), and the calls that pass, by number (include/uapi/asm-generic/unistd.h,
# arch/x86/entry/syscalls/syscall_64.tbl)
ALLOWED = {
    "x86_64": (
        0xC000003E,
        "read=0 write=1 close=3 fstat=5 lseek=8 mmap=9 mprotect=10 munmap=11 brk=12 rt_sigaction=13 rt_sigprocmask=14 "
        "rt_sigreturn=15 mremap=25 madvise=28 exit=60 gettimeofday=96 sigaltstack=131 futex=202 clock_gettime=228 "
        "exit_group=231 getrandom=318",
    ),
    "aarch64": (
        0xC00000B7,
        "close=57 lseek=62 read=63 write=64 fstat=80 exit=93 exit_group=94 futex=98 clock_gettime=113 sigaltstack=132 "
        "rt_sigaction=134 rt_sigprocmask=135 rt_sigreturn=139 gettimeofday=169 brk=214 munmap=215 mremap=216 mmap=222 "
        "mprotect=226 madvise=233 getrandom=278",
    ),
}
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
KILL_PROCESS, REFUSE, ALLOW = 0x80000000, 0x00050001, 0x7FFF0000  # REFUSE: the call returns EPERM
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
NUMBER_AT, ARCHITECTURE_AT = 0, 4  # offsets in struct seccomp_data


def call_function(source: str, name: str, arguments: list[list[Any]]) -> list[Any] | None:
    """What the function `name` of `source` returns for each list of arguments, as JSON has it; None where there is no such
    function, where a call fails, or where time, memory or output is used up. Raises RuntimeError where nothing can be confined."""
    if not is_available():
        raise RuntimeError("this system cannot confine a process")
    return run_child({"source": source[:LONGEST_SOURCE], "name": name, "arguments": arguments})


@lru_cache(maxsize=1)
def is_available() -> bool:
    """Whether this system confines a process: one that computes does, and one that opens a file or a connection does not."""
    if sys.platform != "linux" or platform.machine() not in ALLOWED:
        return False
    probe = "import ctypes, posix\ndef probe(n):\n    refused = ctypes.CDLL(None).socket(2, 1, 0) == -1\n"
    for attempt in ("open('/proc/self/status')", "posix.fork()", "posix.kill(posix.getppid(), 0)"):
        probe += (
            f"    try:\n        {attempt}\n        return 'done'\n    except PermissionError:\n        refused += 1\n"
        )
    result = run_child({"source": f"{probe}    return [n + 1, refused]", "name": "probe", "arguments": [[1]]})
    return result == [[2, 4]]


def run_child(task: dict[str, Any]) -> list[Any] | None:
    command = [sys.executable, "-s", "-S", "-P", "-B", __file__]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                command,
                input=json.dumps(task).encode(),
                stdout=output,  # a file: its size is limited, and no more of it is ever read
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={"PYTHONHASHSEED": "0"} | {name: os.environ[name] for name in NEEDED if name in os.environ},
                timeout=SECONDS,
                check=False,
            )
        except (subprocess.TimeoutExpired, OSError):
            return None
        output.seek(0)
        written = output.read(OUTPUT)
    try:
        results = json.loads(written) if done.returncode == 0 else None
    except (ValueError, RecursionError):
        return None
    return results if isinstance(results, list) and len(results) == len(task["arguments"]) else None


def run_confined() -> None:
    """The child: reads its task, gives up what it may do, and only then compiles and runs what the model wrote."""
    import io

    task = json.loads(sys.stdin.buffer.read())
    for module in MODULES:
        __import__(module)
    sys.stdout = sys.stderr = io.StringIO()
    limit_resources()
    confine()
    namespace: dict[str, Any] = {"__name__": "answer"}
    exec(compile_longest(task["source"]), namespace)  # noqa: S102  (confined: this is what the sandbox is for)
    results = [namespace[task["name"]](*arguments) for arguments in task["arguments"]]
    os.write(1, json.dumps(results).encode())
    os._exit(0)


def compile_longest(source: str) -> Any:
    """The code of a source, without the last lines that make it none: a remark after the function."""
    lines = source.splitlines()
    for end in range(len(lines), 0, -1):
        try:
            return compile("\n".join(lines[:end]), "answer", "exec")
        except SyntaxError:
            continue
    raise SyntaxError("no Python")


def limit_resources() -> None:
    import resource

    for what, most in (
        (resource.RLIMIT_CPU, PROCESSOR_SECONDS),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, OUTPUT),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def confine() -> None:
    """Every system call but those of ALLOWED fails from here on, for good. Raises OSError where the kernel does not do that."""
    import ctypes

    class Instruction(ctypes.Structure):  # struct sock_filter
        _fields_ = [
            ("code", ctypes.c_uint16),
            ("yes", ctypes.c_uint8),
            ("no", ctypes.c_uint8),
            ("value", ctypes.c_uint32),
        ]

    class Program(ctypes.Structure):  # struct sock_fprog
        _fields_ = [("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(Instruction))]

    architecture, calls = ALLOWED[platform.machine()]
    steps = [
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (JUMP_IF_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, NUMBER_AT),
    ]
    for number in (int(call.partition("=")[2]) for call in calls.split()):
        steps += [(JUMP_IF_EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    steps.append((RETURN, 0, 0, REFUSE))
    instructions = (Instruction * len(steps))(*(Instruction(*step) for step in steps))
    program = Program(len(steps), instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "the kernel has no filter of system calls")


if __name__ == "__main__":
    run_confined()
