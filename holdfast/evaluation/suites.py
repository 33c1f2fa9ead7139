"""Evaluation suites: lm-eval tasks by name, local ones from a folder, and the domain's own test split as one more."""

from __future__ import annotations

import difflib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core import records
from holdfast.core.errors import UserError, first_line
from holdfast.core_suite import families
from holdfast.data import answers
from holdfast.params.evaluate import DOMAIN_TEST, PUBLIC_SUITES, Evaluate, Suite

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager
from holdfast.evaluation.domain_test import make_test_split_task

MEANS = ("mean", "nanmean")  # lm-eval's ways to sum up that give each item its own value


def load_tasks(params: Evaluate, domain_test: Path, tokenizer: Any = None) -> dict[str, list[Task]]:
    """lm-eval's task objects by suite, vetted: one, or those of a group. `tokenizer`: of the model that will be asked the
    domain's test. Raises UserError for a name that neither the folder nor lm-eval has, for a task of two suites, and for a
    metric that says nothing about a single item."""
    manager = make_manager(params)
    check_names(params, manager)
    tasks: dict[str, Any] = {name: load_suite(name, params, manager) for name in params.tasks_asked()}
    refuse_repetition(tasks)
    if any(checks_instructions(task) for several in tasks.values() for task in several):
        prepare_ifeval(params)
    for name, suite in params.tasks_asked().items():
        check_metrics(name, suite, tasks[name])
    for own in params.own_suites():  # files of public suites are missed now, and not after an hour of the others
        families.list_items(own, params)
    if params.domain_test != "off":
        tasks[DOMAIN_TEST] = [make_test_split_task(params, records.read("domain", domain_test), tokenizer)]
    return tasks


def refuse_repetition(tasks: dict[str, list[Task]]) -> None:
    """Raises UserError where two suites ask the same task."""
    suite_of: dict[str, str] = {}
    for suite, several in tasks.items():
        for task in several:
            if (other := suite_of.setdefault(task.task_name, suite)) != suite:
                what = f"the suites '{other}' and '{suite}' both ask the task '{task.task_name}'"
                raise UserError(what, where="evaluate.suites", do="name the group, or some of its tasks")


def list_local(params: Evaluate) -> set[str]:
    return {file.stem for file in Path(params.tasks).rglob("*.yaml")}


def make_manager(params: Evaluate) -> TaskManager:
    """lm-eval's index of tasks: those of the folder, and its own where one of them is asked for (6 seconds)."""
    for noisy in ("lm_eval", "lm-eval", "datasets"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    every_local = params.tasks_asked().keys() <= list_local(params)
    if (
        every_local and not PUBLIC_SUITES.keys() & params.suites
    ):  # nothing is needed from the network, so nothing may ask for it
        os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import datasets
    from lm_eval.tasks import TaskManager

    answers.register_filter_of_lm_eval()
    datasets.disable_progress_bars()
    folder = Path(params.tasks)
    include = str(folder) if folder.is_dir() else None
    manager = TaskManager(include_path=include, include_defaults=not every_local)
    if every_local and any(
        "::" not in member and member not in manager.all_subtasks
        for name in params.tasks_asked()
        for member in list_members(name, manager)
    ):  # a group of one's own may name tasks of lm-eval
        manager = TaskManager(include_path=include)
    return manager


def check_names(params: Evaluate, manager: TaskManager) -> None:
    """Raises UserError for a suite that is no task and no group, with the nearest names."""
    for name in params.tasks_asked():
        if name not in manager.all_tasks and name not in list_local(params):
            close = difflib.get_close_matches(name, [*manager.all_tasks, *list_local(params)], n=3)
            do = f"did you mean {' or '.join(map(repr, close))}?" if close else "`lm-eval ls tasks` lists all names"
            raise UserError(
                f"no lm-eval task '{name}'", where="evaluate.suites", do=f"{do}; own tasks lie in {params.tasks}"
            )
        if name in manager.all_tasks and name not in manager.all_subtasks:
            known = {*manager.all_tasks, *list_local(params)}
            if lost := [one for one in list_members(name, manager) if "::" not in one and one not in known]:
                what = f"the group '{name}' names '{lost[0]}', which is no task"
                raise UserError(what, where="evaluate.suites", do=f"correct its YAML in {params.tasks}")


def list_members(group: str, manager: TaskManager) -> list[str]:
    """The tasks of a group or a tag, and of the groups in it, in lm-eval's order; no task is loaded. A task that a group itself
    defines is called GROUP::TASK, as lm-eval does."""
    tasks: dict[str, None] = {}
    todo: list[tuple[str, Any]] = [("", group)]  # (the group it stands in, a name, or an entry of a group's list)
    seen = set[str]()
    while todo:
        outer, part = todo.pop(0)
        own = part if isinstance(part, dict) else {}
        name = str(own.get("group") or own.get("task")) if own else str(part)
        if (entry := manager.task_index.get(name)) is not None and name not in manager.all_subtasks:
            inner = sorted(entry.tags) if entry.cfg is None else list(entry.cfg.get("task") or [])
        else:
            inner = own["task"] if isinstance(own.get("task"), list) else []
            name = f"{outer}::{name}" if own and entry is None else name
        if name in seen:
            continue
        seen.add(name)
        if not inner:
            tasks[name] = None
        todo = [(name, one) for one in inner] + todo
    return list(tasks)


def load_suite(name: str, params: Evaluate, manager: TaskManager) -> list[Task]:
    """The task of a suite, or all tasks of a group, with their data.

    A group is one suite: each item counts once, so a task weighs as many times as it has items, as lm-eval's
    `weight_by_size` has it. Raises UserError where the data cannot be had, and for a group whose tasks count alike.
    """
    try:
        loaded = manager.load([name])
        tasks = list(loaded["tasks"].values())
        group = loaded.get("groups", {}).get(name)
    except Exception as error:  # a task is somebody's YAML, Python and data
        do = f"check its YAML and data in {params.tasks}"
        if name not in list_local(params):
            do = (
                "its data come from the hub: run it once where there is a network, copy the cache (HF_HOME), "
                "or remove it from evaluate.suites"
            )
        raise UserError(
            f"task '{name}' cannot be loaded ({first_line(error)})", where="evaluate.suites", do=do
        ) from None
    if not tasks:
        raise UserError(f"the group '{name}' has no tasks", where="evaluate.suites", do="name another, or a task")
    if group is not None and any(not metric.weight_by_size for metric in group.aggregate_metric_list or ()):
        what = f"the tasks of the group '{name}' count alike, whatever their size, and in a suite each item does"
        do = f"name those that you want, each with its role: {', '.join(task.task_name for task in tasks)}"
        raise UserError(what, where="evaluate.suites", do=do)
    return tasks


def check_metrics(name: str, suite: Suite, tasks: list[Task]) -> None:
    """Raises UserError where the metric of a suite is none of its tasks', or has no value from 0 to 1 for each item.

    In a group, a task that does not have the metric is scored by its own first one."""
    if suite.metric and not any(suite.metric in task.aggregation() for task in tasks):
        usable = list(dict.fromkeys(metric for task in tasks for metric in usable_metrics(task)))
        what = f"suite '{name}' has no metric '{suite.metric}'"
        raise UserError(what, where="evaluate.suites", do=list_usable(usable))
    for task in tasks:
        metrics, usable = list(task.aggregation()), usable_metrics(task)
        metric = choose_metric(suite, metrics)
        if metric not in usable:
            which = f"'{name}'" if len(tasks) == 1 else f"'{name}' (its task {task.task_name})"
            what = f"'{metric}' of suite {which} has no value from 0 to 1 for each item, and the verdict compares items"
            raise UserError(what, where=f"evaluate.suites.{name}.metric", do=list_usable(usable))


def list_usable(metrics: list[str]) -> str:
    return f"it has: {', '.join(metrics)}" if metrics else "leave it out: it has no metric that the verdict can use"


def choose_metric(suite: Suite, metrics: list[str]) -> str:
    """Of a task's metrics the one that counts: the suite's, where the task has it, else the first."""
    return suite.metric if suite.metric in metrics else metrics[0] if metrics else ""


def usable_metrics(task: Task) -> list[str]:
    """Metrics of a task that are a mean over items' values from 0 to 1: by how it sums them up, and by what it makes of a wrong
    answer to its first item, for which no model is asked."""
    means = [name for name, sums_up in task.aggregation().items() if getattr(sums_up, "__name__", "") in MEANS]
    try:
        doc = next(iter(task.eval_docs))
        values: dict[str, Any] = task.process_results(doc, invent_answers(task, doc))
    except Exception:  # it may want more than an answer (a judge, a tool): the values themselves are checked later
        return means
    return [name for name in means if name not in values or is_fraction(values[name])]


def invent_answers(task: Task, doc: Any) -> list[Any]:
    """What a model's answers to one item look like."""
    if task.OUTPUT_TYPE == "multiple_choice":
        return [(-1.0 - n, False) for n in range(len(task.doc_to_choice(doc)))]
    if task.OUTPUT_TYPE == "loglikelihood":
        return [(-1.0, False)]
    return [-1.0] if task.OUTPUT_TYPE == "loglikelihood_rolling" else ["x"]


def is_fraction(value: Any) -> bool:
    try:
        return 0 <= float(value) <= 1
    except (TypeError, ValueError):
        return False


def find_problems(params: Evaluate) -> dict[str, str]:
    """What is wrong with each suite, with what to do, by name, for `holdfast doctor`. Asks for nothing from the network."""
    manager, problems = make_manager(params), dict[str, str]()
    for name, suite in params.tasks_asked().items():
        one = params.model_copy(update={"suites": {name: suite}, "domain_test": "off"})
        try:
            check_names(one, manager)
            tasks = load_suite(name, one, manager)
            if any(map(checks_instructions, tasks)):
                prepare_ifeval(one)
            check_metrics(name, suite, tasks)
        except UserError as error:
            problems[name] = f"{error.what}; {error.do}"
    for own in params.own_suites():
        try:
            families.list_items(own, params)
        except UserError as error:
            problems[own] = f"{error.what}; {error.do}"
    return problems


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


def prompts(params: Evaluate, domain_test: Path) -> dict[str, list[str]]:
    """The text of every evaluation item by suite: what no replay row may resemble."""
    texts_by_suite = {}
    for name, tasks in load_tasks(params, domain_test).items():
        texts = [task.doc_to_text(doc) for task in tasks for doc in task.eval_docs]
        texts_by_suite[name] = [text for text in texts if isinstance(text, str)]
    for suite in params.own_suites():
        texts_by_suite[suite] = families.list_texts(suite, params)
    return texts_by_suite
