"""The section `mix`: what each arm trains on."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from holdfast.params.base import Name, Positive, Section, Seed


class MixArm(Section):
    # part of the trained tokens that comes from the replay set; auto: the smallest that meets pilot.retention_target
    share: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"]
    epochs: Annotated[float, Field(gt=0)] | None = None  # none: the section's
    # rewritten: the base's own words where they agree with the gold answer
    targets: Literal["gold", "rewritten"] = "gold"

    @field_validator("share", mode="before")
    @classmethod
    def number_or_auto(cls, given: Any) -> Any:
        if given != "auto" and (isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 <= given < 1):
            raise ValueError(f"{str(given)[:40]!r} is neither auto nor a number from 0 to below 1")
        return float(given) if given != "auto" else given


class Rewrite(Section):
    """How the base rewrites the domain's answers, for arms with `targets: rewritten`."""

    prompt: str = "profiles/rewrite.txt"  # file; {instruction} and {answer} (gold) are replaced in one pass
    k: Positive = 4  # samples of the request alone, and as many with the gold answer shown
    temperature: Annotated[float, Field(ge=0, le=5)] = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Positive = 512
    # of long answers: F1 of shared words from which they say the same
    agreement: Annotated[float, Field(gt=0, le=1)] = 0.6
    shard: Positive = 256
    batch: Positive = 256
    seed: Seed = 0


class Mix(Section):
    section: ClassVar[str] = "mix"

    arms: dict[Name, MixArm]
    epochs: Annotated[float, Field(gt=0)] = 1.0  # how often each domain row is trained on; replay rows differ by epoch
    max_repeats: Positive = 4  # how often a replay row may be used, over all epochs, to reach the share
    rewrite: Rewrite = Rewrite()
    seed: Seed = 0
