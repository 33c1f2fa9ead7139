"""What became of the data as tables: rows rejected, judges, drift, the replay set. Nothing is escaped here."""

from __future__ import annotations

from holdfast.reporting.findings import Json, Run, part
from holdfast.reporting.markup import (
    NONE,
    Column,
    Table,
    count,
    decimal,
    is_number,
    numbers,
    p_value,
    percent,
    scalar,
    words,
)


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
        replayed = refusals.get("rows")
        share = replayed / whole if is_number(replayed) and is_number(whole) and whole else None
        rows.append(["refused, in any family", count(refusals.get("candidates")), count(replayed), percent(share)])
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


def replay(run: Run) -> Table:
    rows = [[r["instruction"], r["response"], r["model"], decimal(r["score"])] for r in run.replay]
    return Table(
        [Column("Instruction", "quote"), Column("Response", "quote"), Column("Written by"), Column("Score", "number")],
        rows,
    )
