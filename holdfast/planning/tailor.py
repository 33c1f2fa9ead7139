"""Tailors a profile to one's own model and data: the params file that `holdfast init` writes."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

from holdfast.chat import encoding
from holdfast.core.errors import UserError
from holdfast.params.ingest import Columns
from holdfast.params.models import Model
from holdfast.planning import fit, profiles, scaffold
from holdfast.planning.shapes import Shape
from holdfast.planning.survey import Survey

ANSWER_TOKENS = 200  # tokens of a replay answer, to reckon how many rows a share will need; nothing is sampled yet
EXACT_MATCH_TOKENS = 64  # tokens up to which an exact match with the expected answer says something
FINAL_ANSWER_MARKS = ("####", "\\boxed{")  # marks of a final answer, as evaluate.domain_test: answer finds it
MAX_ROW_TOKENS = 8192  # tokens of a training row, whatever the context; longer ones are rejected, with a note


def tailor_params(
    profile: str,
    model: Model,
    survey: Survey,
    shape: Shape,
    tokenizer: Any,
    domain: Path,
    test: Path | None,
    columns: Columns | None,
) -> tuple[str, list[str]]:
    """(the params file, what was decided in words). Raises UserError where nothing fits."""
    from ruamel.yaml import YAML, RoundTripRepresenter  # keeps the profile's comments

    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.Representer = type("SpelledNull", (RoundTripRepresenter,), {})  # of its own: representers are kept by class
    yaml.Representer.add_representer(type(None), lambda to, _: to.represent_scalar("tag:yaml.org,2002:null", "null"))
    content = yaml.load(profiles.find_profile(profile).read_text(encoding="utf-8"))
    content["models"] = {"base": flow(model.model_dump(exclude_defaults=True))}
    content.update(base="base", panel=flow(["base"]), arms=flow(["domain-only", "holdfast"]))
    for section in ("mix", "finetune"):  # the second arm keeps the profile's settings under one name
        arms = content[section]["arms"]
        arms["holdfast"] = arms.pop("paper") if "paper" in arms else arms["holdfast"]
    source = content["ingest"]
    source.update(
        train=flow({"path": domain.name}), test=flow({"path": test.name}) if test else None, format=survey.form
    )
    if columns:
        source["columns"] = flow(columns.model_dump(exclude_none=True))
    if test:
        source.ca.items.pop("test")  # the comment says what happens where none is given
    notes = [
        *fit_lengths(content, shape, tokenizer),
        *fit_rows(content, survey, min(shape.context, MAX_ROW_TOKENS), domain),
    ]
    name = "".join(c for c in f"{model.path or model.hub} on {domain.name}" if c.isprintable())
    content["report"]["title"] = f"Holdfast: {name}"

    buffer = io.StringIO()
    yaml.dump(content, buffer)
    body = buffer.getvalue()
    while body.startswith(("#", "\n")):  # the profile's own introduction
        body = body.partition("\n")[2]
    head = f"# {name}: written by `holdfast init` from the profile '{profile}'.\n"
    return f"{head}# Meaning, unit and range of each field stand in holdfast/params/.\n\n{body}", notes


def flow(value: Any) -> Any:
    """The value on one line of YAML, as params.yaml writes short ones."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    node = CommentedMap(value) if isinstance(value, dict) else CommentedSeq(value)
    node.fa.set_flow_style()
    return node


def fit_lengths(content: Any, shape: Shape, tokenizer: Any) -> list[str]:
    """Lengths of instructions and responses that the model's context holds."""
    rubric = (scaffold.source() / content["judge"]["rubric"]).read_text(encoding="utf-8")
    rubric_tokens = len(encoding.tokenise(tokenizer, rubric)) if tokenizer is not None else len(rubric) // 3
    wanted = content["reconstruct"]["max_tokens"], content["respond"]["max_tokens"]
    lengths = fit.lengths(shape.context, rubric_tokens, *wanted)
    if lengths is None:
        what = f"a context of {shape.context} tokens has no room for judging: the rubric alone has {rubric_tokens}"
        raise UserError(what, where="--base", do="use a model with a longer context")
    content["reconstruct"]["max_tokens"], content["respond"]["max_tokens"] = lengths
    content["finetune"]["max_length"] = min(shape.context, sum(lengths) + fit.TEMPLATE_TOKENS)  # replay rows must fit
    cut = f"the context is short: instructions get {lengths[0]} tokens, responses {lengths[1]}"
    return [cut] if lengths != wanted else []


def fit_rows(content: Any, survey: Survey, limit: int, domain: Path) -> list[str]:
    """What the domain data decide: training length, size of the replay set, how its test split is asked."""
    from ruamel.yaml.scalarstring import SingleQuotedScalarString

    notes = []
    sizes = [sum(len(m["content"]) for m in c) for c in survey.conversations]
    least = min((size for size, length in zip(sizes, survey.lengths, strict=True) if length > limit), default=None)
    longest = max(
        (n for n, size in zip(survey.lengths, sizes, strict=True) if least is None or size < least), default=0
    )
    if least is not None:
        gone = sum(size >= least for size in sizes)
        if 2 * gone > len(sizes):
            what = f"{gone:,} of {len(sizes):,} rows are longer than {limit:,} tokens"
            raise UserError(what, where=domain, do="shorten them, or use a base with more context")
        content["ingest"]["max_chars"] = least - 1
        content["ingest"]["max_rejected"] = min(1.0, round((gone + survey.rejected.total()) / survey.rows + 0.01, 2))
        notes.append(
            f"{gone:,} rows, those of {least:,} characters and more, go beyond {limit:,} tokens: ingest.max_chars rejects them"
        )
    content["finetune"]["max_length"] = min(limit, max(content["finetune"]["max_length"], 64 * math.ceil(longest / 64)))

    share, epochs = content["mix"]["arms"]["holdfast"]["share"], content["mix"]["epochs"]
    wanted = sum(survey.answers) * epochs * share / (1 - share) / ANSWER_TOKENS / content["mix"]["max_repeats"]
    needed = 1000 * math.ceil(wanted / 1000)
    if needed > content["balance"]["rows"]:
        content["balance"]["rows"], content["reconstruct"]["samples"] = needed, 2 * needed
        notes.append(
            f"balance.rows is {needed:,}, for a share of {share:g} beside {sum(survey.answers):,} trained tokens an epoch"
        )

    content["evaluate"]["max_tokens"] = min(max([16, *survey.answers]), 1024, limit // 2)
    marked = sum(any(mark in c[-1]["content"] for mark in FINAL_ANSWER_MARKS) for c in survey.conversations)
    if 2 * marked > len(survey.conversations):
        content["evaluate"]["domain_test"] = "answer"
    elif sorted(survey.answers)[len(survey.answers) // 2] > EXACT_MATCH_TOKENS:
        content["evaluate"]["domain_test"] = SingleQuotedScalarString("off")  # bare, YAML 1.1 reads a truth value
        content["gate"]["min_domain_gain"] = 0.0
        notes.append(
            "answers are long, so an exact match says little: evaluate.domain_test is off; add a suite of your own"
        )
    return notes
