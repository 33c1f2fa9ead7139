"""The jobs of stages on other machines: where they are, what they write, and how one is ended. What sends them: jobs.py.

holdfast launch status                  the last job of each stage, and how it is
holdfast launch logs STAGE[@CELL]       what it has written; of a further job that does the same stage STAGE[@CELL]:NUMBER
holdfast launch cancel STAGE[@CELL]     ends it, and those that do the stage with it
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace

from holdfast.core.errors import UserError
from holdfast.launch import records
from holdfast.launch.interface import Phase
from holdfast.launch.launchers import make_launcher
from holdfast.launch.records import CANCELLED, Record
from holdfast.launch.settings import LAUNCH
from holdfast.launch.shells import Unreachable
from holdfast.launch.watching import Log, hide

UNKNOWN = "unknown: "  # what the state of a job begins with whose machine does not answer


def refuse_second(stage: str, cells: tuple[str, ...]) -> None:
    """Before a stage runs here. Raises UserError where a job of it is still on a machine."""
    name = records.name_of(stage, "-".join(cells))
    record = records.read(name)
    if record is not None and record.ended is None:
        do = f"send it there again in {LAUNCH} to wait for it, or end it with `holdfast launch cancel {name}`"
        raise UserError(f"its job {record.id} on {record.machine} was not fetched", where=f"stage {name}", do=do)


def print_status(as_json: bool) -> None:
    """A line for each stage that was sent away."""
    rows, silent = [], dict[str, str]()  # machines that do not answer are asked once
    for record in records.read_all():
        state = (
            describe_state(record) if record.ended is not None else silent.get(record.machine) or describe_state(record)
        )
        if state.startswith(UNKNOWN):
            silent[record.machine] = state
        rows.append({**asdict(record), "state": state})
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if not rows:
        print("no stage was sent to another machine from here")
    cells = [
        [
            records.name_of(row["stage"], row["cell"], row["part"]),
            row["machine"],
            row["id"] or row["token"],
            row["submitted"],
        ]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row, columns in zip(rows, cells, strict=True):
        print("  ".join([*(c.ljust(width) for c, width in zip(columns, widths, strict=True)), row["state"]]))


def describe_state(record: Record) -> str:
    if record.ended is not None:
        gone = "killed or cancelled" if record.part == 1 else "killed, cancelled, or not needed any more"
        return gone if record.ended == CANCELLED else f"done, exit code {record.ended}"
    try:
        state = make_launcher(record.machine, record.load_machine()).poll(record.job)
    except Unreachable as error:
        return f"{UNKNOWN}{error.what}"
    words = {
        Phase.ABSENT: "not submitted",
        Phase.WAITING: "waits in the queue",
        Phase.RUNNING: "runs",
        Phase.ENDED: f"ended with exit code {state.code}" + ("; `dvc repro` fetches it" if record.part == 1 else ""),
        Phase.KILLED: "was killed; `dvc repro` submits it again",
    }
    return words[state.phase] + (f" ({state.why})" if state.why else "")


def find_record(name: str) -> Record:
    record = records.read(name) if "/" not in name else None
    if record is None:
        known = ", ".join(record.name for record in records.read_all())
        do = f"known: {known}" if known else f"{LAUNCH} says which stages go elsewhere; none has yet"
        raise UserError("no job of this stage", where=name[:80], do=do)
    return record


def print_log(name: str) -> None:
    record = find_record(name)
    launcher = make_launcher(record.machine, record.load_machine())
    launcher.prepare()
    secrets = {name: os.environ.get(name, "") for name in record.load_machine().secrets}
    for line in Log(launcher, record.job).read_all():
        print(hide(line, secrets))


def cancel(name: str) -> None:
    """Ends the jobs of a stage, or the one of a part. Raises UserError where there is none."""
    record = find_record(name)
    alive = [
        one for one in (records.read_parts(name) if record.part == 1 else {1: record}).values() if one.ended is None
    ]
    if not alive:
        print(f"{name}: {describe_state(record)}")
    for one in alive:
        end(one)
        print(f"{one.name}: the job {one.id or one.token} on {one.machine} is cancelled; its caches stay there")


def end(record: Record) -> None:
    """Ends a job. Raises UserError where that cannot be."""
    records.write(replace(record, ended=CANCELLED))  # first: whoever waits for it submits no other
    try:
        make_launcher(record.machine, record.load_machine()).cancel(record.job)
    except UserError:
        records.write(record)
        raise
