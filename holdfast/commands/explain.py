"""explain: what a parameter means, and what a change of it runs again.

holdfast explain                 the sections
holdfast explain gate            a section's fields
holdfast explain gate.margin     meaning, range, default, value in params.yaml, and the stages that it touches
holdfast explain --markdown      all of it, as docs/params.md holds it
"""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from holdfast.core import yaml_text
from holdfast.core.errors import UserError, first_line
from holdfast.params.base import MODELS, PARAMS, SECTIONS, read_mapping
from holdfast.params.whole import Params

DAG = Path("dvc.yaml")
BOUNDS = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "below {}"}
TYPES = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    type(None): "null",
}


class Row(NamedTuple):
    """A field of a section, with the dotted name that params.yaml gives it; NAME stands for a key of one's own."""

    name: str
    meaning: str
    range: str
    default: str


def main(name: str | None, markdown: bool) -> None:
    """Print the sections, one section, or one field. Raises UserError for a name that does not exist."""
    rows = {section: list(fields(section)) for section in ("models", *SECTIONS)}
    if markdown:
        print(as_markdown(rows), end="")
    elif name is None:
        for section, of_section in rows.items():
            print(f"{section:<12} {about(section)} ({len(of_section)} fields)")
    elif name in rows and (name != "models"):
        for row in rows[name]:
            print(f"{row.name} ({row.range}; {row.default})\n  {row.meaning}")
    else:
        explain_field(name, [row for of_section in rows.values() for row in of_section])


def explain_field(name: str, rows: list[Row]) -> None:
    row = next((row for row in rows if matches(row.name, name)), None)
    if row is None:
        known = [*SECTIONS, *(row.name for row in rows)]
        close = difflib.get_close_matches(name, known, n=1)
        do = f"did you mean '{close[0]}'?" if close else "`holdfast explain` lists the sections"
        raise UserError(f"no parameter '{name}'", where="explain", do=do)
    print(f"{name}: {row.meaning}\n  range: {row.range}\n  default: {row.default.removeprefix('default ')}")
    if PARAMS.is_file():
        value = value_of(name)
        print(f"  {PARAMS}: {'not set' if value is KeyError else as_text(value)}")
    if DAG.is_file():
        direct, again = stages_of(name)
        print(f"  read by: {', '.join(direct) or 'no stage'}")
        print(f"  a change runs again: {', '.join(again) or 'nothing'}")


def matches(pattern: str, name: str) -> bool:
    parts, names = pattern.split("."), name.split(".")
    return len(parts) == len(names) and all(p in ("NAME", g) for p, g in zip(parts, names, strict=True))


def fields(section: str) -> Iterator[Row]:
    if section == "models":
        for key in MODELS:
            yield from rows_of(key, Params.model_fields[key])
    else:
        cls = Params.model_fields[section].annotation
        for key, field in cls.model_fields.items():  # type: ignore[union-attr]
            yield from rows_of(f"{section}.{key}", field)


def rows_of(name: str, field: FieldInfo) -> Iterator[Row]:
    annotation = typing.Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    default = "required" if field.is_required() else f"default {as_text(field.get_default())}"
    yield Row(name, " ".join((field.description or "").split()), describe_type(annotation), default)
    for prefix, cls in parts_of(name, annotation):
        for key, inner in cls.model_fields.items():
            yield from rows_of(f"{prefix}.{key}", inner)


def parts_of(name: str, annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """The sections within a field, with the name that they have there."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield name, annotation
    elif origin in (dict, list):
        yield from parts_of(f"{name}.NAME", inner[-1])
    elif origin is not typing.Literal:
        for one in inner[:1] if origin is typing.Annotated else inner:
            yield from parts_of(name, one)


def describe_type(annotation: Any) -> str:
    """Type and range of a field."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return " ".join([describe_type(inner[0]), *(bounds for one in inner[1:] if (bounds := range_of(one)))])
    if origin is typing.Literal:
        return ", ".join(as_text(one) for one in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_type(one) for one in inner)
    if origin is list:
        return f"list of: {describe_type(inner[0])}"
    if origin is dict:
        return f"mapping from {describe_type(inner[0])} to {describe_type(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "the fields below"
    return TYPES[annotation]


def range_of(constraint: Any) -> str:
    words = [
        words.format(f"{value:,.10g}")
        for key, words in BOUNDS.items()
        if (value := getattr(constraint, key, None)) is not None
    ]
    for part in getattr(constraint, "metadata", ()):
        words += [text] if (text := range_of(part)) else []
    if (least := getattr(constraint, "min_length", None)) is not None:
        words.append(f"(at least {least})")
    return " ".join(words)


def as_text(value: Any) -> str:
    """A value as params.yaml would hold it."""
    if isinstance(value, BaseModel):
        return "that of each field"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def stages_of(name: str) -> tuple[list[str], list[str]]:
    """(stages whose params list the parameter, these and all that depend on what they write), in dvc.yaml's order."""
    bodies = read_stages(DAG.read_text(encoding="utf-8"))
    direct = [
        stage for stage, body in bodies.items() if any(overlaps(pattern(key), name, ".") for key in parameters(body))
    ]
    return direct, find_downstream(direct, bodies)


def read_stages(pipeline: str) -> dict[str, dict[str, Any]]:
    """The stages of a dvc.yaml by name. Raises UserError where it is none."""
    try:
        return {stage: body.get("do", body) for stage, body in yaml_text.parse(pipeline)["stages"].items()}
    except (yaml.YAMLError, AttributeError, TypeError, KeyError) as error:
        do = "take it back from git: git checkout -- dvc.yaml"
        raise UserError(f"is not a pipeline of DVC ({first_line(error)})", where=DAG, do=do) from None


def find_downstream(changed: Iterable[str], bodies: dict[str, dict[str, Any]]) -> list[str]:
    """These stages and all that depend on what they write, in the order of `bodies`; frozen ones do not run again."""
    again = {stage for stage in changed if not bodies[stage].get("frozen")}
    while more := {
        stage
        for stage, body in bodies.items()
        if stage not in again and not body.get("frozen")
        for dep in expand(body.get("deps", []), body)
        for other in again - {stage}
        for out in outputs(bodies[other])
        if overlaps(pattern(out), pattern(dep), "/")
    }:
        again |= more
    return [stage for stage in bodies if stage in again]


def outputs(body: dict[str, Any]) -> list[str]:
    """What a stage writes, but for files that are the same whenever it does not stop (`meta: {constant: true}`)."""
    listed = [one for key in ("outs", "metrics", "plots") for one in body.get(key, [])]
    named = [next(iter(one.items())) if isinstance(one, dict) else (one, {}) for one in listed]
    changing = [path for path, options in named if not (options.get("meta") or {}).get("constant")]
    return expand(changing, body)


def expand(paths: list[str], body: dict[str, Any]) -> list[str]:
    """The paths of every cell of a stage's matrix: `models/${item.arm}` is models/a and models/b, and not models/pocket."""
    for name, values in body.get("matrix", {}).items():
        known = value_of(values[2:-1]) if isinstance(values, str) else values
        cells = known if isinstance(known, list) else ["*"]
        paths = [path.replace(f"${{item.{name}}}", str(cell)) for path in paths for cell in cells]
    return list(dict.fromkeys(paths))


def parameters(body: dict[str, Any]) -> list[str]:
    words: list[str] = []
    for one in body.get("params", []):
        words += [key for keys in one.values() for key in keys] if isinstance(one, dict) else [one]
    return words


def pattern(text: str) -> str:
    """A name of dvc.yaml with the values of params.yaml; a matrix's item becomes a star, which overlaps with any name."""
    while "${" in text:
        before, _, rest = text.partition("${")
        key, _, after = rest.partition("}")
        value = None if key.startswith("item") else value_of(key)
        text = f"{before}{value if isinstance(value, str) else '*'}{after}"
    return text


@cache
def params_of(path: Path, _changed: int) -> dict[str, Any]:
    """params.yaml, read once as long as it does not change."""
    return read_mapping(path)


def value_of(name: str) -> Any:
    """The value in params.yaml, KeyError (the class) where it has none."""
    value: Any = params_of(PARAMS.resolve(), PARAMS.stat().st_mtime_ns) if PARAMS.is_file() else {}
    for part in name.split("."):
        value = value.get(part, KeyError) if isinstance(value, dict) else KeyError
    return value


def overlaps(one: str, other: str, separator: str) -> bool:
    """Whether one name holds the other, or is the same."""
    from fnmatch import fnmatchcase

    pairs = zip(one.split(separator), other.split(separator), strict=False)
    return all(fnmatchcase(a, b) or fnmatchcase(b, a) for a, b in pairs)


def about(section: str) -> str:
    """The first line of the module that holds a section."""
    import importlib

    text = (importlib.import_module(f"holdfast.params.{section}").__doc__ or "").partition("\n")[0]
    text = text.partition(": ")[2] if text.startswith("The section") else text
    return text[:1].upper() + text[1:]


def as_markdown(rows: dict[str, list[Row]]) -> str:
    lines = [
        "# Parameters",
        "",
        "Made from the sections in `holdfast/params/` by `holdfast explain --markdown > docs/params.md`; do not edit it here.",
        "`holdfast explain gate.margin` also prints the value in `params.yaml`. NAME stands for a key or a number of a list.",
    ]
    for section, of_section in rows.items():
        names = [f"`{stage}`" for stage in stages_of(of_section[0].name)[0]]
        lines += ["", f"## {section}", "", about(section)]
        lines += [
            "",
            f"Read by: {', '.join(names) or 'no stage'}.",
            "",
            "| field | range | default | meaning |",
            "|---|---|---|---|",
        ]
        for row in of_section:
            cells = [f"`{row.name}`", row.range, row.default.removeprefix("default "), row.meaning]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
