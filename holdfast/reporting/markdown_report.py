"""The Markdown report: what a reviewer reads in a pull request. Always shorter than a comment may be."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.reporting import data_tables, findings, run_tables, self_report, verdict_tables
from holdfast.reporting.findings import Run, part
from holdfast.reporting.markup import (
    CHANGES,
    LINKS,
    Table,
    count,
    is_number,
    markdown,
    markdown_table,
    percent,
    points,
    quote,
    summary_line,
    take_fitting,
)

LIMIT = 54_000  # characters; a comment takes 60,000, of which `holdfast comment` uses the rest
LOST = "lost"  # kind of an item (holdfast/verdict/outcomes.py, which reads Parquet; this module needs none)
CONTROL = 2  # lost items of the control: that it loses many is expected
ANSWER = 240  # characters shown of a prompt or an answer


def compose(run: Run, title: str, lost_items: int) -> str:
    """Sections in order of reading; each may use a part of what was left when it was written. What matters most is written
    first and the lost items last, since they fill whatever room there is."""
    written = 0

    def room(share: float = 1.0) -> int:
        return int(share * (LIMIT - written))

    def add(to: list[str], text: str) -> None:
        nonlocal written
        if text:
            to.append(text)
            written += len(text) + 2

    top: list[str] = []
    bottom: list[str] = []
    level = percent(run.gate.get("confidence"), 0)
    add(top, opening(run, title))
    noise, trainings = (markdown(text) for text in (findings.describe_noise(run), findings.describe_trainings(run)))
    add(
        top,
        markdown_table(verdict_tables.arms_in_brief(run), room(0.15))
        + "\n\n"
        + f"{NOTE.format(level=level)} {trainings} {noise}".rstrip(),
    )
    judged = [arm for arm in run.arms() if not run.is_control(arm)]
    add(top, "\n".join(take_fitting([line for arm in judged for line in reasons(run, arm)], room(0.1))))
    add(top, self_report.markdown_section(run, room(0.2)))
    arms = list(run.arms())
    shown = arms[: max(1, room(0.55) // 1500)]
    share = room(0.55) // len(shown)
    for arm in shown:
        add(top, suites(run, arm, share))
    if left_out := len(arms) - len(shown):
        add(top, f"{left_out:,} more arms stand, suite by suite, in index.html.")
    if run.trained_here:
        add(bottom, cost(run, room(0.15)))
        add(bottom, data(run, room(0.25)))
        add(bottom, judges(run, room(0.2)))
        add(bottom, drift(run, room(0.1)))
    links = [f"[{words}]({path})" for words, path in [("Full report with every figure", "index.html"), *run.links]]
    add(bottom, f"{CHANGES}\n{LINKS}\n" + " · ".join(take_fitting(links, room(0.1))))
    add(top, lost(run, shown, lost_items, room() - 200))
    text = "\n\n".join([*top, *bottom]) + "\n"
    assert len(text) <= LIMIT, f"report.md has {len(text)} characters"
    return text


NOTE = (
    "Scores are chance-adjusted, in points of 100. *Bound*: with {level} confidence the general score fell by no more than this. "
    "*Retention*: general score after ÷ before. *Lost*: right before and wrong after; *gained*: the reverse."
)


def opening(run: Run, title: str) -> str:
    word, claim, backing = findings.headline(run)
    base = f"{run.base.get('source')}, revision {str(run.base.get('revision'))[:12]}" if run.base else "unknown"
    return f"## {word}: {markdown(claim)} ({markdown(backing)})\n\n{markdown(title, 200)}. Base: {markdown(base, 200)}"


def reasons(run: Run, arm: str) -> list[str]:
    return [
        f"- **{markdown(run.title(arm))}**: {markdown(reason, 1200)}"
        for reason in part(run.gate, "arms", arm, "reasons") or []
    ]


def suites(run: Run, arm: str, budget: int) -> str:
    entry = run.gate["arms"][arm]
    shown = "" if run.is_control(arm) else " open"
    general = part(entry, "general")
    summary = f"{run.title(arm)}: {points(general.get('change'))} points general, {points(part(entry, 'domain').get('change'))} domain, by suite"
    # the reasons of the others stand under the verdict; that a control fails is what it is for
    why = "\n".join(take_fitting(reasons(run, arm), budget // 3)) + "\n\n" if run.is_control(arm) else ""
    moved, still = verdict_tables.moved_suites(run, arm)
    same = (
        f"No item changed in {len(still)} of {len(still) + len(moved.rows)} suites: {', '.join(still)}" if still else ""
    )
    same = markdown(same, budget // 3)
    table = markdown_table(moved, budget - 400 - len(why) - len(same)) if moved.rows else ""
    body = "\n\n".join(filter(None, [table, same]))
    return f"<details{shown}><summary>{summary_line(summary)}</summary>\n\n{why}{body}\n\n</details>"


def details(title: str, table: Table, budget: int) -> str:
    if not table.rows:
        return f"**{title}**: not available."
    return f"<details><summary>{summary_line(title)}</summary>\n\n{markdown_table(table, budget - 100)}\n\n</details>"


def cost(run: Run, budget: int) -> str:
    arms = details(
        "Arms: share of replay (rows and trained tokens: domain + replay)", run_tables.cost(run), budget // 2
    )
    stages = run_tables.stages(run)
    return "\n\n".join(
        [
            f"**Cost**: {markdown(text)}" if (text := findings.describe_price(run)) else "**Cost**:",
            arms,
            *([details("What every stage took", stages, budget // 2)] if stages.rows else []),
        ]
    )


def data(run: Run, budget: int) -> str:
    """Quality, rows removed for being close to an evaluation item, and the way to the replay set."""
    lines = []
    failed = data_tables.expectations(run, failed_only=True)
    checked = len(data_tables.expectations(run).rows)
    if not run.quality:
        lines.append("**Data quality**: not available.")
    elif failed.rows:
        lines += [
            f"**Data quality**: {len(failed.rows)} of {checked} expectations failed.\n",
            markdown_table(failed, budget // 4) + "\n",
        ]
    else:
        lines.append(f"**Data quality**: all {checked} expectations hold.")
    if text := findings.describe_reconstruction(run):
        lines.append(f"**Instructions**: {markdown(text)}")
    close = data_tables.overlap(run)
    total = close.rows[-1][1] if close.rows else "none"
    lines.append(
        f"**Too close to an evaluation item**: {total} rows removed."
        if run.curate
        else "**Overlap with evaluation items**: not available."
    )
    body = []
    for title, table in (
        ("Rows removed, by suite", close),
        ("Domain data", data_tables.domain(run)),
        ("From reconstructed to replayed", data_tables.funnel(run)),
        ("The replay set by family", data_tables.families(run)),
        ("Replay rows", data_tables.replay(run)),
    ):
        if table.rows:
            body.append(f"{title}:\n\n{markdown_table(table, budget // 4 - 100)}")
    if body:
        lines.append(
            "\n<details><summary>Where rows went, and what the replay set looks like</summary>\n\n"
            + "\n\n".join(body)
            + "\n\n</details>"
        )
    return "\n".join(lines)


def judges(run: Run, budget: int) -> str:
    if not run.consensus:
        return "**Judges**: not available."
    mean = run.consensus.get("mean_score")
    strategy = markdown(run.consensus.get("strategy", "unknown strategy"))
    if run.consensus.get("calls") == 0:
        return f"**Judges**: no judge was asked; responses chosen by {strategy}."
    line = f"**Judges**: {count(run.consensus.get('judgements'))} judgements; responses chosen by {strategy}"
    line += f", mean score {mean:.2f}." if is_number(mean) else "."
    line += "".join(
        f" {markdown(text)}" for text in (findings.describe_judging(run), findings.describe_independence(run)) if text
    )
    line += "".join(f"\n- {markdown(warning)}" for warning in (part(run.consensus, "warnings") or [])[:10])
    audit = [markdown_table(t, budget // 3) for t in (data_tables.judges(run), data_tables.agreement(run)) if t.rows]
    return line + (
        "\n\n<details><summary>Judge audit</summary>\n\n" + "\n\n".join(audit) + "\n\n</details>" if audit else ""
    )


def drift(run: Run, budget: int) -> str:
    """What moved: answers before against after where it did, and instructions from stage to stage."""
    if not (text := findings.describe_drift(run)):
        return "**Drift**: not available."
    moved, flows = data_tables.drift(run, drifted_only=True), data_tables.flows(run)
    parts = [markdown_table(flows, budget // 3), markdown(findings.describe_flows(run), 1000)] if flows.rows else []
    parts += [markdown_table(moved, budget // 2)] if moved.rows else []
    title = "Drift of instructions and answers"
    body = f"<details><summary>{title}</summary>\n\n" + "\n\n".join(parts) + "\n\n</details>" if parts else ""
    return f"**Drift**: {markdown(text)}\n\n{body}".rstrip()


def lost(run: Run, arms: Sequence[str], most: int, budget: int) -> str:
    """Lost items with both answers, suites in turn, as many as fit."""
    blocks: list[str] = []
    for number, arm in enumerate(reversed(arms)):  # the control, which needs little, leaves its share to the others
        total = run.pairs.count([LOST], arm)
        lines = []
        for item in run.pairs.first(min(most, CONTROL) if run.is_control(arm) else most, [LOST], arm):
            lines.append(
                f"- {markdown(item.suite, 80)}, {quote(item.item_id, 80)}\n"
                f"  - asked: {quote(item.prompt, ANSWER)}\n"
                f"  - expected: {quote(item.target, ANSWER)}\n"
                f"  - before: {quote(item.before, ANSWER)}\n"
                f"  - after: {quote(item.after, ANSWER)}"
            )
        fitting = take_fitting(lines, budget // (len(arms) - number) - 250)
        if not fitting:
            continue
        summary = f"{run.title(arm)}: {len(fitting):,} of {total:,} lost items, with both answers"
        block = f"<details><summary>{summary_line(summary)}</summary>\n\n" + "\n".join(fitting) + "\n\n</details>"
        budget -= len(block) + 2
        blocks.insert(0, block)
    return "\n\n".join(blocks)
