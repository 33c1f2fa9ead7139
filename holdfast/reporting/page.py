"""The HTML report: one file without any request, for a desk, a phone and paper. Its style and script are page.css and page.js."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from holdfast.reporting import evidence, figures, findings, history, self_report, verdict_tables
from holdfast.reporting.findings import Json, Run, part
from holdfast.reporting.markup import (
    NONE,
    VERDICTS,
    badge,
    clean,
    count,
    embed_json,
    fold,
    html,
    html_table,
    is_number,
    percent,
    score,
    section,
)
from holdfast.reporting.plots import Point
from holdfast.verdict.outcomes import GAINED, KINDS, LOST, Item

HERE = Path(__file__).parent
TEXT = 1500  # characters of a prompt or an answer in the table of items
EMBEDDED = 8_000_000  # bytes of items at most, so that the page stays below 15 MB whatever the models wrote
SECTIONS = ("Verdict", "Suites", "Self", "Items", "Training", "Data", "Judges", "Drift", "Method")
OF_TRAINING = SECTIONS[4:8]  # which a comparison of models from elsewhere does not have


def compose(run: Run, title: str, page_items: int) -> str:
    style = (HERE / "page.css").read_text(encoding="utf-8")
    script = (HERE / "page.js").read_text(encoding="utf-8")
    _, claim, _ = findings.headline(run)
    # hashes instead of 'unsafe-inline': were an escape ever missed, what slips through would still not run
    policy = (
        f"default-src 'none'; style-src '{source_hash(style)}'; script-src '{source_hash(script)}'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    names = [name for name in SECTIONS if run.trained_here or name not in OF_TRAINING]
    links = "".join(
        f'<a href="#{name.lower()}">{name}</a>{history.LINK if name == "Verdict" else ""}' for name in names
    )
    body = "\n".join(
        [
            verdict(run),
            history.PLACE,
            suites(run),
            self_report.page_section(run),
            items(run, page_items),
            *evidence.sections(run),
        ]
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{html(findings.word(run))}: {html(title)}</title>
<style>{style}</style>
</head>
<body>
<header>
<p class="eyebrow">{html(title)}{html(findings.describe_base(run))}</p>
<p class="ruling">{badge(run.gate["verdict"], findings.word(run))}</p>
<h1>{html(claim)}</h1>
<p class="lead">{html(findings.explanation(run), 2000)}</p>
{glance(run)}
</header>
<nav aria-label="Sections">{links}</nav>
<main>
{body}
</main>
<script>{script}</script>
</body>
</html>
"""


def source_hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def glance(run: Run) -> str:
    """Base and every arm at a glance: three numbers each."""
    cards = []
    for arm, arm_result in run.arms().items():
        general, own, domain = (part(arm_result, role) for role in ("general", "self", "domain"))
        facts = [
            ("retention", percent(general.get("retention"))),
            (
                "general",
                f"{score(general.get('before'))} → {score(general.get('after'))}"
                if general.get("after") is not None
                else NONE,
            ),
            (
                "domain",
                f"{score(domain.get('before'))} → {score(domain.get('after'))}"
                if domain.get("after") is not None
                else NONE,
            ),
        ]
        if is_number(own.get("after")):
            facts.insert(2, ("self", f"{score(own.get('before'))} → {score(own.get('after'))}"))
        numbers = "".join(f"<div><dt>{name}</dt><dd>{html(value)}</dd></div>" for name, value in facts)
        cards.append(
            f'<div class="card"><p>{html(run.title(arm))} {badge(arm_result.get("verdict"))}</p><dl>{numbers}</dl></div>'
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def verdict(run: Run) -> str:
    gate, arms = run.gate, run.arms()
    kinds = {arm: kind if (kind := str(entry.get("verdict"))) in VERDICTS else "" for arm, entry in arms.items()}
    general = {arm: part(entry, "general") for arm, entry in arms.items()}
    domain = {arm: part(entry, "domain") for arm, entry in arms.items()}
    before = next((g["before"] for g in general.values() if is_number(g.get("before")) and g["before"] > 0), None)
    margin = next((size for arm in arms if is_number(size := run.margin(arm))), None)
    keep = 1 - margin / before if before and margin is not None else None
    changes = [
        Point(run.title(a), g.get("change"), g.get("bound"), (g.get("low"), g.get("high")), kind=kinds[a])
        for a, g in general.items()
    ]
    trade = [
        Point(
            run.title(a),
            domain[a].get("change"),
            g.get("retention"),
            (domain[a].get("low"), domain[a].get("high")),
            (g.get("retention_low"), g.get("retention_high")),
            kinds[a],
        )
        for a, g in general.items()
    ]
    reason_lists = {
        a: "".join(f"<li>{html(reason, 1200)}</li>" for reason in part(e, "reasons") or []) for a, e in arms.items()
    }
    reasons = "".join(  # that a control fails is what it is for
        fold(f"{run.title(a)}: why", f"<ul>{lines}</ul>")
        if run.is_control(a)
        else f"<p><b>{html(run.title(a))}</b></p><ul>{lines}</ul>"
        for a, lines in reason_lists.items()
        if lines
    )
    return section(
        "Verdict",
        html_table(verdict_tables.arms(run)),
        '<div class="plates"><div>',
        figures.change_against_margin(changes, margin, gate.get("confidence")),
        f'<div class="reasons">{reasons}</div>' if reasons else "",
        "</div>",
        figures.pareto(trade, keep),
        "</div>",
        f"<p>{html(noise)}</p>" if (noise := findings.describe_noise(run)) else "",
        note="Scores are chance-adjusted and in points of 100. An arm passes when the bound of its general change stays inside the margin, "
        "no suite drops past its own margin, and the bound of the domain gain reaches what was asked for. "
        + findings.describe_trainings(run),
    )


def suites(run: Run) -> str:
    """Per arm a dumbbell plot, lost and gained, and the table; suites in one order everywhere, the most damaged first."""
    worst: dict[str, float] = {}
    for arm_result in run.gate["arms"].values():
        for name, s in part(arm_result, "suites").items():
            change = s["change"] if is_number(s.get("change")) else 0.0
            worst[name] = min(change, worst.get(name, change))
    order = sorted(worst, key=lambda name: (worst[name], name))
    largest = max(
        (
            n
            for e in run.gate["arms"].values()
            for s in part(e, "suites").values()
            for n in (s.get("lost"), s.get("gained"))
            if is_number(n)
        ),
        default=1,
    )
    dumbbells, bars, details = [], [], []
    for arm, arm_result in run.arms().items():
        by_suite = part(arm_result, "suites")
        moved: dict[str, list[Point]] = {}
        counts: dict[str, list[Point]] = {}
        for role in ("general", "self", "domain"):
            for name in [n for n in order if part(by_suite, n, "role") == role]:
                s = by_suite[name]
                moved.setdefault(role, []).append(
                    Point(
                        name,
                        verdict_tables.adjusted_score(s, "before"),
                        verdict_tables.adjusted_score(s, "after"),
                        (s.get("low"), s.get("high")),
                        kind=direction(s),
                    )
                )
                counts.setdefault(role, []).append(Point(name, s.get("lost"), s.get("gained")))
        title, table = run.title(arm), html_table(verdict_tables.suites(run, arm))
        dumbbells.append(figures.before_after(moved, f"{title}: before and after."))
        bars.append(figures.lost_gained(counts, f"{title}: items lost and gained.", largest))
        details.append(
            fold(f"{title}, suite by suite", table)
            if arm == run.gate.get("control")
            else f"<h3>{html(title)}, suite by suite</h3>{table}"
        )
    return section(
        "Suites",
        '<p class="key"><span class="before">before</span><span class="same">after, no clear change</span><span class="lower">after, lower</span>'
        '<span class="higher">after, higher</span></p>',
        f'<div class="plates">{"".join(dumbbells)}</div><div class="plates">{"".join(bars)}</div>',
        *details,
        note="Ordered by the largest drop in any arm. The band is the interval of the change; a dot has colour only where the band leaves the open dot out.",
    )


def direction(suite: Json) -> str:
    """Coloured only where the interval leaves zero out: what may be noise stays quiet."""
    low, high = suite.get("low"), suite.get("high")
    if is_number(low) and is_number(high):
        return "lower" if high < 0 else "higher" if low > 0 else "same"
    return "same"


def items(run: Run, most: int) -> str:
    """The table of items; its rows are drawn by page.js from JSON, as text and never as markup."""
    arms, names = list(run.arms()), run.pairs.suites
    rows, size = [], 0
    for item in run.pairs.first(most):
        row = item_row(item, arms, names)
        size += len(embed_json(row).encode()) + 1
        if size > EMBEDDED:
            break
        rows.append(row)
    content = {"arms": arms, "suites": names, "kinds": list(KINDS), "items": rows}
    total, changed = run.pairs.count(), run.pairs.count([LOST, GAINED])
    shown = f"{count(len(rows))} of {count(total)} pairs of answers are in this page; {count(changed)} items were lost or gained, and those come first."
    if frame := (run.pairs.opening + " … " + run.pairs.closing if run.pairs.opening or run.pairs.closing else ""):
        shown += f" Questions are shown without the chat template that surrounds each of them: {frame!r}."
    control = '<p class="filter" hidden><label>Search <input id="f-text" type="search" autocomplete="off"></label>'
    for field, options in (("arm", arms), ("suite", names)):
        choices = "".join(f'<option value="{html(o)}">{html(o)}</option>' for o in options)
        control += (
            f'<label>{field.title()} <select id="f-{field}"><option value="">all</option>{choices}</select></label>'
        )
    choices = "".join(
        f'<option value="{kind}">{word}</option>'
        for kind, word in zip(KINDS, ("lost", "gained", "right both times", "wrong both times"), strict=True)
    )
    control += f'<label>Outcome <select id="f-outcome"><option value="">all</option>{choices}</select></label></p>'
    return section(
        "Items",
        control,
        '<p id="f-count" class="count" role="status"></p>',
        '<table id="item-table" hidden><thead><tr><th scope="col">Outcome</th><th scope="col">Asked</th><th scope="col">Expected</th><th scope="col">Base answered</th>'
        '<th scope="col">Tuned answered</th></tr></thead><tbody></tbody></table>',
        '<p><button id="f-more" type="button" hidden>Show more</button></p>',
        "<noscript><p>This table needs JavaScript. report.md beside this page lists some of the lost items.</p></noscript>",
        f'<script type="application/json" id="item-data">{embed_json(content)}</script>',
        note=html(shown, 1000),
    )


def item_row(item: Item, arms: list[str], names: list[str]) -> list[int | str]:
    texts = [clean(t, TEXT) for t in (item.prompt, item.target, item.before, item.after)]
    return [arms.index(item.arm), names.index(item.suite), clean(item.item_id, 80), KINDS.index(item.kind), *texts]
