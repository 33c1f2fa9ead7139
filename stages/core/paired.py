"""Two evaluations side by side: the same items, answered by base and by tuned model.

Here the differences are measured; stages/gate.py judges them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.core import records, stats
from stages.core.errors import UserError
from stages.core.params import Gate

TINY = 1e-9  # a change of exactly the margin is inside it, whatever its last bit says
KEY = ("item_id", "item_hash", "prompt_hash")
SCORES = ("before", "after", "change", "low", "high", "bound", "items", "lost", "gained")  # of several suites together
EXTRAS = ("retention", "retention_low", "retention_high", "detectable")  # of the general suites only
SUITE = ("before", "after", "before_adjusted", "after_adjusted", "change", "low", "high", "lost", "gained", "mcnemar_p")
SAME = "one and the same answer to every item"


class Suite(NamedTuple):
    """One suite, measured. `broken` are the reasons why it cannot be compared; then numbers may be missing."""

    entry: dict[str, Any]  # what gate.json says of it
    broken: list[str]
    failed: list[str]  # what it dropped by, where that is past its margin
    notes: list[str]  # odd, and no ground for a verdict
    draws: stats.Floats | None = None  # chance-adjusted means before and after, (resamples, 2)
    discordance: float | None = None
    collapsed: bool = False  # the tuned model gives one and the same answer to every item


def load(folder: Path) -> tuple[pa.Table, dict[str, Any]]:
    """One model's items, without their prompts (most of the bytes), and the settings they were made with."""
    settings = records.read_json(folder / "settings.json")
    try:
        whole = settings["schema"] == 1 and isinstance(settings["engine"], dict) and len(settings["suites"]) > 0
        whole = whole and all({"role", "chance", "items"} <= suite.keys() for suite in settings["suites"].values())
    except (KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        where = folder / "settings.json"
        raise UserError("not the settings of an evaluation", where=where, do="remove it and run `dvc repro`")
    return records.read_table("items", folder / "items.parquet").drop_columns(["id", "prompt"]), settings


def different_settings(base: dict[str, Any], tuned: dict[str, Any]) -> list[str]:
    """Scores made with other settings are scores of another test."""
    reasons = []
    for what in ("engine", "suites"):
        mine, theirs = base[what], tuned[what]
        if keys := sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)):
            reasons.append(f"evaluated with other settings than the base: {what} ({', '.join(keys)})")
    return reasons


def measure(params: Gate, name: str, suites: dict[str, Any], base: pa.Table, tuned: pa.Table) -> Suite:
    """One suite, from both models' items of it; `suites` are those of the base's settings."""
    suite = suites[name]
    margins = {n: params.suite_margin for n in suites if suites[n]["role"] == "general"} | params.suite_margins
    margin = margins.get(name)
    entry = {key: suite[key] for key in ("role", "chance", "items")} | dict.fromkeys(SUITE)
    entry |= {"margin": margin, "verdict": "cannot-compare"}
    mine, theirs = ({column: items[column].to_numpy() for column in (*KEY, "correct")} for items in (base, tuned))
    order, broken = stats.pair(mine, theirs)
    if not broken and len(order) != suite["items"]:
        broken.append(f"{len(order)} items, where the settings say {suite['items']}")
    if broken:
        return Suite(entry, broken, [], [])
    before, after = mine["correct"], theirs["correct"][order]
    if not all(np.all((scores >= 0) & (scores <= 1)) for scores in (before, after)):  # NaN is not, either
        return Suite(entry, ["a score is not between 0 and 1"], [], [])

    # the seed hangs on the suite's name: one suite more does not move the intervals of the others
    rng = np.random.default_rng([params.seed, int(records.text_id(name), 16)])
    draws = stats.chance_adjusted(stats.resampled_means(before, after, params.resamples, rng), suite["chance"])
    was, now = (stats.chance_adjusted(float(scores.mean()), suite["chance"]) for scores in (before, after))
    lost, gained = stats.lost_gained(before, after)
    change = stats.change(was, now, draws, params.confidence)
    entry |= {"before": float(before.mean()), "before_adjusted": was}
    entry |= {"after": float(after.mean()), "after_adjusted": now}
    entry |= {key: change[key] for key in ("change", "low", "high")}
    entry |= {"lost": lost, "gained": gained, "mcnemar_p": stats.mcnemar(lost, gained)}

    # Bonferroni: with many suites, one of them drops past its margin by chance; a drop counts only outside the noise
    discordance, drop = stats.discordance(before, after), was - now
    error = stats.standard_error(*(np.array([x], float) for x in (suite["items"], discordance, suite["chance"])))
    noise = stats.half_width(error, 1 - (1 - params.confidence) / max(1, len(margins)))
    failed, notes, collapsed = [], [], constant(tuned)
    past = margin is not None and drop > margin + TINY
    if past and drop > noise:
        hint = f", with {SAME}" if collapsed else ""
        failed.append(f"{name} by {drop:.3f} (margin {margin}, p = {entry['mcnemar_p']:.2g}{hint})")
    elif past:
        noisy = f"{len(before)} items cannot tell a drop below {noise:.3f} from chance"
        notes.append(f"{name} dropped by {drop:.3f}, past its margin {margin}, but {noisy}")
    if collapsed and not failed:  # a model that collapsed loses points; where it loses none, the suite does not measure
        broken.append(f"the tuned model gives {SAME}")
    # a base that knows nothing of the domain is what the domain is for
    if suite["role"] == "general" and was < params.min_base:
        broken.append(f"the base is less than min_base {params.min_base} above chance: there is nothing to forget")
    if suite["role"] == "general" and constant(base):
        broken.append(f"the base gives {SAME}")
    entry["verdict"] = "cannot-compare" if broken else "fail" if failed else "pass"
    return Suite(entry, broken, failed, notes, draws, discordance, collapsed)


def score(params: Gate, suites: list[Suite]) -> dict[str, Any] | None:
    """The score of several suites together; None where there are none, nulls where one of them has no numbers.

    Beside what gate.json holds: `width`, how far the bound would lie below the estimate if nothing had changed.
    """
    if not suites:
        return None
    if any(suite.draws is None for suite in suites):
        return dict.fromkeys((*SCORES, *EXTRAS, "width"))
    entries = [suite.entry for suite in suites]
    draws = stats.mean_over_suites([suite.draws for suite in suites])
    before, after = (float(np.mean([entry[key] for entry in entries])) for key in ("before_adjusted", "after_adjusted"))
    items, chances = (np.array([entry[key] for entry in entries], float) for key in ("items", "chance"))
    error = stats.standard_error(items, np.array([suite.discordance for suite in suites]), chances)
    return {
        "before": before,
        "after": after,
        **stats.change(before, after, draws, params.confidence),
        **stats.retention(before, after, draws, params.confidence),
        **{key: sum(entry[key] for entry in entries) for key in ("items", "lost", "gained")},
        "detectable": stats.detectable_drop(error, params.confidence),
        "width": stats.half_width(error, params.confidence),
    }


def constant(items: pa.Table) -> bool:
    """Whether all answers are the same, and that is not simply right. A dead endpoint looks like this."""
    if len(items) < 2:
        return False
    texts = [pc.utf8_trim_whitespace(items[column]) for column in ("response", "target")]
    one_response, one_target = (pc.count_distinct(text).as_py() == 1 for text in texts)
    return one_response and not (one_target and pc.min(items["correct"]).as_py() == 1)
