"""Is everything here that params.yaml needs? Looks, and changes nothing; every line is ok or says what to do.

holdfast doctor        exit code 0 all there, 1 something that params.yaml needs is missing

`ok` is there, `--` would help, `??` could not be checked, `!!` is needed. Servers are asked for one token, weights are
opened and not read.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from holdfast.core import checkpoint, manifest
from holdfast.core.errors import UserError, escape_control, first_line
from holdfast.params.ingest import Source
from holdfast.params.models import Model
from holdfast.params.row_checks import REFUSAL_PROMPTS
from holdfast.params.whole import Params
from holdfast.planning import elsewhere, machine, prospects, shapes
from holdfast.planning.machine import NEEDED, NOTE, OK, UNKNOWN, Line
from holdfast.verdict import power

PATIENCE = 10.0  # seconds for a server or the hub to answer


def main(as_json: bool = False) -> int:
    """Prints a line for each thing looked at; returns the exit code."""
    settings: Params | None = None
    try:
        settings = Params.load()
        results = [(OK, "params.yaml: valid")]
    except UserError as error:
        results = [(NEEDED, f"{error.where}: {error.what}; {error.do}")]
    checks: list[tuple[str, Callable[[], Iterator[Line]]]] = [
        ("python", machine.check_python),
        ("device", machine.check_device),
        ("dvc", machine.check_remote),
        ("launch.yaml", elsewhere.check_machines),
    ]
    if settings:
        params = settings  # so that the checks hold what cannot be None
        checks += [
            ("files", lambda: check_files(params)),
            ("memory", lambda: machine.check_memory(params)),
            ("disk", lambda: machine.check_disk(params)),
            ("suites", lambda: check_suites(params)),
            ("power", lambda: check_power(params)),
            ("replay", lambda: check_replay(params)),
            ("pilot", lambda: check_pilots(params)),
        ]
        used = [*params.panel, *({params.embedder or params.base} - {*params.panel})]
        checks += [(f"model {name}", lambda name=name: check_model(name, params)) for name in used]
    for mark, text in results if not as_json else ():
        print(mark, escape_control(text))
    for name, check in checks:
        try:
            lines = list(check())
        except ModuleNotFoundError as error:
            lines = [(NEEDED, f"{name}: {error.name} is not installed: pip install 'holdfast[pipeline]'")]
        except Exception as error:  # whatever is broken here, the other lines still help
            lines = [(NEEDED, f"{name}: cannot be checked ({type(error).__name__}: {first_line(error)})")]
        for mark, text in lines if not as_json else ():
            print(mark, escape_control(text), flush=True)
        results += lines
    missing, unknown = (sum(mark == one for mark, _ in results) for one in (NEEDED, UNKNOWN))
    if as_json:
        states = {OK: "ok", NOTE: "note", UNKNOWN: "unchecked", NEEDED: "needed"}
        print(
            json.dumps([{"state": states[mark], "text": text} for mark, text in results], indent=2, ensure_ascii=False)
        )
        return 1 if missing else 0
    if missing:
        print(f"{missing} of {len(results)} lines need something")
    elif unknown:
        print(f"nothing was seen to be missing; {unknown} of {len(results)} lines could not be checked from here")
    else:
        print("all that params.yaml needs is here")
    return 1 if missing else 0


def check_files(params: Params) -> Iterator[Line]:
    """What the DAG reads before any stage has run."""
    folder, prompts = Path(params.ingest.folder), Path(params.reconstruct.folder)
    wanted = {
        "ingest.folder": folder,
        "reconstruct.folder": prompts,
        "evaluate.tasks": Path(params.evaluate.tasks),
        "judge.rubric": Path(params.judge.rubric),
        "mix.rewrite.prompt": Path(params.mix.rewrite.prompt),
    }
    sources: list[tuple[str, Source | None, Path]] = [
        ("ingest.train", params.ingest.train, folder),
        ("ingest.test", params.ingest.test, folder),
    ]
    if params.reconstruct.corpus:
        corpora = enumerate(params.reconstruct.corpus.sources)
        sources += [(f"reconstruct.corpus.sources.{n}", source, prompts) for n, source in corpora]
    if params.reconstruct.systems:
        wanted["reconstruct.systems.file"] = prompts / params.reconstruct.systems.file
    if params.curate.refusals:
        wanted["curate.refusals"] = prompts / REFUSAL_PROMPTS
    for key, source, place in sources:
        if source and source.path:
            names = [source.path] if isinstance(source.path, str) else source.path
            for number, name in enumerate(names):
                if not re.search(r"[*?\[]", name):  # a glob is looked up when it is read
                    wanted[f"{key}, file {number + 1}" if number else key] = place / name
        elif source:
            yield UNKNOWN, f"{key}: {source.hub} is downloaded when its stage runs"
    for key, path in wanted.items():
        if not path.exists():
            yield NEEDED, f"{key}: {path} is not there; put it there, or correct {key} in params.yaml"
    if all(path.exists() for path in wanted.values()):
        yield OK, f"files: {', '.join(sorted({str(path) for path in wanted.values()}))}"


def check_suites(params: Params) -> Iterator[Line]:
    """Names, metrics, NLTK's files and data of the suites, as they are on this machine: no model and no network is asked."""
    code = (
        "import json, sys; from pathlib import Path; from holdfast.evaluation import suites; "
        "from holdfast.params.evaluate import Evaluate; print(json.dumps(suites.find_problems(Evaluate.load())))"
    )
    root = str(Path(manifest.__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(  # in a process of its own: libraries look once whether they are offline
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        yield NEEDED, f"suites: cannot be checked ({first_line(RuntimeError(done.stderr.strip().split(chr(10))[-1]))})"
        return
    problems = json.loads(done.stdout.strip().splitlines()[-1])
    for name, problem in problems.items():
        unseen = "cannot be loaded" in problem and not (Path(params.evaluate.tasks) / f"{name}.yaml").is_file()
        if unseen and not is_offline():
            yield UNKNOWN, f"suite {name}: its data are not in the cache, and are downloaded on first use"
        else:
            yield NEEDED, f"suite {name}: {problem}"
    if fine := len(params.evaluate.suites) - len(problems):
        yield OK, f"suites: {fine} of {len(params.evaluate.suites)} with their data and metrics"
    if params.evaluation_backend == "vllm" and importlib.util.find_spec("vllm") is None:
        yield (
            NEEDED,
            "evaluate asks with vLLM, which is not installed: pip install vllm, or set evaluate.backend to transformers",
        )


def check_power(params: Params) -> Iterator[Line]:
    """Whether the suites have enough items for the margins, and whether an arm could pass at all."""
    outlook = prospects.survey_suites(params.gate, params.evaluate, params.ingest)
    for score in outlook.power.scores:
        yield (NOTE if score.missing else OK), power.describe_score(score)
    for line in [*power.describe_suites(outlook.power), *outlook.sources]:
        yield NOTE, line
    for reason in outlook.power.blocked:
        yield NEEDED, f"no arm can pass: {reason}"


def check_replay(params: Params) -> Iterator[Line]:
    """Arms that would replay too few rows to hold anything. Reads no more rows of the domain than would be enough."""
    from holdfast.reconstruction import amount

    mix = params.mix
    own = {name: mix.arms[name] for name in params.arms if mix.arms[name].share}
    if not own:
        return
    least = min((arm.epochs or mix.epochs) * (0.01 if arm.share == "auto" else arm.share) for arm in own.values())
    in_train = prospects.count_training_rows(params.ingest, math.ceil(amount.TOO_FEW / least))
    if in_train is None:
        return
    for name, (replayed, share) in amount.find_starved_arms(mix, params.pilot, params.arms, in_train).items():
        what = f"arm {name} would replay {replayed} rows beside {in_train:,} of the domain, too few to hold what the base knows"
        yield NOTE, f"{what}: raise mix.arms.{name}.share to {share:.2f} or more"


def check_pilots(params: Params) -> Iterator[Line]:
    """Arms whose pilot will stop, because the domain has too few rows to hold some out."""
    from holdfast.training.job import is_rate_open
    from holdfast.training.pilot_plan import HELD_OUT_PART, MIN_HELD_OUT_ROWS

    for name in params.arms:
        is_share_open = params.mix.arms[name].share == "auto"
        if not is_share_open and not is_rate_open(params.finetune, params.finetune.arms[name]):
            continue
        least = MIN_HELD_OUT_ROWS * HELD_OUT_PART
        in_train = prospects.count_training_rows(params.ingest, least)
        if in_train is not None and in_train < least:
            setting = f"mix.arms.{name}.share" if is_share_open else "finetune.learning_rate"
            what = (
                f"arm {name} leaves a choice to its pilot, which needs {least} rows of the domain; there are {in_train}"
            )
            yield NEEDED, f"{what}: set {setting} to a number"


def check_model(name: str, params: Params) -> Iterator[Line]:
    """The files of a model, and its endpoint."""
    source, folder = params.models[name], Path(params.model_folder)
    chats = name in params.panel
    here = shapes.find_folder(source, folder)
    if source.path is not None:
        whole = find_fault(here, name == params.base or not source.served, chats) if here else None
        yield (NEEDED, f"model {name}: {whole}") if whole else (OK, f"model {name}: {here}")
        here = None if whole else here
    elif source.hub is not None:
        yield check_hub(name, source, here, chats)
    if source.endpoint is not None:
        yield check_endpoint(name, source, here)
    if source.vllm is not None:
        yield check_vllm(name, source)
    if source.ray is not None:
        yield check_ray(name, source)


def find_fault(folder: Path, loaded: bool, chats: bool) -> str | None:
    """What is wrong with the files of a model, and what to do; None where they can be loaded. One that only embeds has no template."""
    from holdfast.engines import inspection

    if not folder.is_dir():
        return f"{folder} is not there; put or link the model there (ln -s FOLDER {folder}), or correct params.yaml"
    try:
        weights = checkpoint.check_folder(folder, loaded=loaded and (chats or not (folder / "modules.json").is_file()))
        if chats:
            inspection.check_tokenizer(folder, weights.vocabulary)
    except UserError as error:
        return f"{error.where}: {error.what}; {error.do}"
    return None


def is_offline() -> bool:
    from huggingface_hub.constants import is_offline_mode

    return is_offline_mode()


def check_hub(name: str, source: Model, here: Path | None, chats: bool) -> Line:
    """Is the pinned snapshot in the cache; if not, would the hub give it to us?"""
    where = f"model {name}: {source.hub}@{(source.revision or '')[:12]}"
    if here is not None and list(here.glob("*.safetensors")):
        whole = find_fault(here, not source.served, chats)
        return (NEEDED, f"{where}: {whole}") if whole else (OK, f"{where} is in the hub's cache")
    if is_offline():
        return (
            NEEDED,
            f"{where} is not in the cache, and HF_HUB_OFFLINE is set: unset it, or download the model elsewhere",
        )
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        HfApi().model_info(source.hub or "", revision=source.revision, timeout=PATIENCE)
    except GatedRepoError:
        return NEEDED, f"{where}: the hub asks for permission; accept the licence on the model's page and set HF_TOKEN"
    except RevisionNotFoundError:
        return NEEDED, f"{where}: the hub has no such revision; give the full commit hash from the model's page"
    except RepositoryNotFoundError:
        return NEEDED, f"{where}: the hub has no such model, or it is private; check the id, set HF_TOKEN"
    except Exception as error:  # no network in one of its many forms
        return (
            NEEDED,
            f"{where}: the hub cannot be reached ({type(error).__name__}); download the model where there is a network",
        )
    return OK, f"{where}: the hub has it; acquire downloads it"


def check_vllm(name: str, source: Model) -> Line:
    assert source.vllm is not None
    if importlib.util.find_spec("vllm") is None:
        return (
            NEEDED,
            f"model {name}: vLLM is not installed: pip install 'holdfast[vllm]', or remove 'vllm' from its entry",
        )
    import torch

    wanted, devices = source.vllm.tensor_parallel_size, torch.accelerator.device_count()
    if source.ray is None and devices < wanted:
        return (
            UNKNOWN if devices == 0 else NEEDED,
            f"model {name}: vLLM is to use {wanted} GPUs, and {devices} are here",
        )
    return OK, f"model {name}: vLLM on {wanted} GPUs"


def check_ray(name: str, source: Model) -> Line:
    """Does the cluster answer, and can it hold an actor?"""
    from holdfast.engines import ray as cluster

    assert source.ray is not None
    cluster_params = manifest.Ray(**source.ray.model_dump())
    try:
        module = cluster.connect(cluster_params, f"model {name}")
    except UserError as error:
        return NEEDED, f"{error.where}: {error.what}; {error.do}"
    nodes = sum(node["Alive"] for node in module.nodes())
    module.shutdown()
    return OK, f"model {name}: {cluster_params.actors} actors on a Ray cluster of {nodes} nodes"


def check_endpoint(name: str, source: Model, folder: Path | None) -> Line:
    from holdfast.engines import inspection, openai

    untried = replace(inspection.describe_untried(source), timeout=min(source.timeout, PATIENCE), retries=0)
    try:
        can, context = openai.probe_endpoint(name, untried, folder)
    except UserError as error:
        return NEEDED, f"endpoint {error.where}: {error.what}; {error.do.partition(';')[0]}"
    own = source.path or source.hub
    raw = (
        "raw completions" if folder else "chat; raw completions are tried once the tokenizer is here" if own else "chat"
    )
    scores = (
        f"{can.top_logprobs} log-probabilities"
        if can.top_logprobs
        else "no log-probabilities (scores come from the text)"
    )
    length = f", context {context:,}" if context else ""
    return OK, f"endpoint {name}: {untried.url} answers as '{can.served or can.model}': {raw}, {scores}{length}"
