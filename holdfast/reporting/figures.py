"""The figures of the verdict: change against margin, before and after, lost and gained, gain against retention.

Scores come in as parts of one and are drawn in points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from holdfast.reporting.markup import count, html, is_number, percent, points, score
from holdfast.reporting.plots import LETTER, WIDTH, Point, box, dot, figure, label, line, margins, scale, text, ticks


def change_against_margin(arms: Sequence[Point], margin: float | None, confidence: float | None) -> str:
    """Non-inferiority plot: x is the change of the general score; x_range its interval, y the one-sided bound."""
    left, right, top, row = margins([a.name for a in arms]), WIDTH - 58, 12, 34
    values = [v for a in arms for v in (a.x, a.y, *a.x_range) if is_number(v)]
    unit = margin if is_number(margin) else 0.01
    # an arm that lost half of everything would press the others into one dot: it gets an arrow at the edge
    low, high = max(min([*values, -1.6 * unit]), -4 * unit), min(max([*values, unit / 2]), 4 * unit)
    low, high = low - 0.06 * (high - low), high + 0.06 * (high - low)
    at = scale(low, high, left, right)
    bottom = top + row * len(arms)
    body = []
    if is_number(margin):
        body.append(box(left, top, at(-margin) - left, bottom - top, "zone", "beyond the margin"))
        body.append(line(at(-margin), top - 6, at(-margin), bottom, "margin"))
    for tick in ticks(100 * low, 100 * high):
        body.append(text(at(tick / 100), bottom + 17, f"{tick:g}".replace("-", "−"), "tick", "middle"))
    body += [line(left, bottom, right, bottom, "axis"), line(at(0), top - 6, at(0), bottom, "zero")]
    for index, arm in enumerate(arms):
        y = top + row * (index + 0.5)
        body.append(text(0, y + 4, label(arm.name, 22), "name"))
        body.append(text(WIDTH, y + 4, points(arm.x), "value", "end"))
        if is_number(arm.x) and not low <= arm.x <= high:
            tip, base = (left + 3, left + 13) if arm.x < low else (right - 3, right - 13)
            body.append(
                f'<path d="M{tip:.1f} {y:.1f}L{base:.1f} {y - 5:.1f}V{y + 5:.1f}Z" class="mark {arm.kind}"><title>{html(arm.name)}</title></path>'
            )
            body.append(
                text(
                    left + 19 if arm.x < low else right - 19,
                    y + 4,
                    "off the scale",
                    "tick",
                    "start" if arm.x < low else "end",
                )
            )
            continue
        if is_number(arm.x_range[0]) and is_number(arm.x_range[1]):
            body.append(line(at(max(arm.x_range[0], low)), y, at(min(arm.x_range[1], high)), y, f"whisker {arm.kind}"))
        if is_number(arm.y) and arm.y >= low:
            body.append(line(at(arm.y), y - 7, at(arm.y), y + 7, f"whisker {arm.kind}"))
        if is_number(arm.x):
            body.append(
                dot(at(arm.x), y, f"mark {arm.kind}", f"{arm.name}: {points(arm.x)} points, bound {points(arm.y)}")
            )
    level = percent(confidence, 0) if is_number(confidence) else "confidence"
    return figure(
        bottom + 24,
        "Change of the general score, in points.",
        body,
        f"Dot: estimate. Line: two-sided interval. Upright tick: one-sided {level} bound, which has to stay out of the shaded zone "
        f"beyond the margin of {score(margin)}.",
    )


def before_after(groups: Mapping[str, Sequence[Point]], title: str) -> str:
    """Dumbbells: x before, y after (0..1), x_range the interval of the change, kind lower or higher where that is clear."""
    names = [s.name for suites in groups.values() for s in suites]
    left, right, row = margins(names, 18), WIDTH - 50, 22
    full = scale(0, 1, left, right)

    def at(value: float) -> float:  # a score below chance is below zero, and may be far below
        return full(min(max(value, -0.04), 1.04))

    body, marks, y = [], [], -6.0
    for group, suites in groups.items():
        y += row
        body.append(text(0, y - 4, group, "tick"))
        top = y
        if top < row:
            body += [text(at(tick / 100), y - 4, f"{tick}", "tick", "middle") for tick in (0, 25, 50, 75, 100)]
        for suite in suites:
            y += row
            marks += dumbbell(suite, at, y - row / 2)
        body += [line(at(tick / 100), top + 3, at(tick / 100), y, "grid") for tick in (0, 25, 50, 75, 100)]
    return figure(y + 6, title, body + marks)


def dumbbell(suite: Point, at: Callable[[float], float], y: float) -> list[str]:
    body = [text(0, y + 4, label(suite.name, 18), "name")]
    if not (is_number(suite.x) and is_number(suite.y)):
        return [*body, text(at(0) + 6, y + 4, "no score", "tick")]
    low, high = suite.x_range
    if is_number(low) and is_number(high):
        body.append(line(at(suite.x + low), y, at(suite.x + high), y, f"span {suite.kind}"))
    body.append(line(at(suite.x), y, at(suite.y), y, f"link {suite.kind}"))
    body.append(dot(at(suite.x), y, "mark before", f"{suite.name}, before: {score(suite.x)}"))
    body.append(dot(at(suite.y), y, f"mark {suite.kind}", f"{suite.name}, after: {score(suite.y)}"))
    body.append(text(WIDTH, y + 4, points(suite.y - suite.x), f"value {suite.kind}", "end"))
    return body


def lost_gained(groups: Mapping[str, Sequence[Point]], title: str, largest: float) -> str:
    """Diverging bars of counts: x lost to the left, y gained to the right; `largest` is shared, so that arms compare."""
    names = [s.name for suites in groups.values() for s in suites]
    left, right, row = margins(names, 18) + 26, WIDTH - 32, 22
    middle, unit = (left + right) / 2, (right - left) / (2 * max(largest, 1))
    body, y = [], -6.0
    for group, suites in groups.items():
        y += row
        lost, gained = (
            sum(v for v in values if is_number(v)) for values in ([s.x for s in suites], [s.y for s in suites])
        )
        body += [text(0, y - 4, group, "tick"), text(middle - 6, y - 4, f"{count(lost)} lost", "tick", "end")]
        body.append(text(middle + 6, y - 4, f"{count(gained)} gained", "tick"))
        top = y
        for suite in suites:
            y += row
            body.append(text(0, y - 7, label(suite.name, 18), "name"))
            for value, look, word, sign in ((suite.x, "lower", "lost", -1), (suite.y, "higher", "gained", 1)):
                if is_number(value) and value > 0:
                    end = middle + sign * value * unit
                    body.append(
                        box(
                            min(middle, end),
                            y - 18,
                            abs(end - middle),
                            row - 8,
                            f"bar {look}",
                            f"{suite.name}: {count(value)} {word}",
                        )
                    )
                    body.append(text(end + 5 * sign, y - 7, count(value), "value", "end" if sign < 0 else "start"))
        body.append(line(middle, top, middle, y + 2, "axis"))
    return figure(y + 6, title, body)


def pareto(arms: Sequence[Point], keep: float | None) -> str:
    """x domain gain in parts of one, y retention; the base is at (0, 1). `keep`: retention at the margin."""
    arms = [a for a in arms if is_number(a.x) and is_number(a.y)]
    if not arms:
        return ""
    left, right, top, bottom = 48, WIDTH - 14, 14, 250
    xs = [0.0, *(v for a in arms for v in (a.x, *a.x_range) if is_number(v))]
    ys = [1.0, *(v for a in arms for v in (a.y, *a.y_range) if is_number(v)), *([keep] if is_number(keep) else [])]
    pad_x, pad_y = 0.08 * max(max(xs) - min(xs), 0.05), 0.1 * max(max(ys) - min(ys), 0.02)
    x0, x1, y0, y1 = min(xs) - pad_x, max(xs) + 2 * pad_x, min(ys) - pad_y, max(ys) + pad_y
    at_x, at_y = scale(x0, x1, left, right), scale(y0, y1, bottom, top)
    body = []
    for tick in ticks(100 * y0, 100 * y1):
        body += [
            line(left, at_y(tick / 100), right, at_y(tick / 100), "grid"),
            text(left - 8, at_y(tick / 100) + 4, f"{tick:g}", "tick", "end"),
        ]
    for tick in ticks(100 * x0, 100 * x1, 6):
        body.append(text(at_x(tick / 100), bottom + 18, f"{tick:g}".replace("-", "−"), "tick", "middle"))
    body.append(line(left, bottom, right, bottom, "axis"))
    body.append(text(right, bottom + 36, "domain gain, points →", "tick", "end"))
    body.append(text(0, 10, "↑ retention, %", "tick"))
    if is_number(keep):
        body.append(box(left, at_y(keep), right - left, bottom - at_y(keep), "zone", "beyond the margin"))
        body.append(line(left, at_y(keep), right, at_y(keep), "margin"))
    body.append(dot(at_x(0), at_y(1), "mark before", "base"))
    body.append(text(at_x(0) + 9, at_y(1) - 8, "base", "name muted"))
    taken: list[tuple[float, float]] = []
    marked = [(arm, arm.x, arm.y) for arm in arms if is_number(arm.x) and is_number(arm.y)]
    for arm, gain, retention in sorted(marked, key=lambda entry: -entry[2]):
        x, y = at_x(gain), at_y(retention)
        for ends, flat in ((arm.x_range, True), (arm.y_range, False)):
            if is_number(ends[0]) and is_number(ends[1]):
                body.append(
                    line(at_x(ends[0]), y, at_x(ends[1]), y, f"whisker {arm.kind}")
                    if flat
                    else line(x, at_y(ends[0]), x, at_y(ends[1]), f"whisker {arm.kind}")
                )
        body.append(
            dot(
                x, y, f"mark {arm.kind}", f"{arm.name}: gain {points(gain)} points, retention {percent(retention)}", 5.5
            )
        )
        name = label(arm.name, 24)
        wide = LETTER * len(name)
        # to the left of the mark where the right edge is near, lower while another label is in the way
        tx, ty = (x - 10, y - 9) if x + 10 + wide > right else (x + 10, y - 9)
        while any(abs(tx - ox) < wide and abs(ty - oy) < 14 for ox, oy in taken):
            ty += 14
        taken.append((tx, ty))
        body.append(text(tx, max(ty, top + 8), name, "name", "end" if tx < x else "start"))
    return figure(
        bottom + 44,
        "What was gained against what was kept.",
        body,
        "Best is the upper right corner. Lines: intervals. Shaded: more general ability lost than the margin allows.",
    )
