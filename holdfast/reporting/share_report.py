"""How an arm's mixture was made: the pilot's fit with a plot, replay rows, rewritten answers."""

from __future__ import annotations

from holdfast.reporting.findings import Json, Run, part
from holdfast.reporting.markup import count, decimal, html, is_number, percent
from holdfast.reporting.plots import WIDTH, dot, figure, line, scale, text, ticks
from holdfast.training.rate_choice import rate_sentence
from holdfast.training.share_fit import sentence

LEFT, TOP, BOTTOM = 52, 14, 190  # of the plot, in user units


def sections(run: Run) -> list[str]:
    """HTML for the section on training: a sentence on every mixture that is out of the ordinary, a plot for every pilot."""
    parts = [f"<p>{html(words, 2000)}</p>" for arm in run.arms() for words in sentences(run, arm)]
    plots = [plot(pilot) for arm in run.arms() if (pilot := part(run.pilots, arm)).get("fits")]
    return [*parts, *([f'<div class="plates">{"".join(plots)}</div>'] if plots else [])]


def sentences(run: Run, arm: str) -> list[str]:
    mix, pilot, lines = part(run.mixes, arm), part(run.pilots, arm), []
    if pilot.get("rates"):
        lines.append(f"Learning rate chosen by short runs. {rate_sentence(pilot)}.")
    if pilot.get("fits"):
        lines.append(f"Share chosen by short runs. {sentence(pilot)}.")
    if (most := part(mix, "replay", "most_uses")) and is_number(most) and most > 1:
        lines.append(
            f"{arm}: each of {count(part(mix, 'replay', 'rows'))} replay rows is trained on up to {count(most)} times."
        )
    if rewritten := part(mix, "rewritten"):
        before, after = (decimal(part(rewritten, "base_logprob", which)) for which in ("gold", "taken"))
        lines.append(
            f"{arm}: {count(rewritten.get('rewritten'))} of {count(rewritten.get('answers'))} domain answers are the base's own "
            f"words; its log-probability per token of all answers went from {before} to {after}."
        )
    return lines


def plot(pilot: Json) -> str:
    """Retention against share: the fit for the whole run with its 90 % band, the short runs, the target and the choice."""
    fit, target = part(pilot, "fits", "1"), part(pilot, "settings", "retention_target")
    shares, retention = fit["shares"], fit["retention"]
    runs = [one for one in pilot["runs"] if one["rate"] == 1]
    values = [*retention["low"], *retention["high"], *(one["retention"] for one in runs), target]
    low, high, right = min(values), max(max(values), min(values) + 0.001), WIDTH - 12
    at_x = scale(0.0, max(*shares, *(one["share"] for one in runs)), LEFT, right)
    at_y = scale(low - 0.05 * (high - low), high + 0.05 * (high - low), BOTTOM, TOP)
    body = []
    for tick in ticks(low, high, 4):
        body += [
            line(LEFT, at_y(tick), right, at_y(tick), "grid"),
            text(LEFT - 8, at_y(tick) + 4, percent(tick), "tick", "end"),
        ]
    body += [text(at_x(tick), BOTTOM + 18, f"{100 * tick:g}", "tick", "middle") for tick in ticks(0.0, max(shares), 5)]
    body += [line(LEFT, BOTTOM, right, BOTTOM, "axis"), text(right, BOTTOM + 34, "share of replay, %", "tick", "end")]
    for name, look in (("low", "c2"), ("median", "c0"), ("high", "c2")):
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in zip(shares, retention[name], strict=True))
        body.append(f'<polyline points="{path}" class="curve {look}"><title>whole run, {name}</title></polyline>')
    for one in runs:
        title = f"share {one['share']:.0%}, {one['part']:.0%} of the run: {percent(one['retention'])}"
        body.append(dot(at_x(one["share"]), at_y(one["retention"]), "mark", title))
    body.append(line(LEFT, at_y(target), right, at_y(target), "margin"))
    body.append(line(at_x(pilot["share"]), TOP, at_x(pilot["share"]), BOTTOM, "margin"))
    return figure(
        BOTTOM + 42,
        f"{pilot['arm']}: what is kept at which share.",
        body,
        "Dots: short runs. Line and dotted band: the fit for the whole run and its 90 % interval. Dashed lines: the target and the share that was taken.",
    )
