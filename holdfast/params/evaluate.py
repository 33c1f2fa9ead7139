"""The section `evaluate`: what is measured."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from holdfast.params.base import Positive, Section, Seed

SETTLED = {  # arguments of lm-eval's model classes that Holdfast gives, or forbids
    "pretrained", "model", "tokenizer", "tokenizer_backend", "tokenized_requests", "base_url", "auth_token", "header", "batch_size",
    "max_length", "max_model_len", "device", "seed", "dtype", "trust_remote_code", "revision",
}  # fmt: skip


class Suite(Section):
    role: Literal["general", "domain"]  # what the base knew, or what is new
    chance: Annotated[float, Field(ge=0, lt=1)] = 0.0  # accuracy of guessing
    metric: str | None = None  # per-item metric; none: the task's first
    filter: str | None = None  # which of the task's answer filters counts; none: the first


class Evaluate(Section):
    section: ClassVar[str] = "evaluate"

    suites: Annotated[dict[str, Suite], Field(min_length=1)]  # lm-eval task names
    tasks: str  # folder with local lm-eval task files (YAML + JSONL); DVC tracks it; lm-eval's own tasks need nothing there
    # also ask every row of data/domain/test.parquet; answer: the final answers of response and row are compared
    domain_test: Literal["off", "exact_match", "answer"] = "off"
    max_tokens: Positive = 256  # of an answer to a row of the domain's test split
    backend: Literal["transformers", "vllm", "openai"] = "transformers"  # lm-eval's HFLM, VLLM, LocalCompletionsAPI
    options: dict[str, bool | int | float | str] = {}  # further arguments of that class, as tensor_parallel_size
    url: str | None = None  # of an OpenAI-compatible server, up to /v1; models go by their names here: base, or the arm
    batch: Positive = 64
    limit: Positive | None = None  # items per suite, for trials only
    seed: Seed = 0

    @model_validator(mode="after")
    def backend_fits(self) -> Evaluate:
        if (self.backend == "openai") != (self.url is not None):
            raise ValueError("the back end 'openai' needs 'url', and the others take none")
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"'url' must begin with http:// or https://, not {self.url[:40]!r}")
        if taken := sorted(SETTLED & self.options.keys()):
            raise ValueError(f"'{taken[0]}' is no option: it follows from the model, from batch or from seed")
        return self
