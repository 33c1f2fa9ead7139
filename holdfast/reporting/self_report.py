"""The self suite in the report: its figures for every arm, and the answers that lost most beside the base's."""

from __future__ import annotations

from holdfast.evaluation import self_outcomes
from holdfast.evaluation.self_outcomes import Answer
from holdfast.reporting.findings import Run, part
from holdfast.reporting.markup import (
    Column,
    Table,
    count,
    decimal,
    fold,
    html_table,
    markdown,
    markdown_table,
    percent,
    points,
    score,
    section,
    summary_line,
    take_fitting,
)

SHOWN = 10  # answers of an arm in the page
SHOWN_IN_MARKDOWN = 4
TEXT = 300  # characters of a prompt or an answer
NOTE = (
    "Instructions that the base wrote and no arm trained on. *Likelihood*: geometric mean probability per token of the base's "
    "greedy answer. *Chat*: part that the arm answers at all, and not in the manner of the domain, in a loop or with one "
    "sentence for all. These two make up the self score. An arm may answer in other words than the base: chrF, KL (nats per "
    "token of the base's answer), length (after ÷ before) and distinct answers are shown and decide nothing."
)
ABSENT = "The self suite was not asked, so whether the model still answers as the base did is not measured."


def figures(run: Run) -> Table:
    rows = []
    for arm, file in run.pairs.arms.items():
        if (outcome := self_outcomes.describe(run.pairs.base, file)) is None:
            continue
        own = part(run.gate, "arms", arm, "self")
        rows.append(
            [
                run.title(arm),
                f"{score(own.get('before'))} → {score(own.get('after'))}",
                points(own.get("change")),
                points(own.get("bound")),
                f"{score(outcome.likelihood[0])} → {score(outcome.likelihood[1])}",
                percent(outcome.chat),
                percent(outcome.equal),
                score(outcome.chrf),
                decimal(outcome.kl, 3),
                decimal(outcome.length),
                f"{percent(outcome.distinct[0], 0)} → {percent(outcome.distinct[1], 0)}",
            ]
        )
    titles = ["Self score", "Change", "Bound", "Likelihood", "Chat", "Same answer", "chrF", "KL", "Length", "Distinct"]
    return Table([Column("Arm"), *(Column(title, "number") for title in titles)], rows)


def worst(run: Run, arm: str, most: int) -> Table:
    answers = self_outcomes.find_worst(run.pairs.base, run.pairs.arms[arm], most)
    columns = [Column(title, "quote") for title in ("Asked", "Base answered", "Tuned answered")]
    return Table(
        [*columns, Column("Likelihood", "number"), Column("")], [answer_row(run, answer) for answer in answers]
    )


def answer_row(run: Run, answer: Answer) -> list[str]:
    prompt = answer.prompt.removeprefix(run.pairs.opening).removesuffix(run.pairs.closing)
    texts = [text[:TEXT] + ("…" if len(text) > TEXT else "") for text in (prompt, answer.before, answer.after)]
    change = f"{score(answer.likelihood[0])} → {score(answer.likelihood[1])}"
    return [*texts, change, "collapsed" if answer.collapsed else ""]


def page_section(run: Run) -> str:
    table = figures(run)
    if not table.rows:
        return section("Self", f'<p class="absent">{ABSENT}</p>')
    answers = [
        fold(f"{run.title(arm)}: the {count(len(lost.rows))} answers that lost most", html_table(lost))
        for arm in run.arms()
        if (lost := worst(run, arm, SHOWN)).rows
    ]
    return section("Self", html_table(table), *answers, note=NOTE.replace("*", ""))


def markdown_section(run: Run, budget: int) -> str:
    table = figures(run)
    if not table.rows:
        return f"**Self suite**: {markdown(ABSENT)}"
    head = f"**Self suite**:\n\n{markdown_table(table, budget // 3)}\n\n{NOTE}"
    blocks = []
    for arm in run.arms():
        if (lost := worst(run, arm, SHOWN_IN_MARKDOWN)).rows and not run.is_control(arm):
            title = summary_line(f"{run.title(arm)}: the answers that lost most")
            blocks.append(f"<details><summary>{title}</summary>\n\n{markdown_table(lost, budget // 2)}\n\n</details>")
    return "\n\n".join([head, *take_fitting(blocks, max(0, budget - len(head)))])
