"""Evaluation suites: lm-eval tasks by name, local ones from a folder, and the domain's own test split as one more."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core import records
from holdfast.core.errors import UserError, first_line
from holdfast.data import answers
from holdfast.params.evaluate import Evaluate, Suite

if TYPE_CHECKING:
    from lm_eval.api.task import Task

DOMAIN_TEST = "domain_test"


def all_suites(params: Evaluate) -> dict[str, Suite]:
    """Every suite that is evaluated, by name, the domain's test split included."""
    extra = {DOMAIN_TEST: Suite(role="domain", metric="exact_match")} if params.domain_test != "off" else {}
    return {**params.suites, **extra}


def load_tasks(params: Evaluate, domain_test: Path) -> dict[str, Task]:
    """lm-eval's task objects by suite name. Raises UserError for a name that neither the folder nor lm-eval has."""
    folder = Path(params.tasks)
    local = {file.stem for file in folder.rglob("*.yaml")}
    every_local = set(params.suites) <= local
    if every_local:  # nothing is needed from the network, so nothing may ask for it
        os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for noisy in ("lm_eval", "lm-eval", "datasets"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    import datasets
    from lm_eval.tasks import TaskManager

    answers.register_filter_of_lm_eval()
    datasets.disable_progress_bars()
    manager = TaskManager(include_path=str(folder) if folder.is_dir() else None, include_defaults=not every_local)
    tasks: dict[str, Any] = {}
    for name in params.suites:
        try:
            loaded = manager.load([name])["tasks"]
        except KeyError:
            raise UserError(
                f"no lm-eval task '{name}'",
                where="evaluate.suites",
                do=f"put {name}.yaml into {folder}, or use a name of `lm-eval ls tasks`",
            ) from None
        except (FileNotFoundError, ConnectionError, ValueError, OSError) as error:
            raise UserError(
                f"task '{name}' cannot be loaded ({first_line(error)})",
                where=folder,
                do="check its YAML and data, or the network",
            ) from None
        if list(loaded) != [name]:
            raise UserError(
                f"'{name}' is a group of {len(loaded)} tasks", where="evaluate.suites", do="name its tasks one by one"
            )
        tasks[name] = loaded[name]
    if any(checks_instructions(task) for task in tasks.values()):
        prepare_ifeval(params)
    if params.domain_test != "off":
        spec = test_split_task(params, records.read("domain", domain_test))
        tasks[DOMAIN_TEST] = manager.load([spec])["tasks"][DOMAIN_TEST]
    return tasks


def checks_instructions(task: Task) -> bool:
    """Whether a task is IFEval or a relative of it: the function that its configuration scores with comes from there."""
    return "ifeval" in getattr(task.config.process_results, "__module__", "").lower()


def prepare_ifeval(params: Evaluate) -> None:
    """Seeds the language detector of IFEval's checks. Raises UserError where NLTK lacks the file that they split sentences
    with: now, since otherwise a model would answer everything before the first check fails."""
    import langdetect
    import nltk

    langdetect.DetectorFactory.seed = params.seed
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        do = "run `python -m nltk.downloader punkt_tab` where there is a network; NLTK_DATA names its folder"
        raise UserError("IFEval needs NLTK's punkt_tab, which is not there", where="evaluate.suites", do=do) from None


def test_split_task(params: Evaluate, rows: list[dict]) -> dict[str, Any]:
    """The domain's test split as an lm-eval task: earlier turns are the question, the last one is the answer."""
    from datasets import Dataset

    docs = [
        {
            "id": row["id"],
            "prompt": "\n\n".join(m["content"] for m in row["messages"][:-1]),
            "answer": row["messages"][-1]["content"].strip(),
        }
        for row in rows
    ]
    scorer = {"process_results": score_final_answer} if params.domain_test == "answer" else {}
    return {
        "task": DOMAIN_TEST,
        "custom_dataset": lambda **_: {"test": Dataset.from_list(docs)},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": params.max_tokens},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        **scorer,
    }


def score_final_answer(doc: dict, results: list[str]) -> dict[str, float]:
    return {"exact_match": float(answers.same_answer(results[0], doc["answer"]))}


def prompts(params: Evaluate, domain_test: Path) -> dict[str, list[str]]:
    """The text of every evaluation item by suite: what no replay row may resemble."""
    texts_by_suite = {}
    for name, task in load_tasks(params, domain_test).items():
        texts = [task.doc_to_text(doc) for doc in task.eval_docs]
        texts_by_suite[name] = [text for text in texts if isinstance(text, str)]
    return texts_by_suite
