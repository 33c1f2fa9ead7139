"""Every knob: frozen, typed, unknown key = error. One class per section of params.yaml, each field with its meaning.

`load("mix")` reads one section and nothing else, so a stage cannot depend on a parameter that dvc.yaml does not list.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from stages.core.errors import UserError

PARAMS = Path("params.yaml")
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]  # becomes a file name and a DVC stage name
Language = Literal["en", "de", "fr", "es", "it", "pt", "nl", "ru", "el", "ar", "he", "hi", "th", "ja", "ko", "zh"]
RESERVED = {"pocket", "manifest", "base-repeat"}  # folders of models/ and reports/eval/ that are no arm


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False
    )  # strict: "3" and true are no numbers


class Model(Section):
    """Where one model comes from: a folder below `model_folder`, a hub id pinned to a revision, or a server.

    A panel member may be an `endpoint` alone. With `path` or `hub` beside it, the server writes and the folder supplies
    tokenizer and template (and, for the base, the weights to fine-tune). Keys stand in the environment, never here.
    """

    path: str | None = None  # folder below model_folder, with config.json, tokenizer and *.safetensors
    hub: str | None = None  # for example Qwen/Qwen2.5-0.5B-Instruct
    revision: str | None = None  # hub: full commit hash, 40 hex digits; endpoint alone: any text that names the version
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: bfloat16 on an accelerator, else float32
    endpoint: str | None = None  # base URL of an OpenAI-compatible server, for example http://localhost:8000/v1
    model: str | None = None  # the name under which the endpoint serves it
    api_key_env: str | None = None  # environment variable that holds the endpoint's key; none: no key is sent
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 16  # requests under way at once
    timeout: Annotated[float, Field(gt=0)] = 300.0  # seconds that one reply may take
    retries: Annotated[int, Field(ge=0, le=20)] = 6  # after 429, 5xx or a broken connection; waits 0.5, 1, 2, 4 ... s
    max_requests: Positive | None = None  # budget of one command: requests; none: no limit
    max_tokens: Positive | None = None  # budget of one command: prompt and completion tokens; none: no limit

    @model_validator(mode="after")
    def one_source(self) -> Model:
        if self.endpoint is None:
            for key in ("model", "api_key_env", "max_requests", "max_tokens"):
                if getattr(self, key) is not None:
                    raise ValueError(f"'{key}' goes with 'endpoint'")
        else:
            check_endpoint(self.endpoint, self.model)
        if self.endpoint is None or self.path is not None or self.hub is not None:
            check_source(self.path, self.hub, self.revision)
        return self


class Source(Section):
    """One domain data set: a file below `ingest.folder`, or a hub data set pinned to a revision."""

    path: str | None = None  # JSONL, JSON, CSV or Parquet, below ingest.folder
    hub: str | None = None  # data set id
    revision: str | None = None  # full commit hash, needed with hub
    split: str = "train"  # hub only
    config: str | None = None  # hub only: the data set's configuration

    @model_validator(mode="after")
    def one_source(self) -> Source:
        check_source(self.path, self.hub, self.revision)
        return self


class Columns(Section):
    """Mapping for format 'columns': which fields hold what; dots reach into nested objects."""

    prompt: str  # the user's turn
    response: str  # the assistant's turn
    context: str | None = None  # put before the prompt, separated by a blank line; a list is joined by blank lines
    system: str | None = None  # a system turn
    group: str | None = None  # names the domain suite that a test row belongs to


class Ingest(Section):
    folder: str  # where the domain's files lie; DVC tracks the folder
    train: Source
    test: Source | None = None  # none: `test_fraction` of the training rows is split off
    format: Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion", "columns"] = "auto"
    columns: Columns | None = None  # needed for format 'columns'
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1  # used when there is no test source
    max_rejected: Fraction = 0.05  # stop when a larger part of the rows cannot be read
    max_chars: Positive = 100_000  # longer rows are rejected (characters, all turns together)
    seed: Seed = 0

    @model_validator(mode="after")
    def columns_with_format(self) -> Ingest:
        if (self.format == "columns") != (self.columns is not None):
            raise ValueError("'columns' goes with format: columns")
        return self


class Reconstruct(Section):
    samples: Positive  # user turns to draw
    temperatures: Annotated[list[Annotated[float, Field(gt=0, le=5)]], Field(min_length=1)] = [1.0]  # used in turn
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Positive = 256  # a longer turn is unfinished, and curate rejects it
    shard: Positive = 512  # rows per unit of work and of caching
    batch: Positive = 256  # rows at once on the device
    seed: Seed = 0


class Curate(Section):
    finished_only: bool = True  # reject turns that the base did not end itself
    min_chars: Annotated[int, Field(ge=0)] = 4
    max_chars: Positive = 8000
    personal_data: bool = True  # reject e-mail addresses, phone and card numbers, keys and the like
    refusal_bait: bool = True  # reject what invites a refusal; off: replay also keeps the base's refusals
    languages: list[Language] = []  # rows recognised as another language are rejected; empty = any
    max_repetition: Annotated[float, Field(gt=0, le=1)] = (
        0.5  # largest part of a text that one repeated 3-gram, or a loop, may cover
    )
    near_duplicate: Annotated[float, Field(gt=0, le=1)] = 0.8  # Jaccard similarity of word 3-grams; 1 = exact only
    near_meaning: Annotated[float, Field(gt=0, le=1)] = 1.0  # cosine of embeddings, with the same rare words; 1 = off
    overlap_ngram: Positive = 8  # words in a row that a row and an evaluation item share
    overlap_common: Positive = 5  # an n-gram in more evaluation items than this is phrasing, not content
    overlap_coverage: Annotated[float, Field(gt=0, le=1)] = 0.5  # part of an item, by weight, whose sharing is too much
    overlap_meaning: Annotated[float, Field(gt=0, le=1)] = 1.0  # as near_meaning, against evaluation items
    clusters: Positive = 24  # k of mini-batch k-means on the base's mean-pooled hidden states
    batch: Positive = 256
    min_kept: Positive = 1  # fewer kept rows stop the pipeline
    seed: Seed = 0


class Respond(Section):
    k: Positive = 3  # responses per instruction and model
    temperature: Annotated[float, Field(ge=0, le=5)] = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Positive = 512
    shard: Positive = 256
    batch: Positive = 256
    seed: Seed = 0


class Judge(Section):
    rubric: str  # file; {instruction} and {response} are replaced in one pass, so that neither can inject the other
    shard: Positive = 2048
    batch: Positive = 256
    min_mass: Fraction = 0.5  # probability on the tokens 1..5 below which the score is null: the model did not judge


class Consensus(Section):
    # mean_score: the best mean (Ding & Wang); score_then_base_likelihood: of all good enough the one that the base finds
    # most likely; agreement: the answer that most responses give; base_best_of_k: the base's own, by its own score
    strategy: Literal["mean_score", "score_then_base_likelihood", "agreement", "base_best_of_k"] = "mean_score"
    min_score: Annotated[float, Field(ge=1, le=5)] = 3.0  # mean score below which the best response is rejected
    finished_only: bool = True  # responses that their model did not end itself cannot be chosen
    min_judges: Positive = 1  # responses with fewer valid scores are rejected
    tie: Annotated[float, Field(ge=0)] = (
        0.05  # mean scores closer than this are tied; then the base's likelihood decides
    )


class Balance(Section):
    rows: Positive  # rows of the replay set, at most
    temperature: Fraction = 0.0  # 0: every cell of cluster x difficulty equal; 1: as reconstructed
    # what bins are quantiles of: the base's negative log-likelihood of the response, how little the instruction helps it,
    # or the standard deviation of the judges' scores
    difficulty: Literal["base_likelihood", "instruction_following", "disagreement"] = "base_likelihood"
    difficulty_bins: Positive = 4
    seed: Seed = 0


class Quality(Section):
    min_rows: Positive = 1  # critical: rows of the replay set
    max_null_scores: Fraction = 0.2  # critical: part of all scores that may be null
    max_unfinished: Fraction = 0.5  # critical: part of raw instructions that may have run into the length limit
    min_clusters: Positive = 1  # critical: clusters that the replay set covers
    max_model_share: Fraction = 0.95  # warning: part of the replay set that one panel member wrote
    max_instruction_chars: Positive = 8000  # critical: characters of a kept instruction
    max_response_chars: Positive = 8000  # critical: characters of a response in the replay set
    deny: list[str] = []  # critical: regular expressions that no replay text may match

    @field_validator("deny")
    @classmethod
    def compiles(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        return patterns


class MixArm(Section):
    share: Annotated[float, Field(ge=0, lt=1)]  # part of the trained tokens that comes from the replay set
    epochs: Annotated[float, Field(gt=0)] | None = None  # none: the section's


class Mix(Section):
    arms: dict[Name, MixArm]
    epochs: Annotated[float, Field(gt=0)] = 1.0  # how often each domain row is trained on; replay rows differ by epoch
    max_repeats: Positive = 4  # how often a replay row may be used, over all epochs, to reach the share
    seed: Seed = 0


class Arm(Section):
    objective: Literal["ce", "kl"] = "ce"  # on replay rows: cross-entropy, or KL(base || tuned); domain rows: always ce
    kl_coefficient: Annotated[float, Field(gt=0)] = 1.0  # weight of the KL term against the domain's cross-entropy
    kl_tokens: Literal["response", "all"] = "all"  # where the KL is taken: the assistant's tokens, or the whole row
    target_kl: Annotated[float, Field(ge=0)] = 0.0  # weight of KL(base || tuned) on the tokens that bear cross-entropy
    anchor: Literal["none", "l2sp", "ewc"] = "none"  # quadratic penalty on the way from the base; ewc needs replay rows
    anchor_coefficient: Annotated[float, Field(gt=0)] = 1.0
    fisher_rows: Positive = 256  # replay rows that the Fisher information of ewc is taken from
    lora_rank: Positive | None = None  # train adapters of this rank on all linear layers; merged at the end
    lora_alpha: Positive = 32
    average: Annotated[float, Field(gt=0, le=1)] = 1.0  # part of the way from the base's weights to the tuned ones
    learning_rate: Annotated[float, Field(gt=0)] | None = None  # none: the section's

    @model_validator(mode="after")
    def parts_fit(self) -> Arm:
        if self.lora_rank and self.anchor != "none":
            raise ValueError("lora_rank and anchor cannot go together: adapters start at zero; use weight_decay")
        return self


class Finetune(Section):
    arms: dict[Name, Arm]
    learning_rate: Annotated[float, Field(gt=0)]
    batch_size: Positive = 16  # rows per optimiser step, whatever the number of processes
    micro_batch: Positive | None = None  # rows at once on a device; none: batch_size. Must divide batch_size
    max_length: Positive = 2048  # tokens; a longer row is an error, not a silent cut
    packing: bool = False  # several rows per sequence, never attending to one another
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.03  # part of all steps
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    bf16: Literal["auto", True, False] = "auto"  # mixed precision; auto: where the hardware has it
    activation_checkpointing: bool = False  # less memory, about a third more time
    log_steps: Positive = 10
    checkpoint_steps: Positive | None = None  # a killed run goes on from the last checkpoint; none: it starts again
    seed: Seed = 0

    @model_validator(mode="after")
    def micro_divides(self) -> Finetune:
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch} does not divide batch_size {self.batch_size}")
        return self


class Suite(Section):
    role: Literal["general", "domain"]  # what the base knew, or what is new
    chance: Annotated[float, Field(ge=0, lt=1)] = 0.0  # accuracy of guessing
    metric: str | None = None  # per-item metric; none: the task's first


class Evaluate(Section):
    suites: Annotated[dict[str, Suite], Field(min_length=1)]  # lm-eval task names
    tasks: str  # folder with local lm-eval task files (YAML + JSONL); DVC tracks it; lm-eval's own tasks need nothing there
    domain_test: Literal["off", "exact_match"] = "off"  # also ask every row of data/domain/test.parquet
    max_tokens: Positive = 256  # of an answer to a row of the domain's test split
    batch: Positive = 64
    limit: Positive | None = None  # items per suite, for trials only
    seed: Seed = 0


class Drift(Section):
    score_threshold: Annotated[float, Field(gt=0)] = 0.05  # p-value of the two-sample test on per-item scores
    length_threshold: Annotated[float, Field(gt=0)] = (
        0.1  # normed Wasserstein distance of text lengths (in standard deviations)
    )
    cluster_threshold: Annotated[float, Field(gt=0)] = 0.1  # Jensen-Shannon distance of cluster histograms


class Gate(Section):
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.03  # largest acceptable drop of the general score (0..1)
    suite_margin: Annotated[float, Field(gt=0, lt=1)] = 0.1  # largest acceptable drop of one suite
    suite_margins: dict[str, Annotated[float, Field(gt=0, lt=1)]] = {}  # exceptions by suite
    min_domain_gain: Annotated[float, Field(ge=-1, le=1)] = 0.0  # smallest acceptable gain of the domain score
    control: Name | None = None  # arm whose failure is expected: it does not turn the exit code red
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    resamples: Annotated[int, Field(ge=200)] = 10_000  # of the paired bootstrap
    min_base: Fraction = 0.1  # chance-adjusted base score below which a general suite cannot be compared
    seed: Seed = 0


class Report(Section):
    title: str = "Holdfast report"
    lost_items: Annotated[int, Field(ge=0)] = 5  # lost items shown per arm in the Markdown report
    page_items: Annotated[int, Field(ge=0)] = 2000  # items in the HTML page's table, lost and gained first


class Pocket(Section):
    examples: dict[Name, Positive] = {"base": 700_000, "abacus": 800_000, "lexicon": 800_000}  # training examples
    hidden: Positive = 128
    layers: Positive = 8
    heads: Positive = 4
    items: Positive = 240  # evaluation items per suite, at most
    development: Positive = 120  # further items per suite, to choose settings with
    domain_rows: Positive = 2400
    seed: Seed = 1


class Params(Section):
    """The whole of params.yaml."""

    model_folder: str  # where local models lie; DVC tracks the folder
    models: dict[Name, Model]
    base: Name
    panel: Annotated[list[Name], Field(min_length=1)]
    arms: Annotated[list[Name], Field(min_length=1)]
    ingest: Ingest
    reconstruct: Reconstruct
    curate: Curate
    respond: Respond
    judge: Judge
    consensus: Consensus
    balance: Balance
    quality: Quality
    mix: Mix
    finetune: Finetune
    evaluate: Evaluate
    drift: Drift
    gate: Gate
    report: Report
    pocket: Pocket = Pocket()

    @model_validator(mode="after")
    def names_fit(self) -> Params:
        check_lineup(self.models, self.base, self.panel, self.arms)
        for section in ("mix", "finetune"):
            known = getattr(self, section).arms
            if missing := [a for a in self.arms if a not in known]:
                raise ValueError(f"arm '{missing[0]}' is listed in 'arms' but has no entry in {section}.arms")
        for arm in self.arms:
            how = self.finetune.arms[arm]
            if self.mix.arms[arm].share == 0 and (how.objective == "kl" or how.anchor == "ewc"):
                what = "the KL objective" if how.objective == "kl" else "ewc"
                raise ValueError(
                    f"arm '{arm}' asks for {what} but has no replay rows: set mix.arms.{arm}.share above 0"
                )
        if self.gate.control and self.gate.control not in self.arms:
            raise ValueError(f"gate.control '{self.gate.control}' is not one of arms")
        return self


def check_source(path: str | None, hub: str | None, revision: str | None) -> None:
    if (path is None) == (hub is None):
        raise ValueError("give either 'path' (local) or 'hub' (an id), not both and not neither")
    if hub and not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        raise ValueError("a hub source needs 'revision': the full 40-digit commit hash, so that a run can be repeated")


def check_endpoint(url: str, model: str | None) -> None:
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#@]*)?", url):
        raise ValueError(
            "'endpoint' is a URL such as http://localhost:8000/v1; a key goes into the environment, not here"
        )
    _ = urlsplit(url).port  # raises ValueError when it is no port
    if not model:
        raise ValueError("an endpoint needs 'model': the name under which it serves the model")


class Lineup(Section):
    """What `acquire` reads: the models and who takes part."""

    model_folder: str  # where local models lie; DVC tracks the folder
    models: dict[Name, Model]
    base: Name
    panel: Annotated[list[Name], Field(min_length=1)]
    arms: Annotated[list[Name], Field(min_length=1)]

    @model_validator(mode="after")
    def names_fit(self) -> Lineup:
        check_lineup(self.models, self.base, self.panel, self.arms)
        return self


def check_lineup(models: dict[str, Model], base: str, panel: list[str], arms: list[str]) -> None:
    for what, listed in (("panel member", panel), ("arm", arms)):
        if twice := sorted({n for n in listed if listed.count(n) > 1}):
            raise ValueError(f"{what} '{twice[0]}' is named twice: name it once")
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
    if clash := [a for a in arms if a in models or a in RESERVED | {"base"}]:
        raise ValueError(f"arm '{clash[0]}' has the name of a model or of a folder in models/: choose another")


class Loader(yaml.SafeLoader):
    """YAML as DVC reads it: a key stands once (PyYAML lets the last one win), and 1e-3 is a number (for PyYAML, text)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key.value}' stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+|\d*\.\d+|\d+\.)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(
            "no such file", where=path, do="run this from the project's folder, or `holdfast profile use NAME`"
        )
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        at = f", line {line + 1}" if line is not None else ""
        raise UserError(
            f"not valid YAML: {getattr(error, 'problem', error)}", where=f"{path}{at}", do="mend that line"
        ) from None
    if not isinstance(content, dict):
        raise UserError("not a mapping of sections", where=path, do="start from the params.yaml of the repository")
    if unknown := [k for k in content if k not in Params.model_fields]:
        raise unknown_key(path, str(unknown[0]), "", list(Params.model_fields))
    return content


def unknown_key(path: Path, key: str, within: str, known: list[str]) -> UserError:
    close = difflib.get_close_matches(key, known, n=1)
    do = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(known))}"
    return UserError(f"unknown parameter '{within}{key}'", where=path, do=do)


def explain(path: Path, prefix: str, cls: type[BaseModel], error: ValidationError) -> UserError:
    """The first problem that pydantic found, in one sentence."""
    problem = error.errors()[0]
    location = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        *within, key = location
        inner: Any = cls
        for part in within:
            field = getattr(inner, "model_fields", {}).get(part)
            annotation = field.annotation if field else inner
            candidates = [annotation, *getattr(annotation, "__args__", ())]
            inner = next((a for a in candidates if isinstance(a, type) and issubclass(a, BaseModel)), inner)
        return unknown_key(
            path, key, ".".join([*filter(None, [prefix]), *within, ""]), list(getattr(inner, "model_fields", {}))
        )
    key = ".".join([*filter(None, [prefix]), *location])
    if problem["type"] == "missing":
        return UserError(
            f"missing parameter '{key}'", where=path, do="add it; the comments in params.yaml say what it means"
        )
    message = problem["msg"].removeprefix("Value error, ")
    value = "" if problem["type"] == "value_error" else f" = {str(problem['input'])[:80]!r}"
    return UserError(
        f"parameter '{key}'{value}: {message}" if key else message, where=path, do="correct it in params.yaml"
    )


def parse(cls: type[Section], content: Any, prefix: str = "", path: Path = PARAMS) -> Any:
    try:
        return cls.model_validate(content)
    except ValidationError as error:
        raise explain(path, prefix, cls, error) from None


def load(section: str, path: Path = PARAMS) -> Any:
    """One section of params.yaml, checked. Raises UserError that names file, key, value and remedy."""
    content = read_yaml(path)
    if section not in content:
        raise UserError(
            f"missing section '{section}'", where=path, do="add it; start from the params.yaml of the repository"
        )
    return parse(Params.model_fields[section].annotation, content[section], section, path)  # type: ignore[arg-type]


def load_names(key: Literal["panel", "arms"], path: Path = PARAMS) -> list[str]:
    """The names of the panel members or of the arms."""
    content = read_yaml(path)
    if not (isinstance(content.get(key), list) and content[key] and all(isinstance(n, str) for n in content[key])):
        raise UserError(f"'{key}' must be a list of names", where=path, do=f"for example {key}: [base]")
    return content[key]


def load_lineup(path: Path = PARAMS) -> Lineup:
    content = read_yaml(path)
    return parse(Lineup, {key: content[key] for key in Lineup.model_fields if key in content}, "", path)


def load_all(path: Path = PARAMS) -> Params:
    return parse(Params, read_yaml(path), "", path)
