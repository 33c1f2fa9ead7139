"""Wins back what a tuning lost, without its training data, from the two models alone.

    holdfast repair --base MODEL --tuned MODEL|ADAPTER [--method average|trim|spectral] [--domain test.jsonl] [--out FOLDER]

FOLDER gets the repaired model, and a verdict on base, tuned and repaired model. docs/repair.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from holdfast.commands import compare_models
from holdfast.comparison import asking, evaluations, pair, questions, verdicts
from holdfast.comparison.asking import Wanted
from holdfast.core import records, storage
from holdfast.core.errors import CannotCompare, UserError, escape_control
from holdfast.data.instructions import messages
from holdfast.params.gate import Gate
from holdfast.repair import choosing, outcome, weights
from holdfast.repair.deltas import METHODS, Method
from holdfast.repair.outcome import REPAIRED, TUNED
from holdfast.repair.weights import Ends
from holdfast.training import distilling
from holdfast.verdict import summary

MODEL = "model"  # folder of the repaired model, below that of the repair
DISTILLING = 256  # instructions whose answers are distilled
CHOOSING = 60  # instructions that the part of the way is chosen on; the verdict asks others


class Options(NamedTuple):
    """What a user asks of a repair."""

    method: Method
    retention: float  # of the self score, 0 to 1, that the part of the way is to keep
    part: float | None  # of the way, 0 to 1; None: it is chosen
    density: float  # of trim, 0 to 1
    distil: int = 0  # steps
    rate: float = distilling.Distillation.rate  # learning rate of these


def main(
    base: str,
    tuned: str,
    wanted: Wanted,
    gate: Gate,
    options: Options,
    out: Path,
    template: pair.Template,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Writes the repair to `out`; returns the content of its gate.json. Raises CannotCompare where there is nothing to repair."""
    compare_models.prepare_folder(out)
    compare_models.use_own_cache()
    opened = pair.open_pair(base, tuned, out / "models", template)
    choosing_rows = CHOOSING if options.part is None else 0
    more = choosing_rows + (DISTILLING if options.distil else 0)
    exam, notes = asking.settle(wanted, opened.base, out / compare_models.QUESTIONS, more)
    for note in (*opened.notes, *notes):
        say(note)

    ends = Ends(opened.base.folder(), opened.tuned.folder(), options.method, options.density)
    rows = records.read("instructions_kept", out / compare_models.QUESTIONS / questions.MORE) if more else []
    choice = choose(options, ends, exam, opened, rows[:choosing_rows])
    say(describe_choice(options, choice, len(rows[:choosing_rows])))
    repaired, log = weights.find_between(ends, choice.part), list[dict[str, Any]]()
    if options.distil:
        repaired, log = distil(options, repaired, opened, rows[choosing_rows:])
        first, last = (float(log[at]["loss"]) for at in (0, -1))
        say(
            f"distilled: {options.distil} steps, KL to the base {first:.3f} to {last:.3f} nats per token of the model's own answers"
        )
    weights.save_model(repaired, opened.tuned.folder(), out / MODEL)
    if options.method != "average":
        say(
            f"{options.method}: {ends.counts['kept']:,} of {ends.counts['of']:,} {UNITS[options.method]} of the change are kept"
        )

    evaluated = out / verdicts.EVALUATIONS
    evaluations.evaluate_base(exam, evaluated)
    evaluations.evaluate_other(exam, TUNED, opened.tuned.folder(), evaluated)
    evaluations.evaluate_other(exam, REPAIRED, out / MODEL, evaluated)
    gate = gate.model_copy(update={"control": TUNED})
    content = verdicts.decide(gate, [TUNED, REPAIRED], out)
    measured = outcome.measure(gate, evaluated, content["arms"])
    record = {"schema": 1, **options._asdict(), **choice._asdict(), "kept": ends.counts, "outcome": measured}
    record |= {"distilled": [{key: float(one[key]) for key in ("step", "loss", "num_tokens")} for one in log]}
    storage.write_json(out / "repair.json", record)
    saved = replace(pair.inspect(str(out / MODEL), REPAIRED), dtype=opened.base.dtype)
    verdicts.write_report(out, f"{Path(tuned).name}, repaired", [opened.base, opened.tuned, saved])
    for line in outcome.describe(measured):
        say(line)
    return content


UNITS = {"trim": "numbers", "spectral": "singular values"}


def choose(
    options: Options, ends: Ends, exam: evaluations.Exam, opened: pair.Pair, rows: list[dict[str, Any]]
) -> choosing.Choice:
    """How far to go. Raises CannotCompare where the tuned model itself keeps what is asked for, UserError where the base writes too
    few instructions to choose on."""
    if options.part is not None:
        return choosing.Choice(options.part, True, [])
    if len(rows) < questions.MIN_INSTRUCTIONS:
        what = f"writes too few user turns to choose by ({len(rows)} are fit)"
        raise UserError(what, where=opened.base.source, do="give the part of the way yourself: --part 0.5")
    scale = choosing.Scale(exam.params, opened.base, opened.tuned, rows, exam.domain)
    whole = ends if ends.method == "average" else Ends(ends.base_folder, ends.tuned_folder, "average", 1.0)
    if (retention := scale.measure(whole, 1.0)["retention"]) >= options.retention:
        what = f"has nothing to repair: it keeps {retention:.1%} of the base's self score, and {options.retention:.1%} is asked for"
        raise CannotCompare(what, where=opened.tuned.source, do="ask for more with --retention, or give --part")
    return choosing.choose_part(lambda part: scale.measure(ends, part), options.retention)


def distil(
    options: Options, start: weights.Weights, opened: pair.Pair, rows: list[dict[str, Any]]
) -> tuple[weights.Weights, list[dict[str, Any]]]:
    """(the weights after distillation, its log). Raises UserError where the base writes too few instructions."""
    if len(rows) < questions.MIN_INSTRUCTIONS:
        what = f"writes too few user turns to distil on ({len(rows)} are fit)"
        raise UserError(what, where=opened.base.source, do="repair the weights alone: --distil 0")
    network = weights.load_with(start, opened.tuned.folder())
    plan = distilling.Distillation(options.distil, options.rate)
    try:
        log = distilling.distil(network, opened.base, [messages(row) for row in rows], plan)
    except distilling.Diverged:
        do = f"take a lower rate than {options.rate:g}: --distil-rate"
        raise UserError("the distillation diverged", where="--distil", do=do) from None
    return {name: weight.detach().cpu() for name, weight in network.named_parameters()}, log


def describe_choice(options: Options, choice: choosing.Choice, instructions: int) -> str:
    text = f"repair: {options.method}, {choice.part:g} of the way from the base"
    if choice.tried:
        last = choice.tried[-1]["retention"]
        text += f" keeps {last:.1%} of its self score on {instructions} instructions that the verdict does not ask"
        text += "" if choice.met else f", less than the {options.retention:.1%} asked for"
    return text


def read_method(name: str) -> Method:
    for method in METHODS:
        if name == method:
            return method
    raise UserError(f"no method '{name[:40]}'", where="--method", do=f"give one of {', '.join(METHODS)}")


def describe(content: dict[str, Any], out: Path) -> str:
    return escape_control(f"{summary.table(content)}\n{out}: {MODEL}, report.md, index.html, gate.json, repair.json")
