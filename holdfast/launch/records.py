"""What this machine knows of a stage's job elsewhere: .holdfast/launch/STAGE[@CELL].json, ignored by git and DVC. Of further
jobs that do the same stage: STAGE[@CELL]:NUMBER.json.

It is written before anything is submitted, so that a later command finds the job whatever happened to this one.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from holdfast.core import storage
from holdfast.core.errors import UserError
from holdfast.launch.interface import Job
from holdfast.launch.settings import Machine

FOLDER = Path(".holdfast/launch")
CANCELLED = -1  # in a record, in place of an exit code: killed or cancelled


@dataclass(frozen=True)
class Record:
    """One submission of one stage."""

    stage: str
    cell: str | None  # the model or the arm; of a further training ARM-SEED
    machine: str  # its name in launch.yaml
    settings: dict[str, Any]  # of the machine as it was: what launch.yaml says now may be another
    token: str
    folder: str  # on the machine
    key: str  # digest of all that the stage reads
    submitted: str  # when, UTC
    id: str = ""  # the scheduler's name for it; "": not known to be submitted
    ended: int | None = None  # exit code, once everything is back here, or CANCELLED
    part: int = 1  # of the jobs that do this stage together; 1 writes the outputs

    @property
    def name(self) -> str:
        return name_of(self.stage, self.cell, self.part)

    @property
    def job(self) -> Job:
        return Job(self.token, self.folder)

    def load_machine(self) -> Machine:
        return Machine.model_validate(self.settings)


def name_of(stage: str, cell: str | None, part: int = 1) -> str:
    name = f"{stage}@{cell}" if cell else stage
    return f"{name}:{part}" if part > 1 else name


def write(record: Record) -> None:
    storage.write_json(FOLDER / f"{record.name}.json", {"schema": 1, **asdict(record)})


def read(name: str) -> Record | None:
    """The last job of STAGE or STAGE@CELL. Raises UserError for a damaged record."""
    file = FOLDER / f"{name}.json"
    if not file.is_file():
        return None
    content = storage.read_json(file)
    try:
        record = TypeAdapter(Record).validate_python(content)
        record.load_machine()
    except ValidationError:
        do = "look on the machine whether the job still runs, then remove this file"
        raise UserError("is no record of a job", where=file, do=do) from None
    return record


def remove(record: Record) -> None:
    (FOLDER / f"{record.name}.json").unlink(missing_ok=True)


def read_all() -> list[Record]:
    """By stage, cell and part."""
    records = [record for file in FOLDER.glob("*.json") if (record := read(file.stem)) is not None]
    return sorted(records, key=lambda record: (name_of(record.stage, record.cell), record.part))


def read_parts(name: str) -> dict[int, Record]:
    """All jobs of a stage, by their part."""
    several = [read(name), *(read(file.stem) for file in FOLDER.glob(f"{name}:*.json"))]
    return {record.part: record for record in sorted(filter(None, several), key=lambda record: record.part)}


@contextmanager
def hold(name: str) -> Iterator[None]:
    """Keeps a second process from attaching to the same stage. Raises UserError where one is."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            do = f"let it go on, or end it; `holdfast launch logs {name}` shows what the stage writes"
            raise UserError("another process waits for this stage already", where=f"stage {name}", do=do) from None
        yield


@contextmanager
def take_turn(machine: str) -> Iterator[None]:
    """Stages that are sent to one machine at once send their files one after another, so that each finds what is there already."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{machine}.sending").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
