"""The verdict on a whole run, from those on its arms; several trainings of one method count as one."""

from __future__ import annotations

from collections.abc import Iterable

from holdfast.evaluation.settings import of_role, only_choices
from holdfast.params.gate import Gate, Margin
from holdfast.verdict.fields import EXIT_CODES, SET_ASIDE, WATCHED, Json
from holdfast.verdict.pooling import pool
from holdfast.verdict.thresholds import confidences, deciding_arms, margins
from holdfast.verdict.trainings import decide_method


def decide_run(
    params: Gate, arms: dict[str, Json], noise: Json | None, trainings: dict[str, list[str]] | None = None
) -> Json:
    """The content of gate.json but for its provenance: the worst verdict of the arms that decide, every arm's, and the
    thresholds. `trainings`: the names of each arm's models, where it was trained several times."""
    suites = next(iter(arms.values()))["suites"]
    general, suite = confidences(params, suites)
    multiplicity = {"method": "Bonferroni", "suites": len(margins(params, suites))}
    multiplicity |= {"general_confidence": general, "suite_confidence": suite}
    methods = decide_methods(params, arms, trainings or {})
    together = {name for method in methods.values() for name in method["arms"]}
    alone = [arms[name] for name in deciding_arms(params, list(arms)) if name not in together]
    worst = worst_verdict([*alone, *methods.values()])
    measured = any(one["role"] == "domain" and name not in params.watched for name, one in suites.items())
    content = {"schema": 2, "verdict": worst, "arms": arms, "noise": noise, "multiplicity": multiplicity}
    content["methods"] = methods
    content["only_choices"] = only_choices({k: v for k, v in suites.items() if k not in params.watched})
    demands = {"control", "margin", "suite_margin", "self_margin", "confidence", "min_domain_gain", "resamples"}
    return content | {"domain_measured": measured} | params.model_dump(include=demands)


def decide_methods(params: Gate, arms: dict[str, Json], trainings: dict[str, list[str]]) -> Json:
    """The verdict on each method of which several trainings were evaluated."""
    methods = {}
    for method, several in trainings.items():
        names = [name for name in several if name in arms]
        if len(names) > 1:
            members = [arms[name] for name in names]
            scores = [pool_roles(params, arm) for arm in members]
            suites = members[0]["suites"]
            shares = confidences(params, suites)
            methods[method] = decide_method(params, names, members, scores, margins(params, suites), shares)
    return methods


def pool_roles(params: Gate, arm: Json) -> dict[str, Json | None]:
    """The scores of a decided arm by role, with their standard errors."""
    counted = {n: s for n, s in arm["suites"].items() if s["verdict"] not in (SET_ASIDE, WATCHED)}
    limits: dict[str, Margin] = {
        "general": params.margin,
        "self": params.self_margin,
        "domain": abs(params.min_domain_gain),
    }
    return {
        role: pool(params, [counted[name] for name in of_role(counted, role)], arm[role] or {}, limit)
        for role, limit in limits.items()
    }


def worst_verdict(arms: Iterable[Json]) -> str:
    return max((str(arm["verdict"]) for arm in arms), key=EXIT_CODES.__getitem__)
