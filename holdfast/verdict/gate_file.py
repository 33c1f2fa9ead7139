"""Reads gate.json, of this version and whole enough to be compared."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from holdfast.core import storage
from holdfast.core.errors import UserError
from holdfast.params.base import parse
from holdfast.params.gate import Gate
from holdfast.verdict import fields, measured, summary
from holdfast.verdict.fields import Json
from holdfast.verdict.provenance import FILES


def read_gate(path: Path) -> Json:
    """gate.json, of this version and whole enough to be compared. Raises UserError."""
    content, do = (
        storage.read_json(path),
        "remove it and run `dvc repro`: it is written from the evaluations, never by hand",
    )
    try:
        if content["schema"] != 2 or content["verdict"] not in fields.EXIT_CODES or not content["arms"]:
            raise ValueError
        summary.table(content)
        parse(Gate, content["provenance"]["gate"], "gate", path)
        whole = all(
            set(fields.MEASURED_SUITE) <= suite.keys() and suite["problems"] is not None
            for arm in content["arms"].values()
            for suite in arm["suites"].values()
        )
        whole = whole and all(isinstance(arm["problems"], list) and arm["suites"] for arm in content["arms"].values())
        files = all(set(FILES) <= evaluation.keys() for evaluation in content["provenance"]["evaluations"].values())
        if not (whole and files and isinstance(content["provenance"]["code"], dict)):
            raise ValueError
    except (
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
        UserError,
    ):  # a setting that this version does not have, too
        raise UserError("is not a verdict of this version", where=path, do=do) from None
    if not all(map(math.isfinite, numbers(content))):
        raise UserError("holds a number that is not finite", where=path, do=do)
    measured.check(content, path, do)
    return content


def numbers(content: Any) -> Iterator[float]:
    """Every number in a JSON value."""
    if isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            yield from numbers(value)
    elif isinstance(content, float):
        yield content
