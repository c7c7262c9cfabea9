"""Line charts as inline SVG: no script, no library, legible in light and dark."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 460, 190
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line: values by step (None leaves a gap), with an optional band around it."""

    label: str
    steps: Sequence[int]
    values: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


def line_chart(title: str, series: Sequence[Series], *, note: str = "") -> str:
    """A figure with a title, axes with their smallest and largest value, and one line a series."""
    points = [
        (step, value)
        for one in series
        for values in (one.values, one.low, one.high)
        for step, value in zip(one.steps, values, strict=False)
        if value is not None and math.isfinite(value)
    ]
    caption = f"<figcaption>{html.escape(title)}{_legend(series)}</figcaption>"
    if not points:
        return f"<figure>{caption}<p class=empty>no values</p></figure>"
    first, last = min(p[0] for p in points), max(p[0] for p in points)
    low, high = min(p[1] for p in points), max(p[1] for p in points)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0 if high > 0.2 else high
    if high == low:
        low, high = low - 0.5, high + 0.5

    def place(step: int, value: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * (step - first) / max(1, last - first)
        y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)
        return round(x, 1), round(y, 1)

    drawn: list[str] = []
    for share in (0.0, 0.5, 1.0):
        value = low + share * (high - low)
        _, y = place(first, value)
        drawn.append(f"<line class=grid x1={LEFT} x2={WIDTH - RIGHT} y1={y} y2={y} />")
        drawn.append(f"<text x={LEFT - 6} y={y + 4} text-anchor=end>{value:.3g}</text>")
    for step in sorted({first, last}):
        x, _ = place(step, low)
        anchor = "start" if step == first else "end"
        drawn.append(f"<text x={x} y={HEIGHT - 8} text-anchor={anchor}>step {step}</text>")
    for number, one in enumerate(series):
        band = [
            (place(s, a), place(s, b))
            for s, a, b in zip(one.steps, one.low, one.high, strict=False)
            if a is not None and b is not None
        ]
        if len(band) > 1:
            outline = [p[1] for p in band] + [p[0] for p in reversed(band)]
            drawn.append(f'<polygon class="band c{number}" points="{_points(outline)}" />')
        for run in _unbroken(one):
            placed = [place(step, value) for step, value in run]
            drawn.append(f'<polyline class="line c{number}" points="{_points(placed)}" />')
            if len(one.steps) <= 12 or len(run) == 1:
                drawn.extend(
                    f'<circle class="dot c{number}" cx={x} cy={y} r=2.5 />' for x, y in placed
                )
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role=img aria-label="{html.escape(title)}">{"".join(drawn)}</svg>'
    return (
        f"<figure>{caption}{svg}{f'<p class=note>{html.escape(note)}</p>' if note else ''}</figure>"
    )


def _unbroken(series: Series) -> list[list[tuple[int, float]]]:
    """The stretches between gaps."""
    stretches: list[list[tuple[int, float]]] = [[]]
    for step, value in zip(series.steps, series.values, strict=True):
        if value is None or not math.isfinite(value):
            stretches.append([])
        else:
            stretches[-1].append((step, value))
    return [stretch for stretch in stretches if stretch]


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def _legend(series: Sequence[Series]) -> str:
    if len(series) < 2:
        return ""
    labels = "".join(
        f'<span class="c{i}">{html.escape(s.label)}</span>' for i, s in enumerate(series)
    )
    return f" <span class=legend>{labels}</span>"
