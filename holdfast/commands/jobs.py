"""A stage on another machine, by launch.yaml: its declared inputs go there, its log and its declared outputs come back.

holdfast run STAGE [CELL]      as dvc.yaml calls it: sends, submits, waits, fetches, and ends with the stage's exit code

A job whose submitter was killed goes on; the next `holdfast run` of the same stage with the same inputs waits for it.
Several jobs (`jobs` in launch.yaml) are the same stage several times over one cache there: each does its own shards first, and the
outputs are the first one's. So whatever becomes of the others, the stage comes to its end.
"""

from __future__ import annotations

import secrets
import shlex
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from holdfast.commands import inputs, launch
from holdfast.commands.travel import Work, collect_work, read_secrets
from holdfast.core import ledger, storage
from holdfast.core.errors import ExitCode, UserError
from holdfast.launch import records, script, transfer
from holdfast.launch.interface import Launcher, Phase, State
from holdfast.launch.launchers import make_launcher
from holdfast.launch.records import CANCELLED, Record
from holdfast.launch.settings import Machine, Place
from holdfast.launch.watching import Followed, Log, say, watch

LITTLE = 2**24  # bytes: a disk with less is full
ALIVE = (Phase.WAITING, Phase.RUNNING)


@dataclass(frozen=True)
class Errand:
    """A stage, and where it goes."""

    work: Work
    name: str  # of the machine
    machine: Machine
    parts: int  # jobs
    secrets: dict[str, str]  # values of variables

    @property
    def cell(self) -> str | None:
        return "-".join(self.work.cells) or None

    @property
    def stage(self) -> str:
        return records.name_of(self.work.stage, self.cell)

    @property
    def timing(self) -> str:
        """The record of seconds and memory."""
        below = f"{self.work.stage}/{self.cell}.json" if self.cell else f"{self.work.stage}.json"
        return (ledger.TIMINGS / below).as_posix()


def run_elsewhere(stage: str, cells: tuple[str, ...], place: Place, machine: Machine, code: str) -> int:
    """The exit code of the stage. `code`: what describes its code. Raises UserError."""
    before = inputs.read_inputs(stage, *cells)
    work = collect_work(stage, cells, machine, code)
    errand = Errand(work, place.machine, machine, place.jobs, read_secrets(machine))
    with records.hold(errand.stage):
        team, lacking = find_jobs(errand)
        if submitted := [
            record for record in team.values() if record.id
        ]:  # what is started beside them goes where they are
            errand = replace(errand, machine=submitted[0].load_machine())
        team |= submit(errand, lacking, team)
        launcher = make_launcher(errand.name, errand.machine)
        retries = errand.machine.retries
        followed = {part: follow(launcher, errand, record, part in lacking) for part, record in team.items()}
        while True:
            try:
                one, state = watch(launcher, list(followed.values()), errand.machine.patience)
            except KeyboardInterrupt:
                return leave_or_cancel(errand.stage, [team[part] for part in followed])
            record = team[one.part]
            del followed[one.part]
            if state.phase is Phase.ENDED and (one.part == 1 or state.code):
                stop(team[part] for part in followed)
                return finish(launcher, errand, record, state, before)
            if state.phase is Phase.ENDED:  # all is in the cache; the first one has yet to write it down
                records.write(replace(record, ended=state.code))
            elif take_note_of_end(errand, record, state, retries):
                retries -= 1
                team |= submit(errand, [one.part], {})
                followed[one.part] = follow(launcher, errand, team[one.part], True)
            elif one.part == 1:
                stop(team[part] for part in followed)
                raise describe_kill(errand, state)


def find_jobs(errand: Errand) -> tuple[dict[int, Record], list[int]]:
    """(The jobs of an earlier command that this one waits for, by part, with `id` "" where it is not known whether one was
    submitted; the parts that are to be submitted).

    Raises UserError where one of other inputs, or on another machine, still runs.
    """
    unended = {part: record for part, record in records.read_parts(errand.stage).items() if record.ended is None}
    team, done = {}, False  # whether the first one has ended
    for part, record in unended.items():
        launcher = make_launcher(record.machine, record.load_machine())
        launcher.prepare()
        state = launcher.poll(record.job)
        same = record.key == errand.work.key and record.machine == errand.name
        done = done or (same and part == 1 and state.phase is Phase.ENDED)
        if state.phase in ALIVE and (part > errand.parts or (not same and 1 not in unended)):
            launch.end(record)  # it helped one that is done, or is not wanted any more
        elif state.phase in ALIVE and not same:
            what = f"a job of other inputs still runs on {record.machine} ({record.id or record.token})"
            do = f"`holdfast launch cancel {errand.stage}` ends it; with the same inputs and machine it is waited for"
            raise UserError(what, where=f"stage {errand.stage}", do=do)
        elif not same or part > errand.parts:
            continue
        elif state.phase is Phase.ABSENT:
            team[part] = replace(record, id="")
        elif state.phase is Phase.KILLED:
            say(
                f"stage {record.name}: its last job on {errand.name} was killed ({state.why}); a new one goes on from its caches"
            )
        else:
            say(
                f"stage {record.name}: waits for the job {record.id or record.token} on {errand.name}, submitted {record.submitted}"
            )
            team[part] = replace(record, id=record.id or record.token)
    if done:  # then nobody needs help any more
        return {part: record for part, record in team.items() if record.id}, []
    return team, [part for part in range(1, errand.parts + 1) if part not in team or not team[part].id]


def submit(errand: Errand, parts: list[int], former: dict[int, Record]) -> dict[int, Record]:
    """Sends what is needed, writes each record, then starts the job. `former`: by part, one whose submission is not known to have
    happened; its token is used again, so that it cannot start twice."""
    if not parts:
        return {}
    name, work, folder = errand.name, errand.work, errand.machine.place()
    launcher = make_launcher(name, errand.machine)
    say(f"machine {name}: {errand.stage} reads {len(work.files):,} files; sending what is not there yet")
    words = "-".join(["holdfast", work.stage, *work.cells])
    new = {
        part: former.get(part)
        or Record(
            stage=work.stage,
            cell=errand.cell,
            machine=name,
            settings=errand.machine.model_dump(exclude_defaults=True),
            token=f"{words}-{secrets.token_hex(4)}",
            folder=folder,
            key=work.key,
            submitted=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            part=part,
        )
        for part in parts
    }
    replaced = [
        record
        for part, record in records.read_parts(errand.stage).items()
        if part > errand.parts or (part in new and record.token != new[part].token)
    ]
    old = [f"jobs/{record.token}" for record in replaced if record.folder == folder]
    listed, notes = script.write_inputs(work.files).encode(), dict[str, bytes]()
    for part, record in new.items():
        text = script.write_job(errand.machine, work.stage, work.cells, part, errand.parts)
        notes |= {f"jobs/{record.token}/job.sh": text.encode(), f"jobs/{record.token}/inputs": listed}
    outputs = [f"tree/{out}" for out in [*work.outs, errand.timing]] if 1 in parts else []
    cargo = transfer.Cargo(
        files=work.files,
        folders=work.folders,
        clear=[*outputs, *old],
        skipped=errand.machine.there,
        notes=notes,
        owner=str(Path.cwd()) if errand.machine.folder else "",
    )
    with records.take_turn(name):
        launcher.prepare()
        sent = transfer.send(launcher.shell, folder, cargo)
    for record in replaced:
        if record.part > errand.parts:
            records.remove(record)
    launcher = make_launcher(name, errand.machine.share(errand.parts))
    for part, record in new.items():
        records.write(record)
        new[part] = replace(record, id=launcher.submit(record.job, errand.secrets) or record.token)
        records.write(new[part])
    ids = ", ".join(record.id for record in new.values())
    say(f"machine {name}: submitted as {ids}, {sent:,} bytes sent; Ctrl-C asks whether to leave or cancel")
    return new


def follow(launcher: Launcher, errand: Errand, record: Record, from_start: bool) -> Followed:
    log = Log(launcher, record.job) if from_start else Log.from_the_end(launcher, record.job)
    return Followed(record.job, log, record.part, errand.parts, errand.secrets)


def take_note_of_end(errand: Errand, record: Record, state: State, retries: int) -> bool:
    """Of a job that was killed or cancelled; whether another is to be submitted. Raises UserError where the stage was cancelled."""
    latest, why = records.read(record.name), state.why or "its folder there is gone"
    part = f"part {record.part} of {errand.parts}" if errand.parts > 1 else "the job"
    if latest is None or latest.ended is not None:
        if record.part == 1:
            do = "run it again to submit another, which goes on from its caches"
            raise UserError("the job was cancelled", where=f"stage {errand.stage} on {errand.name}", do=do)
        say(f"machine {errand.name}: {part} was cancelled; the others do its shards")
        return False
    records.write(replace(record, ended=CANCELLED))
    if retries:
        say(f"machine {errand.name}: {part} was killed ({why}); submitting another, which goes on from its caches")
    elif record.part > 1:
        say(f"machine {errand.name}: {part} was killed ({why}); the others do its shards")
    return retries > 0


def describe_kill(errand: Errand, state: State) -> UserError:
    why = state.why or "its folder there is gone"
    do = f"run it again: it goes on from its caches there; `holdfast launch logs {errand.stage}` shows the log"
    return UserError(f"the job was killed ({why})", where=f"stage {errand.stage} on {errand.name}", do=do)


def stop(team: Iterable[Record]) -> None:
    """Ends the jobs whose stage is done or has failed."""
    for record in team:
        try:
            launch.end(record)
        except UserError as error:
            say(f"{error.where}: {error.what}; `holdfast launch cancel {record.name}` ends {record.id}")


def finish(launcher: Launcher, errand: Errand, record: Record, state: State, before: inputs.Inputs | None) -> int:
    """Fetches what the stage has written, as it would have been written here, and returns its exit code. Of a part that failed
    nothing is fetched: the outputs are the first one's."""
    work, name = errand.work, record.name
    if record.part == 1:
        staging = records.FOLDER / f"{record.token}.outs"
        try:
            changed = transfer.fetch(launcher.shell, f"{record.folder}/tree", [*work.outs, errand.timing], staging)
            inputs.refuse_changes(before, work.stage, *work.cells)
            transfer.put_in_place(staging, changed)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        if errand.timing in changed or state.code == 0:
            note = {"machine": record.machine, "price": errand.machine.bill(errand.parts)}
            storage.write_json(Path(errand.timing), {**storage.read_json(Path(errand.timing)), **note})
    else:
        name = f"{errand.stage}, part {record.part} of {errand.parts},"
    records.write(replace(record, ended=state.code))
    if state.code:
        say(f"machine {record.machine}: {name} ended with exit code {state.code}{describe_disk(launcher, record)}")
    return state.code


def describe_disk(launcher: Launcher, record: Record) -> str:
    """Says so where the disk there is full: the log may not have had room for it."""
    try:
        lines = launcher.shell.run(f"df -Pk {shlex.quote(record.folder)}").decode(errors="replace").splitlines()
        free = int(lines[-1].split()[3]) * 1024
    except (UserError, ValueError, IndexError):
        return ""
    return f"; its disk is full ({free:,} bytes are free)" if free < LITTLE else ""


def leave_or_cancel(stage: str, team: list[Record]) -> int:
    """Ctrl-C: asks on a terminal; elsewhere the jobs are left. `team`: those that have not ended."""
    ids = ", ".join(record.id for record in team)
    noun, go, them = ("jobs", "go", "them") if len(team) > 1 else ("job", "goes", "it")
    answer = ""
    if sys.stdin.isatty() and sys.stderr.isatty():
        try:
            say(f"\nThe {noun} {ids} {go} on on {team[0].machine}. Leave {them} (Enter), or cancel {them} (c)?")
            answer = sys.stdin.readline().strip().lower()
        except KeyboardInterrupt:
            pass
    if answer in ("c", "cancel"):
        launch.cancel(stage)
    else:
        say(f"stage {stage}: the {noun} {ids} {go} on on {team[0].machine}")
        say(f"  `dvc repro` waits for {them} again; `holdfast launch cancel {stage}` ends {them}")
    return ExitCode.INTERRUPTED
