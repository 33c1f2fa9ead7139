"""A stage on another machine, by launch.yaml: its declared inputs go there, its log and its declared outputs come back.

holdfast run STAGE [CELL]               as dvc.yaml calls it: sends, submits, waits, fetches, and ends with the stage's exit code
holdfast launch status                  the last job of each stage, and how it is
holdfast launch logs STAGE[@CELL]       what it has written
holdfast launch cancel STAGE[@CELL]     ends it

A job whose submitter was killed goes on; the next `holdfast run` of the same stage with the same inputs waits for it.
"""

from __future__ import annotations

import json
import secrets
import shlex
import shutil
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from holdfast.commands import inputs
from holdfast.commands.travel import Work, collect_work, read_secrets
from holdfast.core import ledger, storage
from holdfast.core.errors import ExitCode, UserError
from holdfast.launch import records, script, transfer
from holdfast.launch.interface import Launcher, Phase, State
from holdfast.launch.launchers import make_launcher
from holdfast.launch.records import Record
from holdfast.launch.settings import LAUNCH, Machine
from holdfast.launch.shells import Unreachable
from holdfast.launch.watching import Log, say, watch

CANCELLED = -1  # in a record, in place of an exit code: killed or cancelled
LITTLE = 2**24  # bytes: a disk with less is full
ALIVE = (Phase.WAITING, Phase.RUNNING)


def run_elsewhere(stage: str, cells: tuple[str, ...], name: str, machine: Machine, code: str) -> int:
    """The exit code of the stage. `code`: what describes its code. Raises UserError."""
    before = inputs.read_inputs(stage, *cells)
    work = collect_work(stage, cells, machine, code)
    values = read_secrets(machine)
    stage_name = records.name_of(stage, "-".join(cells))
    with records.hold(stage_name):
        record = find_job(stage_name, name, work.key)
        for left in range(machine.retries, -1, -1):
            if fresh := record is None or not record.id:
                record = submit(name, machine, work, values, record)
            launcher = make_launcher(record.machine, record.load_machine())
            try:
                log = Log(launcher, record.job) if fresh else Log.from_the_end(launcher, record.job)
                state = watch(launcher, record.job, log, machine.patience, values)
            except KeyboardInterrupt:
                return leave_or_cancel(launcher, record)
            if state.phase is Phase.ENDED:
                return finish(launcher, record, state, work, before)
            why = state.why or "its folder there is gone"
            latest = records.read(stage_name)
            if latest is None or latest.ended is not None:
                do = "run it again to submit another, which goes on from its caches"
                raise UserError("the job was cancelled", where=f"stage {stage_name} on {name}", do=do)
            records.write(replace(record, ended=CANCELLED))
            if left:
                say(f"machine {name}: the job was killed ({why}); submitting another, which goes on from its caches")
                record = None
        do = f"run it again: it goes on from its caches there; `holdfast launch logs {stage_name}` shows the log"
        raise UserError(f"the job was killed ({why})", where=f"stage {stage_name} on {name}", do=do)


def find_job(name: str, machine: str, key: str) -> Record | None:
    """The job of an earlier command that this one waits for; with `id` "" it is to be submitted yet. None: there is none.

    Raises UserError where one of other inputs, or on another machine, still runs.
    """
    record = records.read(name)
    if record is None or record.ended is not None:
        return None
    launcher = make_launcher(record.machine, record.load_machine())
    launcher.prepare()
    state = launcher.poll(record.job)
    if record.key != key or record.machine != machine:
        if state.phase in ALIVE:
            what = f"a job of other inputs still runs on {record.machine} ({record.id or record.token})"
            do = f"`holdfast launch cancel {name}` ends it; with the same inputs and machine it is waited for"
            raise UserError(what, where=f"stage {name}", do=do)
        return None
    if state.phase is Phase.ABSENT:
        return replace(record, id="")
    if state.phase is Phase.KILLED:
        say(f"stage {name}: its last job on {machine} was killed ({state.why}); a new one goes on from its caches")
        return None
    say(f"stage {name}: waits for the job {record.id or record.token} on {machine}, submitted {record.submitted}")
    return replace(record, id=record.id or record.token)


def submit(name: str, machine: Machine, work: Work, values: dict[str, str], former: Record | None) -> Record:
    """Sends what is needed, writes the record, then starts the job. `former`: one whose submission is not known to have
    happened; its token is used again, so that it cannot start twice."""
    launcher, folder = make_launcher(name, machine), machine.place()
    cell = "-".join(work.cells)
    stage_name = records.name_of(work.stage, cell)
    say(f"machine {name}: {stage_name} reads {len(work.files):,} files; sending what is not there yet")
    words = "-".join(["holdfast", work.stage, *work.cells])
    record = former or Record(
        stage=work.stage,
        cell=cell or None,
        machine=name,
        settings=machine.model_dump(exclude_defaults=True),
        token=f"{words}-{secrets.token_hex(4)}",
        folder=folder,
        key=work.key,
        submitted=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    last = records.read(record.name)
    old = [f"jobs/{last.token}"] if last and last.folder == folder and last.token != record.token else []
    job_script = script.write_job(machine, work.stage, work.cells).encode()
    notes = {"job.sh": job_script, "inputs": script.write_inputs(work.files).encode()}
    cargo = transfer.Cargo(
        files=work.files,
        folders=work.folders,
        clear=[*(f"tree/{out}" for out in [*work.outs, timing_file(work.stage, cell)]), *old],
        skipped=machine.there,
        notes={f"jobs/{record.token}/{name}": content for name, content in notes.items()},
        owner=str(Path.cwd()) if machine.folder else "",
    )
    with records.take_turn(name):
        launcher.prepare()
        sent = transfer.send(launcher.shell, folder, cargo)
    records.write(record)
    record = replace(record, id=launcher.submit(record.job, values) or record.token)
    records.write(record)
    say(f"machine {name}: submitted as {record.id}, {sent:,} bytes sent; Ctrl-C asks whether to leave or cancel it")
    return record


def timing_file(stage: str, cell: str | None) -> str:
    return (ledger.TIMINGS / (f"{stage}/{cell}.json" if cell else f"{stage}.json")).as_posix()


def finish(launcher: Launcher, record: Record, state: State, work: Work, before: inputs.Inputs | None) -> int:
    """Fetches what the stage has written, as it would have been written here, and returns its exit code."""
    timing = timing_file(record.stage, record.cell)
    staging = records.FOLDER / f"{record.token}.outs"
    try:
        changed = transfer.fetch(launcher.shell, f"{record.folder}/tree", [*work.outs, timing], staging)
        inputs.refuse_changes(before, work.stage, *work.cells)
        transfer.put_in_place(staging, changed)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    if timing in changed or state.code == 0:
        note = {"machine": record.machine, "price": record.load_machine().price}
        storage.write_json(Path(timing), {**storage.read_json(Path(timing)), **note})
    records.write(replace(record, ended=state.code))
    if state.code:
        say(
            f"machine {record.machine}: {record.name} ended with exit code {state.code}{describe_disk(launcher, record)}"
        )
    return state.code


def describe_disk(launcher: Launcher, record: Record) -> str:
    """Says so where the disk there is full: the log may not have had room for it."""
    try:
        lines = launcher.shell.run(f"df -Pk {shlex.quote(record.folder)}").decode(errors="replace").splitlines()
        free = int(lines[-1].split()[3]) * 1024
    except (UserError, ValueError, IndexError):
        return ""
    return f"; its disk is full ({free:,} bytes are free)" if free < LITTLE else ""


def leave_or_cancel(launcher: Launcher, record: Record) -> int:
    """Ctrl-C: asks on a terminal; elsewhere the job is left."""
    answer = ""
    if sys.stdin.isatty() and sys.stderr.isatty():
        try:
            say(f"\nThe job {record.id} goes on on {record.machine}. Leave it (Enter), or cancel it (c)?")
            answer = sys.stdin.readline().strip().lower()
        except KeyboardInterrupt:
            pass
    if answer in ("c", "cancel"):
        cancel(record.name)
    else:
        say(f"stage {record.name}: the job {record.id} goes on on {record.machine}")
        say(f"  `dvc repro` waits for it again; `holdfast launch cancel {record.name}` ends it")
    return ExitCode.INTERRUPTED


def refuse_second(stage: str, cells: tuple[str, ...]) -> None:
    """Before a stage runs here. Raises UserError where a job of it is still on a machine."""
    name = records.name_of(stage, "-".join(cells))
    record = records.read(name)
    if record is not None and record.ended is None:
        do = f"send it there again in {LAUNCH} to wait for it, or end it with `holdfast launch cancel {name}`"
        raise UserError(f"its job {record.id} on {record.machine} was not fetched", where=f"stage {name}", do=do)


def print_status(as_json: bool) -> None:
    """A line for each stage that was sent away."""
    rows = []
    for record in records.read_all():
        rows.append({**asdict(record), "state": describe_state(record)})
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if not rows:
        print("no stage was sent to another machine from here")
    cells = [
        [records.name_of(row["stage"], row["cell"]), row["machine"], row["id"] or row["token"], row["submitted"]]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row, columns in zip(rows, cells, strict=True):
        print("  ".join([*(c.ljust(width) for c, width in zip(columns, widths, strict=True)), row["state"]]))


def describe_state(record: Record) -> str:
    if record.ended is not None:
        return "killed or cancelled" if record.ended == CANCELLED else f"done, exit code {record.ended}"
    try:
        state = make_launcher(record.machine, record.load_machine()).poll(record.job)
    except Unreachable as error:
        return f"unknown: {error.what}"
    words = {
        Phase.ABSENT: "not submitted",
        Phase.WAITING: "waits in the queue",
        Phase.RUNNING: "runs",
        Phase.ENDED: f"ended with exit code {state.code}; `dvc repro` fetches it",
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
    log = Log(launcher, record.job)
    for line in log.read_all():
        print(line)


def cancel(name: str) -> None:
    """Ends the job of a stage. Raises UserError where there is none."""
    record = find_record(name)
    if record.ended is None:
        records.write(replace(record, ended=CANCELLED))  # first: whoever waits for it submits no other
        try:
            make_launcher(record.machine, record.load_machine()).cancel(record.job)
        except UserError:
            records.write(record)
            raise
        print(f"{name}: the job {record.id or record.token} on {record.machine} is cancelled; its caches stay there")
    else:
        print(f"{name}: {describe_state(record)}")
