"""Evaluation suites: lm-eval tasks by name, local ones from a folder, and the domain's own test split as one more."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core import records
from holdfast.core.errors import UserError
from holdfast.data import answers
from holdfast.params.evaluate import Evaluate, Suite

if TYPE_CHECKING:
    from lm_eval.api.task import Task

DOMAIN_TEST = "domain_test"


def lineup(params: Evaluate) -> dict[str, Suite]:
    """Every suite that is run, the domain's test split included."""
    extra = {DOMAIN_TEST: Suite(role="domain", metric="exact_match")} if params.domain_test != "off" else {}
    return {**params.suites, **extra}


def load(params: Evaluate, domain_test: Path) -> dict[str, Task]:
    """lm-eval's task objects by suite name. Raises UserError for a name that neither the folder nor lm-eval has."""
    folder = Path(params.tasks)
    local = {file.stem for file in folder.rglob("*.yaml")}
    every_local = set(params.suites) <= local
    if every_local:  # nothing is needed from the net, so nothing may ask for it
        os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for noisy in ("lm_eval", "lm-eval", "datasets"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    import datasets
    from lm_eval.tasks import TaskManager

    answers.register()
    datasets.disable_progress_bars()
    manager = TaskManager(include_path=str(folder) if folder.is_dir() else None, include_defaults=not every_local)
    found: dict[str, Any] = {}
    for name in params.suites:
        try:
            tasks = manager.load([name])["tasks"]
        except KeyError:
            raise UserError(
                f"no lm-eval task '{name}'",
                where="evaluate.suites",
                do=f"put {name}.yaml into {folder}, or use a name of `lm-eval ls tasks`",
            ) from None
        except (FileNotFoundError, ConnectionError, ValueError, OSError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0][:160]
            raise UserError(
                f"task '{name}' cannot be loaded ({first})", where=folder, do="check its YAML and data, or the network"
            ) from None
        if list(tasks) != [name]:
            raise UserError(
                f"'{name}' is a group of {len(tasks)} tasks", where="evaluate.suites", do="name its tasks one by one"
            )
        found[name] = tasks[name]
    if any(checks_instructions(task) for task in found.values()):
        ready_for_ifeval(params)
    if params.domain_test != "off":
        spec = test_split_task(params, records.read("domain", domain_test))
        found[DOMAIN_TEST] = manager.load([spec])["tasks"][DOMAIN_TEST]
    return found


def checks_instructions(task: Task) -> bool:
    """Whether a task is IFEval or a relative of it: the function that its configuration scores with comes from there."""
    return "ifeval" in getattr(task.config.process_results, "__module__", "").lower()


def ready_for_ifeval(params: Evaluate) -> None:
    """IFEval's checks guess languages with a random seed of their own, and count sentences with a file of NLTK's: said
    now, since otherwise a model would answer everything before the first check fails."""
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
    scorer = {"process_results": ends_alike} if params.domain_test == "answer" else {}
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


def ends_alike(doc: dict, results: list[str]) -> dict[str, float]:
    return {"exact_match": float(answers.same(results[0], doc["answer"]))}


def prompts(params: Evaluate, domain_test: Path) -> dict[str, list[str]]:
    """The text of every evaluation item by suite: what no replay row may come close to."""
    found = {}
    for name, task in load(params, domain_test).items():
        texts = [task.doc_to_text(doc) for doc in task.eval_docs]
        found[name] = [text for text in texts if isinstance(text, str)]
    return found
