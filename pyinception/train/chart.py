"""Charts as inline SVG: lines, stacked bars, a matrix. No script, no font, no file of its own.

    x = left + width (v - low) / (high - low),   y = top + height (1 - (v - low) / (high - low))

Drawn `WIDTH` units wide, a little more than a phone's page, so that text keeps its size where
charts stand in a grid. Colours are classes (`s0` ... `s7`), which the page sets for light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 420, 230
COLOURS = 8
POINTS = 240  # of one line; more are averaged
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 10, 34
_CHARACTER = 6.8  # units across, of 12 units of height


@dataclass(frozen=True)
class Series:
    """One line: ``y`` may hold None where there is nothing; ``style`` is "", "thin" or "dots"."""

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    style: str = ""
    colour: int = 0


def number(value: float) -> str:
    """1234 -> 1.23k, 0.00012 -> 1.2e-4: at most five characters or so."""
    size = abs(value)
    for power, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= power * 0.99995:
            return f"{value / power:.3g}{letter}"
    if size and size < 1e-3:
        digits, _, exponent = f"{value:.1e}".partition("e")
        return f"{digits.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.3g}"


def ticks(low: float, high: float, most: int, whole: bool = False) -> list[float]:
    """At most ``most`` multiples of 1, 2 or 5 times a power of ten inside [low, high]."""
    span = max(high - low, 1e-12)
    step = 10.0 ** math.floor(math.log10(span / most))
    for factor in (1, 2, 5, 10, 20):
        size = max(step * factor, 1.0 if whole else 0.0)
        first, last = math.ceil(low / size - 1e-9), math.floor(high / size + 1e-9)
        if last - first + 1 <= most:
            return [float(f"{place * size:.12g}") for place in range(first, last + 1)]
    return [low]


def thinned(
    x: Sequence[float], y: Sequence[float | None], most: int = POINTS
) -> tuple[list[float], list[float | None]]:
    """At most ``most`` points: means of neighbours, of those that are numbers."""
    size = -(-len(x) // most) if x else 1
    xs: list[float] = []
    ys: list[float | None] = []
    for first in range(0, len(x), size):
        part = [v for v in y[first : first + size] if v is not None and math.isfinite(v)]
        group = x[first : first + size]
        xs.append(sum(group) / len(group))
        ys.append(sum(part) / len(part) if part else None)
    return xs, ys


def smoothed(y: Sequence[float | None], over: int) -> list[float | None]:
    """Running means over the last ``over`` numbers."""
    found: list[float | None] = []
    recent: list[float] = []
    for value in y:
        if value is not None and math.isfinite(value):
            recent = [*recent[1 - over :], value] if over > 1 else [value]
        found.append(sum(recent) / len(recent) if recent else None)
    return found


def lines(
    series: Sequence[Series],
    *,
    name: str,
    x_label: str = "step",
    marks: Sequence[tuple[str, float]] = (),
    zero: bool = False,
    top: float | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> str:
    """A line chart, "" where there is no number to draw.

    Parameters
    ----------
    name : for who cannot see it.
    marks : (label, y) of dashed lines across.
    zero, top : the y axis begins at 0, and ends no higher than this.
    """
    parts = [(each, *thinned(each.x, each.y)) for each in series]
    xs = [x for _, places, _ in parts for x in places]
    ys = [y for _, _, values in parts for y in values if y is not None]
    if not ys:
        return ""
    ys += [y for _, y in marks]
    width, height = size
    low, high = (0.0 if zero else min(ys)), max(ys)
    margin = 0.06 * (high - low) or max(abs(high) * 0.1, 1e-9)
    low, high = (low if zero else low - margin), high + margin
    high = high if top is None else min(high, max(top, low + 1e-9))
    first, last = min(xs), max(xs)
    inner = width - LEFT - RIGHT
    tall = height - TOP - BOTTOM

    def across(x: float) -> float:
        return LEFT + inner * ((x - first) / (last - first) if last > first else 0.5)

    def up(y: float) -> float:
        return TOP + tall * (1 - (min(y, high) - low) / (high - low))

    drawn = []
    for tick in ticks(low, high, max(3, int(tall / 38))):
        drawn.append(f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" {_at(up(tick))}/>')
        drawn.append(_text(LEFT - 6, up(tick) + 4, number(tick), "end"))
    places = ticks(first, last, int(inner / 70), whole=True)
    drawn += [_x_label(across(tick), number(tick), size) for tick in places]
    drawn.append(_text(LEFT + inner / 2, height - 4, x_label, "middle"))
    for label, y in marks:
        drawn.append(
            f'<line class="mark" x1="{LEFT}" x2="{width - RIGHT}" {_at(up(y))}>'
            f"<title>{escape(label)}: {number(y)}</title></line>"
        )
    for each, places, values in parts:
        points = [(across(x), up(y)) for x, y in zip(places, values, strict=True) if y is not None]
        colour = f"s{each.colour % COLOURS}"
        if each.style != "dots" and len(points) > 1:
            path = "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
            drawn.append(f'<path class="line {colour} {each.style}" d="M{path}"/>')
        if each.style == "dots" or len(points) <= 12:
            radius = 1.5 if each.style == "thin" else 3
            drawn += [
                f'<circle class="{colour}" cx="{a:.1f}" cy="{b:.1f}" r="{radius}"/>'
                for a, b in points
            ]
    return _svg(name, size, drawn)


def bars(
    columns: Sequence[tuple[float, Sequence[float]]],
    *,
    name: str,
    x_label: str = "step",
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> str:
    """Stacked bars: (x, height of each part, from the bottom) of every column; at most 60 stay."""
    if not columns:
        return ""
    group = -(-len(columns) // 60)
    shown = [
        (part[0][0], [sum(v) / len(part) for v in zip(*(values for _, values in part))])
        for part in (columns[i : i + group] for i in range(0, len(columns), group))
    ]
    width, height = size
    inner, tall = width - LEFT - RIGHT, height - TOP - BOTTOM
    high = max(sum(values) for _, values in shown) * 1.05 or 1.0
    drawn = []
    for tick in ticks(0, high, max(3, int(tall / 38))):
        y = TOP + tall * (1 - tick / high)
        drawn.append(f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" {_at(y)}/>')
        drawn.append(_text(LEFT - 6, y + 4, number(tick), "end"))
    wide = min(inner / len(shown), 48)
    start = LEFT + (inner - wide * len(shown)) / 2
    every = -(-len(shown) // 5)
    for i, (x, values) in enumerate(shown):
        below = TOP + float(tall)
        for k, value in enumerate(values):
            size_of = tall * value / high
            below -= size_of
            drawn.append(
                f'<rect class="s{k % COLOURS}{" pale" * (k >= COLOURS)}" '
                f'x="{start + i * wide + 0.5:.1f}" y="{below:.1f}" '
                f'width="{max(wide - 1, 0.6):.1f}" height="{size_of:.1f}"/>'
            )
        if i % every == 0 and i + every / 2 <= len(shown):
            drawn.append(_text(start + (i + 0.5) * wide, height - BOTTOM + 14, number(x), "middle"))
    drawn.append(_text(LEFT + inner / 2, height - 4, x_label, "middle"))
    return _svg(name, size, drawn)


def matrix(counts: Sequence[Sequence[int]], labels: Sequence[str], *, name: str) -> str:
    """Share of each row in each column, as shades, the counts written in the cells."""
    k = len(labels)
    short = [label if len(label) <= 12 else label[:11] + "…" for label in labels]
    edge = max(len(label) for label in short) * _CHARACTER + 10
    cell = (WIDTH - edge - 4) / k
    size = WIDTH, round(edge + cell * k + 4)
    drawn = []
    for i, label in enumerate(short):
        middle = edge + cell * (i + 0.5)
        drawn.append(_text(edge - 6, middle + 4, label, "end"))
        turn = f' transform="rotate(-90 {middle + 4:.1f} {edge - 6:.1f})"'
        drawn.append(_text(middle + 4, edge - 6, label, "start", turn))
    for i, row in enumerate(counts):
        total = max(sum(row), 1)
        for j, count in enumerate(row):
            x, y, share = edge + cell * j, edge + cell * i, count / total
            kind = "hit" if i == j else "miss"
            title = f"{labels[i]} taken for {labels[j]}: {count} of {sum(row)}"
            drawn.append(
                f'<rect class="cell" x="{x:.1f}" y="{y:.1f}" width="{cell - 1:.1f}" '
                f'height="{cell - 1:.1f}"/><rect class="{kind}" x="{x:.1f}" y="{y:.1f}" '
                f'width="{cell - 1:.1f}" height="{cell - 1:.1f}" fill-opacity="{share**0.5:.3f}">'
                f"<title>{escape(title)}</title></rect>"
            )
            if count and len(str(count)) * _CHARACTER < cell:
                kind = "middle" if share < 0.5 else 'middle" class="on'
                drawn.append(_text(x + (cell - 1) / 2, y + cell / 2 + 4, str(count), kind))
    return _svg(name, size, drawn)


def _x_label(x: float, text: str, size: tuple[int, int]) -> str:
    half = len(text) * _CHARACTER / 2
    x = min(max(x, half + 1), size[0] - half - 1)  # the outermost would be cut off
    return _text(x, size[1] - BOTTOM + 14, text, "middle")


def _at(y: float) -> str:
    return f'y1="{y:.1f}" y2="{y:.1f}"'


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'


def _svg(name: str, size: tuple[int, int], drawn: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{escape(name)}">'
        f"{''.join(drawn)}</svg>"
    )
