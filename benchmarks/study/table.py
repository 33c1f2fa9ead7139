"""What the cells in data/results.jsonl say: tables to standard output, pictures to figures/.

    python -m benchmarks.study.table > benchmarks/study/tables.md

Rates are chosen on the development suites; the numbers shown are those of the evaluation suites unless said. Intervals are
95 % bootstraps over seeds and items together: seeds are drawn anew for each arm, items once for all arms, so that
differences between arms are paired by item. *Recovered*: 1 - (what the arm loses) / (what domain-only loses), general score.
"""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DRAWS = 4000
CONTROL, DEFAULT = "domain-only_0.00065", "light-weak_0.0005"
Cell = dict[str, Any]
Draws = np.ndarray  # (DRAWS,)


class Study:
    """The finished cells, by arm and rate ("kl_0.0005"), and bootstrap draws of their scores."""

    def __init__(self, cells: list[Cell], arms: list[str]) -> None:
        """`arms`: in the order of the tables."""
        self.base = next(cell for cell in cells if cell["cell"] == "base")
        by_key: dict[str, list[Cell]] = defaultdict(list)
        for cell in cells:
            if cell["cell"] != "base":
                by_key[f"{cell['arm']}_{cell['rate']:g}"].append(cell)
        order = sorted(by_key, key=lambda key: (arms.index(key.rsplit("_", 1)[0]), float(key.rsplit("_", 1)[1])))
        self.cells = {key: by_key[key] for key in order}
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        self.suites = {name: (s["role"], s.get("chance", 0.0)) for name, s in params["evaluate"]["suites"].items()}
        self.rng = np.random.default_rng(1)
        self.drawn = {
            (part, suite): self.rng.multinomial(n, np.full(n, 1 / n), size=DRAWS) / n
            for part in ("development", "evaluation")
            for suite in self.suites
            for n in [self.items(part, suite)]
        }

    def items(self, part: str, suite: str) -> int:
        return sum(1 for _ in (ROOT / f"data/pocket/{'suites' if part == 'evaluation' else part}/{suite}.jsonl").open())

    def mean(self, key: str, role: str, part: str = "evaluation") -> float:
        return float(np.mean([cell[part][role] for cell in self.cells[key]]))

    def draws(self, key: str, role: str, part: str = "evaluation") -> Draws:
        """Bootstrap draws of an arm's mean score; the base has one run and only its items vary."""
        cells = [self.base] if key == "base" else self.cells[key]
        own = np.random.default_rng(zlib.crc32(key.encode()))
        seeds = own.multinomial(len(cells), [1 / len(cells)] * len(cells), size=DRAWS)
        scores = []
        for suite, (kind, chance) in self.suites.items():
            if kind == role:
                weights = self.drawn[part, suite]
                n = weights.shape[1]
                right = np.array([[int(b) for b in f"{int(c[part]['items'][suite], 16):0{n}b}"] for c in cells], float)
                score = np.einsum("ds,sd->d", seeds / len(cells), right @ weights.T)
                scores.append((score - chance) / (1 - chance))
        return np.mean(scores, axis=0)

    def lost(self, key: str) -> Draws:
        return self.draws("base", "general") - self.draws(key, "general")

    def recovered(self, key: str) -> Draws:
        return 1 - self.lost(key) / self.lost(CONTROL)


def read_cells(file: Path) -> list[Cell]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def list_arms(file: Path) -> list[str]:
    """The arms of a study file, in its order."""
    given = yaml.safe_load(file.read_text())
    return [*given["main"], *given["reference"]]


def interval(draws: Draws, scale: float = 100.0, digits: int = 1) -> str:
    low, high = np.quantile(draws, [0.025, 0.975]) * scale
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def print_table(study: Study) -> None:
    """The whole table, and what is significant."""
    print("# What the cells of the study say\n")
    seeds = sorted({cell["seed"] for cells in study.cells.values() for cell in cells})
    cells = sum(map(len, study.cells.values()))
    print(
        f"`python -m benchmarks.study.table > benchmarks/study/tables.md`: {cells} cells, seeds {seeds}, in points of 100,"
    )
    print("chance-adjusted. Means over seeds; intervals as table.py says. Development: general + domain score there.\n")
    general, domain = (study.base["evaluation"][role] * 100 for role in ("general", "domain"))
    print(f"Base: general {general:.1f}, domain {domain:.1f}.\n")
    control = np.mean([cell["ledger"]["flops"] for cell in study.cells[CONTROL]])
    print(
        "| arm | learning rate | seeds | general | retention | recovered | domain | development | trained tokens | FLOPs |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for key in study.cells:
        ledgers = [cell["ledger"] for cell in study.cells[key]]
        retention = study.draws(key, "general") / study.draws("base", "general")
        tokens = np.mean([sum(ledger["trained_tokens"].values()) for ledger in ledgers])
        arm, rate = key.rsplit("_", 1)
        development = sum(study.mean(key, role, "development") for role in ("general", "domain"))
        print(
            f"| {arm} | {rate} | {len(ledgers)} | {100 * study.mean(key, 'general'):.1f} "
            f"{interval(study.draws(key, 'general'))} | {100 * retention.mean():.1f} {interval(retention)} "
            f"| {100 * study.recovered(key).mean():.0f} {interval(study.recovered(key), digits=0)} "
            f"| {100 * study.mean(key, 'domain'):.1f} {interval(study.draws(key, 'domain'))} "
            f"| {100 * development:.1f} | {tokens:,.0f} "
            f"| {np.mean([ledger['flops'] for ledger in ledgers]) / control:.1f} × |"
        )


def print_differences(study: Study) -> None:
    """The default against what it has to beat: differences in points, paired by item."""
    print(f"\n## The default, {DEFAULT.replace('_', ' at ')}, against others\n")
    print("| against | general, points | recovered, points | domain, points | significant |")
    print("|---|---:|---:|---:|---|")
    for key in study.cells:
        if key == DEFAULT:
            continue
        differences = {role: study.draws(DEFAULT, role) - study.draws(key, role) for role in ("general", "domain")}
        recovered = study.recovered(DEFAULT) - study.recovered(key)
        sure = [f"{'better' if d.mean() > 0 else 'worse'} {role}" for role, d in differences.items() if is_certain(d)]
        cells = [
            f"{100 * d.mean():+.1f} {interval(d)}" for d in (differences["general"], recovered, differences["domain"])
        ]
        print(f"| {key.replace('_', ' at ')} | {' | '.join(cells)} | {', '.join(sure) or 'no'} |")


def is_certain(draws: Draws) -> bool:
    low, high = np.quantile(draws, [0.025, 0.975])
    return bool(low > 0 or high < 0)


def print_matched(study: Study) -> None:
    """Every arm at the rate where it keeps most with a domain score (development) no worse than the control's."""
    needed = study.mean(CONTROL, "domain", "development")
    print(f"\n## At a domain score no worse than domain-only's ({100 * needed:.1f} on the development suites)\n")
    print("The rate of each arm that keeps most there; `none` where no rate reaches that domain score.\n")
    print("| arm | learning rate | general | recovered | domain | domain / domain-only's |")
    print("|---|---|---:|---:|---:|---:|")
    for arm in dict.fromkeys(key.rsplit("_", 1)[0] for key in study.cells):
        keys = [key for key in study.cells if key.rsplit("_", 1)[0] == arm]
        enough = [key for key in keys if study.mean(key, "domain", "development") >= needed - 1e-9]
        if not enough:
            print(
                f"| {arm} | none | | | best {100 * max(study.mean(k, 'domain', 'development') for k in keys):.1f} | |"
            )
            continue
        best = max(enough, key=lambda key: study.mean(key, "general", "development"))
        ratio = study.draws(best, "domain") / study.draws(CONTROL, "domain")
        print(
            f"| {arm} | {best.rsplit('_', 1)[1]} | {100 * study.mean(best, 'general'):.1f} "
            f"| {100 * study.recovered(best).mean():.0f} {interval(study.recovered(best), digits=0)} "
            f"| {100 * study.mean(best, 'domain'):.1f} | {ratio.mean():.2f} {interval(ratio, 1, 2)} |"
        )


def draw_figures(study: Study) -> None:
    """Domain against general score, a line per arm over its rates; general and domain score by share of replay."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "study", "font.size": 9})
    arms = [arm for arm in dict.fromkeys(key.rsplit("_", 1)[0] for key in study.cells) if not arm[-2:].isdigit()]
    figure, (whole, near) = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
    marks, colours = "osD^vP*X<>ph", plt.get_cmap("tab20")
    base, control = (100 * score for score in (study.base["evaluation"]["general"], study.mean(CONTROL, "domain")))
    for n, arm in enumerate(arms):
        keys = sorted((k for k in study.cells if k.rsplit("_", 1)[0] == arm), key=lambda k: float(k.rsplit("_", 1)[1]))
        x, y = ([100 * study.mean(k, role) for k in keys] for role in ("domain", "general"))
        for axes in (whole, near):
            axes.plot(x, y, marker=marks[n % len(marks)], color=colours(n % 20), label=arm, lw=1, ms=5)
    for axes, title in ((whole, "Every arm at its learning rates, means over seeds"), (near, "Those that keep most")):
        axes.axhline(base, color="0.6", lw=0.8, ls=":", label="base")
        axes.set(xlabel="domain score after", ylabel="general score after", title=title)
    where = tuple(100 * study.mean(DEFAULT, role) for role in ("domain", "general"))
    near.annotate("default", where, (0, 34), textcoords="offset points", ha="center", arrowprops={"arrowstyle": "->"})
    near.set(xlim=(control - 2, None), ylim=(base - 4, base + 0.5))
    figure.legend(*whole.get_legend_handles_labels(), fontsize=7, ncols=9, loc="outside lower center")
    figure.savefig(HERE / "figures" / "front.svg", metadata={"Date": None})
    plt.close(figure)

    figure, both = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for axes, role in zip(both, ("general", "domain"), strict=True):
        for n, arm in enumerate(("paper", "kl")):
            points = {0.5: f"{arm}_0.00065"} | {
                cells[0]["how"]["share"]: key
                for key, cells in study.cells.items()
                if key.startswith(f"{arm}-") and key.split("_")[0][-2:].isdigit()
            }
            points = {share: key for share, key in sorted(points.items()) if study.cells.get(key)}
            middle = [100 * study.mean(key, role) for key in points.values()]
            low, high = zip(
                *(np.quantile(study.draws(k, role), [0.025, 0.975]) * 100 for k in points.values()), strict=True
            )
            bars = [np.subtract(middle, low), np.subtract(high, middle)]
            shares = [100 * share for share in points]
            axes.errorbar(shares, middle, bars, marker=marks[n], color=colours(2 * n), label=arm, lw=1, ms=4, capsize=2)
        axes.axhline(100 * study.mean(CONTROL, role), color="0.6", lw=0.8, ls=":", label="domain-only")
        axes.set(xscale="log", xlabel="replay, % of trained tokens", ylabel=f"{role} score after")
        axes.set_xticks(shares, [f"{share:g}" for share in shares])
        axes.set_xticks([], minor=True)
        axes.legend(fontsize=7)
    figure.savefig(HERE / "figures" / "shares.svg", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    study = Study(read_cells(HERE / "data" / "results.jsonl"), list_arms(HERE / "study.yaml"))
    print_table(study)
    if DEFAULT in study.cells:
        print_differences(study)
    print_matched(study)
    draw_figures(study)
