"""Writes the lab's evaluation suites (JSONL and lm-eval task YAML) and the domain data."""

from __future__ import annotations

import json
from pathlib import Path

from holdfast.pocket import facts, pharmacy, world


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


TASK_YAML = """\
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/{task}.jsonl
test_split: test
{kind}
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""
GENERATE = """\
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
generation_kwargs:
  until: ["<|end|>"]
  do_sample: false
  max_gen_toks: 48
metric_list:
  - metric: exact_match"""
CHOOSE = """\
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: ["1", "2", "4", "5"]
doc_to_target: "{{[2, 3] if answer == '5' else [0, 1]}}"  # right if it calls a right response 4 or 5, a wrong one 1 or 2
target_delimiter: ""
metric_list:
  - metric: acc"""


def write_suites(data: Path, items: int, development: int, seed: str) -> None:
    """One JSONL of items and one lm-eval task YAML per suite: `items` to evaluate with, and `development` others, on which
    settings are chosen."""
    for skill in world.GENERAL | pharmacy.DOMAIN:
        drawn = world.evaluation_items(skill, items + development, seed)
        kind = CHOOSE if skill == "judging" else GENERATE
        for folder, part in (("suites", drawn[:items]), ("development", drawn[items:])):
            rows = [{"id": f"{skill}-{n:04d}", "prompt": i.prompt, "answer": i.answer} for n, i in enumerate(part)]
            write_jsonl(data / folder / f"{skill}.jsonl", rows)
            text = TASK_YAML.format(task=skill, folder=f"data/pocket/{folder}", kind=kind)
            (data / folder / f"{skill}.yaml").write_text(text, encoding="utf-8")


def write_domain(folder: Path, rows: int, seed: str) -> None:
    """The user's side of the lab: chat rows about the pharmacy; the test file asks in wordings and doses kept apart."""

    def messages(item: facts.Item) -> dict:
        turns = (("user", item.prompt), ("assistant", item.answer))
        return {"messages": [{"role": role, "content": content} for role, content in turns]}

    write_jsonl(folder / "train.jsonl", [messages(i) for i in world.domain_rows(rows, seed)])
    test = [i for skill in pharmacy.DOMAIN for i in world.evaluation_items(skill, 100, f"{seed}/test")]
    write_jsonl(folder / "test.jsonl", [messages(i) for i in test])
