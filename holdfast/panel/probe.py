"""Can the judges judge? A few pairs of a right and a wrong answer, scored before anything is written.

A small chat model often cannot: it puts its probability elsewhere than on the digits, and every score would be null.
The stage `acquire` probes each member of the panel, where the strategy asks judges at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from holdfast.core.errors import UserError
from holdfast.core.manifest import Manifest
from holdfast.engines import registry
from holdfast.panel import scoring
from holdfast.params.judge import Judge

PAIRS = (  # an instruction, a right answer and a wrong one
    ("What is 2 + 3?", "5", "9"),
    ("What is 4 + 4?", "8", "3"),
    ("What is 7 + 1?", "8", "2"),
    ("What is the capital of France?", "Paris.", "Banana."),
    ("Name a colour.", "Red.", "Seven."),
    ("What is the opposite of hot?", "Cold.", "Chair."),
    ("How many days are in a week?", "Seven.", "Purple."),
    ("Which is larger, 2 or 9?", "9", "2"),
)


class Probe(NamedTuple):
    judge: str
    mass: float  # mean probability on the five digits
    right: int  # pairs whose right answer has the better score

    def can_judge(self, params: Judge) -> bool:
        return self.mass >= params.min_mass

    def describe(self, params: Judge) -> str:
        result = f"{self.mass:.2f} of the probability on 1 to 5, the right answer ahead in {self.right} of {len(PAIRS)} pairs"
        if self.can_judge(params):
            return f"judge {self.judge}: {result}"
        return (
            f"warning: judge {self.judge} cannot judge with this rubric: {result} (judge.min_mass {params.min_mass:g})"
        )


def probe_judge(judge: Manifest, rubric: str, params: Judge) -> Probe:
    """Asks one judge about all pairs, in one call of its engine."""
    engine = registry.load_engine(judge, params.batch)
    prompts = [
        [{"role": "user", "content": scoring.fill_rubric(rubric, question, answer)}]
        for question, *answers in PAIRS
        for answer in answers
    ]
    p = np.nan_to_num(
        engine.scores(prompts, params.attempts)
    )  # (2 * pairs, 5); a score that could not be read has no mass
    scores = (p @ np.arange(1, 6)) / np.maximum(p.sum(1), 1e-12)
    return Probe(judge.name, float(p.sum(1).mean()), int((scores[::2] > scores[1::2]).sum()))


def require_judges(panel: list[Manifest], params: Judge) -> None:
    """Probes every judge and says what came of it. Raises UserError where not a single one can judge."""
    rubric = scoring.read_rubric(Path(params.rubric))
    probes = [probe_judge(judge, rubric, params) for judge in panel]
    for probe in probes:
        print(probe.describe(params))
    refuse_silent_panel(probes, params)


def refuse_silent_panel(probes: list[Probe], params: Judge) -> None:
    if any(probe.can_judge(params) for probe in probes):
        return
    best = max(probes, key=lambda probe: probe.mass)
    raise UserError(
        f"no judge of the panel can judge: {best.judge} puts {best.mass:.2f} of its probability on 1 to 5, "
        f"{params.min_mass:g} is needed",
        where="panel",
        do="set consensus.strategy: first, which asks no judge (for arms with objective: kl), or add a larger model to panel",
    )
