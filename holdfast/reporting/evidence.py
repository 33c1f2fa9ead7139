"""The sections of the HTML report that stand behind the verdict: training, data, judges, drift, method."""

from __future__ import annotations

from holdfast.reporting import charts, data_tables, findings, run_tables, share_report
from holdfast.reporting.findings import Run, part
from holdfast.reporting.markup import count, decimal, fold, html, html_table, is_number, score, section, titled_table

Curves = dict[str, list[tuple[float, float]]]  # arm -> (step, value)


def sections(run: Run) -> list[str]:
    return [training(run), data(run), judges(run), drift(run), method(run)] if run.trained_here else [method(run)]


CURVES = {
    "train/loss": "Loss, as trained",
    "train/domain_loss": "Cross-entropy on rows of the domain",
    "train/replay_loss": "Cross-entropy on replay rows",
    "train/kl": "KL to the base on replay rows",
    "train/kl_factor": "Factor on the KL's weight, steered by kl_target",
    "train/target_kl": "KL to the base on tokens with cross-entropy",
    "train/anchor": "Penalty on the distance from the base's weights",
    "train/learning_rate": "Learning rate",
    "train/grad_norm": "Norm of the gradient",
}
MAX_CURVES = 8  # figures of one page


def choose_curves(curves: dict[str, Curves]) -> list[tuple[str, Curves]]:
    """What is plotted, the loss first, each curve of an arm once: without replay the loss is that on the domain."""
    chosen: list[tuple[str, Curves]] = []
    for metric in sorted(curves, key=lambda name: (name != "train/loss", name)):
        new = {arm: c for arm, c in curves[metric].items() if all(c != other.get(arm) for _, other in chosen)}
        if new:
            chosen.append((metric, new))
    return chosen[:MAX_CURVES]


def training(run: Run) -> str:
    plates = "".join(
        charts.curves(
            by_arm,
            f"{CURVES.get(metric, metric)}.",
            "Losses of different objectives do not compare." if "loss" in metric and len(by_arm) > 1 else "",
        )
        for metric, by_arm in choose_curves(run.curves)
    )
    examples = [
        fold(
            f"{run.title(arm)}: a row as the loss sees it (_ stands for a masked token)",
            f"<pre>{html(ledger['preflight'], 4000)}</pre>",
        )
        for arm in run.arms()
        if (ledger := run.ledgers.get(arm)) and ledger.get("preflight")
    ]
    return section(
        "Training",
        titled_table("Cost and share", run_tables.cost(run)),
        f"<p>{html(text)}</p>" if (text := findings.describe_price(run)) else "",
        fold("What every stage took", html_table(stages)) if (stages := run_tables.stages(run)).rows else "",
        f'<div class="plates">{plates}</div>' if plates else "",
        *share_report.sections(run),
        *examples,
        note="Rows and tokens: domain + replay. Share: part of the rows that comes from the replay set.",
    )


def data(run: Run) -> str:
    checks, failed = data_tables.expectations(run), data_tables.expectations(run, failed_only=True)
    hold = f"{len(checks.rows) - len(failed.rows)} of {len(checks.rows)} expectations hold."
    sizes = [n for n in part(run.curate, "cluster_sizes") or [] if is_number(n)]
    evenness, earlier = run.balance.get("entropy"), run.balance.get("entropy_before")
    facts = [f"{count(run.curate.get('clusters') or len(sizes))} clusters"] if sizes else []
    facts += [f"from {count(min(sizes))} to {count(max(sizes))} rows each"] if sizes else []
    facts += (
        [f"evenness of the replay set over clusters and difficulty (normalised entropy) {decimal(evenness, 3)}"]
        if is_number(evenness)
        else []
    )
    facts += [f"{decimal(earlier, 3)} before balancing"] if is_number(earlier) else []
    return section(
        "Data",
        f"<p>{html(text)}</p>" if (text := findings.describe_reconstruction(run)) else "",
        titled_table("Domain data", data_tables.domain(run)),
        titled_table("From reconstructed to replayed", data_tables.funnel(run)),
        f"<p>{html(', '.join(facts))}.</p>" if facts else "",
        titled_table(
            "Removed for being close to an evaluation item",
            data_tables.overlap(run),
            "none" if run.curate else "not available",
        ),
        titled_table("The replay set by family", data_tables.families(run)) if data_tables.families(run).rows else "",
        titled_table("Rows of the replay set", data_tables.replay(run)),
        "<h3>Quality</h3>",
        f"<p>{html(hold)}</p>" if checks.rows else '<p class="absent">not available</p>',
        html_table(failed) if failed.rows else "",
        fold("Every expectation", html_table(checks)) if checks.rows else "",
    )


def judges(run: Run) -> str:
    if not run.consensus:
        return section("Judges", '<p class="absent">not available</p>')
    if run.consensus.get("calls") == 0:
        return section(
            "Judges", f"<p>No judge was asked; responses chosen by {html(run.consensus.get('strategy'))}.</p>"
        )
    shown = ("schema", "judges", "score_histogram", "rejected", "chosen_from")
    other = run.consensus | {"agreement": {k: v for k, v in part(run.consensus, "agreement").items() if k != "pairs"}}
    bins = part(run.consensus, "score_histogram") or []
    chart = (
        charts.histogram(bins, 1, 5, "Mean scores of the chosen responses.", "1 to 5, averaged over the judges.")
        if bins
        else ""
    )
    text = [
        findings.describe_judging(run),
        findings.describe_independence(run),
        *map(str, part(run.consensus, "warnings") or []),
    ]
    return section(
        "Judges",
        "".join(f"<p>{html(sentence)}</p>" for sentence in text if sentence),
        titled_table("Audit", data_tables.judges(run)),
        f'<div class="plates"><div>{titled_table("Agreement", data_tables.agreement(run))}</div>{chart}</div>',
        fold("Everything the consensus stage counted", html_table(run_tables.settings(other, shown))),
        note="Judges score responses from 1 to 5; the audit is of a random sample that all of them scored whole. Mass: probability that the judge put on the five score tokens. Chosen: how many of its own responses were.",
    )


def drift(run: Run) -> str:
    table, flows, methods = data_tables.drift(run), data_tables.flows(run), part(run.drift, "methods")
    if not table.rows:
        return section("Drift", '<p class="absent">not available</p>')
    return section(
        "Drift",
        titled_table("Instructions, from stage to stage", flows) if flows.rows else "",
        "<h3>Answers, before against after</h3>",
        f"<p>{html(findings.describe_drift(run))}</p>",
        fold("Per-item scores and lengths", html_table(table)),
        fold("Methods and thresholds", html_table(run_tables.settings(methods))) if methods else "",
        note=html(findings.describe_flows(run), 1000)
        + " Hints for the eye: whether the model forgot is the verdict's question.",
    )


def method(run: Run) -> str:
    keys = ("margin", "suite_margin", "self_margin", "min_domain_gain", "confidence", "resamples", "control")
    demanded = {k: run.gate[k] for k in keys if k in run.gate}
    links = "".join(f'<li><a href="{html(path)}">{html(words)}</a></li>' for words, path in run.links)
    detectable = [
        f"{run.title(a)} {score(part(e, 'general').get('detectable'))}"
        for a, e in run.arms().items()
        if part(e, "general").get("detectable") is not None
    ]
    terms = {
        "Chance-adjusted": "(accuracy − chance) ÷ (1 − chance); the general score is the mean over general suites.",
        "Interval": "paired bootstrap over items, stratified by suite; p is from the exact McNemar test.",
        "Lost, gained": "right before and wrong after; wrong before and right after.",
        "Retention": "general score after ÷ general score before.",
        "Cannot compare": "an evaluation that allows no statement; it is not a pass.",
    }
    return section(
        "Method",
        '<dl class="terms">' + "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in terms.items()) + "</dl>",
        f"<p>Smallest general drop that these items can show, in points: {html('; '.join(detectable))}.</p>"
        if detectable
        else "",
        titled_table("Demanded", run_tables.settings(demanded)),
        titled_table("Models", run_tables.models(run)),
        fold("Settings of the evaluation", html_table(run_tables.settings(part(run.settings, "engine"))))
        if part(run.settings, "engine")
        else "",
        f"<h3>Beside this page</h3><ul>{links}</ul>" if links else "",
    )
