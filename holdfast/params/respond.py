"""The section `respond`: how the panel answers."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from holdfast.params.base import Positive, Section, Seed


class Respond(Section):
    section: ClassVar[str] = "respond"

    k: Positive = 3  # responses per instruction and model
    temperature: Annotated[float, Field(ge=0, le=5)] = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Positive = 512
    shard: Positive = 256
    batch: Positive = 256
    seed: Seed = 0
