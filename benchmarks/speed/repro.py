"""The newcomer's path, measured: a fresh clone, `make repro`, a second `dvc repro`; wall time and peak memory per process.

    python -m benchmarks.speed.repro [--keep FOLDER]        (about 10 minutes; clones this repository's HEAD)

The set-up from the package index is timed apart. Peak memory is the largest resident set (VmHWM) of every process that ran
below `make repro`, read from /proc five times a second: a process shorter than that is missed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]


def measure(command: list[str], folder: Path) -> tuple[int, float, dict[str, float]]:
    """(exit code, seconds, peak MiB by command line of every process that ran)."""
    began = time.monotonic()
    process = psutil.Popen(command, cwd=folder, stdout=sys.stderr)
    peaks: dict[int, tuple[str, float]] = {}
    while process.poll() is None:
        for one in [process, *process.children(recursive=True)]:
            try:
                status = Path(f"/proc/{one.pid}/status").read_text()
                peak = re.search(r"VmHWM:\s+(\d+) kB", status)
                if peak:
                    peaks[one.pid] = (name_of(one.cmdline()), int(peak[1]) / 1024)
            except (psutil.Error, OSError):
                continue  # it has ended
        time.sleep(0.2)
    largest: dict[str, float] = {}
    for name, peak in peaks.values():
        largest[name] = max(largest.get(name, 0.0), peak)
    return process.returncode, time.monotonic() - began, largest


def name_of(command: list[str]) -> str:
    """`holdfast STAGE ...` without interpreter and paths."""
    words = [Path(word).name if "/" in word else word for word in command]
    start = next((i for i, word in enumerate(words) if word in ("holdfast", "dvc")), 0)
    return " ".join(words[start : start + 4])[:60]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", type=Path, help="clone to this folder and leave it")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        clone = given.keep or Path(scratch) / "holdfast"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        set_up = measure(["make", ".venv/.installed"], clone)
        first = measure(["make", "repro"], clone)
        second = measure([".venv/bin/dvc", "repro"], clone)
        changed = subprocess.run(
            ["git", "status", "--short"], cwd=clone, check=True, capture_output=True, text=True
        ).stdout
    print(f"set-up                {set_up[1]:8.1f} s   exit code {set_up[0]}")
    print(f"make repro            {first[1]:8.1f} s   exit code {first[0]}")
    print(f"dvc repro, again      {second[1]:8.1f} s   exit code {second[0]}")
    print("committed files that differ: " + (" ".join(line[3:] for line in changed.splitlines()) or "none"))
    print("largest resident set by process, MiB:")
    for name, peak in sorted(first[2].items(), key=lambda pair: -pair[1])[:12]:
        print(f"  {peak:8.0f}  {name}")


if __name__ == "__main__":
    main()
