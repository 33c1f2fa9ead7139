"""launch.yaml: which stages run on which machine. No stage reads it, and nothing of it enters params, commands or dvc.lock.

machines:
  box: {launcher: ssh, host: gpubox, python: venvs/holdfast/bin/python}
stages:
  finetune: box
  finetune@control: here
  respond: {machine: box, jobs: 4}
"""

from __future__ import annotations

import difflib
import hashlib
import platform
import re
import shlex
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from holdfast.core import yaml_text
from holdfast.core.errors import UserError

LAUNCH = Path("launch.yaml")
HERE = "here"  # as a machine: the stage runs where it is called
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@:%-]{0,254}$")]  # never an option of ssh


def one_line(text: str) -> str:
    if not text.strip() or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", text):
        raise ValueError("give one line of text")
    return text


def words(text: str) -> str:
    if not shlex.split(one_line(text)):
        raise ValueError("give a command")
    return text


def inside(text: str) -> str:
    path = PurePosixPath(one_line(text))
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError("give a path inside the project")
    return path.as_posix()


def own_folder(text: str) -> str:
    """~/ is the home folder, where relative paths begin anyway."""
    if one_line(text).startswith("~") and text != "~" and not text.startswith("~/"):
        raise ValueError("give an absolute path, or one from the home folder")
    path = PurePosixPath(text.removeprefix("~").lstrip("/") if text.startswith("~") else text)
    if ".." in path.parts or not path.name or path.parts[0].startswith("-"):
        raise ValueError("give a folder of its own")
    return path.as_posix()


Line = Annotated[str, AfterValidator(one_line)]
MOUNT = "/holdfast"
SHARDED = {  # stages that several jobs can do together -> folders of .cache in which they find each other's shards
    "reconstruct": ("reconstruct",),
    "respond": ("respond",),
    "judge": ("judge",),
    "evaluate": ("evaluate", "self"),
}
QUEUES = ("slurm", "kubernetes")  # launchers that give each job devices of its own
OWN = {  # keys that some launchers alone know
    "host": ("ssh", "slurm", "skypilot"),
    "ssh_config": ("ssh", "slurm", "skypilot"),
    "options": ("slurm", "kubernetes", "skypilot"),
    **dict.fromkeys(("image", "claim", "limits", "labels", "pod"), ("kubernetes",)),
    "gpus": ("skypilot",),
}
REQUIRED = {"ssh": ("host",), "skypilot": ("host",), "kubernetes": ("image", "claim")}


class Machine(BaseModel):
    """One machine, and how a job gets there."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    launcher: Literal["local", "ssh", "slurm", "kubernetes", "skypilot"]
    host: Host | None = (
        None  # as `ssh` takes it; slurm without one: sbatch of this machine; skypilot: the cluster's name
    )
    ssh_config: Line | None = None  # file for `ssh -F`; None: ~/.ssh/config
    folder: Annotated[str, AfterValidator(own_folder)] | None = (
        None  # there; relative: to the home folder; None: holdfast-runs/PROJECT-... (kubernetes: in MOUNT)
    )
    python: Annotated[str, AfterValidator(words)] = "python3"  # a command, such as `apptainer exec --nv IMAGE python`
    setup: list[Line] = []  # lines of bash before it: module load ..., source .../activate
    env: dict[Variable, Line] = {}  # set for the stage, and written into its job script: no secrets
    secrets: list[Variable] = []  # names of variables of this shell that the stage is given
    options: list[Line] = []  # of sbatch, of kubectl (--context, --namespace), of `sky launch`
    image: Line | None = None  # kubernetes: of the containers
    claim: Line | None = None  # kubernetes: the PersistentVolumeClaim that holds the files
    limits: dict[Line, str | int] = {}  # kubernetes: of the stage's container, such as nvidia.com/gpu: 8
    labels: dict[Line, str] = {}  # kubernetes: of the Job, such as kueue.x-k8s.io/queue-name
    pod: dict[
        str, Any
    ] = {}  # kubernetes: more of the pods' spec, such as nodeSelector, tolerations, serviceAccountName
    gpus: Line | None = None  # skypilot: such as H100:8
    there: list[Annotated[str, AfterValidator(inside)]] = []  # files and folders of the project that are not sent
    at_once: Annotated[int, Field(ge=1)] | None = (
        None  # stages that `holdfast repro` sends at once; None: 1 by ssh and local, else any number
    )
    retries: Annotated[int, Field(ge=0, le=100)] = 0  # new jobs after one that was killed, in one command
    patience: Annotated[float, Field(ge=0, le=86400)] = 600.0  # seconds of trying after a lost connection
    price: Annotated[float, Field(ge=0)] | None = (
        None  # of one hour, in your currency: of what a job is given, or of the machine
    )

    @model_validator(mode="after")
    def check(self) -> Machine:
        keys = {name for name in OWN if getattr(self, name) not in (None, [], {})}
        if foreign := min((name for name in keys if self.launcher not in OWN[name]), default=None):
            raise ValueError(f"'{foreign}' belongs to {', '.join(OWN[foreign])}, not to {self.launcher}")
        if missing := [name for name in REQUIRED.get(self.launcher, ()) if name not in keys]:
            raise ValueError(f"{self.launcher} needs '{missing[0]}'")
        if self.host is None and self.ssh_config is not None:
            raise ValueError("'ssh_config' goes with 'host'")
        if self.launcher == "kubernetes" and self.folder is not None and not self.folder.startswith("/"):
            raise ValueError("'folder' of kubernetes is where the claim is mounted: begin it with /")
        if reserved := {"containers", "restartPolicy"} & set(self.pod):
            raise ValueError(f"'pod' cannot set {min(reserved)}: Holdfast does")
        if both := set(self.env) & set(self.secrets):
            raise ValueError(f"{min(both)} is in env and in secrets")
        return self

    @property
    def width(self) -> int | None:
        """Stages at once; None: any number, since the machine has a queue."""
        return self.at_once or (1 if self.launcher in ("local", "ssh") else None)

    def bill(self, jobs: int) -> float | None:
        """What an hour of so many jobs at once costs. Without a queue they share one machine."""
        return self.price if self.price is None or self.launcher not in QUEUES else self.price * jobs

    def share(self, jobs: int) -> Machine:
        """As one of so many jobs asks for it. SkyPilot starts a job once as many GPUs of the cluster are free as it asks for."""
        model, _, count = (self.gpus or "").partition(":")
        if jobs == 1 or not count.isdecimal():
            return self
        return self.model_copy(update={"gpus": f"{model}:{max(1, int(count) // jobs)}"})

    @property
    def mount(self) -> str:
        """Kubernetes: where the claim is in the containers."""
        return self.folder or MOUNT

    def place(self) -> str:
        """The folder there, relative to the home folder or absolute. Another project, or another clone, has another one."""
        if self.folder is not None:
            return self.folder
        here = Path.cwd().resolve()
        digest = hashlib.sha256(f"{platform.node()}:{here}".encode()).hexdigest()[:8]
        parent = MOUNT if self.launcher == "kubernetes" else "holdfast-runs"
        return f"{parent}/{re.sub(r'[^A-Za-z0-9._-]', '-', here.name)[:40] or 'project'}-{digest}"

    def command(self) -> str:
        """`python`, for the shell. A relative path is one from the home folder, and ~/ stays the home folder."""
        program, *options = shlex.split(self.python)
        if "/" in program and not program.startswith(("/", "~/")):
            program = f"~/{program}"
        return " ".join(
            "~/" + shlex.quote(w[2:]) if w.startswith("~/") else shlex.quote(w) for w in (program, *options)
        )


class Place(BaseModel):
    """Where a stage goes: MACHINE, or {machine: MACHINE, jobs: N}."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    machine: str
    jobs: Annotated[int, Field(ge=1, le=256)] = 1  # that do its shards together

    @model_validator(mode="before")
    @classmethod
    def read_name(cls, content: Any) -> Any:
        if not isinstance(content, str | dict):
            raise ValueError(f"give a machine, '{HERE}', or {{machine: NAME, jobs: N}}")
        return {"machine": content} if isinstance(content, str) else content


class Launch(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    machines: dict[Name, Machine]
    stages: dict[str, Place]  # by STAGE or STAGE@CELL

    @model_validator(mode="after")
    def check(self) -> Launch:
        if HERE in self.machines:
            raise ValueError(f"'{HERE}' stands for this machine: give another name")
        for stage, place in self.stages.items():
            if "@" in stage and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", cell := stage.partition("@")[2]):
                raise ValueError(f"stages.{stage[:80]}: '{cell[:80]}' cannot be a model or an arm")
            if place.machine != HERE and place.machine not in self.machines:
                known = ", ".join([*self.machines, HERE])
                raise ValueError(f"stages.{stage}: no machine '{place.machine[:80]}'; known: {known}")
            if place.jobs > 1 and place.machine == HERE:
                raise ValueError(f"stages.{stage}: '{HERE}' takes no 'jobs': name a machine with `launcher: local`")
            if place.jobs > 1 and stage.partition("@")[0] not in SHARDED:
                raise ValueError(f"stages.{stage}: is one job; 'jobs' is for {', '.join(SHARDED)}")
        return self

    def find(self, stage: str, *cells: str) -> str | None:
        """Name of the machine that this stage goes to; None: here. `cells`: a model or an arm, and a seed."""
        machine = self.find_place(stage, *cells).machine
        return None if machine == HERE else machine

    def find_place(self, stage: str, *cells: str) -> Place:
        names = [f"{stage}@{'-'.join(cells)}", f"{stage}@{cells[0]}"] if cells else []
        places = (self.stages[name] for name in [*names, stage] if name in self.stages)
        return next(places, Place(machine=HERE))


def load(file: Path = LAUNCH, scripts: Path = Path("stages")) -> Launch | None:
    """None where there is no such file. Raises UserError that names key, value and remedy."""
    if not file.is_file():
        return None
    try:
        content = yaml_text.parse(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise yaml_text.describe(error, file, do="fix that line; docs/scale.md shows whole files") from None
    try:
        launch = Launch.model_validate(content)
    except ValidationError as error:
        raise describe(error, file) from None
    known = sorted(script.stem for script in scripts.glob("*.py"))
    for stage in launch.stages:
        if stage.partition("@")[0] not in known:
            close = difflib.get_close_matches(stage.partition("@")[0], known, n=1)
            do = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
            raise UserError(f"stages: no stage '{stage[:80]}'", where=file, do=do)
    return launch


def describe(error: ValidationError, file: Path) -> UserError:
    """The first problem that pydantic found."""
    problem = error.errors()[0]
    location: list[Any] = list(problem["loc"])
    key = ".".join(str(part) for part in location if part != "[key]")
    if problem["type"] == "extra_forbidden":
        fields = {"machines": Machine.model_fields, "stages": Place.model_fields}
        known = fields[location[0]] if len(location) > 1 else Launch.model_fields
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        do = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
        return UserError(f"unknown key '{key}'", where=file, do=do)
    if problem["type"] == "missing":
        return UserError(f"missing key '{key}'", where=file, do="add it; docs/scale.md shows whole files")
    message = problem["msg"].removeprefix("Value error, ")
    whole = problem["type"] == "value_error" and isinstance(problem["input"], dict)
    value = "" if whole or not key else f" = {repr(problem['input'])[:80]}"
    what = f"'{key}'{value}: {message}" if key else message
    return UserError(what, where=file, do="correct it; docs/scale.md shows whole files")
