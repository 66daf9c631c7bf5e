"""A drawing of rectangles, lines and words as SVG text: the same input gives the same bytes.

Colours are classes, so that a picture follows the reader's dark or light setting.
"""

from __future__ import annotations

LIGHT = {"panel": "#ffffff", "ink": "#1f2328", "faint": "#c8cdd3"}
DARK = {"panel": "#161b22", "ink": "#e6edf3", "faint": "#3d444d"}
# Readable on both panels.
SERIES = {"blue": "#4c78a8", "orange": "#f58518", "brown": "#9d755d", "green": "#54a24b"}
SERIES |= {"red": "#c0443c", "violet": "#8a6fb8", "grey": "#8c939a"}


class Drawing:
    """Elements in the order in which they were drawn; coordinates in pixels, y downwards."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self.parts: list[str] = []

    def rect(
        self, x: float, y: float, w: float, h: float, colour: str, opacity: float = 1.0
    ) -> None:
        """A filled rectangle."""
        see = f' fill-opacity="{opacity:g}"' if opacity < 1 else ""
        self.parts.append(
            f'<rect class="{colour}" x="{x:.5g}" y="{y:.5g}" width="{w:.5g}" '
            f'height="{h:.5g}"{see}/>'
        )

    def frame(self, x: float, y: float, w: float, h: float, colour: str = "ink") -> None:
        """The outline of a rectangle."""
        self.path([(x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y)], colour, 1.2)

    def path(
        self, points: list[tuple[float, float]], colour: str = "faint", width: float = 1.0
    ) -> None:
        """A line through points."""
        places = " ".join(f"{x:.5g},{y:.5g}" for x, y in points)
        self.parts.append(
            f'<polyline class="line-{colour}" points="{places}" fill="none" '
            f'stroke-width="{width:g}"/>'
        )

    def arrow(self, x0: float, y0: float, x1: float, y1: float, colour: str = "ink") -> None:
        """A line with a head at its end; level or upright."""
        self.path([(x0, y0), (x1, y1)], colour)
        right, down = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
        back = [(x1 - 6 * right - 3 * down, y1 - 6 * down - 3 * right), (x1, y1)]
        back.append((x1 - 6 * right + 3 * down, y1 - 6 * down + 3 * right))
        self.path(back, colour)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        anchor: str = "start",
        size: int = 13,
        bold: bool = False,
    ) -> None:
        """Words; ``anchor`` is start, middle or end, y the line that they stand on."""
        words = words.replace("&", "&amp;").replace("<", "&lt;")
        more = ' font-weight="bold"' if bold else ""
        self.parts.append(
            f'<text class="ink" x="{x:.5g}" y="{y:.5g}" text-anchor="{anchor}" '
            f'font-size="{size}"{more}>{words}</text>'
        )

    def legend(self, x: float, y: float, entries: dict[str, str]) -> None:
        """Colour -> words, side by side."""
        for colour, words in entries.items():
            self.rect(x, y - 10, 12, 12, colour)
            self.text(x + 17, y, words, size=12)
            x += 30 + 6.7 * len(words)

    def svg(self) -> str:
        """The file."""
        style, dark = _style(LIGHT | SERIES), _style(DARK)
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
            f'viewBox="0 0 {self.width} {self.height}" font-family="system-ui, sans-serif">\n'
            f"<title>{self.title}</title>\n"
            f"<style>{style}@media (prefers-color-scheme: dark) {{{dark}}}</style>\n"
            f'<rect class="panel" width="{self.width}" height="{self.height}" rx="8"/>\n'
        )
        return head + "\n".join(self.parts) + "\n</svg>\n"


def _style(colours: dict[str, str]) -> str:
    rule = ".{0}{{fill:{1}}}.line-{0}{{stroke:{1}}}"
    return "".join(rule.format(name, value) for name, value in colours.items())
