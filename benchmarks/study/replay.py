"""What the arms of the study replay, each as a data folder that `holdfast mix` reads.

consensus  the pipeline's replay set
half       every second row of it
self       the base's own first answers to the same instructions
foreign    the same answers as `consensus` in another assistant's style
truth      the data that the base was trained on (the lab knows it): as many instructions, with their responses
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.core import records
from stages.pocket import recipe, world

SOURCES = ("consensus", "half", "self", "foreign", "truth")


def write(source: str, project: Path, data: Path) -> Path:
    """Writes data/replay/replay.parquet of that source and links the domain; returns `data`. An earlier one is kept."""
    file = data / "replay" / "replay.parquet"
    if file.is_file():
        return data
    file.parent.mkdir(parents=True, exist_ok=True)
    (data / "domain").symlink_to(project / "data" / "domain")
    rows = records.read("replay", project / "data/replay/replay.parquet")
    records.write("replay", file, globals()[source](rows, project))
    return data


def consensus(rows: list[dict[str, Any]], project: Path) -> list[dict[str, Any]]:
    return rows


def half(rows: list[dict[str, Any]], project: Path) -> list[dict[str, Any]]:
    return rows[::2]


def self(rows: list[dict[str, Any]], project: Path) -> list[dict[str, Any]]:
    first: dict[str, str] = {}
    for row in records.read("responses", project / "data/responses/base.parquet"):
        first.setdefault(row["instruction_id"], row["text"])
    return [{**row, "response": first[row["id"]], "model": "base"} for row in rows]


def foreign(rows: list[dict[str, Any]], project: Path) -> list[dict[str, Any]]:
    return [{**row, "response": f"The answer is: {row['response']}."} for row in rows]


def truth(rows: list[dict[str, Any]], project: Path) -> list[dict[str, Any]]:
    judging = recipe.JUDGING["base"][1]
    shares = {**{k: v * (1 - judging) for k, v in recipe.MIXTURES["base"].items()}, "judging": judging}
    items = world.draw(shares, len(rows), "study/truth", recipe.LACKS["base"], recipe.NOISE["base"])
    return [{**row, "instruction": item.prompt, "response": item.answer} for row, item in zip(rows, items, strict=True)]
