"""What sending a stage to another machine costs beside its work: one that reads and writes next to nothing, here and there.

    python -m benchmarks.speed.launching MACHINE [--runs 5]     MACHINE: one of launch.yaml in the working directory

Prints the seconds of `holdfast run` (median, least, most): here, there when the machine sees Holdfast for the first time, and there
again. Takes the machine's own folder with `-overhead` behind it, which it leaves.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from holdfast.launch import settings

STAGE = "from pathlib import Path\n\n\ndef main() -> None:\n    Path('out').write_text('done')\n"
PIPELINE = {"stages": {"gate": {"cmd": "holdfast run gate", "deps": ["data"], "outs": ["out"]}}}


def make_project(folder: Path) -> None:
    for name, text in {
        "stages/gate.py": STAGE,
        "data": "1",
        "params.yaml": "{}\n",
        "dvc.yaml": yaml.safe_dump(PIPELINE),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def time_run(folder: Path) -> float:
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run(
        [sys.executable, "-m", "holdfast.cli", "run", "gate"],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("machine")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    launch = settings.load()
    if launch is None or options.machine not in launch.machines:
        parser.error(f"launch.yaml in the working directory has no machine '{options.machine}'")
    machine = launch.machines[options.machine]
    there = {**machine.model_dump(exclude_defaults=True), "folder": f"{machine.place()}-overhead-{os.getpid()}"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_project(folder)
        report("here", [time_run(folder) for _ in range(options.runs)])
        content = {"machines": {options.machine: there}, "stages": {"gate": options.machine}}
        (folder / "launch.yaml").write_text(yaml.safe_dump(content))
        report("there, first", [time_run(folder)])
        report("there, again", [time_run(folder) for _ in range(options.runs)])


def report(what: str, seconds: list[float]) -> None:
    print(f"{what:<14}{statistics.median(seconds):6.2f} s  ({min(seconds):.2f} to {max(seconds):.2f})", flush=True)


if __name__ == "__main__":
    main()
