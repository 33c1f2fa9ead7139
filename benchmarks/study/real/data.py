"""Writes two domains and four general suites of real, public data as Holdfast reads them.

    python -m benchmarks.study.real.data SOURCE OUT [--rows 500] [--items 200]

SOURCE holds, as published: banking77/{train,test}.csv (PolyAI, CC BY 4.0), wikisql/{train,test}.jsonl (BSD-3; question, columns,
sql) and general/{arc_easy,piqa,openbook_qa,copa}.jsonl (mosaicml/llm-foundry; query, choices, gold). OUT gets banking77.jsonl,
banking77_test.jsonl, wikisql.jsonl, wikisql_test.jsonl and suites/, a folder of lm-eval tasks. Rows are drawn by their hash.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from pathlib import Path
from typing import Any

SUITES = {"arc_easy": 0.25, "piqa": 0.5, "openbook_qa": 0.25, "copa": 0.5}  # chance
TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{query}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=500, help="training rows of a domain")
    parser.add_argument("--items", type=int, default=200, help="items of a test split and of a suite")
    given = parser.parse_args()
    (given.out / "suites").mkdir(parents=True, exist_ok=True)
    for name, read in (("banking77", read_banking), ("wikisql", read_wikisql)):
        write_rows(given.out / f"{name}.jsonl", draw(read(given.source / name, "train"), given.rows))
        write_rows(given.out / f"{name}_test.jsonl", draw(read(given.source / name, "test"), given.items))
    for name in SUITES:
        file = given.out / "suites" / f"{name}.jsonl"
        write_rows(file, draw(read_jsonl(given.source / "general" / f"{name}.jsonl"), given.items))
        file.with_suffix(".yaml").write_text(TASK.format(name=name, file=f"data/local/suites/{name}.jsonl"))


def read_banking(folder: Path, split: str) -> list[dict[str, Any]]:
    """A customer's message and its intent, one of 77."""
    with (folder / f"{split}.csv").open(newline="", encoding="utf-8") as file:
        return [as_chat(row["text"], row["category"]) for row in csv.DictReader(file)]


def read_wikisql(folder: Path, split: str) -> list[dict[str, Any]]:
    """A question with the columns of its table, and the query."""
    rows = read_jsonl(folder / f"{split}.jsonl")
    return [as_chat(f"{row['question']}\nColumns: {row['columns']}", row["sql"]) for row in rows]


def as_chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def read_jsonl(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def draw(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """`count` rows, those with the smallest hashes."""
    return sorted(rows, key=lambda row: hashlib.sha256(json.dumps(row).encode()).digest())[:count]


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
