"""The picture of the league: general points lost against domain score, a line for each method."""

from __future__ import annotations

from pathlib import Path

from benchmarks.study.league.fronts import Method
from benchmarks.study.table import Study

LEAST = 0.25  # points lost that the axis begins with: less is drawn there
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#8c564b", "#e69f00", "#000000")  # Okabe and Ito


def draw(study: Study, methods: list[Method], levels: list[float], file: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "league", "font.size": 10})
    figure, axes = plt.subplots(figsize=(9.5, 6.2), layout="constrained")
    base = study.base["evaluation"]["general"]
    for level in levels:
        axes.axvline(100 * level, color="0.85", lw=0.8, zorder=0)
    colours = iter(COLOURS)
    for method in sorted(methods, key=lambda method: bool(method.label)):  # grey ones below
        x = [100 * point.domain for point in method.points]
        y = [max(100 * (base - point.general), LEAST) for point in method.points]
        colour = next(colours) if method.label else "0.75"
        mark = (
            {"marker": "*", "ms": 13}
            if len(x) == 1 and method.label
            else {"marker": "o", "ms": 4 if method.label else 2.5}
        )
        axes.plot(x, y, lw=1.8 if method.label else 0.9, color=colour, **mark)
        if method.label:
            axes.annotate(
                method.label,
                (x[-1], y[-1]),
                (6, 0),
                textcoords="offset points",
                color=colour,
                va="center",
                weight="bold",
            )
    axes.set(yscale="log", xlim=(-1, 100), xlabel="domain score after training, points")
    axes.set_ylim(130, LEAST)  # up is better
    ticks = [100, 50, 20, 10, 5, 2, 1, 0.5]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_ylabel(f"points lost of the base's general score ({100 * base:.0f}), fewer further up")
    axes.set_title("What each method forgets for what it learns: further up and further right is better", loc="left")
    for part, level in zip((50, 75, 90), levels, strict=True):
        axes.annotate(
            f"{part} %", (100 * level, LEAST), (0, -4), textcoords="offset points", color="0.5", ha="center", va="top"
        )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
