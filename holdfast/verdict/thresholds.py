"""What each suite may lose, with which confidence a drop is shown, and which suites and arms count."""

from __future__ import annotations

from holdfast.evaluation.settings import of_role
from holdfast.params.gate import Gate, Margin, resolve_margin
from holdfast.verdict import precision
from holdfast.verdict.fields import SET_ASIDE, SIDES, Json
from holdfast.verdict.pooling import adjust
from holdfast.verdict.precision import TINY, in_points


def margins(params: Gate, suites: Json) -> dict[str, float]:
    """The margin of every suite that has one: general suites, those of the self suite that decide, and what suite_margins names.

    A per cent is taken of the base's score; where that is not known yet, of a base that has all right."""
    names = [*of_role(suites, "general"), *of_role(suites, "self")]
    own: dict[str, Margin] = {name: margin for name, margin in params.suite_margins.items() if name in suites}
    limits: dict[str, Margin] = dict.fromkeys(names, params.suite_margin) | own
    return {
        name: resolve_margin(limit, base_score(suites[name]))
        for name, limit in limits.items()
        if name not in params.watched
    }


def base_score(suite: Json) -> float:
    """The base's score above chance; 1 where it is not known."""
    if suite["before"] is None:
        return 1.0
    return adjust(precision.exact(suite["before"], suite["items"]), suite["chance"])


def confidences(params: Gate, suites: Json) -> tuple[float, float]:
    """Confidence at which the general drop, and at which one suite's drop, must be distinguished from none to make an arm fail.

    Bonferroni: half of 1 - confidence goes to the general score, the other half is divided evenly among the suites with
    a margin; the self score, a domain score that may drop by so much (min_domain_gain below 0), and the number of suites
    past their margin, count as one more each. So an arm with no true change fails with a probability of at most
    1 - confidence, however many suites.
    """
    risk, limited = (1 - params.confidence) / 2, len(margins(params, suites))
    more = (limited > 1) + bool(of_role(suites, "self")) + (-1 < params.min_domain_gain < 0)
    return 1 - risk, 1 - risk / max(1, limited + more)


def reason_to_set_aside(params: Gate, suite: Json, risk: float, side: str = SIDES[0]) -> str:
    """Why a general suite measures nothing: the base does not beat guessing. From the base's outcomes alone; empty where
    it measures."""
    adjusted = adjust(precision.exact(suite["before"], suite["items"]), suite["chance"])
    if adjusted < params.min_base - TINY:
        least = f"less than the {in_points(params.min_base)} points above chance that min_base asks for"
        return f"the {side} model has {least}: there is nothing to forget"
    if suite["guessing_before"] > risk:
        return f"{suite['items']} items do not show that the {side} model does better than guessing"
    return ""


def is_counted(params: Gate, suites: Json, name: str) -> bool:
    """Whether a suite is part of its role's score: neither watched nor set aside."""
    return name not in params.watched and not is_set_aside(params, suites, name)


def is_set_aside(params: Gate, suites: Json, name: str) -> bool:
    suite = suites[name]
    if suite["role"] != "general" or suite["before"] is None:
        return False
    return bool(reason_to_set_aside(params, suite, 1 - confidences(params, suites)[0]))


def is_weak_family(name: str, suite: Json) -> bool:
    """Whether this is a family of the core suite that the base is at chance on: it has many, and no base has them all."""
    return name.startswith("core/") and suite["verdict"] == SET_ASIDE


def deciding_arms(params: Gate, names: list[str]) -> list[str]:
    """All arms but the control, unless it is alone."""
    return [name for name in names if name != params.control] or names
