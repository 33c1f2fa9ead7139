"""holdfast repro: as `dvc repro`, with independent stages side by side.

The order is DVC's own graph; each stage is a `dvc repro --single-item` of its own, so that DVC decides whether it runs, records it and
takes its locks. How many stages a machine takes at once says launch.yaml (`at_once`); here it is one, or `--here N`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from holdfast.commands.check import OF_VALUES, blame_file
from holdfast.core.errors import ExitCode
from holdfast.launch import settings

CALL = re.compile(r"\bholdfast run ([\w.-]+)((?: [\w.-]+)*)")
LOCK = Path("dvc.lock")


@dataclass(frozen=True)
class Step:
    """A stage of DVC's."""

    name: str  # STAGE or STAGE@CELL
    place: str  # machine of launch.yaml, or `here`
    needs: frozenset[str]  # names of the stages that it reads from


@dataclass(frozen=True)
class Outcome:
    failed: list[str]
    skipped: list[str]  # they need one that failed


def main(targets: list[str], here: int) -> int:
    """`here`: stages at once on this machine. Raises UserError."""
    steps = read_graph(targets)
    launch = settings.load()
    width = {name: machine.width for name, machine in launch.machines.items()} if launch else {}
    order = read_order()
    begin = time.monotonic()
    try:
        outcome = walk(steps, {**width, settings.HERE: here}, run_step)
    finally:
        sort_lock([*order, *(step.name for step in steps)])
    print(f"{len(steps)} stages, {time.monotonic() - begin:,.0f} s")
    for name in outcome.failed:
        print(f"failed: {name}", file=sys.stderr)
    if outcome.skipped:
        print(f"not run, since they need these: {', '.join(outcome.skipped)}", file=sys.stderr)
    return ExitCode.BROKEN if outcome.failed else ExitCode.OK


def read_graph(targets: list[str]) -> list[Step]:
    """The stages that `dvc repro TARGETS` would look at, in its order."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

    launch = settings.load()
    try:
        with Repo() as repo:
            graph = get_active_graph(repo.index.graph)
            stages = plan_repro(graph, collect_stages(repo, targets or ["dvc.yaml"]))
            steps = []
            for stage in stages:
                call = CALL.search(str(stage.cmd or ""))
                machine = launch.find(call[1], *call[2].split()) if launch and call else None
                needs = frozenset(other.addressing for other in graph.successors(stage))
                steps.append(Step(stage.addressing, machine or settings.HERE, needs))
            return steps
    except (DvcException, *OF_VALUES) as error:
        raise blame_file(error) from None


def walk(steps: list[Step], width: dict[str, int | None], run: Callable[[Step], int]) -> Outcome:
    """Runs each step once the steps that it needs are done, as many at once as `width` says of a place (None: any number).

    A step that fails stops those that need it and no other. Ctrl-C: waits for what runs, which gets it too.
    """
    done: set[str] = set()
    failed: list[str] = []
    skipped: list[str] = []
    pending, running = list(steps), dict[Future[int], Step]()
    with ThreadPoolExecutor(max(len(steps), 1)) as pool:
        while pending or running:
            for step in list(pending):
                taken = sum(other.place == step.place for other in running.values())
                room = width.get(step.place)
                if step.needs & {*failed, *skipped}:
                    skipped.append(step.name)
                    pending.remove(step)
                elif step.needs <= done and (room is None or taken < room):
                    running[pool.submit(run, step)] = step
                    pending.remove(step)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                step = running.pop(future)
                if future.result():
                    failed.append(step.name)
                else:
                    done.add(step.name)
    return Outcome(failed, skipped)


def run_step(step: Step) -> int:
    """`dvc repro` of this stage alone, each line of its output with the stage's name before it. Returns DVC's exit code."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", step.name]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, env=environment, text=True, errors="replace", **pipes) as process:  # type: ignore[call-overload]
        for line in process.stdout:
            print(f"{step.name} | {line.rstrip()}", flush=True)
    return process.returncode


def read_order() -> list[str]:
    """Names of the stages in dvc.lock, as they stand there."""
    from dvc.utils.serialize import load_yaml

    return list((load_yaml(LOCK).get("stages") or {}) if LOCK.is_file() else {})


def sort_lock(order: list[str]) -> None:
    """Brings the stages of dvc.lock into the order in which DVC alone would have written them: it adds new ones at the end."""
    from dvc.utils.serialize import modify_yaml

    if not LOCK.is_file():
        return
    place = {name: number for number, name in reversed(list(enumerate(order)))}
    names = read_order()
    if names != sorted(names, key=lambda name: place.get(name, len(order))):
        with modify_yaml(LOCK) as content:
            entries = content["stages"]
            content["stages"] = {
                name: entries[name] for name in sorted(names, key=lambda name: place.get(name, len(order)))
            }
