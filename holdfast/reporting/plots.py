"""SVG as strings: no library, no colour of their own (classes, so that the page's style sets light, dark and print).

The parts of the figures in figures.py and charts.py. Every mark has a title; the page's tables hold the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from holdfast.reporting.markup import clean, html

WIDTH = 420  # user units: shown a little larger on a desk and a little smaller on a phone
LETTER = 7.0  # mean width of a letter at the labels' size


@dataclass(frozen=True)
class Point:
    """An arm or a suite: two values and, where known, an interval of each."""

    name: str
    x: float | None
    y: float | None
    x_range: tuple[float | None, float | None] = (None, None)
    y_range: tuple[float | None, float | None] = (None, None)
    kind: str = ""  # CSS class: pass, fail, cannot-compare, lower, higher


def figure(height: float, title: str, body: Sequence[str], caption: str = "") -> str:
    note = f"<figcaption><b>{html(title)}</b> {html(caption, 600)}</figcaption>"
    return f'<figure>{note}<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{html(title)}">{"".join(body)}</svg></figure>'


def text(x: float, y: float, content: str, look: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{look}" text-anchor="{anchor}">{html(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, look: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{look}"/>'


def box(x: float, y: float, width: float, height: float, look: str, title: str = "") -> str:
    hint = f"<title>{html(title)}</title>" if title else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}" class="{look}">{hint}</rect>'
    )


def dot(x: float, y: float, look: str, title: str = "", r: float = 4.5) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" class="{look}"><title>{html(title)}</title></circle>'


def label(name: str, letters: int) -> str:
    """A name that fits; the middle goes, since both ends tell names apart."""
    name = clean(name, 200).replace("\n", " ")
    return name if len(name) <= letters else f"{name[: letters - letters // 3 - 1]}…{name[-(letters // 3) :]}"


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers inside [low, high], about `wanted` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= rough)
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Maps [low, high] to [start, end] user units."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def margins(names: Sequence[str], letters: int = 22) -> float:
    return 14 + LETTER * min(letters, max(map(len, names), default=0))
