"""How long does `report` take on a large evaluation, and how large is the page? Prints seconds, peak memory and sizes.

    python -m benchmarks.speed.report [items] [suites] [arms]        (100000 60 2 unless told)
    python -m benchmarks.speed.report 6000000 60 2                   100,000 items in each of the suites

The aim: at most 30 s, index.html at most 15 MB, report.md less than 60,000 characters. Items are those of
`python -m benchmarks.speed.gate scale`: prompts of 400 and answers of 120 characters, one item in four lost or gained; the verdict is `gate`'s.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from holdfast.params.whole import Params
from holdfast.verdict.simulation import write_evaluation

ROOT = Path(__file__).parents[2]
PARAMS = Params.load(ROOT / "params.yaml")


def holdfast(command: str, folder: Path) -> tuple[float, float, float]:
    """Runs one command there: seconds, seconds of processor time, peak memory in GiB."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "holdfast.cli", "run", command], cwd=folder, stdout=subprocess.DEVNULL
    )
    _, code, usage = os.wait4(process.pid, 0)
    if code:
        raise SystemExit(f"holdfast run {command} failed")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024**2


def main(items: int = 100_000, suites: int = 60, arms: int = 2) -> None:
    names = [f"arm-{number}" for number in range(arms)]
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for seed, name in enumerate(("base", *names)):
            write_evaluation(root / "reports" / "eval" / name, suites, items, seed)
        knobs = PARAMS.gate.model_dump() | {"min_domain_gain": 0.0, "control": None}
        (root / "params.yaml").write_text(yaml.safe_dump({"arms": names, "gate": knobs, "report": {}}))
        shutil.copytree(ROOT / "stages", root / "stages")
        holdfast("gate", root)
        took, busy, peak = holdfast("report", root)
        page, brief = root / "reports" / "index.html", root / "reports" / "report.md"
        size, length = page.stat().st_size / 1e6, len(brief.read_text(encoding="utf-8"))
    print(f"{items:,} items in {suites} suites, base and {arms} arms")
    print(f"{took:.1f} s ({busy:.1f} s of processor time), peak memory {peak:.2f} GiB")
    print(f"index.html {size:.1f} MB, report.md {length:,} characters")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
