"""How far to go from the base to what was tuned: as far as the base's own answers are kept.

What is kept is measured as the self suite measures it (evaluation/self_suite.py), on instructions that the base wrote and the
verdict does not ask: the probability of the base's own answers, and whether the model still chats.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from holdfast.core import fingerprint, manifest, records, shards
from holdfast.data.instructions import messages
from holdfast.evaluation import self_suite
from holdfast.evaluation.backends import load_transformers
from holdfast.evaluation.settings import CHAT, LIKELIHOOD
from holdfast.params.evaluate import Evaluate
from holdfast.repair import deltas
from holdfast.repair.weights import Ends

PARTS = tuple(n / 10 for n in range(10, 0, -1))  # of the way, from the far end


class Choice(NamedTuple):
    """What was tried, and what came of it: `part` is the largest that keeps the target, or the smallest that was tried."""

    part: float
    met: bool
    tried: list[dict[str, float]]  # part, likelihood, chat, retention


def choose_part(
    measure: Callable[[float], dict[str, float]], target: float, parts: tuple[float, ...] = PARTS
) -> Choice:
    """The first of `parts` at which `measure` finds a retention of at least `target`."""
    tried: list[dict[str, float]] = []
    for part in parts:
        tried.append({"part": part, **measure(part)})
        if tried[-1]["retention"] >= target:
            return Choice(part, True, tried)
    return Choice(parts[-1], False, tried)


@dataclass
class Scale:
    """Measures models between base and tuned; what was measured once is kept in the cache."""

    params: Evaluate
    base: manifest.Manifest
    tuned: manifest.Manifest
    instructions: list[dict[str, Any]]  # rows of the contract "instructions_kept"
    domain: Path  # rows of the contract "domain": what a collapsed model writes

    def __post_init__(self) -> None:
        self.questions = [self_suite.Question(row["id"], messages(row)) for row in self.instructions]
        self.answers_of_domain = [row["messages"][-1]["content"] for row in records.read("domain", self.domain)]
        self.tokenizer = manifest.load_tokenizer(self.base.folder())
        self.conversations = [[question.id, question.chat] for question in self.questions]
        self.model: Any = None  # lm-eval's, over the tuned model's network
        self.weights: dict[str, torch.Tensor] = {}

    def measure_base(self) -> dict[str, Any]:
        """{"likelihood", "chat", "answers": by id} of the base."""
        return self.keep("base", self.base.fingerprint, lambda: self.ask(self.load(self.base), None))

    def measure(self, ends: Ends, part: float) -> dict[str, float]:
        """{"likelihood", "chat", "retention"} of the model at `part` of the way from the base to what `ends` keep of the tuning."""
        of_base = self.measure_base()
        identity = [self.base.fingerprint, self.tuned.fingerprint, ends.method, ends.density, part]
        measured = self.keep("between", identity, lambda: self.ask_at(ends, part, of_base["answers"]))
        before, after = (one["likelihood"] + one["chat"] for one in (of_base, measured))
        return {"likelihood": measured["likelihood"], "chat": measured["chat"], "retention": after / before}

    def keep(self, kind: str, identity: Any, work: Callable[[], dict[str, Any]]) -> Any:
        how = [self.base.dtype, manifest.find_device().type, self.params.self_suite.max_tokens, self.answers_of_domain]
        whole = [kind, identity, how, self.conversations, fingerprint.of_modules(__name__)]
        return shards.run_shards("repair", [kind], 1, whole, lambda _: [work()], "models")[0]

    def load(self, model: manifest.Manifest) -> Any:
        logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of a network that is given as an object
        return load_transformers(self.params, model.folder(), self.base, self.tokenizer)[0]

    def ask_at(self, ends: Ends, part: float, answers: dict[str, str]) -> dict[str, Any]:
        if self.model is None:
            self.model = self.load(replace(self.tuned, dtype=self.base.dtype))
            self.weights = dict(self.model.engine.model.named_parameters())
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(deltas.go_along(ends.base[name], ends.end[name], part))
        return self.ask(self.model, answers)

    def ask(self, model: Any, answers: dict[str, str] | None) -> dict[str, Any]:
        inputs = self_suite.Inputs(self.questions, self.answers_of_domain, answers)
        items = self_suite.ask(model, self.params, inputs, self.tokenizer, None, self.base.parameters).items
        by_suite = {name: [row for row in items if row["suite"] == name] for name in (LIKELIHOOD, CHAT)}
        scores = {name: sum(row["correct"] for row in rows) / len(rows) for name, rows in by_suite.items()}
        written = {row["item_id"]: row["target"] for row in by_suite[LIKELIHOOD]}
        return {"likelihood": scores[LIKELIHOOD], "chat": scores[CHAT], "answers": written}
