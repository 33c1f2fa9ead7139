"""The section `mix`: what each arm trains on."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from holdfast.params.base import Name, Positive, Section, Seed


class MixArm(Section):
    share: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"]
    """Part of the rows that comes from the replay set; auto: the smallest that meets
    pilot.retention_target."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """How often this arm trains on each domain row; null: the section's."""
    targets: Literal["gold", "rewritten"] = "gold"
    """Answers of domain rows. gold: as value; rewritten: the base's own words where they agree with the gold answer."""

    @field_validator("share", mode="before")
    @classmethod
    def number_or_auto(cls, value: Any) -> Any:
        if value != "auto" and (isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1):
            raise ValueError(f"{str(value)[:40]!r} is neither auto nor a number from 0 to below 1")
        return float(value) if value != "auto" else value


class Rewrite(Section):
    """How the base rewrites the domain's answers, for arms with `targets: rewritten`."""

    prompt: str = "profiles/rewrite.txt"
    """File with the request; {instruction} and {answer} (gold) are replaced in one pass."""
    k: Positive = 4
    """Samples per row of the request alone, and as many with the gold answer shown."""
    temperature: Annotated[float, Field(ge=0, le=5)] = 0.8
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling: the probability mass that is sampled from."""
    max_tokens: Positive = 512
    """Tokens of a sample, at most."""
    agreement: Annotated[float, Field(gt=0, le=1)] = 0.6
    """F1 of shared words from which a long sample agrees with the gold answer."""
    shard: Positive = 256
    """Rows per unit of work and of caching."""
    batch: Positive = 256
    """Rows at once on the device."""
    seed: Seed = 0
    """Seed of the samples."""


class Mix(Section):
    section: ClassVar[str] = "mix"

    arms: dict[Name, MixArm]
    """What each arm trains on, by its name."""
    epochs: Annotated[float, Field(gt=0)] = 1.0
    """How often each domain row is trained on; replay rows differ by epoch."""
    max_repeats: Positive = 4
    """How often a replay row may be used, over all epochs, to reach the share."""
    rewrite: Rewrite = Rewrite()
    """How the base rewrites the domain's answers, for arms with targets: rewritten."""
    seed: Seed = 0
    """Seed of the draw and order of rows."""


def count_replay(domain_rows: float, share: float) -> float:
    """Replay rows beside so many domain rows, for a share (0 to below 1) of all rows."""
    return domain_rows * share / (1 - share)
