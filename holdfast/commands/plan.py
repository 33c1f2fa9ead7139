"""What a run will take, before anything runs: rows, tokens, device-hours, memory, disk and money of every stage.

holdfast plan [--price 2.50] [--device h100 --devices 8] [--json]

Where a model's weights are here and no --device is named, it writes, scores and trains for a few seconds, which also says
how long texts are. Otherwise its operations are divided by a named device's peak (holdfast/planning/devices.py).
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from holdfast.core import manifest, shards, storage
from holdfast.core.errors import UserError
from holdfast.params.whole import Params
from holdfast.planning import costs, devices, earlier, fit, kinds, places, prospects, room, shapes, survey
from holdfast.planning.costs import Domain, Means, Rates, Work
from holdfast.planning.prospects import USUAL_ITEMS, count_items, count_test_rows
from holdfast.planning.shapes import Shape

DEFAULT_DEVICE = "h100"  # the device that is reckoned with where nothing can be measured and none is named
TRAINER_BYTES = 300 * 2**20  # bytes more that a CPU needs to train: libraries, growth over a run (docs/performance.md)
SHARDED = ("reconstruct", "respond", "judge")  # stages that fan their rows over worker processes


@dataclass(frozen=True, slots=True)
class Line:
    stage: str
    rows: float
    tokens: float
    seconds: float | None  # until it is done; None: not known
    hours: float  # of devices, all together
    memory: float  # bytes on one device
    disk: float  # bytes


@dataclass(frozen=True, slots=True)
class Plan:
    lines: list[Line]
    notes: list[str]
    measured: bool  # on this machine, else reckoned for a named device


def main(price: float | None, device: str | None, count: int, as_json: bool) -> None:
    plan = make_plan(Params.load(), device, count)
    if as_json:
        stages = [as_dict(one) for one in plan.lines]
        print(json.dumps({"stages": stages, "notes": plan.notes}, indent=2, ensure_ascii=False))
    else:
        where = "this machine" if plan.measured else f"{count} x {device or DEFAULT_DEVICE}"
        prices = {} if price is not None else places.read_prices(one.stage for one in plan.lines)
        print_table(plan.lines, plan.notes, price, where, prices)


def find_weights(params: Params) -> dict[str, Path]:
    """Folders of the panel's models whose weights are on this machine."""
    folder = Path(params.model_folder)
    places = {name: shapes.find_folder(params.models[name], folder) for name in params.panel}
    return {name: place for name, place in places.items() if place and list(place.glob("*.safetensors"))}


def make_plan(params: Params, device: str | None = None, count: int = 1) -> Plan:
    """Every stage of a run with these params: measured where weights are here and no device is named. Raises UserError."""
    if device is not None and device not in devices.DEVICES:
        do = f"known: {', '.join(devices.DEVICES)}; without --device this machine is measured"
        raise UserError(f"no figures for the device '{device}'", where="--device", do=do)
    folder, rubric = Path(params.model_folder), Path(params.judge.rubric)
    if not rubric.is_file():
        raise UserError("no such rubric", where=rubric, do="correct judge.rubric in params.yaml")
    text = rubric.read_text(encoding="utf-8").strip()
    here = find_weights(params)
    sizes = {name: shapes.find_shape(params.models[name], folder) for name in params.panel}
    tokenizer = manifest.load_tokenizer(here[params.base]) if params.base in here else None
    if tokenizer is not None and tokenizer.chat_template:
        from holdfast.chat import template_check

        template_check.guard_template(here[params.base], tokenizer)
    rubric_tokens = len(tokenizer(text)["input_ids"]) if tokenizer else len(text) // 3
    notes = fit.problems(params, {name: size.context for name, size in sizes.items() if size}, rubric_tokens)
    domain, counted = count_data(params, tokenizer)
    notes += counted

    measured = {n: f for n, f in here.items() if device is None and not params.models[n].served}
    rates, means = measure_models(params, measured, sizes, domain, text)
    means = replace(means, undecided=earlier.read_undecided(params))
    if params.judge.adaptive and len(params.panel) > 1:
        notes.append(
            f"further judges are asked about {means.undecided:.0%} of the instructions, {earlier.describe_source(params)}"
        )
    if not measured:
        means = replace(
            means,
            turn=min(means.turn, params.reconstruct.max_tokens),
            answer=min(means.answer, params.respond.max_tokens),
        )
        notes.append(
            f"texts are not measured: {means.turn:g} tokens an instruction, {means.answer:g} a response are assumed"
        )
    named = device or DEFAULT_DEVICE
    for name, size in sizes.items():
        if size and name not in rates:
            rates[name] = devices.rates_by_rule(size.parameters, named, params.models[name].served)
        elif not size:
            notes.append(f"{name} is behind a server: only its rows and tokens are counted")
    if ruled := [name for name in rates if name not in measured]:
        notes.append(f"{', '.join(ruled)}: {devices.describe_rule(named)}")

    outlook = prospects.survey_suites(params.gate, params.evaluate, params.ingest)
    notes += [*prospects.summarise(outlook), *outlook.sources]
    slower = devices.time_yardstick() / devices.YARDSTICK_SECONDS
    works = costs.plan_work(params, domain, means, rubric_tokens)
    lines = [plan_stage(params, one, rates, sizes, slower, bool(measured), count) for one in works]
    capacity = fit.device_memory() if measured else devices.DEVICES[named][1]
    return Plan(
        lines, [*notes, *note_shortages(params, lines, capacity, "this machine" if measured else named)], bool(measured)
    )


def note_shortages(params: Params, lines: list[Line], capacity: float, device: str) -> list[str]:
    """Of each script the stage that takes most, where a device does not hold it."""
    most: dict[str, Line] = {}
    for one in lines:
        name, cell = costs.split_stage(one.stage)
        if one.memory > capacity and room.list_models(params, name, *filter(None, [cell])):
            most[name] = max(most.get(name, one), one, key=lambda line: line.memory)
    return [room.describe_shortage(one.stage, one.memory, capacity, device) for one in most.values()]


def count_data(params: Params, tokenizer: Any) -> tuple[Domain, list[str]]:
    """Rows and tokens of the training split and items of all suites; and what could not be counted."""
    from holdfast.chat import encoding

    def tokens(conversation: survey.Conversation, tools: list | None) -> tuple[int, int]:
        _, mask = encoding.encode(tokenizer, conversation, tools)
        return len(mask), sum(mask)

    tasks, evaluate = Path(params.evaluate.tasks), params.evaluate
    sizes = {name: count_items(name, tasks) for name in evaluate.tasks_asked()}
    own, beside = kinds.measure_suites(evaluate, tokenizer), kinds.measure_tools(params.reconstruct, tokenizer)
    sizes |= {name: suite.items for name, suite in own.items()}
    notes = []
    if unknown := [name for name, n in sizes.items() if n is None]:
        notes.append(f"{len(unknown)} suites are taken to have {USUAL_ITEMS} items each: {', '.join(unknown[:3])}")
    suite_items = sum(min(n or USUAL_ITEMS, evaluate.limit or n or USUAL_ITEMS) for n in sizes.values())
    if params.ingest.train.path is None:
        notes.append("a data set of the hub is not counted before it is downloaded: training is not in the sum")
        return Domain(items=suite_items, suites=own, tools=beside), notes
    measure = tokens if tokenizer else survey.estimate_tokens
    surveyed = survey.survey_rows(params.ingest, measure, tokenizer)
    part = 1.0 if params.ingest.test else 1 - params.ingest.test_fraction
    if evaluate.domain_test != "off":
        suite_items += count_test_rows(params.ingest) or len(surveyed.lengths) // 10
    rows = round(part * len(surveyed.lengths))
    lengths, answers = (round(part * sum(counts)) for counts in (surveyed.lengths, surveyed.answers))
    return Domain(rows, lengths, answers, suite_items, own, beside), notes


def measure_models(
    params: Params, here: dict[str, Path], sizes: dict[str, Shape | None], domain: Domain, rubric: str
) -> tuple[dict[str, Rates], Means]:
    """Rates of every model whose weights are here, the base first, and the mean lengths of what they write."""
    rates: dict[str, Rates] = {}
    means, total = Means(), 0
    instructions: list[str] = []
    answers: dict[int, Counter[str]] = {}  # by instruction
    if not here:
        return rates, means
    from holdfast.planning import generation_speed, training_speed
    from holdfast.training import compiling, launch

    for name in sorted(here, key=lambda name: name != params.base):
        say(f"measuring {name}: writes and scores for some seconds")
        member = local_manifest(params, name, here[name], sizes[name])
        rates[name], lengths, instructions, texts = generation_speed.measure_generation(
            member, params, rubric, instructions
        )
        means = lengths if name == params.base else means
        for n, text in enumerate(texts):
            answers.setdefault(n // params.respond.k, Counter())[text] += 1
        total += len(texts)
    most = sum(list(counts.values()).count(max(counts.values())) for counts in answers.values())
    means = replace(means, distinct=sum(map(len, answers.values())) / total, leading=most / total)
    if params.base in here and (size := sizes[params.base]):
        length = max(domain.tokens / max(domain.rows, 1), means.turn + means.answer + means.prefix)
        trained = [costs.training_size(params, arm, domain, means, params.balance.rows) for arm in params.arms]
        rows, tokens, _ = max(trained, key=lambda one: one[1])
        flops = 6.0 * size.parameters * tokens / launch.count_processes(params.finetune, size.parameters, round(rows))
        compiled = compiling.pays_off(
            params.finetune.compile, manifest.find_device().type, flops
        )  # decided for the longest arm
        say(f"measuring {params.base}: trains for some seconds" + (", compiled" if compiled else ""))
        train, base = training_speed.measure_training(here[params.base], params, size.parameters, length, compiled)
        rates[params.base] = replace(rates[params.base], train=train, base=base)
    return rates, means


def say(text: str) -> None:
    """A line of progress, apart from what the plan prints."""
    print(text, file=sys.stderr, flush=True)


def local_manifest(params: Params, name: str, folder: Path, size: Shape | None) -> manifest.Manifest:
    """What the engine needs to load a model that `acquire` has not looked at yet."""
    assert size is not None
    return manifest.Manifest(
        name=name,
        source=folder.as_posix(),
        revision="",
        hub=False,
        dtype=params.models[name].dtype,
        fingerprint="",
        files={},
        architecture="",
        parameters=size.parameters,
        vocabulary=size.vocabulary,
        context=size.context,
    )


def plan_stage(
    params: Params,
    one: Work,
    rates: dict[str, Rates],
    sizes: dict[str, Shape | None],
    slower: float,
    here: bool,
    count: int,
) -> Line:
    """One stage's work as time and place. Several processes or devices share a model's work, and finish together.

    Device-hours are the seconds times the devices in use: worker processes on one CPU are one device. A stage that runs
    no model here uses none.
    """
    from holdfast.engines import registry
    from holdfast.training import compiling, launch

    (name, _), size = costs.split_stage(one.stage), sizes.get(one.model)
    beside, running = devices.stage_seconds(one, rates.get(one.model), slower)
    processes = 1 if name in ("evaluate", "curate") else count
    if here and size and one.model and not params.models[one.model].served:
        if name in SHARDED and one.rows >= shards.MIN_ROWS_FOR_WORKERS:
            processes = registry.count_workers(local_manifest(params, one.model, Path(), size))
        elif name in ("finetune", "pilot"):
            processes = launch.count_processes(params.finetune, size.parameters, round(one.rows))
    known = not one.model or one.model in rates
    accelerated = not here or manifest.find_device().type != "cpu"
    together = places.count_processes(one.stage, processes, count)  # of all its jobs
    in_use = (together if accelerated else 1) if one.model else 0
    weight_bytes = 2 if accelerated else 4  # bytes of a weight that only runs
    flops = 6.0 * size.parameters * one.trained / processes if size else 0.0
    compiled = compiling.pays_off(params.finetune.compile, "cuda" if accelerated else "cpu", flops)
    libraries = 0 if accelerated else psutil.Process().memory_info().rss  # a CPU's memory holds the process itself, too
    if libraries and name in ("finetune", "pilot"):
        libraries += TRAINER_BYTES
    seconds = beside + running / together
    return Line(
        stage=one.stage,
        rows=one.rows,
        tokens=one.tokens,
        seconds=seconds if known else None,
        hours=in_use * seconds / 3600 if known else 0.0,
        memory=libraries + costs.memory(params, one.stage, size, weight_bytes, processes, compiled)
        if size and one.model
        else 0.0,
        disk=costs.disk(params, one.stage, one.rows, one.tokens, sizes[params.base]),
    )


def as_dict(one: Line) -> dict[str, Any]:
    return storage.round_floats({key: getattr(one, key) for key in Line.__dataclass_fields__})


def print_table(
    lines: list[Line], notes: list[str], price: float | None, where: str, prices: dict[str, float] | None = None
) -> None:
    """`price`: of one device for one hour; `prices`: of a stage's whole machine, by launch.yaml."""
    prices = prices or {}
    by_machine = {one.stage: (one.seconds or 0) / 3600 * prices[one.stage] for one in lines if one.stage in prices}
    print(f"on {where}, before anything has run\n")
    print(
        f"{'stage':<24}{'rows':>12}{'tokens':>16}{'seconds':>12}{'device-h':>10}{'memory':>10}{'disk':>10}{'money':>10}"
    )
    for one in lines:
        money = f"{one.hours * price:,.2f}" if price is not None else "-"
        money = f"{by_machine[one.stage]:,.2f}" if one.stage in by_machine else money
        seconds = f"{one.seconds:,.0f}" if one.seconds is not None else "?"
        print(
            f"{one.stage:<24}{one.rows:>12,.0f}{one.tokens:>16,.0f}{seconds:>12}{one.hours:>10,.2f}"
            f"{gib(one.memory):>10}{gib(one.disk):>10}{money:>10}"
        )
    hours = sum(one.hours for one in lines)
    total = f"{hours * price:,.2f}" if price is not None else "-"
    total = f"{sum(by_machine.values()):,.2f}" if by_machine else total
    seconds = f"{sum(one.seconds or 0 for one in lines):,.0f}"
    most, disk = gib(max(one.memory for one in lines)), gib(sum(one.disk for one in lines))
    print(
        f"{'all':<24}{'':>12}{sum(one.tokens for one in lines):>16,.0f}{seconds:>12}{hours:>10,.2f}{most:>10}{disk:>10}{total:>10}"
    )
    unpriced = (
        "; money: the seconds above at the machine's price in launch.yaml" if by_machine else "; money: give --price"
    )
    print(
        "\ndevice-h: seconds times the devices in use, where a stage runs a model; memory: GiB on one device; disk: GiB, DVC's "
        "cache included" + ("" if price is not None else unpriced)
    )
    for note in notes:
        print(f"note: {note}")


def gib(amount: float) -> str:
    return f"{amount / 2**30:,.1f}" if amount else "-"
