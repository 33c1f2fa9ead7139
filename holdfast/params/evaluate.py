"""The section `evaluate`: what is measured."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from holdfast.params.base import MAX_CHANCE, Positive, Section, Seed

SETTLED = {  # arguments of lm-eval's model classes that Holdfast gives, or forbids
    "pretrained",
    "model",
    "tokenizer",
    "tokenizer_backend",
    "tokenized_requests",
    "add_bos_token",
    "chat_template_args",
    "base_url",
    "auth_token",
    "header",
    "batch_size",
    "max_length",
    "max_model_len",
    "device",
    "seed",
    "dtype",
    "trust_remote_code",
    "revision",
}


DOMAIN_TEST = "domain_test"  # the suite that the domain's own test split makes
CORE = "core"  # the suite of Holdfast's own, in families
Family = Literal[
    "refusals",
    "over_refusals",
    "tools",
    "instructions",
    "formats",
    "languages",
    "turns",
    "thinking",
    "arithmetic",
    "facts",
    "copying",
    "code",
    "calibration",
]
CORE_FAMILIES: tuple[Family, ...] = get_args(Family)
GUARDED: tuple[Family, ...] = ("refusals", "tools", "languages", "turns", "thinking")  # what users report as lost
CORE_CHANCES = {"calibration": 0.625}  # scores of guessing that are not 0
PUBLIC_SUITES = {  # public suites that Holdfast reads and asks itself, with the items of their parts
    "xstest": {"safe": 250, "unsafe": 200},
    "bfcl": {"simple": 400, "multiple": 200, "irrelevance": 240},
}


class Suite(Section):
    role: Literal["general", "domain"]
    """general: what the base knew before; domain: what is new."""
    chance: Annotated[float, Field(ge=0, le=MAX_CHANCE)] = 0.0
    """Accuracy of guessing, as a fraction; of a group the mean over its items."""
    metric: str | None = None
    """Metric per item; null: the first of the task. A task of a group that does not have it is scored by its first."""
    filter: str | None = None
    """Answer filter of the task that counts; null: the first."""


class SelfSuite(Section):
    """Instructions that the base wrote and no arm trained on, and the base's own answers to them."""

    rows: Annotated[int, Field(ge=0)] = 250
    """Instructions that `curate` holds out, at most a fifth of those it keeps; 0 turns the suite off."""
    max_tokens: Positive = 64
    """Tokens of an answer, at most."""


class CoreSuite(Section):
    """Items made by code of Holdfast: no download, for any chat model, through its own template (docs/core-suite.md)."""

    items: Annotated[int, Field(ge=6, le=400)] = 60
    """Items of each family that items_of does not name; more of them begin with the same ones."""
    items_of: dict[Family, Annotated[int, Field(ge=6, le=400)]] = dict.fromkeys(GUARDED, 204)
    """Items of the families whose loss is the most dangerous: so many that a loss of 5 points is seen where nothing else moved
    (docs/core-suite.md)."""
    context: Annotated[int, Field(ge=256)] = 1024
    """Tokens of the longest items, about, in which one line is to be found; finetune.max_length is a good choice. The model's own
    context is a limit too."""
    leave_out: list[Family] = []
    """Families that are not asked."""
    thought_tokens: Annotated[int, Field(ge=0)] = 512
    """Tokens beside those of an answer, at most, where the template opens thoughts and has no switch to turn them off,
    and for the family of thinking."""

    def suites(self) -> list[str]:
        return [f"{CORE}/{family}" for family in CORE_FAMILIES if family not in self.leave_out]

    def count_items(self, suite: str) -> int:
        """Items of a family, by the name of its suite."""
        return next((n for family, n in self.items_of.items() if suite == f"{CORE}/{family}"), self.items)


class Evaluate(Section):
    section: ClassVar[str] = "evaluate"

    suites: Annotated[dict[str, Suite], Field(min_length=1)]
    """What is measured: names of lm-eval's tasks or groups (mmlu, bbh), each with its role, a group as one suite; core is Holdfast's
    own suite, one score for each of its families; xstest and bfcl are read and asked by Holdfast, a score for each part."""
    core: CoreSuite = CoreSuite()
    """How the suite core is asked, where suites names it."""
    self_suite: SelfSuite = SelfSuite()
    """What the base answers to instructions of its own, before against after: sees a lost chat, needs no labels."""
    tasks: str
    """Folder of local lm-eval task files (YAML and JSONL), tracked by DVC; lm-eval's own tasks need nothing there. Files of XSTest and
    BFCL in its folders xstest and bfcl are read in place of the hub's."""
    domain_test: Literal["off", "exact_match", "answer", "likelihood"] = "off"
    """Also ask every row of data/domain/test.parquet. exact_match compares response and row as text; answer
    compares their final answers; likelihood is for free text: the geometric mean of the probabilities that the
    model gives to the tokens of the row's answer."""
    max_tokens: Positive = 256
    """Tokens of an answer to a row of the domain's test split, at most."""
    backend: Literal["auto", "transformers", "vllm", "openai"] = "auto"
    """Who answers lm-eval: our own engine (transformers), or its classes VLLM or LocalCompletionsAPI (openai). auto: openai where
    `url` is given, vllm where the base has `vllm`, with its settings, else transformers. The base's `endpoint` is not used: it does not
    serve the arms, which are asked as the base is."""
    options: dict[str, bool | int | float | str] = {}
    """Further arguments of that class, such as tensor_parallel_size."""
    url: str | None = None
    """Address of an OpenAI-compatible server, up to /v1, for the back end openai; it serves models by the names used
    here: base, or the arm."""
    batch: Positive = 64
    """Requests at once on the device."""
    limit: Positive | None = None
    """Items per task, for trials only; null: all."""
    seed: Seed = 0
    """Seed of lm-eval's random choices."""

    @model_validator(mode="after")
    def backend_fits(self) -> Evaluate:
        if self.backend == "openai" and self.url is None:
            raise ValueError("the back end 'openai' needs 'url'")
        if self.backend in ("transformers", "vllm") and self.url is not None:
            raise ValueError("'url' is of the back end 'openai', and the others take none")
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"'url' must begin with http:// or https://, not {self.url[:40]!r}")
        if taken := sorted(SETTLED & self.options.keys()):
            raise ValueError(f"'{taken[0]}' is no option: it follows from the model, from batch or from seed")
        return self

    @model_validator(mode="after")
    def own_suites_are_general(self) -> Evaluate:
        for name in (CORE, *PUBLIC_SUITES):
            if name in self.suites and self.suites[name] != Suite(role="general"):
                raise ValueError(f"the suite '{name}' takes no more than 'role: general'")
        return self

    def choose_backend(self, has_vllm: bool) -> Literal["transformers", "vllm", "openai"]:
        """What `backend` stands for. `has_vllm`: the base is written with vLLM."""
        if self.backend != "auto":
            return self.backend
        if self.url is not None:
            return "openai"
        return "vllm" if has_vllm else "transformers"

    def tasks_asked(self) -> dict[str, Suite]:
        """The suites that are tasks of lm-eval, by name."""
        return {name: suite for name, suite in self.suites.items() if name != CORE and name not in PUBLIC_SUITES}

    def own_suites(self) -> dict[str, int]:
        """The suites that Holdfast asks itself, and the items of each, at most: families of the core suite, of which a template may
        not express all, and parts of public suites."""
        sizes = {name: self.core.count_items(name) for name in self.core.suites()} if CORE in self.suites else {}
        for name, parts in PUBLIC_SUITES.items():
            sizes |= {f"{name}/{part}": items for part, items in parts.items() if name in self.suites}
        return {name: min(items, self.limit or items) for name, items in sizes.items()}

    def all_suites(self) -> dict[str, Suite]:
        """Every suite that is evaluated, by name, the domain's test split and those of `own_suites` included."""
        metric = "likelihood" if self.domain_test == "likelihood" else "exact_match"
        extra = {DOMAIN_TEST: Suite(role="domain", metric=metric)} if self.domain_test != "off" else {}
        chances = {name: CORE_CHANCES.get(name.removeprefix(f"{CORE}/"), 0.0) for name in self.own_suites()}
        families = {name: Suite(role="general", chance=chance) for name, chance in chances.items()}
        return {**self.tasks_asked(), **families, **extra}
