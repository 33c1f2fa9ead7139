"""What gate.json may hold as measured numbers: their types and ranges, and what no measurement contradicts.

Words and derived numbers are derived anew elsewhere (provenance.py); whether the numbers are those of the items is for
`gate --verify`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from holdfast.core.errors import UserError

Fraction = Annotated[float, Field(ge=0, le=1)]
Change = Annotated[float, Field(ge=-1000, le=1000)]  # chance-adjusted, so beyond 1 where chance is near 1
LACKS = "has some of its numbers, and lacks others"
Count = Annotated[int, Field(ge=0, le=10**12)]


class Numbers(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)  # derived numbers stand beside them

    low: Change | None = None
    high: Change | None = None

    @model_validator(mode="after")
    def interval_has_two_ends(self) -> Self:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        return self


class Suite(Numbers):
    """What the verdict on one suite is decided on (fields.MEASURED_SUITE)."""

    role: Literal["general", "domain", "self"]
    chance: Annotated[float, Field(ge=0, lt=1)]
    items: Count
    before: Fraction | None
    after: Fraction | None
    lost: Count | None
    gained: Count | None
    mcnemar_p: Fraction | None
    discordance: Annotated[float, Field(ge=0)] | None  # above 1 where whole groups change
    written: bool | None
    group_size: Annotated[float, Field(ge=1)] | None
    cluster_p: Fraction | None
    guessing_before: Fraction | None
    guessing_after: Fraction | None
    constant_before: bool
    constant_after: bool
    problems: list[str]

    @model_validator(mode="after")
    def counts_fit(self) -> Self:
        if (self.lost or 0) + (self.gained or 0) > self.items:
            raise ValueError(f"{self.lost} lost and {self.gained} gained of {self.items} items")
        numbers = [
            self.before,
            self.after,
            self.low,
            self.high,
            self.lost,
            self.gained,
            self.mcnemar_p,
            self.discordance,
        ]
        if self.role == "general":
            numbers += [self.guessing_before, self.guessing_after]
        if len({number is None for number in numbers}) > 1:
            raise ValueError(LACKS)
        return self


class Score(Numbers):
    """Interval and bounds of several suites together (fields.MEASURED_SCORE)."""

    bound: Change | None
    retention_low: Change | None = None
    retention_high: Change | None = None

    @model_validator(mode="after")
    def all_or_none(self) -> Self:
        ends = {self.low is None, self.high is None, self.bound is None}
        if len(ends) > 1 or (self.retention_low is None) != (self.retention_high is None):
            raise ValueError(LACKS)
        return self


class Arm(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    suites: dict[str, Suite]
    problems: list[str]
    general: Score | None = None
    domain: Score | None = None
    self: Score | None = None  # type: ignore[assignment]


class Repeat(BaseModel):
    """Of one suite of the base evaluated twice."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    items: Annotated[int, Field(ge=1, le=10**12)]
    discordance: Annotated[float, Field(ge=0)]
    change: Annotated[float, Field(ge=-1, le=1)]


class Noise(BaseModel):
    """Of the base evaluated twice (paired.noise_floor)."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    change: float
    items: Count
    lost: Count
    gained: Count
    suites: dict[str, Repeat] = {}


class Measured(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    arms: dict[str, Arm]
    noise: Noise | None


def check(content: Any, path: Path, do: str) -> None:
    """Raises UserError, with the place, where a number of gate.json is none, or cannot have been measured."""
    try:
        Measured.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))[:160]
        what = problem["msg"].removeprefix("Value error, ")
        raise UserError(f"is not a verdict of this version ({place}: {what})", where=path, do=do) from None
