"""The results of a run as tables that the page, the Markdown report and the model cards show. Nothing is escaped here."""

from __future__ import annotations

from typing import Any

from holdfast.params.base import STAGES
from holdfast.reporting.findings import Json, Run, amounts, part
from holdfast.reporting.markup import (
    NONE,
    Column,
    Table,
    count,
    decimal,
    interval,
    is_number,
    p_value,
    percent,
    points,
    score,
)


def arms(run: Run) -> Table:
    rows = []
    for arm, result in run.arms().items():
        general, domain = part(result, "general"), part(result, "domain")
        rows.append(
            [
                run.title(arm),
                str(result.get("verdict")),
                score(general.get("before")),
                score(general.get("after")),
                points(general.get("change")),
                interval(general.get("low"), general.get("high")),
                points(general.get("bound")),
                percent(general.get("retention")),
                points(part(result, "self").get("change")),
                points(domain.get("change")),
                count(general.get("lost")),
                count(general.get("gained")),
            ]
        )
    titles = ["Before", "After", "Change", "Interval", "Bound", "Retention", "Self", "Domain gain", "Lost", "Gained"]
    return Table([Column("Arm"), Column("Verdict", "verdict"), *(Column(t, "number") for t in titles)], rows)


def arms_in_brief(run: Run) -> Table:
    """The arms in the width of a pull request's comment."""
    rows = []
    for arm, entry in run.arms().items():
        general, domain = part(entry, "general"), part(entry, "domain")
        rows.append(
            [
                run.title(arm),
                str(entry.get("verdict")),
                from_to(general.get("before"), general.get("after")),
                points(general.get("change")),
                interval(general.get("low"), general.get("high")),
                points(general.get("bound")),
                percent(general.get("retention")),
                from_to(domain.get("before"), domain.get("after")),
                f"{count(general.get('lost'))} / {count(general.get('gained'))}",
            ]
        )
    titles = ["General", "Change", "Interval", "Bound", "Retention", "Domain", "Lost / gained"]
    return Table([Column("Arm"), Column("Verdict", "verdict"), *(Column(t, "number") for t in titles)], rows)


def from_to(before: Any, after: Any) -> str:
    return f"{score(before)} → {score(after)}" if is_number(before) and is_number(after) else NONE


def moved_suites(run: Run, arm: str) -> tuple[Table, list[str]]:
    """(suites that changed, in the width of a comment; the names of those in which no item did)."""
    rows, still = [], []
    for name, s in sorted(part(run.gate, "arms", arm, "suites").items(), key=damage):
        if s.get("lost") == s.get("gained") == s.get("change") == 0 and s.get("verdict") == "pass":
            still.append(name)
            continue
        rows.append(
            [
                name,
                str(s.get("verdict") or NONE),
                from_to(adjusted_score(s, "before"), adjusted_score(s, "after")),
                points(s.get("change")),
                interval(s.get("low"), s.get("high")),
                score(s.get("margin")),
                f"{count(s.get('lost'))} / {count(s.get('gained'))}",
                count(s.get("items")),
                str(s.get("role", "")),
            ]
        )
    titles = ["Before → after", "Change", "Interval", "Margin", "Lost / gained", "Items"]
    columns = [Column("Suite"), Column("Verdict", "verdict"), *(Column(t, "number") for t in titles), Column("Role")]
    return Table(columns, rows, arm=arm), still


def suites(run: Run, arm: str) -> Table:
    """One row per suite: general ones first, then the domain's; of each what dropped most first."""
    names = part(run.gate, "arms", arm, "suites")
    rows = []
    for name, s in sorted(names.items(), key=damage):
        rows.append(
            [
                name,
                str(s.get("verdict") or NONE),
                str(s.get("role", "")),
                count(s.get("items")),
                score(adjusted_score(s, "before")),
                score(adjusted_score(s, "after")),
                points(s.get("change")),
                interval(s.get("low"), s.get("high")),
                count(s.get("lost")),
                count(s.get("gained")),
                p_value(s.get("mcnemar_p")),
                score(s.get("margin")),
            ]
        )
    kinds = {"Lost": "lost", "Gained": "gained"}
    titles = ["Items", "Before", "After", "Change", "Interval", "Lost", "Gained", "p", "Margin"]
    numbers = [Column(t, kinds.get(t, "number")) for t in titles]  # type: ignore[arg-type]
    return Table([Column("Suite"), Column("Verdict", "verdict"), Column("Role"), *numbers], rows, arm=arm)


def damage(item: tuple[str, Any]) -> tuple[bool, float, str]:
    """The sort key of a suite in a table; one without a score comes first, since something is wrong with it."""
    name, suite = item
    change = part(suite, "change")
    return part(suite, "role") != "general", change if is_number(change) else float("-inf"), name


def adjusted_score(suite: Json, when: str) -> Any:
    return suite.get(f"{when}_adjusted", suite.get(when))


def cost(run: Run) -> Table:
    rows = []
    for arm in run.arms():
        if not (ledger := run.ledgers.get(arm)):
            continue
        objective = str(ledger.get("objective", NONE))
        if is_number(ledger.get("kl_coefficient")):
            objective += f" × {ledger['kl_coefficient']:g}"
        if is_number(part(ledger, "average", "chosen")):
            objective += f", {ledger['average']['chosen']:g} of the way"
        tokens, flops = part(ledger, "trained_tokens"), ledger.get("flops")
        rows.append(
            [
                run.title(arm),
                objective,
                f"{ledger['learning_rate']:g}" if is_number(ledger.get("learning_rate")) else NONE,
                count(ledger.get("steps")),
                both(part(ledger, "rows")),
                both(tokens),
                percent(ledger.get("share")),
                decimal(flops / 1e12 if is_number(flops) else None, 1),
                f"{decimal(ledger.get('loss_first'))} → {decimal(ledger.get('loss_last'))}",
            ]
        )
    titles = ["Learning rate", "Steps", "Rows", "Trained tokens", "Share", "TFLOP", "Loss"]
    return Table([Column("Arm"), Column("Objective"), *(Column(t, "number") for t in titles)], rows)


def stages(run: Run) -> Table:
    """Tokens and operations of every stage in the order of the pipeline, each stage's share of all operations, and sums."""
    place = {name: n for n, name in enumerate(STAGES)}
    names = sorted(run.costs, key=lambda name: (place.get(name.partition("/")[0], len(place)), name))
    costs = list(run.costs.values())
    total = {key: sum(amounts(costs, key)) for key in ("read", "written", "trained", "flops")}
    rows = [stage_cost(name.replace("/", ", "), run.costs[name], total["flops"]) for name in names]
    rows += [stage_cost("all", total, total["flops"])] if names else []
    titles = ["Tokens read", "written", "trained", "TFLOP", "of all"]
    return Table([Column("Stage"), *(Column(t, "number") for t in titles)], rows, strong=frozenset([len(names)]))


def stage_cost(name: str, cost: Json, all_flops: float) -> list[str]:
    tokens = [count(cost[key]) if cost.get(key) else NONE for key in ("read", "written", "trained")]
    flops = cost.get("flops")
    if not (is_number(flops) and flops):
        return [name, *tokens, NONE, NONE]
    return [name, *tokens, decimal(flops / 1e12), percent(flops / all_flops)]


def both(content: Json) -> str:
    return f"{count(content.get('domain'))} + {count(content.get('replay'))}"


def funnel(run: Run) -> Table:
    """Where rows went on the way to the replay set."""
    rows = []
    if run.reconstruct:
        rows.append(["reconstruct", NONE, count(run.reconstruct.get("rows")), NONE])
    for name, content, read, key_out in (
        ("curate", run.curate, "read", "kept"),
        ("consensus", run.consensus, "instructions", "kept"),
        ("balance", run.balance, "candidates", "rows"),
    ):
        if content:
            reasons = sorted(numbers(part(content, "rejected")), key=lambda item: (-item[1], item[0]))
            rows.append(
                [
                    name,
                    count(content.get(read)),
                    count(content.get(key_out)),
                    ", ".join(f"{r} {count(n)}" for r, n in reasons) or NONE,
                ]
            )
    return Table(
        [Column("Stage"), Column("Rows in", "number"), Column("Rows out", "number"), Column("Rejected for")], rows
    )


def families(run: Run) -> Table:
    """What the rows of the replay set are to keep, by family, and how many of them refuse."""
    whole = run.balance.get("rows")
    refusals = part(run.balance, "refusals")
    rows = [
        [str(family), count(counts.get("candidates")), count(counts.get("rows")), percent(counts.get("share"))]
        for family, counts in sorted(part(run.balance, "families").items())
        if isinstance(counts, dict)
    ]
    if refusals:
        kept = refusals.get("rows")
        share = kept / whole if is_number(kept) and is_number(whole) and whole else None
        rows.append(["refused, in any family", count(refusals.get("candidates")), count(kept), percent(share)])
    titles = ["Candidates", "Replayed", "Share"]
    return Table([Column("Family"), *(Column(t, "number") for t in titles)], rows)


def domain(run: Run) -> Table:
    """What became of the domain's rows, their fields and their texts."""

    def list_counts(content: Json, key: str) -> str:
        pairs = sorted(numbers(part(content, key)), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{name} {count(n)}" for name, n in pairs) or NONE

    rows = [
        [
            name,
            *(count(split.get(key)) for key in ("read", "kept")),
            *(list_counts(split, key) for key in ("rejected", "unused", "changed")),
        ]
        for name, split in sorted(part(run.ingest, "splits").items(), reverse=True)
        if isinstance(split, dict)
    ]
    titles = ["Rejected for", "Fields not used", "Texts changed"]
    columns = [Column("Split"), Column("Rows read", "number"), Column("kept", "number")]
    return Table([*columns, *map(Column, titles)], rows)


def overlap(run: Run) -> Table:
    """Rows that curate removed because they came too close to an evaluation item."""
    removed = numbers(part(run.curate, "evaluation_overlap"))
    rows = [[suite, count(n)] for suite, n in sorted(removed) if n]
    total = [["all suites", count(sum(n for _, n in removed))]] if removed else []
    return Table([Column("Suite"), Column("Rows removed", "number")], rows + total, strong=frozenset([len(rows)]))


def expectations(run: Run, failed_only: bool = False) -> Table:
    rows = []
    for name, suite in sorted(part(run.quality, "suites").items()):
        for result in part(suite, "results") or []:
            if not (failed_only and result.get("success")):
                verdict = "pass" if result.get("success") else "fail"
                seen = result.get("observed")
                rows.append(
                    [
                        name,
                        str(result.get("expectation", "")),
                        str(result.get("column") or NONE),
                        str(result.get("severity", "")),
                        verdict,
                        NONE
                        if seen is None
                        else decimal(seen, 3).removesuffix(".000")
                        if is_number(seen)
                        else str(seen),
                    ]
                )
    last = [Column("Severity"), Column("Result", "verdict"), Column("Observed", "number")]
    return Table([Column("Data"), Column("Expectation"), Column("Column"), *last], rows)


def judges(run: Run) -> Table:
    """The judges' audit: every key that the consensus stage wrote, the usual ones first."""
    entries = {name: part(entry) for name, entry in part(run.consensus, "judges").items()}
    keys = sorted({k for e in entries.values() for k, v in e.items() if not isinstance(v, (dict, list))})
    usual = [k for k in ("mean", "std", "null", "mass") if k in keys]
    keys = usual + [k for k in keys if k not in usual]
    chosen = part(run.consensus, "chosen_from")
    rows = [[name, *(scalar(e.get(k)) for k in keys), count(chosen.get(name))] for name, e in sorted(entries.items())]
    return Table([Column("Judge"), *(Column(words(k), "number") for k in keys), Column("Chosen", "number")], rows)


def agreement(run: Run) -> Table:
    content = part(run.consensus, "agreement")
    plain, within = (dict(numbers(part(content, key))) for key in ("pairs", "within"))
    rows = [[p.replace("~", " and "), decimal(plain.get(p)), decimal(within.get(p))] for p in sorted(plain | within)]
    return Table(
        [Column("Judges"), Column("Pearson correlation", "number"), Column("Within instructions", "number")], rows
    )


def drift(run: Run, drifted_only: bool = False) -> Table:
    rows = []
    for arm in run.arms():
        for suite, numbers_of in sorted(part(run.drift, "arms", arm).items()):
            marks = [word for word in ("score", "length") if part(numbers_of, word, "drift") is True]
            if marks or not drifted_only:
                rows.append(
                    [
                        run.title(arm),
                        suite,
                        p_value(part(numbers_of, "score").get("p")),
                        decimal(part(numbers_of, "length").get("distance")),
                        " and ".join(marks) or "none",
                    ]
                )
    numbers = [Column("Score, p", "number"), Column("Length, distance", "number")]
    return Table([Column("Arm"), Column("Suite"), *numbers, Column("Drift in")], rows)


def flows(run: Run) -> Table:
    """How far the instructions of one stage are from those of another; ▲ where that is past its threshold."""
    measures = ("characters", "words", "clusters", "difficulty", "embeddings")
    rows = []
    for flow, entry in part(run.drift, "instructions").items():
        results = [part(entry, measure) for measure in measures]
        values = [
            part(f).get("auc", part(f).get("distance", part(f).get("p"))) if isinstance(f, dict) else None
            for f in results
        ]
        marks = [" ▲" if part(f, "drift") is True else "" for f in results]
        rows.append([str(flow), *(decimal(value) + mark for value, mark in zip(values, marks, strict=True))])
    return Table([Column("Instructions"), *(Column(words(m), "number") for m in measures)], rows)


def models(run: Run) -> Table:
    rows = [
        [
            str(m.get("name")),
            str(m.get("source")),
            str(m.get("revision"))[:12],
            str(m.get("architecture")),
            count(m.get("parameters")),
        ]
        for m in run.models
    ]
    return Table(
        [Column("Model"), Column("Source"), Column("Revision"), Column("Architecture"), Column("Parameters", "number")],
        rows,
    )


def replay(run: Run) -> Table:
    rows = [[r["instruction"], r["response"], r["model"], decimal(r["score"])] for r in run.replay]
    return Table(
        [Column("Instruction", "quote"), Column("Response", "quote"), Column("Written by"), Column("Score", "number")],
        rows,
    )


def settings(content: Json, skip: tuple[str, ...] = ("schema",)) -> Table:
    """Any JSON object as two columns, nested keys joined by dots."""
    rows: list[list[str]] = []

    def walk(inner: Any, path: str) -> None:
        if isinstance(inner, dict):
            for key in sorted(inner):
                walk(inner[key], f"{path}.{key}" if path else str(key))
        else:
            rows.append([path, ", ".join(map(scalar, inner)) if isinstance(inner, list) else scalar(inner)])

    walk({k: v for k, v in content.items() if k not in skip}, "")
    return Table([Column("Setting"), Column("Value")], rows)


def numbers(content: Any) -> list[tuple[str, Any]]:
    return [(str(k), v) for k, v in content.items() if is_number(v)] if isinstance(content, dict) else []


def scalar(value: Any) -> str:
    if value is None:
        return NONE
    return (
        (count(value) if isinstance(value, int) else f"{value:.4g}".replace("-", "−"))
        if is_number(value)
        else str(value)
    )


def words(key: str) -> str:
    return key.replace("_", " ").capitalize()
