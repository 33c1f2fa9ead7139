"""Asks a model the suites with lm-eval, and returns the outcome of every item.

An arm is asked exactly as the base was: with other settings than the base's it is refused before anything is asked.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.core import manifest, storage
from holdfast.core.errors import UserError
from holdfast.evaluation import backends, core_answers, resume, self_suite, settings, suites
from holdfast.evaluation.item_groups import digest, find_group
from holdfast.params.evaluate import Evaluate, Suite

if TYPE_CHECKING:
    from lm_eval.api.task import Task


class Evaluation(NamedTuple):
    items: list[dict[str, Any]]  # rows of the contract `items`
    settings: dict[str, Any]  # settings.json: suites, and everything of the engine that may change an outcome
    scores: dict[str, float]  # mean outcome (0..1) by suite, not adjusted for chance


def model_folder(model: str, base: manifest.Manifest, models: Path = Path("models")) -> Path:
    """The folder of the weights of "base" or of an arm. Raises UserError where there are none."""
    folder = base.folder() if model == "base" else models / model
    if not (folder / "config.json").is_file():
        raise UserError("no such model", where=folder, do=f"run `dvc repro finetune@{model}`")
    return folder


def evaluate_model(
    params: Evaluate,
    model: str,
    folder: Path,
    base: manifest.Manifest,
    domain_test: Path,
    same_as: Path | None = None,
    self_inputs: self_suite.Inputs | None = None,
    only: dict[str, list[str]] | None = None,
) -> Evaluation:
    """Asks the model in `folder` every item of every suite.

    `base`: the manifest of the base, which says in what precision and context arms run, too. `same_as`: the folder of
    the base's evaluation; raises UserError where this one would have other settings. `self_inputs`: for the self suite,
    where it is asked too. `only`: no more than these items, by suite, and no reply of an earlier evaluation is used.
    """
    params, base = backends.settle(params, base)
    tokenizer = manifest.load_tokenizer(folder)
    base_side = self_suite.read_base(params, self_inputs, base, tokenizer) if self_inputs else None
    base_settings = settings.read(same_as) if same_as else None
    tasks = suites.load_tasks(params, domain_test, tokenizer)
    import lm_eval  # after load_tasks, which may have set the libraries offline
    from lm_eval.tasks import TaskManager

    language_model, facts = backends.load_backend(params, model, folder, base)
    engine = facts | {  # whatever may change an outcome and is not the model
        "lm_eval": lm_eval.__version__,
        "batch": params.batch,
        "max_length": base.context,
        "seed": params.seed,
        "limit": params.limit,
        "chat_template": digest(facts["chat_template"]),
    }
    if base_settings and same_as:
        refuse_other_settings(base_settings, {"engine": engine, "suites": base_settings["suites"]}, same_as)
    served_model = [params.url, model] if params.url else []  # a server knows the model by its name
    hashes = file_hashes(folder)
    identity = [hashes, *served_model, engine]
    if only is None:
        language_model = resume.make_resumable(language_model, params.batch, identity, base.parameters)
    else:
        tasks = {name: task for name, task in tasks.items() if name in only}
    chosen = None
    if only is not None:
        known = {name: ids for name, ids in only.items() if name in tasks}
        chosen = {
            task: places for name, ids in known.items() for task, places in find_documents(name, tasks[name], ids)
        }
    results: Any = {"samples": {}}
    with backends.server_errors(params):
        core = core_answers.ask(language_model, params, tokenizer, base.context, only)
        results = (
            results
            if not tasks
            else lm_eval.simple_evaluate(
                model=language_model,
                tasks=[
                    task for several in tasks.values() for task in several if not chosen or task.task_name in chosen
                ],
                apply_chat_template=True,
                log_samples=True,
                bootstrap_iters=0,
                limit=None if chosen else params.limit,
                samples=chosen,
                random_seed=params.seed,
                numpy_random_seed=params.seed,
                torch_random_seed=params.seed,
                fewshot_random_seed=params.seed,
                task_manager=TaskManager(include_defaults=False),  # else it lists 14,000 names
            )
        )

    rows, used = list[dict[str, Any]](), dict[str, dict[str, Any]]()
    for name, suite in params.all_suites().items():
        if name in tasks:
            samples = {
                t.task_name: results["samples"][t.task_name] for t in tasks[name] if not chosen or t.task_name in chosen
            }
            of_suite, used[name] = collect_items(name, suite, samples)
            used[name]["written"] = any(map(samples_are_written, tasks[name]))
            rows += of_suite
    rows, used = rows + core.items, used | core.suites
    if self_inputs and self_inputs.questions:
        with backends.server_errors(params):
            self_answers = self_suite.ask(language_model, params, self_inputs, tokenizer, base_side, base.parameters)
        rows, used = rows + self_answers.items, used | self_answers.suites
    weights = base.fingerprint if model == "base" else fingerprint(hashes)
    made_with = {"schema": 1, "model": model, "suites": used, "engine": engine, "weights": weights}
    if core.left_out:
        made_with["left_out"] = core.left_out
    if core.calibration:
        made_with["calibration"] = core.calibration
    if base_settings and same_as:
        refuse_other_settings(base_settings, made_with, same_as)
    scores = {name: sum(r["correct"] for r in rows if r["suite"] == name) / used[name]["items"] for name in used}
    return Evaluation(rows, made_with, scores)


def collect_items(
    name: str, suite: Suite, samples: dict[str, list[dict]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(items of a suite, what settings.json says of it). `samples`: lm-eval's by task; those of a group's tasks become items of
    one suite, called TASK/ITEM. Raises UserError for a value that is not from 0 to 1."""
    rows, metrics, filters = list[dict[str, Any]](), list[str](), list[str]()
    for task, several in samples.items():
        counted = one_filter(name, suite, several)
        metric = suites.choose_metric(suite, counted[0]["metrics"])
        if odd := [sample for sample in counted if not suites.is_fraction(sample.get(metric))]:
            what = f"{len(odd)} of {len(counted)} items of suite '{name}' have no '{metric}' from 0 to 1"
            known = ", ".join(counted[0]["metrics"])
            raise UserError(what, where=f"evaluate.suites.{name}.metric", do=f"choose another one: {known}")
        rows += [item(name, sample, metric, "" if task == name else f"{task}/") for sample in counted]
        metrics.append(metric)
        filters.append(counted[0]["filter"])
    used = {"role": suite.role, "chance": suite.chance, "metric": ", ".join(dict.fromkeys(metrics)), "items": len(rows)}
    return rows, used | {"filter": ", ".join(dict.fromkeys(filters))}


def samples_are_written(task: Task) -> bool:
    """Whether the model writes the answers of a task; else it chooses by likelihood."""
    return str(task.config.output_type) == "generate_until"


def file_hashes(folder: Path) -> list[str]:
    """Every file of the model and its hash: another model's answers are never taken for this one's."""
    return [f"{file.name} {storage.file_sha256(file)}" for file in sorted(folder.iterdir()) if file.is_file()]


def fingerprint(hashes: list[str]) -> str:
    """One hash of a model's files, as its manifest has it."""
    return hashlib.sha256("".join(f"{line}\n" for line in hashes).encode()).hexdigest()


def refuse_other_settings(base: dict[str, Any], other: dict[str, Any], base_folder: Path) -> None:
    """Raises UserError where an arm would be asked otherwise than the base was."""
    other = storage.round_floats(other)  # as they are read back
    for part, keys in settings.differences(base, other).items():
        base_value, value = (content[part].get(keys[0]) for content in (base, other))
        what = f"the base was evaluated with other settings: {keys[0]} {base_value}, here {value}"
        do = "evaluate both alike: `dvc repro --force evaluate-base` here, or go where the base was evaluated"
        raise UserError(what, where=base_folder / "settings.json", do=do)


def one_filter(name: str, suite: Suite, samples: list[dict]) -> list[dict]:
    """lm-eval repeats each item for every answer filter of its task; the one that the params name counts, or the first."""
    wanted = suite.filter or samples[0]["filter"]
    chosen = [sample for sample in samples if sample["filter"] == wanted]
    if not chosen:
        known = ", ".join(dict.fromkeys(sample["filter"] for sample in samples))
        raise UserError(f"suite '{name}' has no filter '{wanted}'", where="evaluate.suites", do=f"it has: {known}")
    return chosen


def item(suite: str, sample: dict[str, Any], metric: str, prefix: str = "") -> dict[str, Any]:
    """One item's outcome, with hashes of the item and of the prompt as the model saw it. `prefix`: of its id, in a group."""
    doc = sample["doc"]
    key = prefix + item_id(doc, sample["doc_id"])
    requests = [
        list(argument.values()) if isinstance(argument, dict) else list(argument) for argument in arguments_of(sample)
    ]
    prompt = str(requests[0][0])
    answer = sample["filtered_resps"][0]
    if isinstance(answer, tuple | list):  # of a likelihood there is no text
        answer = f"log-likelihood {float(answer[0]):.6g}"
    if len(requests) > 1:  # multiple choice: the response is the choice with the highest likelihood
        likelihoods = [float(r[0]) for r in sample["filtered_resps"]]
        answer = str(requests[likelihoods.index(max(likelihoods))][1])
    return dict(
        id=f"{suite}/{key}",
        suite=suite,
        item_id=key,
        item_group=find_group(doc) if isinstance(doc, dict) else None,
        item_hash=digest(json.dumps(doc, sort_keys=True, ensure_ascii=False, default=str)),
        prompt_hash=digest("\x1f".join(str(r[0]) + "\x1e" + str(r[1]) for r in requests)),
        correct=float(sample[metric]),
        prompt=prompt,
        target=describe_target(sample["target"], [str(request[1]) for request in requests if len(request) > 1]),
        response=str(answer),
    )


def describe_target(target: Any, choices: list[str]) -> str:
    """What is right, in words: of a multiple choice lm-eval holds the places of the right choices, one or several."""
    places = target if isinstance(target, list) else [target]
    are_places = all(type(place) is int and 0 <= place < len(choices) for place in places)
    if len(choices) < 2 or not places or not are_places:
        return str(target)
    return " or ".join(choices[place].strip() for place in places)


def item_id(doc: Any, number: int) -> str:
    return str(doc.get("id", number)) if isinstance(doc, dict) else str(number)


def find_documents(name: str, tasks: list[Task], ids: list[str]) -> list[tuple[str, list[int]]]:
    """(task, places of these items in it) for each task of a suite that has some. Raises UserError for an item that none has."""
    wanted, places_by_task = set(ids), list[tuple[str, list[int]]]()
    for task in tasks:
        prefix = "" if task.task_name == name else f"{task.task_name}/"
        keys = {prefix + item_id(doc, number): number for number, doc in enumerate(task.eval_docs)}
        if places := [keys[key] for key in ids if key in keys]:
            places_by_task.append((task.task_name, places))
            wanted -= keys.keys()
    if wanted:
        what = f"the suite '{name}' has no item '{min(wanted)[:80]}'"
        raise UserError(what, where="reports/eval", do="evaluate again: `dvc repro evaluate`")
    return places_by_task


def arguments_of(sample: dict[str, Any]) -> list:
    arguments = sample["arguments"]
    return list(arguments.values()) if isinstance(arguments, dict) else list(arguments)
