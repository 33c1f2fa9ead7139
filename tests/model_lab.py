"""A base and a tuned model outside any project, and the commands that take both, called as the command line does."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import perturb, task

from holdfast import cli
from holdfast.core import cache

ASKED = ["What is the capital of Velkan?", "Sort: 3 1 2", "Reverse: abc", "Count: a b c d", "How many legs has a cat?"]


class ModelLab:
    """A folder with a suite of choices, test rows of a domain, and a model that was tuned from `base`."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder, self.base, self.tuned = folder, base, perturb(base, folder / "tuned", 0.3)
        choice = {"output_type": "multiple_choice", "doc_to_choice": ["1", "2", "4"], "doc_to_target": "{{answer}}"}
        accuracy = {"metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]}
        rows = [{"id": f"q{n}", "prompt": ASKED[n % 5] + str(n), "answer": n % 3} for n in range(30)]
        task(folder / "suites", "choice", rows, **choice, **accuracy)
        rows = [{"question": f"What is {n}?", "reply": str(n)} for n in range(12)]
        (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.domain = ["--domain", str(folder / "test.jsonl"), "--columns", "prompt=question,response=reply"]

    def run(self, command: str, out: str, *more: str, base: Path | str = "", tuned: Path | str = "") -> int:
        """The exit code of `holdfast COMMAND` with results in the folder `out`."""
        questions = ["--suites", "choice", "--tasks", str(self.folder / "suites"), "--instructions", "0"]
        models = ["--base", str(base or self.base), "--tuned", str(tuned or self.tuned)]
        sys.argv = ["holdfast", command, *models, "--out", str(self.folder / out), *questions, *more]
        return cli.exit_code()


@contextmanager
def open_lab(folder: Path, base: Path) -> Iterator[ModelLab]:
    """In the lab's folder, with a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HOLDFAST_CACHE", str(folder / "kept"))
        patch.setattr(sys, "argv", [])
        patch.setattr(cache, "FOLDER", cache.FOLDER)
        yield ModelLab(folder, base)
