"""The section `respond`: how the panel answers."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from holdfast.params.base import Positive, Section, Seed


class Respond(Section):
    section: ClassVar[str] = "respond"

    k: Positive = 3
    """Responses per instruction and model."""
    temperature: Annotated[float, Field(ge=0, le=5)] = 0.8
    """Sampling temperature; 0 takes the most likely token."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling: the probability mass that is sampled from."""
    max_tokens: Positive = 512
    """Tokens of a response, at most; a longer one is unfinished."""
    tools_max_tokens: Positive = 256
    """Tokens of a response beside tools, at most: a call that is cut is of no use."""
    thinking_max_tokens: Positive = 512
    """Tokens of a response with thoughts, at most: thoughts that do not end leave no answer."""
    shard: Positive = 256
    """Instructions per unit of work and of caching."""
    batch: Positive = 256
    """Responses at once on the device."""
    seed: Seed = 0
    """Seed of the samples."""
