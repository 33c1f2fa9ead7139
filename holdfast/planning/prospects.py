"""What the suites of params.yaml can show before anything runs, from whatever is here: the base's evaluation, an earlier
verdict, files of items. Used by `holdfast plan`, `doctor` and `gate --power`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

from holdfast.core.errors import UserError
from holdfast.evaluation.settings import CHAT, LIKELIHOOD
from holdfast.params.evaluate import DOMAIN_TEST, Evaluate
from holdfast.params.gate import Gate
from holdfast.params.ingest import Ingest
from holdfast.verdict import baseline, power
from holdfast.verdict.power import Power, Suite

EVALUATION, VERDICT = Path("reports/eval/base"), Path("reports/gate.json")
ITEMS_BY_SUITE = {"ifeval": 541, "gsm8k_cot_zeroshot": 1319, "arc_challenge_chat": 1172, "gpqa_main_zeroshot": 448}
USUAL_ITEMS = 860  # of a suite not counted above: the mean over the 14 subjects of MMLU-Pro (12,032 in all)


@dataclass(frozen=True)
class Prospects:
    power: Power
    sources: list[str]  # where the numbers come from, and what is assumed


def survey_suites(params: Gate, evaluate: Evaluate, ingest: Ingest | None = None) -> Prospects:
    """With `ingest`, the domain's test split is counted from its source. Raises UserError where a file of results or items
    cannot be read."""
    wanted, sources = evaluate.all_suites(), []
    suites: dict[str, Suite] = {}
    is_evaluated = (EVALUATION / "settings.json").is_file()
    if is_evaluated:
        suites = {
            name: suite
            for name, suite in baseline.read_suites(EVALUATION).items()
            if suite.role == "self" or is_same(suite, name, evaluate)
        }
        sources.append(f"{len(suites)} suites as {EVALUATION} has them")
    families = (
        evaluate.own_suites()
    )  # of which a template may not express all: those that were not evaluated are not to come
    if absent := [name for name in wanted if name not in suites and not (is_evaluated and name in families)]:
        counted, uncounted = count_suites(absent, evaluate, ingest)
        suites |= counted
        if uncounted:
            sources.append(f"{len(uncounted)} suites are taken to have {USUAL_ITEMS} items: {', '.join(uncounted)}")
    if evaluate.self_suite.rows and not is_evaluated:
        for name in (CHAT, LIKELIHOOD):
            suites[name] = baseline.assume("self", 0.0, evaluate.self_suite.rows, graded=name == LIKELIHOOD)
    if VERDICT.is_file():
        from holdfast.verdict import gate_file

        try:
            suites = baseline.take_changes(suites, gate_file.read_gate(VERDICT), params)
        except UserError:
            sources.append(f"{VERDICT} is not a verdict of this version: how many items changed is not taken from it")
    prospects = power.assess(params, suites)
    if prospects.assumed:
        what = f"{power.CHANGED:.0%} of the items are assumed to change, half of them lost"
        sources.append(f"{what}, where no verdict says how many did")
    return Prospects(prospects, sources)


def is_same(suite: Suite, name: str, evaluate: Evaluate) -> bool:
    """Whether params.yaml still asks for this suite of an evaluation."""
    wanted = evaluate.all_suites().get(name)
    return wanted is not None and (wanted.role, wanted.chance) == (suite.role, suite.chance)


def count_suites(names: list[str], evaluate: Evaluate, ingest: Ingest | None) -> tuple[dict[str, Suite], list[str]]:
    """(suites of which only the size is known, those of which not even that is)."""
    suites, uncounted = {}, []
    for name in names:
        if name in evaluate.own_suites():
            items: int | None = evaluate.own_suites()[name]
        elif name == DOMAIN_TEST:
            items = count_test_rows(ingest) if ingest else None
        else:
            items = count_items(name, Path(evaluate.tasks))
        if items is None:
            uncounted.append(name)
        described = evaluate.all_suites()[name]
        size = items or USUAL_ITEMS
        suites[name] = baseline.assume(described.role, described.chance, min(size, evaluate.limit or size))
    return suites, uncounted


def count_items(suite: str, tasks: Path) -> int | None:
    """Items of a suite: the lines of its file, or what is known of lm-eval's own."""
    file = next(iter(sorted(tasks.rglob(f"{suite}.jsonl"))), None)
    if file is None:
        return ITEMS_BY_SUITE.get(suite)
    from holdfast.data import files

    return sum(1 for _ in files.read_jsonl(file, "utf-8", {}))


def count_test_rows(ingest: Ingest) -> int | None:
    """Rows of the domain's test split, as its source has them; None where that is not here or cannot be read."""
    from holdfast.data import ingestion

    source = ingest.test or ingest.train
    if source.path is None:
        return None
    try:
        _, _, rows = ingestion.open_source("test" if ingest.test else "train", source, ingest)
        count = sum(1 for _ in rows)
    except UserError:
        return None  # `ingest` says what is wrong with it
    return count if ingest.test else round(count * ingest.test_fraction)


def summarise(prospects: Prospects) -> list[str]:
    """A few sentences: what can be shown, what is missing, which suites measure little."""
    assessed = prospects.power
    lines = [power.describe_score(score) for score in assessed.scores]
    return [*lines, *power.describe_suites(assessed), *(f"no arm can pass: {reason}" for reason in assessed.blocked)]


def count_training_rows(ingest: Ingest, most: int) -> int | None:
    """Rows of the domain that are trained on, counted up to about `most`; None where the source is not here or cannot be read, which
    is said elsewhere, where a file is missing, or by `ingest`."""
    from holdfast.data import ingestion

    if ingest.train.path is None:
        return None
    part = 1.0 if ingest.test else 1 - ingest.test_fraction
    try:
        _, _, rows = ingestion.open_source("train", ingest.train, ingest)
        return round(sum(1 for _ in itertools.islice(rows, math.ceil(most / part))) * part)
    except UserError:
        return None
