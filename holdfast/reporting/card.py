"""The model card of one arm, in the format of the Hugging Face Hub: filled from verdict, metrics, ledgers and dvc.lock only."""

from __future__ import annotations

from typing import Any

from holdfast.reporting import data_tables, findings, run_tables, verdict_tables
from holdfast.reporting.findings import Json, Run, part
from holdfast.reporting.markup import (
    NONE,
    VERDICTS,
    Column,
    Table,
    count,
    decimal,
    is_number,
    markdown,
    markdown_table,
    percent,
    points,
    score,
)
from holdfast.verdict.fields import UNMEASURED

LIMIT = 100_000  # characters of one table; more suites than that belong in the report
SOURCES = {  # stage of dvc.lock -> what its output is; {arm} is filled in
    "ingest": "domain data",
    "balance": "replay set",
    "mix@{arm}": "training mixture",
    "finetune@{arm}": "weights and training log",
    "evaluate@{arm}": "evaluation after",
    "evaluate-base": "evaluation before",
}
SETTINGS = ("mix@{arm}", "finetune@{arm}", "gate")


def compose(run: Run, arm: str) -> str:
    """YAML front matter and Markdown. Nothing in it comes from a clock, a host or a person's memory."""
    verdict = str(run.gate["arms"][arm].get("verdict"))
    sign, word = VERDICTS.get(verdict, ("", verdict))
    word = f"{word} ({UNMEASURED})" if verdict == "pass" and not run.gate["domain_measured"] else word
    claim, backing = findings.claim(run, arm)
    control = " It is the control: what happens without replay, not a model to use." if run.is_control(arm) else ""
    reasons = [f"- {markdown(reason, 1200)}" for reason in part(run.gate, "arms", arm, "reasons") or []]
    blocks = [
        f"---\n{front_matter(run, arm)}---",
        f"# {markdown(arm)}",
        f"**{sign} {word}**: {markdown(claim)} ({markdown(backing)}).{control}",
        "\n".join(reasons),
        f"## The model\n\n{origin(run, arm)}",
        f"## Evaluation\n\n{evaluation(run, arm)}",
        f"## Training\n\n{training(run, arm)}",
        f"## Data\n\n{data(run)}",
        f"## Made from\n\n{source_files(run.lock, arm)}",
        "## Not covered\n\n- Licence, languages and intended use are not recorded by the pipeline: those of the base and of the domain data "
        "apply, and whoever publishes the model adds them.\n"
        "- Retention is measured on the general suites above and on nothing else; safety and bias are not measured.",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def front_matter(run: Run, arm: str) -> str:
    """What the Hub reads: base model, tags and, per suite, the raw metric after fine-tuning."""
    from huggingface_hub import EvalResult, ModelCardData

    used, suites = part(run.settings, "suites"), part(run.gate, "arms", arm, "suites")
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=name,
            dataset_name=name,
            metric_type=str(part(used, name).get("metric") or "exact_match"),
            metric_value=suite["after"],
        )
        for name, suite in sorted(suites.items())
        if is_number(suite.get("after"))
    ]
    content = ModelCardData(
        model_name=arm,
        base_model=run.base.get("source") if run.base.get("hub") else None,  # a local folder is no id of the Hub
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["holdfast", "fine-tuned", *(["replay"] if part(run.ledgers.get(arm), "rows").get("replay") else [])],
        eval_results=results or None,
    )
    return content.to_yaml() + "\n"


def origin(run: Run, arm: str) -> str:
    if not (base := run.base):
        return "The base's manifest is not available."
    facts = f"{markdown(base.get('architecture'))}, {count(base.get('parameters'))} parameters"
    text = f"Fine-tuned with Holdfast from {markdown(base.get('source'))} ({facts}, revision {markdown(str(base.get('revision'))[:12])}) "
    if part(run.ledgers.get(arm), "rows").get("replay") == 0:
        return text + "on the domain data alone, without replay."
    return text + (
        "on the domain data and a replay set that stands in for what the base was tuned on: instructions that the base wrote itself, "
        "answered and judged by a panel of models (after [Ding & Wang, 2025](https://arxiv.org/abs/2506.09428))."
    )


def evaluation(run: Run, arm: str) -> str:
    entry = run.gate["arms"][arm]
    general, domain, level = part(entry, "general"), part(entry, "domain"), percent(run.gate.get("confidence"), 0)
    lines = [f"- Retention, general score after ÷ before: {percent(general.get('retention'))}"]
    if is_number(general.get("change")):
        lines.append(
            f"- General: {points(general['change'])} points; with {level} confidence it fell by no more than {bound(general)}"
        )
    if is_number(domain.get("change")):
        lines.append(f"- Domain: {points(domain['change'])} points; with {level} confidence at least {bound(domain)}")
    if is_number(general.get("detectable")):
        lines.append(f"- Smallest general drop that these items can show: {score(general['detectable'])} points")
    engine = run_tables.settings(part(run.settings, "engine"))
    how = f"\n\nMeasured with:\n\n{markdown_table(engine, LIMIT)}" if engine.rows else ""
    note = "\n\nScores are chance-adjusted, in points of 100; the raw metric stands in the front matter.\n\n"
    return "\n".join(lines) + note + markdown_table(verdict_tables.suites(run, arm), LIMIT) + how


def bound(change: Json) -> str:
    value = change.get("bound")
    return (
        f"{points(-value if is_number(value) and value < 0 else value).lstrip('+')} points"
        if is_number(value)
        else NONE
    )


def training(run: Run, arm: str) -> str:
    """What was measured, from the ledger; what was set, from dvc.lock: the values as they were when the stage ran."""
    ledger = run.ledgers.get(arm, {})
    tokens, rows, flops = part(ledger, "trained_tokens"), part(ledger, "rows"), ledger.get("flops")
    measured = [
        ["rows, domain + replay", run_tables.both(rows)],
        ["trained tokens, domain + replay", run_tables.both(tokens)],
        ["share of replay in rows", percent(ledger.get("share"))],
        ["optimiser steps", count(ledger.get("steps"))],
        ["TFLOP", decimal(flops / 1e12 if is_number(flops) else None, 1)],
        ["loss, first → last", f"{decimal(ledger.get('loss_first'))} → {decimal(ledger.get('loss_last'))}"],
    ]
    wanted: dict[str, Any] = {}
    for stage in SETTINGS:
        wanted |= part(run.lock, "stages", name_stage(run.lock, stage, arm), "params", "params.yaml")
    table = run_tables.settings(wanted)
    blocks = [markdown_table(Table([Column("Measured"), Column("Value", "number")], measured), LIMIT)] if ledger else []
    blocks += [f"As set when the stages ran:\n\n{markdown_table(table, LIMIT)}"] if table.rows else []
    return "\n\n".join(blocks) or "Not available."


def name_stage(lock: Json, stage: str, arm: str) -> str:
    """The name in dvc.lock of what made this model: further trainings of an arm have stages of their own, and its mixture."""
    stages = part(lock, "stages")
    again, name = stage.replace("@", "-retrain@").format(arm=arm), stage.format(arm=arm)
    if again in stages and again != name:
        return again
    of_arm = stage.format(arm=arm.rpartition("-")[0])
    return of_arm if name not in stages and of_arm in stages else name


def data(run: Run) -> str:
    funnel = data_tables.funnel(run)
    checks, failed = data_tables.expectations(run), data_tables.expectations(run, failed_only=True)
    lines = [markdown_table(funnel, LIMIT)] if funnel.rows else []
    if checks.rows:
        lines.append(f"{len(checks.rows) - len(failed.rows)} of {len(checks.rows)} data expectations hold.")
    close = data_tables.overlap(run)
    if close.rows:
        lines.append(f"Rows removed for being close to an evaluation item: {close.rows[-1][1]}.")
    return "\n\n".join(lines) or "Not available."


def source_files(lock: Json, arm: str) -> str:
    """Outputs of the stages behind the model, with the hashes that `dvc pull` finds them by."""
    rows = []
    for stage, what in SOURCES.items():
        for out in part(lock, "stages", name_stage(lock, stage, arm), "outs") or []:
            rows.append([what, str(out.get("path")), str(out.get("md5")), count(out.get("size"))])
    if not rows:
        return "dvc.lock does not record these stages."
    columns = [Column("What"), Column("Path"), Column("MD5 in dvc.lock"), Column("Bytes", "number")]
    return markdown_table(Table(columns, rows), LIMIT)
