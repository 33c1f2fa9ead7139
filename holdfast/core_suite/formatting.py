"""The same records as JSON, YAML, CSV or a Markdown table; read with the usual parsers."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from collections.abc import Callable
from typing import Any

import yaml

from holdfast.core import yaml_text
from holdfast.core_suite.items import Answer, Family, Item, ask

NAMES = ("Ana", "Ben", "Chen", "Dina", "Emil", "Farah", "Goran", "Hana", "Ivo", "Julia")
CITIES = ("Lisbon", "Oslo", "Nairobi", "Lima", "Hanoi", "Vienna", "Dublin", "Quito")
JOBS = ("baker", "teacher", "nurse", "pilot", "farmer", "painter")
COLUMNS = {1: ("name", "age"), 2: ("name", "age", "city"), 3: ("name", "age", "city", "job")}
ROWS = {1: 1, 2: 2, 3: 3}
Rows = list[dict[str, Any]]
FORMS = {
    "json": "Write this as a JSON array of objects with the keys {keys}. age is a number. Reply with the JSON only.",
    "yaml": "Write this as YAML: a list of mappings with the keys {keys}. Reply with the YAML only.",
    "csv": "Write this as CSV with the header {header} and one line for each person. Reply with the CSV only.",
    "table": "Write this as a Markdown table with the columns {keys}. Reply with the table only.",
}


def make_item(level: int, rng: random.Random) -> Item:
    columns, people = COLUMNS[level], rng.sample(NAMES, ROWS[level])
    records = [
        {"name": name, "age": rng.randint(18, 80), "city": rng.choice(CITIES), "job": rng.choice(JOBS)}
        for name in people
    ]
    rows = [{key: record[key] for key in columns} for record in records]
    form = rng.choice(sorted(FORMS))
    said = " ".join(describe(row) for row in rows)
    wish = FORMS[form].format(keys=", ".join(columns), header=",".join(columns))
    return Item(ask(f"{said} {wish}"), {"form": form, "rows": rows})


def describe(row: dict[str, Any]) -> str:
    more = [f"lives in {row['city']}"] if "city" in row else []
    more += [f"works as a {row['job']}"] if "job" in row else []
    return f"{row['name']} is {row['age']} years old{''.join(f' and {one}' for one in more)}."


def strip_fence(text: str) -> str:
    """What stands between the first fence and the next, where there is one."""
    match = re.search(r"```[\w-]*\n(.*?)(?:```|\Z)", text, re.DOTALL)
    return (match[1] if match else text).strip()


def read_json(text: str) -> Any:
    return json.loads(text)


def read_yaml(text: str) -> Any:
    return yaml_text.parse(text, yaml_text.FAST)


def read_csv(text: str) -> Any:
    return list(csv.DictReader(io.StringIO(text), skipinitialspace=True, strict=True))


def read_table(text: str) -> Any:
    lines = [line.strip().strip("|").split("|") for line in text.splitlines() if "|" in line]
    if len(lines) < 2 or not all(re.fullmatch(r"\s*:?-+:?\s*", cell) for cell in lines[1]):
        raise ValueError("no table")
    keys = [cell.strip() for cell in lines[0]]
    return [dict(zip(keys, [cell.strip() for cell in line], strict=True)) for line in lines[2:]]


READERS: dict[str, Callable[[str], Any]] = {"json": read_json, "yaml": read_yaml, "csv": read_csv, "table": read_table}


def score_form(expected: Any, answer: Answer) -> float:
    """1: the records; a half: the right form and keys with other values; 0: anything else."""
    try:
        content = READERS[expected["form"]](strip_fence(answer.text))
    except (ValueError, yaml.YAMLError, csv.Error, RecursionError):
        return 0.0
    rows = [content] if isinstance(content, dict) else content
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        return 0.0
    keys = list(expected["rows"][0])
    if any(sorted(map(spell, row)) != sorted(keys) for row in rows):
        return 0.0
    typed = expected["form"] == "json"  # there a number is a number
    return 1.0 if compare(rows, typed) == compare(expected["rows"], typed) else 0.5


def spell(value: Any) -> str:
    return str(value).strip().casefold()


def compare(rows: Rows, typed: bool) -> list[dict[str, Any]]:
    return [
        {spell(key): value if typed and not isinstance(value, str) else spell(value) for key, value in row.items()}
        for row in rows
    ]


FORMATS = Family(make_item, score_form, max_tokens=128)
