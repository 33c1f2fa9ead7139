"""The whole of params.yaml, frozen and typed; an unknown key is an error, a missing section its defaults where it has them.

The text below a field says what it means; `holdfast explain` prints it, and docs/params.md is made of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import model_validator

from holdfast.core import yaml_text
from holdfast.params.balance import Balance
from holdfast.params.base import PARAMS, parse, read_yaml
from holdfast.params.consensus import Consensus
from holdfast.params.curate import Curate
from holdfast.params.drift import Drift
from holdfast.params.evaluate import Evaluate
from holdfast.params.finetune import Finetune
from holdfast.params.gate import Gate
from holdfast.params.ingest import Ingest
from holdfast.params.judge import Judge
from holdfast.params.mix import Mix
from holdfast.params.models import Models
from holdfast.params.pilot import Pilot
from holdfast.params.pocket import Pocket
from holdfast.params.quality import Quality
from holdfast.params.reconstruct import Reconstruct
from holdfast.params.report import Report
from holdfast.params.respond import Respond


class Params(Models):
    """The whole of params.yaml."""

    ingest: Ingest
    reconstruct: Reconstruct
    curate: Curate = Curate()
    respond: Respond = Respond()
    judge: Judge
    consensus: Consensus = Consensus()
    balance: Balance
    quality: Quality = Quality()
    pilot: Pilot = Pilot()
    mix: Mix
    finetune: Finetune
    evaluate: Evaluate
    drift: Drift = Drift()
    gate: Gate = Gate()
    report: Report = Report()
    pocket: Pocket = Pocket()

    @property
    def evaluation_backend(self) -> str:
        """Who asks the suites: transformers, vllm or openai."""
        return self.evaluate.choose_backend(self.models[self.base].vllm is not None)

    @classmethod
    def load(cls, path: Path = PARAMS) -> Self:
        return parse(cls, read_yaml(path), "", path)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """From YAML that is not in a file yet."""
        return parse(cls, yaml_text.parse(text), "", PARAMS)

    @model_validator(mode="after")
    def arms_fit(self) -> Params:
        for section in ("mix", "finetune"):
            known = getattr(self, section).arms
            if missing := [a for a in self.arms if a not in known]:
                raise ValueError(f"arm '{missing[0]}' is listed in 'arms' but has no entry in {section}.arms")
        for arm in self.arms:
            settings = self.finetune.arms[arm]
            if self.mix.arms[arm].share == 0 and (settings.objective == "kl" or settings.anchor == "ewc"):
                what = "the KL objective" if settings.objective == "kl" else "ewc"
                raise ValueError(
                    f"arm '{arm}' asks for {what} but has no replay rows: set mix.arms.{arm}.share above 0"
                )
            if settings.sdft != "off" and self.mix.arms[arm].share:
                raise ValueError(f"arm '{arm}' has sdft, which is for domain rows alone: set mix.arms.{arm}.share: 0")
            if settings.objective == "ce" and self.mix.arms[arm].share and not self.consensus.finished_only:
                raise ValueError(
                    f"arm '{arm}' would learn to stop where the length limit cut an answer: set consensus.finished_only: "
                    f"true, or finetune.arms.{arm}.objective: kl, which teaches no token of a replay row"
                )
        if self.gate.control and self.gate.control not in self.arms:
            raise ValueError(f"gate.control '{self.gate.control}' is not one of arms")
        if self.gate.control in self.retrain.arms and self.retrain.seeds:
            raise ValueError(
                f"retrain.arms names the control '{self.gate.control}', which decides nothing: leave it out"
            )
        return self
