"""What a run will take, before anything runs: rows, tokens, device-hours, memory, disk and money of every stage.

holdfast plan [--price 2.50] [--device h100 --devices 8] [--json]

Where a model's weights are here and no --device is named, it writes, scores and trains for a few seconds, which also says
how long texts are. Otherwise its operations are divided by a named device's peak (holdfast/planning/devices.py).
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from holdfast.core import cache, manifest, records
from holdfast.core.errors import UserError
from holdfast.data import formats
from holdfast.params.whole import Params
from holdfast.planning import costs, devices, earlier, fit, shapes, survey
from holdfast.planning.costs import Domain, Means, Rates, Work
from holdfast.planning.shapes import Shape

ITEMS = {"ifeval": 541, "gsm8k_cot_zeroshot": 1319, "arc_challenge_chat": 1172, "gpqa_main_zeroshot": 448}
USUAL = 860  # items of a suite that is not counted above: the mean over the 14 subjects of MMLU-Pro (12,032 in all)
DEFAULT = "h100"  # the device that is reckoned with where nothing can be measured and none is named
TRAINER = 300 * 2**20  # bytes more that a CPU needs to train: libraries, growth over a run (docs/performance.md)
SHARDED = ("reconstruct", "respond", "judge")  # stages that fan their rows over worker processes


@dataclass(frozen=True, slots=True)
class Line:
    stage: str
    rows: float
    tokens: float
    seconds: float | None  # until it is done; none: nobody knows
    hours: float  # of devices, all together
    memory: float  # bytes on one device
    disk: float  # bytes


def main(price: float | None, device: str | None, count: int, as_json: bool) -> None:
    given = Params.load()
    if device is not None and device not in devices.DEVICES:
        do = f"known: {', '.join(devices.DEVICES)}; without --device this machine is measured"
        raise UserError(f"no figures for the device '{device}'", where="--device", do=do)
    folder, rubric = Path(given.model_folder), Path(given.judge.rubric)
    if not rubric.is_file():
        raise UserError("no such rubric", where=rubric, do="correct judge.rubric in params.yaml")
    text = rubric.read_text(encoding="utf-8").strip()
    sizes = {name: shapes.of(given.models[name], folder) for name in given.panel}
    here = {n: f for n in given.panel if (f := shapes.here(given.models[n], folder)) and list(f.glob("*.safetensors"))}
    tokenizer = manifest.tokenizer(here[given.base]) if given.base in here else None
    rubric_tokens = len(tokenizer(text)["input_ids"]) if tokenizer else len(text) // 3
    notes = fit.problems(given, {name: size.context for name, size in sizes.items() if size}, rubric_tokens)
    domain, counted = look(given, tokenizer)
    notes += counted

    measured = {n: f for n, f in here.items() if device is None and not given.models[n].served}
    rates, means = measure(given, measured, sizes, domain, text)
    means = replace(means, undecided=earlier.undecided(given))
    if given.judge.adaptive and len(given.panel) > 1:
        notes.append(
            f"further judges are asked about {means.undecided:.0%} of the instructions, {earlier.source(given)}"
        )
    if not measured:
        notes.append(
            f"texts are not measured: {means.turn:g} tokens an instruction, {means.answer:g} a response are assumed"
        )
    named = device or DEFAULT
    for name, size in sizes.items():
        if size and name not in rates:
            rates[name] = devices.by_rule(size.parameters, named, given.models[name].served)
        elif not size:
            notes.append(f"{name} is behind a server: only its rows and tokens are counted")
    if ruled := [name for name in rates if name not in measured]:
        notes.append(f"{', '.join(ruled)}: {devices.rule(named)}")

    slower = devices.yardstick() / devices.YARDSTICK
    works = costs.work(given, domain, means, rubric_tokens)
    lines = [line(given, one, rates, sizes, slower, bool(measured), count) for one in works]
    if as_json:
        print(json.dumps({"stages": [as_row(one) for one in lines], "notes": notes}, indent=2))
    else:
        show(lines, notes, price, "this machine" if measured else f"{count} x {named}")


def look(given: Params, tokenizer: Any) -> tuple[Domain, list[str]]:
    """Rows and tokens of the training split and items of all suites; and what could not be counted."""
    from holdfast.chat import encoding

    def tokens(conversation: survey.Conversation) -> tuple[int, int]:
        _, mask = encoding.encode(tokenizer, conversation)
        return len(mask), sum(mask)

    tasks, evaluate = Path(given.evaluate.tasks), given.evaluate
    sizes = {name: items(name, tasks) for name in evaluate.suites}
    notes = []
    if unknown := [name for name, n in sizes.items() if n is None]:
        notes.append(f"{len(unknown)} suites are taken to have {USUAL} items each: {', '.join(unknown[:3])}")
    asked = sum(min(n or USUAL, evaluate.limit or n or USUAL) for n in sizes.values())
    if given.ingest.train.path is None:
        notes.append("a data set of the hub is not counted before it is downloaded: training is not in the sum")
        return Domain(items=asked), notes
    measure = tokens if tokenizer else survey.by_characters
    found = survey.look(Path(given.ingest.folder) / given.ingest.train.path, given.ingest.columns, measure)
    part = 1.0 if given.ingest.test else 1 - given.ingest.test_fraction
    if evaluate.domain_test != "off":
        asked += round(len(found.lengths) * (1 - part)) or len(found.lengths) // 10
    rows = round(part * len(found.lengths))
    return Domain(rows, round(part * sum(found.lengths)), round(part * sum(found.answers)), asked), notes


def items(suite: str, tasks: Path) -> int | None:
    """Items of a suite: the lines of its file, or what is known of lm-eval's own."""
    file = next(iter(sorted(tasks.rglob(f"{suite}.jsonl"))), None)
    return sum(1 for _ in formats.read_jsonl(file)) if file else ITEMS.get(suite)


def measure(
    given: Params, here: dict[str, Path], sizes: dict[str, Shape | None], domain: Domain, rubric: str
) -> tuple[dict[str, Rates], Means]:
    """Rates of every model whose weights are here, the base first, and the mean lengths of what they write."""
    rates: dict[str, Rates] = {}
    means, total = Means(), 0
    asked: list[str] = []
    answers: dict[int, Counter[str]] = {}  # by instruction
    if not here:
        return rates, means
    from holdfast.planning import generation_speed, training_speed
    from holdfast.training import compiling, launch

    for name in sorted(here, key=lambda name: name != given.base):
        entry = local_entry(given, name, here[name], sizes[name])
        rates[name], found, asked, texts = generation_speed.measured(entry, given, rubric, asked)
        means = found if name == given.base else means
        for n, text in enumerate(texts):
            answers.setdefault(n // given.respond.k, Counter())[text] += 1
        total += len(texts)
    most = sum(list(said.values()).count(max(said.values())) for said in answers.values())
    means = replace(means, distinct=sum(map(len, answers.values())) / total, leading=most / total)
    if given.base in here and (size := sizes[given.base]):
        length = max(domain.tokens / max(domain.rows, 1), means.turn + means.answer + means.prefix)
        trained = [costs.training(given, arm, domain, means, given.balance.rows) for arm in given.arms]
        rows, tokens, _ = max(trained, key=lambda one: one[1])
        flops = 6.0 * size.parameters * tokens / launch.count(given.finetune, size.parameters, round(rows))
        compiled = compiling.pays(given.finetune.compile, manifest.device().type, flops)  # decided for the longest arm
        train, base = training_speed.training(here[given.base], given, size.parameters, length, compiled)
        rates[given.base] = replace(rates[given.base], train=train, base=base)
    return rates, means


def local_entry(given: Params, name: str, folder: Path, size: Shape | None) -> manifest.Manifest:
    """What the engine needs to load a model that `acquire` has not looked at yet."""
    assert size is not None
    return manifest.Manifest(
        name=name, source=folder.as_posix(), revision="", hub=False, dtype=given.models[name].dtype, fingerprint="", files={},
        architecture="", parameters=size.parameters, vocabulary=size.vocabulary, context=size.context,
    )  # fmt: skip


def line(
    given: Params, one: Work, rates: dict[str, Rates], sizes: dict[str, Shape | None], slower: float, here: bool, count: int
) -> Line:  # fmt: skip
    """One stage's work as time and place. Several processes or devices share a model's work, and finish together."""
    from holdfast.engines import registry
    from holdfast.training import compiling, launch

    name, size = one.stage.partition("@")[0], sizes.get(one.model)
    beside, running = devices.seconds(one, rates.get(one.model), slower)
    processes = 1 if name in ("evaluate", "curate") else count
    if here and size and one.model and not given.models[one.model].served:
        if name in SHARDED and one.rows >= cache.WORTH:
            processes = registry.workers(local_entry(given, one.model, Path(), size))
        elif name in ("finetune", "pilot"):
            processes = launch.count(given.finetune, size.parameters, round(one.rows))
    known = not one.model or one.model in rates
    accelerated = not here or manifest.device().type != "cpu"
    two = 2 if accelerated else 4  # bytes of a weight that only runs
    flops = 6.0 * size.parameters * one.trained / processes if size else 0.0
    compiled = compiling.pays(given.finetune.compile, "cuda" if accelerated else "cpu", flops)
    libraries = 0 if accelerated else psutil.Process().memory_info().rss  # a CPU's memory holds the process itself, too
    if libraries and name in ("finetune", "pilot"):
        libraries += TRAINER
    return Line(
        stage=one.stage,
        rows=one.rows,
        tokens=one.tokens,
        seconds=beside + running / processes if known else None,
        hours=(running + (beside * processes if one.model else 0)) / 3600 if known else 0.0,
        memory=libraries + costs.memory(given, one.stage, size, two, processes, compiled)
        if size and one.model
        else 0.0,
        disk=costs.disk(given, one.stage, one.rows, one.tokens, sizes[given.base]),
    )


def as_row(one: Line) -> dict[str, Any]:
    return records.rounded({key: getattr(one, key) for key in Line.__dataclass_fields__})


def show(lines: list[Line], notes: list[str], price: float | None, where: str) -> None:
    print(f"on {where}, before anything has run\n")
    print(
        f"{'stage':<24}{'rows':>12}{'tokens':>16}{'seconds':>12}{'device-h':>10}{'memory':>10}{'disk':>10}{'money':>10}"
    )
    for one in lines:
        money = f"{one.hours * price:,.2f}" if price is not None else "-"
        took = f"{one.seconds:,.0f}" if one.seconds is not None else "?"
        print(
            f"{one.stage:<24}{one.rows:>12,.0f}{one.tokens:>16,.0f}{took:>12}{one.hours:>10,.2f}"
            f"{gib(one.memory):>10}{gib(one.disk):>10}{money:>10}"
        )
    hours = sum(one.hours for one in lines)
    total = f"{hours * price:,.2f}" if price is not None else "-"
    took = f"{sum(one.seconds or 0 for one in lines):,.0f}"
    most, disk = gib(max(one.memory for one in lines)), gib(sum(one.disk for one in lines))
    print(
        f"{'all':<24}{'':>12}{sum(one.tokens for one in lines):>16,.0f}{took:>12}{hours:>10,.2f}{most:>10}{disk:>10}{total:>10}"
    )
    print(
        "\nmemory: GiB on one device; disk: GiB, DVC's cache included"
        + ("" if price is not None else "; money: give --price")
    )
    for note in notes:
        print(f"note: {note}")


def gib(amount: float) -> str:
    return f"{amount / 2**30:,.1f}" if amount else "-"
