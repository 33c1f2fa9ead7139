"""The models, who of them takes part, and the names of the arms: what `acquire` reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from holdfast.core.errors import UserError
from holdfast.params.base import MODELS, NAME, PARAMS, Name, Positive, Section, Seed, check_source, parse, read_yaml

RESERVED = {"pocket", "manifest", "base-repeat"}  # folders of models/ and reports/eval/ that are no arm


class Vllm(Section):
    """vLLM in the process of the stage; what is not named here is as vLLM has it."""

    tensor_parallel_size: Positive = 1
    """GPUs that share the weights."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Part of each GPU's memory that vLLM takes."""
    max_model_len: Positive | None = None
    """Longest sequence, in tokens; null: the model's context."""
    enforce_eager: bool = False
    """Neither compile nor use CUDA graphs: starts sooner, writes slower."""


class Ray(Section):
    """A Ray cluster over which shards are fanned out, each actor with an engine of its own."""

    actors: Positive = 2
    """Actors, each with an engine of its own."""
    cpus: Annotated[float, Field(ge=0)] = 1.0
    """CPU cores of each actor."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of each actor."""
    address: str = "auto"
    """auto: the cluster that runs here; host:port; local: one on this machine, for this command."""


class Model(Section):
    """Where one model comes from: a folder below `model_folder`, a hub id pinned to a revision, or a server.

    A panel member may be an `endpoint` alone. With `path` or `hub` beside it, the server writes and the folder supplies
    tokenizer and template (and, for the base, the weights to fine-tune). Keys stand in the environment, never here.
    """

    path: str | None = None
    """Folder below model_folder with config.json, tokenizer and *.safetensors."""
    hub: str | None = None
    """Id on the hub, for example Qwen/Qwen2.5-0.5B-Instruct."""
    revision: str | None = None
    """hub: full commit hash, 40 hex digits; endpoint alone: any text that names the version."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the weights; auto: bfloat16 on an accelerator, else float32."""
    vllm: Vllm | None = None
    """Write and score with vLLM in the stage's process; {} takes its defaults."""
    ray: Ray | None = None
    """Send shards to actors on a Ray cluster."""
    endpoint: str | None = None
    """Base URL of an OpenAI-compatible server, for example http://localhost:8000/v1."""
    model: str | None = None
    """Name under which the endpoint serves the model."""
    api_key_env: str | None = None
    """Environment variable that holds the endpoint's key; null: no key is sent."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 16
    """Requests to the endpoint under way at once."""
    timeout: Annotated[float, Field(gt=0)] = 300.0
    """Seconds that one reply may take."""
    retries: Annotated[int, Field(ge=0, le=20)] = 6
    """Repeats after 429, 5xx or a broken connection; waits 0.5, 1, 2, 4 ... seconds."""
    max_requests: Positive | None = None
    """Budget of one command, in requests; null: no limit."""
    max_tokens: Positive | None = None
    """Budget of one command, in prompt and completion tokens; null: no limit."""

    @property
    def served(self) -> bool:
        """By an engine that batches continuously: a server, or vLLM here."""
        return self.endpoint is not None or self.vllm is not None

    @model_validator(mode="after")
    def one_source(self) -> Model:
        if self.endpoint is None:
            for key in ("model", "api_key_env", "max_requests", "max_tokens"):
                if getattr(self, key) is not None:
                    raise ValueError(f"'{key}' goes with 'endpoint'")
        else:
            check_endpoint(self.endpoint, self.model)
            if self.vllm or self.ray:
                raise ValueError(
                    "an endpoint's requests overlap in one process: remove 'vllm' and 'ray', or 'endpoint'"
                )
        if self.vllm and self.ray and self.ray.gpus < self.vllm.tensor_parallel_size > 1:
            raise ValueError("'ray.gpus' of an actor must be at least 'vllm.tensor_parallel_size'")
        if self.endpoint is None or self.path is not None or self.hub is not None:
            check_source(self.path, self.hub, self.revision)
        return self


def check_endpoint(url: str, model: str | None) -> None:
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#@]*)?", url):
        raise ValueError(
            "'endpoint' is a URL such as http://localhost:8000/v1; a key goes into the environment, not here"
        )
    _ = urlsplit(url).port  # raises ValueError when it is no port
    if not model:
        raise ValueError("an endpoint needs 'model': the name under which it serves the model")


class Retrain(Section):
    """Further trainings of arms, which differ in the seed alone, by which each orders the rows of an epoch. Each is a model of its own, ARM-SEED."""

    arms: list[Name] = []
    """Arms that are trained again, for a verdict on the method and not on one model."""
    seeds: list[Seed] = []
    """Seeds of their further trainings: two of them make three trainings of each; none: each is trained once."""


class Models(Section):
    """What `acquire` reads: the models and who takes part."""

    model_folder: str
    """Folder with the local models, or links to them; DVC depends on their hashes (models/sources.json)."""
    models: dict[Name, Model]
    """Where each model comes from, by the name used here."""
    base: Name
    """Model that is fine-tuned; it also answers and judges."""
    embedder: Name | None = None
    """Model whose embeddings sort instructions by meaning: the base, or a sentence-transformers model; null: the
    base's own hidden states."""
    panel: Annotated[list[Name], Field(min_length=1)]
    """Models that answer and judge; the base is one of them."""
    arms: Annotated[list[Name], Field(min_length=1)]
    """Arms to train and evaluate; each has an entry in mix.arms and finetune.arms."""
    retrain: Retrain = Retrain()
    """Arms that are trained several times, and judged by all their trainings together."""

    @classmethod
    def load(cls, path: Path = PARAMS) -> Self:
        content = read_yaml(path)
        return parse(cls, {key: content[key] for key in MODELS if key in content}, "", path)

    @model_validator(mode="after")
    def names_fit(self) -> Models:
        check_names(self.models, self.base, self.panel, self.arms)
        if self.embedder and self.embedder not in self.models:
            raise ValueError(f"embedder '{self.embedder}' has no entry in models")
        if self.embedder and not (self.models[self.embedder].path or self.models[self.embedder].hub):
            raise ValueError(f"embedder '{self.embedder}' needs 'path' or 'hub': a server's embeddings are not used")
        check_trainings(self.models, self.arms, self.retrain)
        return self

    @property
    def trainings(self) -> dict[str, list[str]]:
        """The names of the models that each arm becomes, its first training's being that of the arm."""
        return name_trainings(self.arms, self.retrain)


def check_names(models: dict[str, Model], base: str, panel: list[str], arms: list[str]) -> None:
    check_distinct("panel member", panel)
    if base not in panel:
        raise ValueError(f"base '{base}' is not in panel: the base always answers and judges")
    if missing := [m for m in panel if m not in models]:
        raise ValueError(f"panel member '{missing[0]}' has no entry in models")
    if base in models and not (models[base].path or models[base].hub):
        raise ValueError(
            f"base '{base}' needs 'path' or 'hub': it is fine-tuned here, and a server cannot lend its weights"
        )
    if base != "base" and "base" in panel:
        raise ValueError("panel member 'base' is not the base: give it another name")
    if "embedder" in panel:
        raise ValueError("panel member 'embedder' would take the name of a role: give it another name")
    check_arms(models, arms)


def check_distinct(what: str, names: list[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{what} '{twice[0]}' is named twice: name it once")


def check_arms(models: dict[str, Model], arms: list[str]) -> None:
    check_distinct("arm", arms)
    if odd := [arm for arm in arms if not re.fullmatch(NAME, arm)]:
        raise ValueError(f"arm {odd[0]!a} is no name: lower-case letters, digits, '.', '_' and '-', 63 at most")
    if clash := [a for a in arms if a in models or a in RESERVED | {"base"}]:
        raise ValueError(f"arm '{clash[0]}' has the name of a model or of a folder in models/: choose another")


def check_trainings(models: dict[str, Model], arms: list[str], retrain: Retrain) -> None:
    for what, listed in (("arm", retrain.arms), ("seed", list(map(str, retrain.seeds)))):
        if twice := sorted({one for one in listed if listed.count(one) > 1}):
            raise ValueError(f"retrain names the {what} '{twice[0]}' twice: it would count twice")
    if unknown := [arm for arm in retrain.arms if arm not in arms]:
        raise ValueError(f"retrain.arms names '{unknown[0]}', which is not one of arms")
    if clash := [name for name in list_retrained(retrain) if name in arms or name in models]:
        raise ValueError(f"'{clash[0]}' would be a further training of an arm, and is taken: choose another seed")


def name_training(arm: str, seed: int | str | None) -> str:
    """The name of the model that one training of an arm makes; no seed: that of the arm's own."""
    return arm if seed is None else f"{arm}-{seed}"


def name_trainings(arms: list[str], retrain: Retrain) -> dict[str, list[str]]:
    more = {arm: [name_training(arm, seed) for seed in retrain.seeds] for arm in retrain.arms}
    return {arm: [arm, *more.get(arm, [])] for arm in arms}


def list_retrained(retrain: Retrain) -> list[str]:
    return [name_training(arm, seed) for arm in retrain.arms for seed in retrain.seeds]


def load_base(path: Path = PARAMS) -> str:
    content: dict[str, Any] = read_yaml(path)
    if not isinstance(content.get("base"), str):
        raise UserError("'base' must be a name", where=path, do="for example base: base")
    return content["base"]


def load_panel(path: Path = PARAMS) -> list[str]:
    return load_names("panel", path)


def load_arms(path: Path = PARAMS) -> list[str]:
    return load_names("arms", path)


def load_trainings(path: Path = PARAMS) -> dict[str, list[str]]:
    """The names of the models that each arm becomes: itself, and ARM-SEED for each seed that it is trained again with."""
    arms, retrain = load_arms(path), parse(Retrain, read_yaml(path).get("retrain") or {}, "retrain", path)
    try:
        check_arms({}, arms)
        check_trainings({}, arms, retrain)
    except ValueError as error:
        raise UserError(str(error), where=path, do="correct arms or retrain") from None
    return name_trainings(arms, retrain)


def load_names(key: Literal["panel", "arms"], path: Path) -> list[str]:
    content: dict[str, Any] = read_yaml(path)
    if not (isinstance(content.get(key), list) and content[key] and all(isinstance(n, str) for n in content[key])):
        raise UserError(f"'{key}' must be a list of names", where=path, do=f"for example {key}: [base]")
    return content[key]
