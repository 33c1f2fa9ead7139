"""What the arms of the study replay, each as a data folder that `mix` reads.

    python -m benchmarks.study.replay        (takes the replay set of a finished `dvc repro`; the study then starts again)

The replay set that the study uses lies beside this file, so that cells of one study are comparable whatever has become of
the engines, the lab or the panel since.

consensus  the pipeline's replay set, as it was when the study began
half       every second row of it
self       the base's own first answers to the same instructions
foreign    the same answers as `consensus` in another assistant's style
truth      the data that the base was trained on (the lab knows it): as many instructions, with their responses
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from holdfast.core import records
from holdfast.pocket import recipe, world

HERE = Path(__file__).parent

REPLAY = HERE / "data" / "replay.parquet"
FIRST = HERE / "data" / "first.json"  # the base's own first answers, in the order of the rows
SOURCES = ("consensus", "half", "self", "foreign", "truth")


def write(source: str, project: Path, data: Path) -> Path:
    """Writes replay/replay.parquet of that source into the folder `data` and links the domain; returns the folder."""
    data.mkdir(parents=True, exist_ok=True)
    if not (data / "domain").is_symlink():
        (data / "domain").symlink_to(project / "data" / "domain")
    records.write("replay", data / "replay" / "replay.parquet", globals()[source](records.read("replay", REPLAY)))
    return data


def consensus(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows


def half(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows[::2]


def self(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    first = json.loads(FIRST.read_text(encoding="utf-8"))
    return [{**row, "response": text, "model": "base"} for row, text in zip(rows, first, strict=True)]


def foreign(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "response": f"The answer is: {row['response']}."} for row in rows]


def truth(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    judging = recipe.JUDGING["base"][1]
    shares = {**{k: v * (1 - judging) for k, v in recipe.MIXTURES["base"].items()}, "judging": judging}
    items = world.draw(shares, len(rows), "study/truth", recipe.LACKS["base"], recipe.NOISE["base"])
    return [{**row, "instruction": item.prompt, "response": item.answer} for row, item in zip(rows, items, strict=True)]


def freeze(project: Path) -> None:
    rows, first = records.read("replay", project / "data/replay/replay.parquet"), {}
    for row in records.read("responses", project / "data/responses/base.parquet"):
        first.setdefault(row["instruction_id"], row["text"])
    shutil.copyfile(project / "data/replay/replay.parquet", REPLAY)
    FIRST.write_text(json.dumps([first[row["id"]] for row in rows], ensure_ascii=False, indent=0), encoding="utf-8")


if __name__ == "__main__":
    freeze(HERE.parents[1])
