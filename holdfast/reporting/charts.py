"""The figures of training and judges: curves over steps, histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast.reporting.markup import count, decimal, html, is_number
from holdfast.reporting.plots import WIDTH, box, figure, label, line, margins, scale, text, ticks


def histogram(counts: Sequence[float], low: float, high: float, title: str, caption: str = "") -> str:
    """Bars over equal bins of [low, high]."""
    left, right, top, bottom = 8, WIDTH - 8, 22, 160
    width, largest = (right - left) / max(len(counts), 1), max([c for c in counts if is_number(c)], default=0) or 1
    body = []
    for index, value in enumerate(counts):
        size = (bottom - top) * (value if is_number(value) else 0) / largest
        x, ends = left + index * width, [low + (high - low) * (index + e) / len(counts) for e in (0, 1)]
        body.append(
            box(x + 1.5, bottom - size, width - 3, size, "bar plain", f"{ends[0]:g} to {ends[1]:g}: {count(value)}")
        )
        body.append(text(x + width / 2, bottom - size - 5, count(value), "value", "middle"))
    for index in range(len(counts) + 1):
        body.append(
            text(
                left + index * width,
                bottom + 17,
                f"{low + (high - low) * index / max(len(counts), 1):g}",
                "tick",
                "middle",
            )
        )
    body.append(line(left, bottom, right, bottom, "axis"))
    return figure(bottom + 26, title, body, caption)


def curves(series: Mapping[str, Sequence[tuple[float, float]]], title: str, caption: str = "") -> str:
    """One line per arm over training steps, each named at its end and dashed in its own way."""
    series = {name: [p for p in pts if is_number(p[0]) and is_number(p[1])] for name, pts in series.items()}
    series = {name: pts for name, pts in series.items() if pts}
    everything = [p for pts in series.values() for p in pts]
    if not everything:
        return ""
    left, top, bottom = 44, 14, 190
    right = WIDTH - margins(list(series), 16)
    x0, x1 = min(p[0] for p in everything), max(p[0] for p in everything)
    y0, y1 = min(0.0, min(p[1] for p in everything)), max(p[1] for p in everything)
    x1, y1 = (x1 if x1 > x0 else x0 + 1), (y1 if y1 > y0 else y0 + 1)
    at_x, at_y = scale(x0, x1, left, right), scale(y0, y1, bottom, top)
    body = []
    for tick in ticks(y0, y1, 4):
        body += [
            line(left, at_y(tick), right, at_y(tick), "grid"),
            text(left - 8, at_y(tick) + 4, f"{tick:g}".replace("-", "−"), "tick", "end"),
        ]
    for tick in ticks(x0, x1, 5):
        body.append(text(at_x(tick), bottom + 18, f"{tick:,g}", "tick", "middle"))
    body += [line(left, bottom, right, bottom, "axis"), text(right, bottom + 34, "optimiser step", "tick", "end")]
    ends = place_labels({name: at_y(pts[-1][1]) + 4 for name, pts in series.items()}, 14, bottom + 4)
    looks = {name: f"c{number % 4}" for number, name in enumerate(series)}
    for name, pts in sorted(series.items(), key=lambda item: -item[1][-1][1]):
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in thin(pts, 300))
        body.append(
            f'<polyline points="{path}" class="curve {looks[name]}"><title>{html(name)}: ends at {decimal(pts[-1][1], 3)}</title></polyline>'
        )
        body.append(text(right + 8, ends[name], label(name, 16), f"name {looks[name]}"))
    return figure(bottom + 42, title, body, caption)


def place_labels(wanted: dict[str, float], gap: float, lowest: float) -> dict[str, float]:
    """Where labels beside their curves' ends go, downwards from the highest: `gap` apart, and none below `lowest`, where the
    axis has its numbers."""
    order, places = sorted(wanted, key=wanted.__getitem__), dict[str, float]()
    for name in order:
        places[name] = max(wanted[name], max(places.values(), default=-gap) + gap)
    for name in reversed(order):
        places[name] = min(places[name], lowest)
        lowest = places[name] - gap
    return places


def thin(pts: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most `most` points, first and last among them."""
    if len(pts) <= most:
        return list(pts)
    return [pts[round(i * (len(pts) - 1) / (most - 1))] for i in range(most)]
