"""Each method's front of domain and general score over its knob, and what it loses at matched domain scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.study import table
from benchmarks.study.table import Draws, Study

HERE = Path(__file__).parent
STUDY, LEAGUE, METHODS = HERE.parent / "study.yaml", HERE / "league.yaml", HERE / "methods.yaml"
RESULTS = (HERE.parent / "data" / "results.jsonl", HERE / "results.jsonl")
PARTS = (0.5, 0.75, 0.9)  # of the best domain score of all methods
BEYOND = 0.5  # of a segment, to which a bootstrap draw is read off past its ends


@dataclass(frozen=True)
class Point:
    """A method at one strength: means over seeds, fractions of 1."""

    key: str
    domain: float
    general: float
    flops: float  # of the training
    synthesis: float  # operations for the replay set
    seeds: int


@dataclass(frozen=True)
class Method:
    name: str
    knob: str
    label: str
    points: list[Point]  # weakest first

    @property
    def best(self) -> float:
        return max(point.domain for point in self.points)


@dataclass(frozen=True, eq=False)
class Reading:
    """What a method loses of the general score at a domain score; the cost there in operations."""

    lost: float
    drawn: Draws  # of it, by the bootstrap
    training: float
    synthesis: float
    seeds: str


def load_study(files: tuple[Path, ...] = RESULTS) -> Study:
    cells = [cell for file in files for cell in table.read_cells(file)]
    first = next(cell for cell in cells if cell["cell"] == "base")
    trained = [cell for cell in cells if cell["cell"] != "base"]
    return Study([first, *trained], list(dict.fromkeys(table.list_arms(STUDY) + table.list_arms(LEAGUE))))


def load_methods(study: Study) -> list[Method]:
    """The methods of methods.yaml, with the points that have been trained; those without any are left out."""
    league = yaml.safe_load(METHODS.read_text())
    methods = []
    for entry in league["methods"]:
        keys = entry.get("points") or [
            key for arm in entry["arms"] for key in study.cells if key.rsplit("_", 1)[0] == arm
        ]
        points = [make_point(study, key, league["synthesis"]) for key in keys if key in study.cells]
        if points:
            methods.append(Method(entry["name"], entry["knob"], entry.get("label", ""), points))
    return methods


def list_names() -> list[str]:
    return [entry["name"] for entry in yaml.safe_load(METHODS.read_text())["methods"]]


def make_point(study: Study, key: str, synthesis: dict[str, float]) -> Point:
    cells = study.cells[key]
    return Point(
        key=key,
        domain=study.mean(key, "domain"),
        general=study.mean(key, "general"),
        flops=float(np.mean([cell["ledger"]["flops"] for cell in cells])),
        synthesis=synthesis[cells[0]["how"]["replay"]] if cells[0]["how"]["share"] else 0.0,
        seeds=len(cells),
    )


def read_off(study: Study, method: Method, domain: float) -> Reading | None:
    """By interpolation between neighbours on the front; where it crosses the score more than once, the smallest loss. None where it
    does not reach it, or never comes so low."""
    readings = [
        interpolate(study, low, high, domain)
        for low, high in zip(method.points, method.points[1:], strict=False)
        if min(low.domain, high.domain) <= domain <= max(low.domain, high.domain) and low.domain != high.domain
    ]
    return min(readings, key=lambda reading: reading.lost, default=None)


def interpolate(study: Study, low: Point, high: Point, domain: float) -> Reading:
    """Seeds and items are drawn anew for the interval, and each draw is read off at the same domain score."""
    lost: list[Draws] = [study.lost(point.key) for point in (low, high)]
    scores: list[Draws] = [study.draws(point.key, "domain") for point in (low, high)]
    gap = scores[1] - scores[0]
    along = np.clip((domain - scores[0]) / np.where(np.abs(gap) < 1e-3, 1e-3, gap), -BEYOND, 1 + BEYOND)
    drawn = lost[0] + along * (lost[1] - lost[0])
    part = (domain - low.domain) / (high.domain - low.domain)
    base = study.base["evaluation"]["general"]
    return Reading(
        lost=base - (low.general + part * (high.general - low.general)),
        drawn=drawn,
        training=low.flops + part * (high.flops - low.flops),
        synthesis=max(low.synthesis, high.synthesis),
        seeds=f"{low.seeds}, {high.seeds}" if low.seeds != high.seeds else f"{low.seeds}",
    )


def find_levels(methods: list[Method]) -> list[float]:
    best = max(method.best for method in methods)
    return [part * best for part in PARTS]


def find_cells(study: Study, method: Method) -> list[dict[str, Any]]:
    """The recorded trainings of a method."""
    return [cell for point in method.points for cell in study.cells[point.key]]
