"""What the sections of params.yaml have in common: frozen, typed, an unknown key is an error; and how one is read.

`Mix.load()` reads the section `mix` and nothing else, so a stage cannot depend on a parameter that dvc.yaml does not list.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from holdfast.core import yaml_text
from holdfast.core.errors import UserError

PARAMS = Path("params.yaml")
MODELS = (
    "model_folder",
    "models",
    "base",
    "embedder",
    "panel",
    "arms",
    "retrain",
)  # keys at the top, outside any section
SECTIONS = (  # in the order of the pipeline
    "ingest",
    "reconstruct",
    "curate",
    "respond",
    "judge",
    "consensus",
    "balance",
    "quality",
    "pilot",
    "mix",
    "finetune",
    "evaluate",
    "drift",
    "gate",
    "report",
    "pocket",
)
KEYS = (*MODELS, *SECTIONS)
_TRAINING = SECTIONS.index("pilot")  # before anything is trained, `baseline` looks at what the suites can show
STAGES = (  # of every run, in order; the pocket lab's recipe is none
    *("acquire", "ingest", "amount"),
    *SECTIONS[1:_TRAINING],
    "baseline",
    *SECTIONS[_TRAINING:-1],
)

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
MAX_CHANCE = 0.99  # of guessing: scores are divided by what is left above it
Seed = Annotated[int, Field(ge=0, lt=2**31)]
NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"
Name = Annotated[str, Field(pattern=NAME)]  # becomes a file name and a DVC stage name


class Section(BaseModel):
    model_config = ConfigDict(  # strict: "3" and true are no numbers; the text below a field is its description
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
    section: ClassVar[str] = ""  # its key in params.yaml; none: a part of a section
    partial: ClassVar[bool] = False  # holds some fields of its section; the others are left alone

    @classmethod
    def load(cls, path: Path = PARAMS) -> Self:
        """This section of params.yaml, checked. Raises UserError that names file, key, value and remedy."""
        content = read_yaml(path)
        if cls.partial:
            whole = content.get(cls.section) or {}
            content = {key: whole[key] for key in cls.model_fields if isinstance(whole, dict) and key in whole}
            return parse(cls, content, cls.section, path)
        if cls.section not in content and any(field.is_required() for field in cls.model_fields.values()):
            raise UserError(
                f"missing section '{cls.section}'",
                where=path,
                do=f"add it; `holdfast explain {cls.section}` lists its fields",
            )
        return parse(cls, content.get(cls.section, {}), cls.section, path)


def auto_or_count(value: Any, of: str) -> Any:
    """For validators: the value, where it is `auto` or a number of at least 1. Raises ValueError."""
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{str(value)[:40]!r} is neither auto nor a number of {of}")
    return value


def check_source(path: str | None, hub: str | None, revision: str | None) -> None:
    if (path is None) == (hub is None):
        raise ValueError("give either 'path' (local) or 'hub' (an id), not both and not neither")
    if hub and not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        raise ValueError("a hub source needs 'revision': the full 40-digit commit hash, so that a run can be repeated")


def read_yaml(path: Path) -> dict[str, Any]:
    """params.yaml as a mapping of known sections. Raises UserError."""
    content = read_mapping(path)
    if unknown := [k for k in content if k not in KEYS]:
        raise unknown_key(path, str(unknown[0]), "", list(KEYS))
    return content


def read_mapping(path: Path) -> dict[str, Any]:
    """A params file whose keys may be of another version, or of another pipeline. Raises UserError where it is no mapping."""
    if not path.is_file():
        do = "go to the project's folder; `holdfast init` makes one"
        raise UserError("no such file", where=path, do=do)
    try:
        content = yaml_text.parse(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise yaml_text.describe(error, path, do="fix that line, or save the file as UTF-8") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(
            "not a mapping of sections", where=path, do=f"take it back from git: git checkout -- {path.name}"
        )
    return content


def unknown_key(path: Path, key: str, within: str, known: list[str]) -> UserError:
    close = difflib.get_close_matches(key, known, n=1)
    do = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(known))}"
    return UserError(f"unknown parameter '{within}{key}'", where=path, do=do)


def explain(path: Path, prefix: str, cls: type[BaseModel], error: ValidationError) -> UserError:
    """The first problem that pydantic found, in one sentence."""
    problems = error.errors()
    problem = problems[0]
    if isinstance(problem["input"], str):  # of a number or a text, what is wrong with the text
        alike = (one for one in problems if one["loc"][:-1] == problem["loc"][:-1] and one["type"] == "value_error")
        problem = next(alike, problem)
    location = [str(part) for part in problem["loc"]]
    if location and re.fullmatch(r"constrained-\w+|function-\w+\[.*\]", location[-1]):  # the alternative that was tried
        location.pop()
    if problem["type"] == "extra_forbidden":
        *within, key = location
        inner: Any = cls
        for part in within:
            field = getattr(inner, "model_fields", {}).get(part)
            annotation = field.annotation if field else inner
            candidates = [annotation, *getattr(annotation, "__args__", ())]
            inner = next((a for a in candidates if isinstance(a, type) and issubclass(a, BaseModel)), inner)
        return unknown_key(
            path, key, ".".join([*filter(None, [prefix]), *within, ""]), list(getattr(inner, "model_fields", {}))
        )
    key = ".".join([*filter(None, [prefix]), *location])
    if problem["type"] == "missing":
        return UserError(
            f"missing parameter '{key}'", where=path, do=f"add it; `holdfast explain {key}` says what it means"
        )
    message = problem["msg"].removeprefix("Value error, ")
    bound = problem.get("ctx", {}).get("lt", problem.get("ctx", {}).get("le"))
    do = "correct it in params.yaml"
    if bound == 1 and isinstance(problem["input"], (int, float)) and 1 < problem["input"] < 100:
        do = f"these are fractions: {problem['input']:g} points are {problem['input'] / 100:g}"
    value = "" if problem["type"] == "value_error" else f" = {str(problem['input'])[:80]!r}"
    return UserError(f"parameter '{key}'{value}: {message}" if key else message, where=path, do=do)


def parse(cls: type[Section], content: Any, prefix: str = "", path: Path = PARAMS) -> Any:
    try:
        return cls.model_validate(content)
    except ValidationError as error:
        raise explain(path, prefix, cls, error) from None
