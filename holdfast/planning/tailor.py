"""Tailors a profile to one's own model and data: the params file that `holdfast init` writes."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

from holdfast.chat import encoding
from holdfast.core import manifest
from holdfast.core.errors import UserError
from holdfast.data import mixture
from holdfast.params.ingest import Columns, Ingest
from holdfast.params.models import Model
from holdfast.params.whole import Params
from holdfast.planning import costs, fit, profiles, reach, scaffold
from holdfast.planning.replay_kinds import fit_conversations, fit_thinking, fit_tools, put
from holdfast.planning.shapes import Shape
from holdfast.planning.survey import Survey
from holdfast.reconstruction import amount
from holdfast.training.rate_choice import usual_rate

ANSWER_TOKENS = 32  # of a replay answer: chat is lost at an answer's first tokens, and a mean over long ones hides them
TURN_TOKENS = 256  # tokens of a reconstructed user turn, at most
CPU_TURN_TOKENS = (
    128  # the same on a CPU, where a batch waits longest for turns that never end: one in ten of a small base's
)
FEW_STEPS, SMALL_BASE = 100, 1e9  # parameters; larger bases train adapters
LORA_RANK = 32  # on all linear layers
CPU_BATCH = 64  # rows that are written at once on a CPU, where a step costs nearly as much for 16
CPU_SHARD = 64  # rows of a unit of work on a CPU: then progress shows within a minute
EXACT_MATCH_TOKENS = 64  # tokens up to which an exact match with the expected answer says something
LIKELIHOOD_GAIN = 0.01  # gain of the mean probability of a token that is asked for: what moved nothing has not learnt
FINAL_ANSWER_MARKS = ("####", "\\boxed{")  # marks of a final answer, as evaluate.domain_test: answer finds it
MIN_REPLAY_ROWS = 200  # rows of the replay set below which `quality` stops: two fifths of amount.LEAST
MIN_CLUSTERS, ROWS_PER_CLUSTER = 12, 25
LOOKALIKES_SHARE = 0.7  # of the reconstructed rows; they end in time less often, so about two fifths of the fit ones
SHARE, KL_COEFFICIENT = 0.25, 4.0  # of rows; docs/evidence/real-model.md
MICRO_BATCHES = (8, 4, 2, 1)  # rows at once on a device, tried in turn; more gain little
MEMORY_PART = 0.6  # of the machine's memory that training may take by the plan
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
    from ruamel.yaml import YAML, RoundTripRepresenter

    yaml = YAML()  # as `dvc exp run -S` writes it, comments included, so that this keeps its shape
    yaml.default_flow_style = False
    yaml.Representer = type("SpelledFloat", (RoundTripRepresenter,), {})  # of its own: representers are kept by class
    yaml.Representer.add_representer(
        float, lambda to, value: to.represent_scalar("tag:yaml.org,2002:float", spell_float(value))
    )
    content = yaml.load(profiles.find_profile(profile).read_text(encoding="utf-8"))
    content["models"] = {"base": model.model_dump(exclude_defaults=True)}
    content.update(base="base", panel=["base"], arms=["domain-only", "holdfast"])
    content["retrain"]["arms"] = ["holdfast"]
    for section in ("mix", "finetune"):  # the second arm keeps the profile's settings under one name
        arms = content[section]["arms"]
        arms["holdfast"] = arms.pop("paper") if "paper" in arms else arms["holdfast"]
    source = content["ingest"]
    source.update(train={"path": domain.name}, test={"path": test.name} if test else None, format=survey.form)
    if survey.joined:
        put(source, "same_role", "join")
    if survey.encoding != "utf-8":
        put(source, "encoding", survey.encoding)
    if columns:
        source["columns"] = columns.model_dump(exclude_none=True)
        source.ca.items.pop("columns", None)  # the comment says how to write one
    if test:
        source.ca.items.pop("test")  # the comment says what happens where none is given
    notes = [
        *describe_reading(survey),
        *fit_method(content, shape),
        *fit_lengths(content, shape, tokenizer),
        *fit_conversations(content, shape, tokenizer),
        *fit_tools(content, shape, tokenizer),
        *fit_thinking(content, shape, tokenizer),
        *fit_rows(content, survey, shape, domain),
        *describe_rejects(content, survey),
        *fit_suites(content["evaluate"]["suites"]),
    ]
    fit_memory(content, shape, yaml)
    if "core" in content["evaluate"]:
        content["evaluate"]["core"]["context"] = max(256, content["finetune"]["max_length"])
    name = "".join(c for c in f"{model.path or model.hub} on {domain.name}" if c.isprintable())
    content["report"]["title"] = f"Holdfast: {name}"

    buffer = io.StringIO()
    yaml.dump(content, buffer)
    body = buffer.getvalue()
    while body.startswith(("#", "\n")):  # the profile's own introduction
        body = body.partition("\n")[2]
    head = f"# {name}: written by `holdfast init`.\n"
    return f"{head}# `holdfast explain SECTION` says what each field means, with unit and range.\n\n{body}", notes


def spell_float(value: float) -> str:
    """With a point: YAML 1.1 takes 9e-05 for text."""
    text = repr(value)
    return text if "." in text else text.replace("e", ".0e")


def describe_reading(survey: Survey) -> list[str]:
    """What was decided about how the rows are read."""
    notes = []
    if survey.encoding != "utf-8":
        written = next((m["content"] for c in survey.conversations for m in c if not m["content"].isascii()), "")
        what = f"the file is not UTF-8: it is read as {survey.encoding}, so that it says {written[:60]!r}"
        notes.append(f"{what}; correct ingest.encoding if that reads wrong")
    if survey.joined:
        notes.append("turns of one role that follow one another are joined: ingest.same_role: reject leaves them out")
    return notes


def describe_rejects(content: Any, survey: Survey) -> list[str]:
    """A warning where `ingest` would stop because too many rows cannot be used; `fit_rows` has set what it rejects itself."""
    limit = content["ingest"].get("max_rejected", Ingest.model_fields["max_rejected"].default)
    n = survey.rejected.total()
    if n <= limit * survey.rows:
        return []
    what = (
        f"`ingest` will stop: {n:,} of {survey.rows:,} rows cannot be used, and ingest.max_rejected allows {limit:.0%}"
    )
    return [f"{what}; fix those rows, or raise it in params.yaml to leave them out"]


def fit_suites(suites: Any) -> list[str]:
    """Leaves out those whose data cannot be had from here: `curate` and `evaluate` would stop at them."""
    absent = reach.find_out_of_reach(suites)
    for name in absent:
        del suites[name]
    if not absent:
        return []
    what = f"the hub does not answer, and its cache lacks the data of {', '.join(absent)}"
    return [f"{what}: left out; where there is a network, add them to evaluate.suites"]


def choose_rate(shape: Shape, steps: float) -> float:
    """Peak learning rate: the usual one for the width and the method; three times as much where a small base is trained for few
    steps, in which the usual one teaches it neither the domain nor to hold what it knew (docs/evidence/real-model.md)."""
    small = shape.parameters < SMALL_BASE
    return float(f"{usual_rate(shape.hidden, lora=not small) * (3 if small and steps < FEW_STEPS else 1):.0e}")


def fit_method(content: Any, shape: Shape) -> list[str]:
    """The method's own settings: as much replay as the arms need, the base's first answers, adapters for a large base."""
    cpu = manifest.find_device().type == "cpu"
    turn_tokens = min(CPU_TURN_TOKENS if cpu else TURN_TOKENS, content["reconstruct"]["max_tokens"])
    content["reconstruct"].update(samples="auto", max_tokens=turn_tokens)
    put(content["reconstruct"], "lookalikes", {"share": LOOKALIKES_SHARE})
    content["respond"].update(k=1, max_tokens=min(ANSWER_TOKENS, content["respond"]["max_tokens"]))
    content["mix"]["arms"]["holdfast"]["share"] = SHARE
    arm = content["finetune"]["arms"]["holdfast"]
    arm.update(objective="kl", kl_coefficient=KL_COEFFICIENT, kl_tokens="response")
    rule = content["consensus"]
    for field in ("min_score", "tie"):
        rule.pop(field, None)
    rule.update(strategy="first", finished_only=False)
    content["quality"]["min_rows"] = MIN_REPLAY_ROWS
    if cpu:
        for stage in ("reconstruct", "respond"):
            put(content[stage], "shard", CPU_SHARD)
        content["evaluate"]["batch"] = CPU_BATCH
    if shape.parameters < SMALL_BASE:
        return []
    for name in content["arms"]:
        content["finetune"]["arms"][name]["lora_rank"] = LORA_RANK
    arm.pop("kl_cache", None)  # the base is the model with its adapter off
    content["finetune"]["processes"] = "auto"  # adapters are not sharded
    what = f"the base has {shape.parameters / 1e9:,.1f} B parameters: both arms train LoRA adapters of rank {LORA_RANK}, merged at the end"
    return [f"{what}; without lora_rank in finetune.arms all weights are trained, at a tenth of the learning rate"]


def fit_memory(content: Any, shape: Shape, yaml: Any) -> None:
    """The largest micro-batch that this machine holds, without recomputation where that fits too."""
    room = MEMORY_PART * fit.device_memory()
    bytes_each = 4 if manifest.find_device().type == "cpu" else 2
    finetune = content["finetune"]
    sizes = [n for n in MICRO_BATCHES if finetune["batch_size"] % n == 0]
    for recompute in (False, True):
        for micro_batch in sizes:
            finetune.update(micro_batch=micro_batch, activation_checkpointing=recompute)
            buffer = io.StringIO()
            yaml.dump(content, buffer)
            params = Params.from_text(buffer.getvalue())
            if costs.memory(params, "finetune@holdfast", shape, bytes_each, 1) <= room:
                return
    finetune.update(micro_batch=1, activation_checkpointing=True)  # `doctor` says what else would help


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


def fit_rows(content: Any, survey: Survey, shape: Shape, domain: Path) -> list[str]:
    """What the domain data decide: training length, size of the replay set, how its test split is asked."""
    limit = min(shape.context, MAX_ROW_TOKENS)
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
        put(content["ingest"], "max_chars", least - 1)
        rejected = min(1.0, round((gone + survey.rejected.total()) / survey.rows + 0.01, 2))
        put(content["ingest"], "max_rejected", rejected)
        notes.append(
            f"{gone:,} rows, those of {least:,} characters and more, go beyond {limit:,} tokens: ingest.max_chars rejects them"
        )
    content["finetune"]["max_length"] = min(limit, max(content["finetune"]["max_length"], 64 * math.ceil(longest / 64)))

    share, epochs = content["mix"]["arms"]["holdfast"]["share"], content["mix"]["epochs"]
    part = 1.0 if content["ingest"]["test"] else 1 - Ingest.model_fields["test_fraction"].default
    trained = round(len(survey.answers) * part)
    replayed = math.ceil(mixture.count_replay(trained * epochs, share))
    drawn = amount.count_instructions({"holdfast": replayed})
    content["balance"]["rows"] = max(content["balance"]["rows"], drawn)
    content["curate"]["clusters"] = min(content["curate"]["clusters"], max(MIN_CLUSTERS, drawn // ROWS_PER_CLUSTER))
    content["quality"]["min_clusters"] = min(content["quality"]["min_clusters"], MIN_CLUSTERS // 2)
    shown = round(trained * epochs)
    steps = (shown + replayed) / content["finetune"]["batch_size"]
    content["finetune"]["learning_rate"] = choose_rate(shape, steps)
    notes.append(f"{replayed:,} replay rows beside {shown:,} of yours: {trained:,} rows in {epochs:g} epochs")

    put(content["evaluate"], "max_tokens", min(max([16, *survey.answers]), 1024, limit // 2))
    content["evaluate"]["domain_test"] = choose_domain_test(survey, content["evaluate"]["domain_test"])
    if content["evaluate"]["domain_test"] == "likelihood":
        content["gate"]["min_domain_gain"] = LIKELIHOOD_GAIN
        notes.append(
            "answers are long, so an exact match says little: evaluate.domain_test is likelihood, how probable the test split's "
            f"answers are; gate.min_domain_gain is {LIKELIHOOD_GAIN:g}, one point"
        )
    return notes


def choose_domain_test(survey: Survey, usual: str = "exact_match") -> str:
    """How a domain's test rows are asked: by final answers where they are marked, by likelihood where answers are long."""
    marked = sum(any(mark in c[-1]["content"] for mark in FINAL_ANSWER_MARKS) for c in survey.conversations)
    if 2 * marked > len(survey.conversations):
        return "answer"
    return "likelihood" if sorted(survey.answers)[len(survey.answers) // 2] > EXACT_MATCH_TOKENS else usual
