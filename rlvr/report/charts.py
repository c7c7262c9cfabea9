"""Charts as inline SVG: no scripts, no requests. Colours come from the page's style."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.report.markup import escaped, number

Points = Sequence[tuple[float, float | None]]
Band = Sequence[tuple[float, float | None, float | None]]
_MAX_POINTS = 600
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 12.0, 8.0, 22.0


@dataclass(frozen=True, slots=True)
class _Frame:
    """Maps data to the picture. `y_low` is 0 unless a value is below it, so that heights are comparable."""

    width: float
    height: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        inner = self.width - _LEFT - _RIGHT
        return round(_LEFT + inner * (value - self.x_low) / (self.x_high - self.x_low), 1)

    def y(self, value: float) -> float:
        inner = self.height - _TOP - _BOTTOM
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return round(self.height - _BOTTOM - inner * share, 1)


def line_chart(
    title: str,
    *,
    points: Points,
    band: Band = (),
    note: str = "",
    width: float = 340,
    height: float = 170,
    has_dots: bool = False,
    bound: float | None = None,
    alarms: Sequence[tuple[float, float]] = (),
    is_bad: bool = False,
) -> str:
    """A figure with one line; None leaves a gap. band: (x, low, high), an interval around the line.

    bound: the healthy limit, a dashed line. alarms: (first, last) x of shaded stretches. is_bad: it ends unhealthy.
    A long series is thinned to the lowest and highest value of each stretch, so that no spike is lost.
    """
    shown = _thinned(points)
    values = [y for _, y in shown if y is not None]
    values += [edge for _, low, high in band for edge in (low, high) if edge is not None]
    known = [y for _, y in points if y is not None]
    if not known:
        return _figure(title, legend="no finite value", body="", note=note)
    frame = _frame([x for x, _ in points], values, width=width, height=height)
    parts = [_axes(frame), *(_shade(frame, first, last) for first, last in alarms)]
    if bound is not None and frame.y_low <= bound <= frame.y_high:
        y = frame.y(bound)
        parts.append(f'<line class="bound" x1="{_LEFT:g}" x2="{frame.width - _RIGHT:g}" y1="{y}" y2="{y}"/>')
    parts += [_area(frame, stretch, css="band f1") for stretch in _stretches([(x, low, high) for x, low, high in band])]
    for stretch in _stretches([(x, y, y) for x, y in shown]):
        path = " ".join(f"{frame.x(x)},{frame.y(y)}" for x, y, _ in stretch)
        if len(stretch) > 1:
            parts.append(f'<polyline class="line s1" points="{path}"/>')
        for x, y, _ in stretch if has_dots or len(stretch) == 1 else ():
            parts.append(
                f'<circle class="f1" cx="{frame.x(x)}" cy="{frame.y(y)}" r="3">'
                f"<title>step {number(x)}: {number(y)}</title></circle>"
            )
    legend = number(known[0]) if len(known) == 1 else f"{number(known[0])} → {number(known[-1])}"
    return _figure(title, legend=legend, body=_svg(frame, title, parts), note=note, is_bad=is_bad)


def stacked_chart(title: str, *, layers: Sequence[tuple[str, Points]], width: float = 340, height: float = 170) -> str:
    """A figure with up to four stacked layers; a step that lacks one leaves a gap."""
    by_layer = [dict(points) for _, points in layers]
    steps = sorted({x for values in by_layer for x in values})
    stride = math.ceil(len(steps) / _MAX_POINTS) or 1
    columns: list[tuple[float, list[float] | None]] = []
    for x in steps[::stride]:
        found = [values.get(x) for values in by_layer]
        whole = [value for value in found if value is not None]
        columns.append((x, whole if len(whole) == len(layers) else None))
    tops = [sum(values) for _, values in columns if values is not None]
    if not tops:
        return _figure(title, legend="no finite value", body="", note="")
    frame = _frame(steps, tops, width=width, height=height)
    parts = [_axes(frame)]
    for index in range(len(layers)):
        ribbon = [(x, None, None) if v is None else (x, sum(v[:index]), sum(v[: index + 1])) for x, v in columns]
        parts += [_area(frame, s, css=f"area f{index + 1}") for s in _stretches(ribbon)]
    keys = "".join(f'<i class="key f{index + 1}"></i>{escaped(name)}' for index, (name, _) in enumerate(layers))
    return _figure(title, legend=keys, body=_svg(frame, title, parts), note="")


def _figure(title: str, *, legend: str, body: str, note: str, is_bad: bool = False) -> str:
    css = "bad" if is_bad else "soft"
    tail = f'<p class="{css}">{escaped(note)}</p>' if note else ""
    caption = f'<span>{escaped(title)}</span><span class="{css}">{legend}</span>'
    mark = ' class="alarmed"' if is_bad else ""
    return f"<figure{mark}><figcaption>{caption}</figcaption>{body}{tail}</figure>"


def _shade(frame: _Frame, first: float, last: float) -> str:
    """A shaded stretch of steps over the whole height; a single step is widened to be visible."""
    left, right = (frame.x(min(max(x, frame.x_low), frame.x_high)) for x in (first, last))
    width = max(3.0, right - left)
    return (
        f'<rect class="alarm" x="{left:g}" y="{_TOP:g}" width="{width:.1f}" '
        f'height="{frame.height - _TOP - _BOTTOM:g}"/>'
    )


def _svg(frame: _Frame, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {frame.width:g} {frame.height:g}" role="img">'
        f"<title>{escaped(title)}</title>{''.join(parts)}</svg>"
    )


def _frame(steps: Sequence[float], values: Sequence[float], *, width: float, height: float) -> _Frame:
    x_low, x_high = min(steps), max(steps)
    if x_low == x_high:
        x_low, x_high = x_low - 1, x_high + 1
    y_low, y_high = min(0.0, *values), max(0.0, *values)
    if y_low == y_high:
        y_high = 1.0
    step = _tick_step(y_high - y_low)
    return _Frame(
        width=width,
        height=height,
        x_low=x_low,
        x_high=x_high,
        y_low=math.floor(y_low / step) * step,
        y_high=math.ceil(y_high / step - 1e-9) * step,
    )


def _tick_step(span: float) -> float:
    """The tick step, 1, 2 or 5 times a power of ten, that divides the span into at most five."""
    power = 10.0 ** math.floor(math.log10(span / 5))
    return next(power * m for m in (1, 2, 5, 10, 20) if span / (power * m) <= 5 + 1e-9)


def _axes(frame: _Frame) -> str:
    parts: list[str] = []
    step = _tick_step(frame.y_high - frame.y_low)
    for index in range(round((frame.y_high - frame.y_low) / step) + 1):
        value = frame.y_low + index * step
        label = number(0.0 if abs(value) < step / 1e6 else float(f"{value:.6g}"))
        y = frame.y(value)
        parts.append(
            f'<line class="grid" x1="{_LEFT:g}" x2="{frame.width - _RIGHT:g}" y1="{y}" y2="{y}"/>'
            f'<text x="{_LEFT - 6:g}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
        )
    step = max(1.0, _tick_step(frame.x_high - frame.x_low))
    value = math.ceil(frame.x_low / step) * step
    while value <= frame.x_high + 1e-9:
        parts.append(f'<text x="{frame.x(value)}" y="{frame.height - 6:g}" text-anchor="middle">{number(value)}</text>')
        value += step
    return "".join(parts)


def _stretches(points: Sequence[tuple[float, float | None, float | None]]) -> list[list[tuple[float, float, float]]]:
    """The consecutive points between gaps."""
    found: list[list[tuple[float, float, float]]] = [[]]
    for x, low, high in points:
        if low is None or high is None:
            found.append([])
        else:
            found[-1].append((x, low, high))
    return [stretch for stretch in found if stretch]


def _area(frame: _Frame, stretch: Sequence[tuple[float, float, float]], *, css: str) -> str:
    """A ribbon between two edges; a single point becomes a thin bar, so that it is visible."""
    edges = [(frame.x(x), frame.y(low), frame.y(high)) for x, low, high in stretch]
    if len(edges) == 1:
        x, low, high = edges[0]
        edges = [(x - 3, low, high), (x + 3, low, high)]
    outline = [(x, high) for x, _, high in edges] + [(x, low) for x, low, _ in reversed(edges)]
    path = " ".join(f"{x:g},{y:g}" for x, y in outline)
    return f'<polygon class="{css}" points="{path}"/>'


def _thinned(points: Points) -> Points:
    if len(points) <= _MAX_POINTS:
        return points
    size = math.ceil(2 * len(points) / _MAX_POINTS)
    kept: list[tuple[float, float | None]] = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        known = [(y, index) for index, (_, y) in enumerate(part) if y is not None]
        chosen = {min(known)[1], max(known)[1]} if known else set[int]()
        gaps = [index for index, (_, y) in enumerate(part) if y is None]
        kept += [part[index] for index in sorted(chosen | set(gaps[:1]))]
    return kept
