"""Lets the base write user turns: it is given what its chat template puts before a user's text, and nothing else.

holdfast reconstruct        (writes data/instructions/raw.parquet and reports/reconstruct.json)

This is how Magpie (arXiv 2406.08464) and Ding & Wang (arXiv 2506.09428, step 1) recover an instruction distribution. On
request it writes under system prompts, goes on to further turns, samples until enough rows are fit, and adds prompts of
public corpora in the proportions of its own (docs/reconstruction.md).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from holdfast.chat import encoding, templates
from holdfast.core import cache, manifest, records
from holdfast.core.errors import UserError
from holdfast.data import instructions
from holdfast.engines import embedder, registry
from holdfast.engines.interface import Engine, Until, seed_of
from holdfast.params.reconstruct import CorpusSource, Reconstruct
from holdfast.params.row_checks import RowChecks
from holdfast.reconstruction import corpora, prompt_files

NOT_SAMPLING = {"samples", "keep", "folder", "corpus"}  # what a row does not depend on
Rows = list[dict[str, Any]]


def main(params: Reconstruct, checks: RowChecks, model: Path, embeds: Path, out: Path, summary: Path) -> None:
    entry = manifest.load(model)
    tokenizer = manifest.tokenizer(entry.folder())
    query, systems = ask(params, tokenizer, f"base ({entry.source})")
    sources = params.corpus.sources if params.corpus else []
    loaded = [prompt_files.load(params, source) for source in sources]  # what can be wrong is so before the work
    fit = instructions.Fit(checks, tokenizer, entry.name)

    budget, *_ = split(params.samples, sources)
    quota, *budgets = split(params.keep or params.samples, sources)
    rows, reasons, found = written_by_base(params, budget, quota if params.keep else None, entry, query, systems, fit)
    ledger = {"self": found}
    if params.corpus:
        good = [instructions.normalised(row["text"]) for row, reason in zip(rows, reasons, strict=True) if not reason]
        picked, told = from_corpora(params, loaded, budgets, good, entry, manifest.load(embeds), fit)
        drawn = [{**row, "id": f"{n:08d}-{row['id']}"} for n, row in enumerate(picked, start=len(rows))]
        rows, ledger = rows + drawn, ledger | told
    kept = sum(part["fit"] for part in ledger.values())
    records.write("instructions_raw", out, rows)
    records.write_json(
        summary,
        {
            "schema": 1, "rows": len(rows), "fit": kept, "keep": params.keep, "samples": params.samples,
            "stopped": stopped(params, kept, ledger), "sources": ledger,
        },
    )  # fmt: skip
    ended = sum(row["finish"] == "stop" for row in rows[: found["rows"]])
    print(f"{found['rows']:,} user turns, {ended:,} ended by the base itself, prefix {query.prefix!r}")
    for name, part in ledger.items():
        fewer = [*part.get("unreadable", {}).items(), *part["rejected"].items()]
        lost = ", ".join(f"{reason} {n:,}" for reason, n in fewer) or "nothing rejected"
        print(f"{name}: {part['rows']:,} rows of {part.get('read', part['rows']):,}, {part['fit']:,} fit; {lost}")
    print(f"stopped: {stopped(params, kept, ledger)}")


def stopped(params: Reconstruct, kept: int, ledger: dict[str, dict]) -> str:
    """Why no more rows were drawn."""
    if params.keep and kept >= params.keep:
        return "quota met"
    why = ["budget spent" if params.keep else "all samples drawn"] * (
        ledger["self"]["rows"] == ledger["self"]["budget"]
    )
    short = [name for name, part in ledger.items() if name != "self" and part["rows"] < part["budget"]]
    return " and ".join([*why, *(f"{name} exhausted" for name in short)])


def split(whole: int, sources: Sequence[CorpusSource]) -> list[int]:
    """Rows for the base itself and for each source, which sum to `whole`."""
    parts = [round(whole * source.share) for source in sources]
    return [whole - sum(parts), *parts]


def ask(params: Reconstruct, tokenizer: Any, where: str) -> tuple[encoding.PreQuery, list[str]]:
    """The pre-query prefix and the system prompts. Raises UserError if the template has no room for what is asked."""
    query = encoding.pre_query(tokenizer, where)
    if params.systems and not templates.dialect(templates.template_of(tokenizer)).system:
        what, do = "the chat template has no system turn", "remove reconstruct.systems from params.yaml"
        raise UserError(what, where=where, do=do)
    if params.turns:
        try:
            encoding.pre_query(tokenizer, where, encoding.turns("a", "b"))
        except UserError as error:
            what, do = f"a second user turn: {error.what}", "remove reconstruct.turns from params.yaml"
            raise UserError(what, where=where, do=do) from None
    return query, prompt_files.systems(params.folder, params.systems) if params.systems else []


def written_by_base(
    params: Reconstruct,
    budget: int,
    quota: int | None,
    entry: manifest.Manifest,
    query: encoding.PreQuery,
    systems: list[str],
    fit: instructions.Fit,
) -> tuple[Rows, list[str], dict[str, Any]]:
    """(rows, what is wrong with each, what to report): shard by shard until the quota is met or the budget is spent.

    A wave has as many shards as are needed if every row is fit, so none is drawn that one process would not have drawn.
    """
    work = partial(user_turns, params=params, entry=entry, query=query, systems=systems)
    identity = [query.prefix, systems, params.model_dump(exclude=NOT_SAMPLING), *registry.identity(entry, __file__)]
    rows: Rows = []
    reasons: list[str] = []
    while len(rows) < budget and (quota is None or reasons.count("") < quota):
        missing = budget if quota is None else math.ceil((quota - reasons.count("")) / params.shard) * params.shard
        numbers = range(len(rows), min(len(rows) + missing, budget))
        rows += cache.shards("reconstruct", numbers, params.shard, identity, work, "user turns", registry.spread(entry))
        reasons += map(fit.fault, rows[len(reasons) :])
        if quota and not reasons.count(""):
            most = ", ".join(f"{reason} {n:,}" for reason, n in Counter(reasons).most_common(3))
            do = "raise reconstruct.max_tokens, look at `holdfast template base`, or open the filter of curate"
            raise UserError(f"none of the first {len(rows):,} user turns is fit ({most})", where=entry.name, do=do)
    settings = Counter((row["temperature"], row["top_p"]) for row in rows)
    good = Counter((r["temperature"], r["top_p"]) for r, reason in zip(rows, reasons, strict=True) if not reason)
    return rows, reasons, {
        "budget": budget, "rows": len(rows), "fit": reasons.count(""),
        "rejected": Counter(filter(None, reasons)),
        "with_system": sum(any(turn["role"] == "system" for turn in row["context"]) for row in rows),
        "meant_to_go_on": sum(goes_on(params, row) for row in rows),
        "with_earlier_turns": sum(any(turn["role"] == "user" for turn in row["context"]) for row in rows),
        "settings": [dict(temperature=heat, top_p=p, rows=settings[heat, p], fit=good[heat, p]) for heat, p in sorted(settings)],
    }  # fmt: skip


def user_turns(
    samples: list[int], params: Reconstruct, entry: manifest.Manifest, query: encoding.PreQuery, systems: list[str]
) -> Rows:
    """One shard: an instruction for each sample number. All draws of a row derive from its seed."""
    engine = registry.load(entry, params.batch)  # loaded only if a shard is not in the cache
    tokenizer = manifest.tokenizer(entry.folder())
    heats, nuclei = params.temperatures, params.top_p
    rows: Rows = []
    for n in samples:
        seed = seed_of(params.seed, "reconstruct", n)
        heat, top_p = heats[n % len(heats)], nuclei[n // len(heats) % len(nuclei)]
        drawn = chance(seed, "system") / params.systems.share if params.systems else 1.0
        context = [{"role": "system", "content": systems[int(drawn * len(systems))]}] if drawn < 1 else []
        rows.append(dict(sample=n, seed=seed, temperature=heat, top_p=top_p, context=context))
    write(engine, params, query, tokenizer, rows, 0)
    going = [row for row in rows if goes_on(params, row)]
    for turn in range(1, params.turns.extra + 1 if params.turns else 1):
        going = answered(engine, params, entry, tokenizer, going, turn)
        write(engine, params, query, tokenizer, going, turn)
    for row in rows:
        row |= dict(id=f"{row['sample']:08d}-{records.text_id(entry.fingerprint, row['seed'], row['text'])}")
        row |= dict(model=entry.name, revision=entry.revision)
    return rows


def chance(seed: int, what: str) -> float:
    """A row's own uniform number in [0, 1) for one decision."""
    return seed_of(seed, what) / 2**63


def goes_on(params: Reconstruct, row: dict[str, Any]) -> bool:
    """Whether a row is meant to be a conversation of several turns."""
    return params.turns is not None and chance(row["seed"], "turns") < params.turns.share


def write(engine: Engine, params: Reconstruct, query: encoding.PreQuery, tokenizer: Any, rows: Rows, turn: int) -> None:
    """The base plays the user: sets text, finish and n_tokens of each row."""
    for top_p in dict.fromkeys(row["top_p"] for row in rows):
        part = [row for row in rows if row["top_p"] == top_p]
        completions = engine.complete(
            [prefix(tokenizer, query, row["context"]) for row in part],
            [seed_of(row["seed"], "user", turn) if turn else row["seed"] for row in part],
            [row["temperature"] for row in part],
            top_p,
            Until(params.max_tokens, query.stop_ids, query.stop_strings),
        )
        for row, done in zip(part, completions, strict=True):
            row |= dict(text=done.text, finish=done.finish, n_tokens=done.n_tokens)


def prefix(tokenizer: Any, query: encoding.PreQuery, context: encoding.Messages) -> list[int]:
    """What the template puts before a user's text after these turns."""
    return encoding.pre_query(tokenizer, "base", safe(tokenizer, context)).prefix_ids if context else query.prefix_ids


def safe(tokenizer: Any, messages: encoding.Messages) -> encoding.Messages:
    return [{**turn, "content": encoding.neutral(tokenizer, turn["content"])} for turn in messages]


def answered(
    engine: Engine, params: Reconstruct, entry: manifest.Manifest, tokenizer: Any, rows: Rows, turn: int
) -> Rows:
    """The base answers; the rows whose conversation goes on. It ends where a turn did not, or where it gets too long."""
    assert params.turns
    asked = [row for row in rows if row["finish"] == "stop" and row["text"].strip()]
    chats = [[*row["context"], *encoding.turns(instructions.normalised(row["text"]))] for row in asked]
    lengths = [len(encoding.prompt_ids(tokenizer, safe(tokenizer, messages))) for messages in chats]
    # Room for this answer, the next user turn, and the answer that `respond` will ask for
    longest = (entry.context or math.inf) - 2 * params.turns.max_tokens - params.max_tokens
    fitting = [i for i, length in enumerate(lengths) if length <= longest]
    answers = engine.answer(
        [safe(tokenizer, chats[i]) for i in fitting], [seed_of(asked[i]["seed"], "answer", turn) for i in fitting],
        temperature=params.turns.temperature, top_p=1.0, max_tokens=params.turns.max_tokens,
    )  # fmt: skip
    going = []
    for i, done in zip(fitting, answers, strict=True):
        if done.finish == "stop" and done.text.strip():
            asked[i]["context"] = [*chats[i], {"role": "assistant", "content": instructions.normalised(done.text)}]
            going.append(asked[i])
    return going


def from_corpora(
    params: Reconstruct, loaded: list[prompt_files.Prompts], budgets: list[int], good: list[str], entry: manifest.Manifest,
    embeds: manifest.Manifest, fit: instructions.Fit,
) -> tuple[Rows, dict[str, dict]]:  # fmt: skip
    """Rows of all sources, each resampled to the histogram of `good`, what the base wrote that is fit; what to report."""
    assert params.corpus
    if not good:
        what = "the base wrote nothing that is fit, so there is no histogram for the corpus to match"
        raise UserError(what, where="reconstruct", do="raise reconstruct.max_tokens, or remove reconstruct.corpus")
    tokenizer = manifest.tokenizer(entry.folder())
    clusters = corpora.Clusters(embedder.load(embeds, params.batch), good, params.corpus.clusters, params.seed)
    rows: Rows = []
    told: dict[str, dict] = {}
    for budget, prompts in zip(budgets, loaded, strict=True):
        length = lambda text: len(encoding.tokenise(tokenizer, text))  # noqa: E731
        part, told[f"corpus {prompts.name}"] = corpora.resampled(params, budget, prompts, clusters, length, fit)
        rows += part
    return rows, told
