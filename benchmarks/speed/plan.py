"""What `holdfast plan` says against what the pocket lab then takes, stage by stage: rows, tokens, seconds, memory, money.

    python -m benchmarks.speed.plan [--samples N]   (about a quarter of an hour; clones HEAD and runs every stage; fewer with N)
    python -m benchmarks.speed.plan --run FOLDER    (half a minute: the ledgers of a run that is there, nothing is run)

Every command runs by itself on an empty cache, in the order of the DAG, as `dvc repro` runs it, in one process with one
thread. Seconds are those that its processes computed, so that other work on the machine counts for little; `plan` measures
alike. Rows, tokens and memory are those of the ledgers in reports/costs (rows where a stage works in shards). Numbers in the
table are plan / ledger; the goal is between 1/1.5 and 1.5.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
ALONE = {"HF_HUB_OFFLINE": "1", "HOLDFAST_WORKERS": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
WHAT = ("rows", "tokens", "seconds", "memory", "money")
PRICE = 1.0  # of an hour of one device; here of one core
Line = dict[str, float]


def commands(folder: Path) -> list[tuple[str, list[str]]]:
    """(stage as plan names it, command) of every stage but the frozen recipe, in an order that DVC would take."""
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    dag = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    listed = []
    for name, stage in dag.items():
        if stage.get("frozen"):
            continue
        for key, values in (stage.get("matrix") or {"": ""}).items():
            cells = params[values.strip("${}")] if key else [""]
            for cell in cells:
                command = stage["cmd"].replace(f"${{item.{key}}}", cell).split()
                listed.append((f"{name}@{cell}" if cell else name.replace("-", "@"), command[1:]))
    return listed


def run_plan(folder: Path, code: Path) -> dict[str, Line]:
    command = [sys.executable, "-m", "holdfast.cli", "plan", "--json"]
    here = {**os.environ, **ALONE, "PYTHONPATH": str(code)}
    output = subprocess.run(command, cwd=folder, env=here, check=True, capture_output=True, text=True)
    lines = {line["stage"]: line for line in json.loads(output.stdout)["stages"]}
    return {stage: {**line, "money": PRICE * line["hours"]} for stage, line in lines.items()}


def run_stages(folder: Path) -> dict[str, Line]:
    """Runs everything: seconds of computing and largest resident set of each stage, its worker processes included."""
    lines: dict[str, Line] = {}
    for stage, command in commands(folder):
        process = subprocess.Popen(
            [sys.executable, "-m", "holdfast.cli", *command],
            cwd=folder,
            stdout=sys.stderr,
            env={**os.environ, **ALONE, "PYTHONPATH": str(folder)},
        )
        _, status, used = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{stage} failed")
        seconds = used.ru_utime + used.ru_stime
        lines[stage] = {"seconds": seconds, "memory": 1024 * used.ru_maxrss, "money": PRICE * seconds / 3600}
        print(f"{stage}: {seconds:.1f} s", file=sys.stderr, flush=True)
    return lines


def read_ledgers(folder: Path) -> dict[str, Line]:
    """Rows, tokens and memory of every command, from the ledgers that it left."""
    costs, lines = folder / "reports" / "costs", {}
    for file in sorted(costs.rglob("*.json")):
        ledger = json.loads(file.read_text(encoding="utf-8"))
        if tokens := ledger["read"] + ledger["written"] + ledger["trained"]:
            name = file.relative_to(costs).with_suffix("").as_posix().replace("/", "@")
            lines[name] = {"rows": ledger["rows"], "tokens": tokens}
            timing = folder / ".holdfast/timings" / file.relative_to(costs)  # of the last run on this machine
            if timing.is_file():
                lines[name]["memory"] = json.loads(timing.read_text(encoding="utf-8"))["peak_memory_bytes"]
    return lines


def compare(plan: dict[str, Line], ledger: dict[str, Line]) -> None:
    """One line per stage, the cells of its matrix together, of what both sides tell."""
    measured, plan_lines = group_by_stage(ledger), group_by_stage(plan)
    # of what both sides tell: where no rows were counted, none are compared
    predicted = {stage: {w: n for w, n in plan_lines[stage].items() if measured[stage].get(w)} for stage in measured}
    measured = {stage: {w: n for w, n in line.items() if predicted[stage].get(w)} for stage, line in measured.items()}
    for side in (predicted, measured):
        side["all"] = add_up(list(side.values()))
    shown = [what for what in WHAT if what in measured["all"]]
    print("| stage | " + " | ".join(shown) + " | ledger |\n|---|" + "---|" * (len(shown) + 1))
    for stage, line in measured.items():
        pairs = [(predicted[stage].get(what, 0.0), line.get(what, 0.0)) for what in shown]
        ratios = [f"{a / b:.2f}" if min(a, b) > 0 else "" for a, b in pairs]  # no model runs: no device is paid for
        print(f"| {stage} | " + " | ".join(ratios) + f" | {describe(line)} |")


def merge(one: dict[str, Line], other: dict[str, Line]) -> dict[str, Line]:
    """What was timed and what was counted, by stage."""
    one, other = group_by_stage(one), group_by_stage(other)
    return {stage: other.get(stage, {}) | line for stage, line in one.items()}


def group_by_stage(lines: dict[str, Line]) -> dict[str, Line]:
    groups: dict[str, list[Line]] = {}
    for stage, line in lines.items():
        groups.setdefault(stage.partition("@")[0], []).append(line)
    return {stage: add_up(group) for stage, group in groups.items()}


def add_up(lines: list[Line]) -> Line:
    """Sums; of memory the largest."""
    keys = [what for what in WHAT if any(what in line for line in lines)]
    return {w: (max if w == "memory" else sum)(line[w] for line in lines if w in line) for w in keys}


def describe(line: Line) -> str:
    form: dict[str, Any] = {
        "rows": lambda n: f"{n:,.0f} rows",
        "tokens": lambda n: f"{n:,.0f} tokens",
        "seconds": lambda n: f"{n:.1f} s",
        "memory": lambda n: f"{n / 2**20:,.0f} MiB",
    }
    return ", ".join(say(line[what]) for what, say in form.items() if line.get(what))


def main(run: Path | None, samples: int | None) -> None:
    if run is not None:
        compare(run_plan(run.resolve(), ROOT), read_ledgers(run.resolve()))
        return
    with tempfile.TemporaryDirectory() as scratch:
        clone = Path(scratch) / "holdfast"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        if samples:  # a smaller lab: as many user turns, and one epoch
            params = yaml.safe_load((clone / "params.yaml").read_text(encoding="utf-8"))
            params["reconstruct"]["samples"], params["mix"]["epochs"] = samples, 1
            params["mix"]["arms"]["holdfast"]["epochs"] = 1
            (clone / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
        plan, ledger = run_plan(clone, clone), run_stages(clone)
        compare(plan, merge(ledger, read_ledgers(clone)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, help="user turns to write, and one epoch of training: quicker")
    parser.add_argument("--run", type=Path, help="a folder with a finished run of the pocket lab")
    main(**vars(parser.parse_args()))
