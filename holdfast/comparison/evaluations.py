"""The evaluations of a comparison. The base's is kept beside the shards, so that the next tuned model of it costs half.

A killed evaluation goes on where it was: finished shards come from the cache (evaluation/resume.py).
"""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from holdfast.core import cache, fingerprint, manifest, records, storage
from holdfast.core.errors import UserError
from holdfast.evaluation import harness, results, self_suite
from holdfast.params.evaluate import Evaluate

LIBRARIES = ("torch", "transformers", "lm_eval")  # whose versions an evaluation's settings name


def silence_git() -> None:
    """lm-eval asks git for the commit of the working directory, and outside a repository git complains about that."""
    import lm_eval.evaluator

    lm_eval.evaluator.get_git_commit_hash = str  # type: ignore[attr-defined]


class Exam(NamedTuple):
    """What both models are asked: the suites of `params`, and files of the contracts "domain" and "instructions_kept"."""

    params: Evaluate
    base: manifest.Manifest
    domain: Path
    held_out: Path


def evaluate_base(exam: Exam, into: Path, served: str | None = None) -> bool:
    """Writes the base's evaluation to into/base; returns whether it was kept from an earlier comparison.

    `served`: the name by which the server of `params.url` knows the model.
    """
    store = cache.FOLDER / "compare" / identify(exam, served)
    known = is_whole(store)
    if not known:
        silence_git()
        inputs = self_suite.load_inputs(exam.params, exam.held_out, exam.domain, None)
        folder = exam.base.folder()
        evaluation = harness.evaluate_model(exam.params, served or "base", folder, exam.base, exam.domain, None, inputs)
        with storage.replacing_folder(store) as partial:
            write(name_weights(evaluation, "base", exam.params, served), partial)
    with storage.replacing_folder(into / "base") as partial:
        for file in store.iterdir():
            shutil.copyfile(file, partial / file.name)
    return known


def evaluate_other(exam: Exam, name: str, folder: Path, into: Path, served: str | None = None) -> None:
    """Writes the evaluation of the model in `folder` to into/NAME, asked exactly as the base was, whose evaluation is in into/base.

    `served`: as of evaluate_base; then `folder` holds the tokenizer.
    """
    silence_git()
    of_base = into / "base"
    inputs = self_suite.load_inputs(exam.params, exam.held_out, exam.domain, of_base / "items.parquet")
    evaluation = harness.evaluate_model(exam.params, served or name, folder, exam.base, exam.domain, of_base, inputs)
    with storage.replacing_folder(into / name) as partial:
        write(name_weights(evaluation, name, exam.params, served), partial)


def name_weights(evaluation: harness.Evaluation, name: str, params: Evaluate, served: str | None) -> harness.Evaluation:
    """Of a served model neither the folder's hash nor the server's name for it says which model was asked."""
    if served is None:
        return evaluation
    names = {"model": name, "weights": cache.key(params.url, served)}
    return evaluation._replace(settings=evaluation.settings | names)


def identify(exam: Exam, served: str | None) -> str:
    """All that decides the base's evaluation."""
    params, base = exam.params, exam.base
    files = [storage.file_sha256(file) for file in (exam.domain, exam.held_out)]
    tasks = [storage.file_sha256(file) for file in sorted(Path(params.tasks).rglob("*")) if file.is_file()]
    libraries = [version(name) for name in LIBRARIES]
    model = [base.fingerprint, base.dtype, manifest.find_device().type]
    code = fingerprint.of_modules(__name__)
    return cache.key(params.model_dump(exclude={"tasks"}), model, served, files, tasks, libraries, code)


def is_whole(folder: Path) -> bool:
    try:
        results.load(folder)
    except UserError:
        return False
    return True


def write(evaluation: harness.Evaluation, folder: Path) -> None:
    records.write("items", folder / "items.parquet", evaluation.items)
    storage.write_json(folder / "settings.json", evaluation.settings)
    storage.write_json(folder / "scores.json", evaluation.scores)
