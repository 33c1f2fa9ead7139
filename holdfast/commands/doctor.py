"""Is everything here that params.yaml needs? Looks, and changes nothing; every line is ok or says what to do.

holdfast doctor        exit code 0 all there, 1 something that params.yaml needs is missing

`ok` is there, `--` would help or cannot be told from here, `!!` is needed. Servers are asked for one token.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from holdfast.core import manifest
from holdfast.core.errors import UserError
from holdfast.params.models import Model
from holdfast.params.whole import Params
from holdfast.planning import machine, shapes
from holdfast.planning.machine import NEEDED, NOTE, OK, Line

PATIENCE = 10.0  # seconds for a server or the hub to answer


def main(as_json: bool = False) -> int:
    """Prints a line for each thing looked at; returns the exit code."""
    settings: Params | None = None
    try:
        settings = Params.load()
        found = [(OK, "params.yaml: valid")]
    except UserError as error:
        found = [(NEEDED, f"{error.where}: {error.what}; {error.do}")]
    checks: list[tuple[str, Callable[[], Iterator[Line]]]] = [
        ("python", machine.check_python),
        ("device", machine.check_device),
        ("dvc", machine.check_remote),
    ]
    if settings:
        given = settings
        checks += [
            ("files", lambda: files(given)),
            ("memory", lambda: machine.check_memory(given)),
            ("disk", lambda: machine.check_disk(given)),
            ("suites", lambda: suites(given)),
        ]
        checks += [(name, lambda name=name: model(name, given)) for name in given.panel if name in given.models]
    for line in found if not as_json else ():
        print(*line)
    for name, check in checks:
        try:
            lines = list(check())
        except Exception as error:  # whatever is broken here, the other lines still help
            first = (str(error).splitlines() or [""])[0][:160]
            lines = [(NEEDED, f"{name}: cannot be looked at ({type(error).__name__}: {first})")]
        for line in lines if not as_json else ():
            print(*line, flush=True)
        found += lines
    missing = sum(mark == NEEDED for mark, _ in found)
    if as_json:
        states = {OK: "ok", NOTE: "note", NEEDED: "needed"}
        print(json.dumps([{"state": states[mark], "text": text} for mark, text in found], indent=2, ensure_ascii=False))
        return 1 if missing else 0
    print(f"{missing} of {len(found)} lines need something" if missing else "all that params.yaml needs is here")
    return 1 if missing else 0


def files(given: Params) -> Iterator[Line]:
    """What the DAG reads before any stage has run."""
    folder = Path(given.ingest.folder)
    wanted = {
        "model_folder": Path(given.model_folder),
        "ingest.folder": folder,
        "evaluate.tasks": Path(given.evaluate.tasks),
        "judge.rubric": Path(given.judge.rubric),
    }
    for key, source in (("ingest.train", given.ingest.train), ("ingest.test", given.ingest.test)):
        if source and source.path:
            wanted[key] = folder / source.path
    for key, path in wanted.items():
        if not path.exists():
            yield NEEDED, f"{key}: {path} is not there; put it there, or correct {key} in params.yaml"
    if all(path.exists() for path in wanted.values()):
        yield OK, f"files: {', '.join(sorted({str(path) for path in wanted.values()}))}"


def suites(given: Params) -> Iterator[Line]:
    local = {file.stem for file in Path(given.evaluate.tasks).rglob("*.yaml")}
    far = [name for name in given.evaluate.suites if name not in local]
    if not far:
        yield OK, f"suites: all {len(given.evaluate.suites)} lie in {given.evaluate.tasks}"
    elif offline():
        yield NOTE, f"suites: {len(far)} come with lm-eval, whose data must be in the cache: HF_HUB_OFFLINE is set"
    else:
        yield (
            NOTE,
            f"suites: {len(far)} come with lm-eval and download their data on first use ({', '.join(far[:3])} ...)",
        )
    if given.evaluate.backend == "vllm" and importlib.util.find_spec("vllm") is None:
        yield NEEDED, "evaluate.backend is vllm, which is not installed: pip install vllm, or set it to transformers"


def model(name: str, given: Params) -> Iterator[Line]:
    """The files of a panel member, and its endpoint."""
    entry, folder = given.models[name], Path(given.model_folder)
    here = shapes.find_folder(entry, folder)
    if entry.path is not None:
        whole = here is not None and (here / "config.json").is_file() and list(here.glob("*.safetensors"))
        lack = (
            f"model {name}: {here} has no config.json and *.safetensors; put the model there, or correct models.{name}"
        )
        yield (OK, f"model {name}: {here}") if whole else (NEEDED, lack)
        here = here if whole else None
    elif entry.hub is not None:
        yield hub(name, entry, here)
    if entry.endpoint is not None:
        yield endpoint(name, entry, here)
    if entry.vllm is not None:
        yield vllm(name, entry)
    if entry.ray is not None:
        yield ray(name, entry)


def offline() -> bool:
    from huggingface_hub.constants import is_offline_mode

    return is_offline_mode()


def hub(name: str, entry: Model, here: Path | None) -> Line:
    """Is the pinned snapshot in the cache; if not, would the hub give it to us?"""
    where = f"model {name}: {entry.hub}@{(entry.revision or '')[:12]}"
    if here is not None and list(here.glob("*.safetensors")):
        return OK, f"{where} is in the hub's cache"
    if offline():
        return (
            NEEDED,
            f"{where} is not in the cache, and HF_HUB_OFFLINE is set: unset it, or download the model elsewhere",
        )
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        HfApi().model_info(entry.hub or "", revision=entry.revision, timeout=PATIENCE)
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


def vllm(name: str, entry: Model) -> Line:
    assert entry.vllm is not None
    if importlib.util.find_spec("vllm") is None:
        return NEEDED, f"model {name}: vLLM is not installed; docs/engines.md says how, or remove 'vllm' from its entry"
    import torch

    wanted, found = entry.vllm.tensor_parallel_size, torch.accelerator.device_count()
    if entry.ray is None and found < wanted:
        return NOTE if found == 0 else NEEDED, f"model {name}: vLLM is to use {wanted} GPUs, and {found} are here"
    return OK, f"model {name}: vLLM on {wanted} GPUs"


def ray(name: str, entry: Model) -> Line:
    """Does the cluster answer, and can it hold an actor?"""
    from holdfast.engines import ray as cluster

    assert entry.ray is not None
    how = manifest.Ray(**entry.ray.model_dump())
    try:
        module = cluster.connected(how, f"model {name}")
    except UserError as error:
        return NEEDED, f"{error.where}: {error.what}; {error.do}"
    nodes = sum(node["Alive"] for node in module.nodes())
    module.shutdown()
    return OK, f"model {name}: {how.actors} actors on a Ray cluster of {nodes} nodes"


def endpoint(name: str, entry: Model, folder: Path | None) -> Line:
    from holdfast.engines import openai

    common = {key: getattr(entry, key) for key in ("api_key_env", "concurrency", "max_requests", "max_tokens")}
    asked = manifest.Endpoint(
        url=(entry.endpoint or "").rstrip("/"),
        model=entry.model or "",
        served="",
        refuses=[],
        token_prompts=False,
        top_logprobs=0,
        timeout=min(entry.timeout, PATIENCE),
        retries=0,
        **common,
    )
    try:
        can, context = openai.probe(name, asked, folder)
    except UserError as error:
        return NEEDED, f"endpoint {error.where}: {error.what}; {error.do.partition(';')[0]}"
    own = entry.path or entry.hub
    raw = (
        "raw completions" if folder else "chat; raw completions are tried once the tokenizer is here" if own else "chat"
    )
    scores = (
        f"{can.top_logprobs} log-probabilities"
        if can.top_logprobs
        else "no log-probabilities (scores come from the text)"
    )
    length = f", context {context:,}" if context else ""
    return OK, f"endpoint {name}: {asked.url} answers as '{can.served or can.model}': {raw}, {scores}{length}"
