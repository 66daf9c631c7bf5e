"""One self-contained HTML page: text, tables, charts and pictures, and nothing from elsewhere.

Its policy (`POLICY`) forbids every request, script and font; styles stand in the page, pictures in
data URLs. Text that comes from a run (classes, file names, entries) is escaped here: what takes
text says so, what takes HTML is called ``html``.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from string import Template

import numpy as np
from numpy.typing import NDArray

from pyinception.data.dataset import require
from pyinception.train.chart import COLOURS

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
# Told apart by people who see no red or no green, on white and on black (after Okabe and Ito).
LIGHT = ("#0072b2", "#c4500a", "#00805a", "#a8508a", "#2f8fc7", "#a77b00", "#6b5fc4", "#5b6770")
DARK = ("#56b4e9", "#f0883e", "#3fc08f", "#e08cc4", "#8ecbf0", "#e0b63c", "#a99cf5", "#9aa7b2")
STYLE = Template(
    """
:root{color-scheme:light dark;--ground:#fbfbfa;--card:#fff;--ink:#1d2329;--soft:#5f6b76;
--edge:#dfe3e6;--cell:#eef1f3;$light}
@media(prefers-color-scheme:dark){:root{--ground:#12161a;--card:#1a2026;--ink:#e4e9ed;
--soft:#98a4ae;--edge:#2d363e;--cell:#232b32;$dark}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1240px;margin:0 auto;padding:20px 16px 48px}
h1{font-size:26px;line-height:1.2;margin:8px 0 2px;overflow-wrap:anywhere}
h2{font-size:18px;margin:34px 0 2px}
h3{font-size:14px;margin:0 0 6px;font-weight:600;overflow-wrap:anywhere}
p{margin:2px 0 10px;color:var(--soft);max-width:80ch;overflow-wrap:anywhere}
.grid{display:grid;gap:14px;grid-template-columns:repeat(auto-fit,minmax(min(330px,100%),1fr))}
.medium{grid-template-columns:repeat(auto-fill,minmax(min(280px,100%),1fr))}
.wide{grid-template-columns:repeat(auto-fill,minmax(min(430px,100%),1fr))}
.tiny{grid-template-columns:repeat(auto-fill,minmax(min(112px,29%),1fr))}.tiny .card{padding:7px}
.card,.tile{background:var(--card);border:1px solid var(--edge);border-radius:10px;padding:12px;
min-width:0}
.tiles{display:grid;gap:10px;grid-template-columns:repeat(auto-fit,minmax(130px,1fr));margin:14px 0}
.tile b{display:block;font-size:21px;line-height:1.25;font-variant-numeric:tabular-nums}
.tile span,.legend,.note,figcaption{color:var(--soft);font-size:12.5px;line-height:1.4}
.legend{display:flex;flex-wrap:wrap;gap:2px 12px;margin-top:4px}
.legend i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:5px}
svg{display:block;width:100%;max-width:520px;margin:0 auto;height:auto}
svg text{font:12px system-ui,sans-serif;fill:var(--soft)}
svg text.on{fill:#fff}
svg line.grid{stroke:var(--edge)}
svg line.mark{stroke:var(--soft);stroke-dasharray:4 4;stroke-width:1.5}
.line{fill:none;stroke-width:2;stroke-linejoin:round}.line.thin{stroke-width:1;opacity:.35}
.pale{opacity:.45}.cell{fill:var(--cell)}.hit{fill:#00694a}.miss{fill:#b23c17}
figure{margin:0;min-width:0}figcaption{overflow-wrap:anywhere;margin-top:4px}
img{display:block;image-rendering:pixelated;max-width:100%;border-radius:4px}
img.fill{width:100%}img.half{width:min(60%,256px)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:3px 8px 3px 0;border-bottom:1px solid var(--edge);
vertical-align:middle;overflow-wrap:break-word}
td+td{overflow-wrap:anywhere}
td:first-child{max-width:min(16em,36vw);overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
th{color:var(--soft);font-weight:500}td.n,th.n{text-align:right;white-space:nowrap}
img.strip{width:100%;min-width:44px;height:14px;border-radius:2px}
.mark{color:$accent;font-weight:600}
details>summary{cursor:pointer;color:var(--soft);padding:6px 0}
"""
)


def page(title: str, html: str) -> bytes:
    """The whole document; ``title`` is text."""
    light = "".join(f"--s{k}:{colour};" for k, colour in enumerate(LIGHT))
    dark = "".join(f"--s{k}:{colour};" for k, colour in enumerate(DARK))
    style = STYLE.substitute(light=light, dark=dark, accent="var(--s1)")
    for k in range(COLOURS):
        style += f".s{k}{{fill:var(--s{k})}}path.s{k}{{stroke:var(--s{k});fill:none}}"
        style += f"i.s{k}{{background:var(--s{k})}}"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body><main>{html}</main></body></html>\n"
    ).encode("utf-8", "backslashreplace")  # names of files need not be text


def section(title: str, about: str, html: str) -> str:
    """A heading, a line of explanation and what belongs to it; nothing where ``html`` is empty."""
    told = f"<p>{escape(about)}</p>" if about else ""
    return f"<section><h2>{escape(title)}</h2>{told}{html}</section>" if html else ""


def card(title: str, html: str, legend: Sequence[tuple[int, str]] = (), note: str = "") -> str:
    """One framed figure with its legend, (colour, text) of each entry; nothing if it is empty."""
    if not html:
        return ""
    keys = "".join(
        f'<span><i class="s{k % COLOURS}{" pale" * (k >= COLOURS)}"></i>{escape(text)}</span>'
        for k, text in legend
    )
    below = f'<div class="legend">{keys}</div>' if keys else ""
    below += f'<div class="note">{escape(note)}</div>' if note else ""
    return f'<figure class="card"><h3>{escape(title)}</h3>{html}{below}</figure>'


def grid(*html: str, kind: str = "") -> str:
    """Cards side by side, as many as fit; ``kind`` is "", "tiny", "medium" or "wide"."""
    inside = "".join(html)
    return f'<div class="grid {kind}">{inside}</div>' if inside else ""


def folded(title: str, html: str) -> str:
    """What is shown when its title is clicked."""
    return f"<details><summary>{escape(title)}</summary>{html}</details>" if html else ""


def tiles(values: Sequence[tuple[str, str]]) -> str:
    """(what, number) in large print."""
    inside = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(what)}</span></div>'
        for what, value in values
    )
    return f'<div class="tiles">{inside}</div>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Rows of HTML cells under heads of text; the columns ``right`` stand to the right."""

    def cells(kind: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{kind}{' class=n' * (place in right)}>{cell}</{kind}>"
            for place, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    top = f"<thead><tr>{cells('th', [escape(head) for head in heads])}</tr></thead>"
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>' if rows else ""


def picture(pixels: NDArray[np.floating], about: str, kind: str = "", width: int = 0) -> str:
    """An <img> of (H, W, 1 or 3) pixels in [0, 1] as a PNG; ``kind`` is its class."""
    image = require("PIL.Image", "train", "pictures")
    # NaN becomes black: what broke should not break the page that is to show it.
    levels = np.rint(255 * np.clip(np.nan_to_num(np.asarray(pixels, np.float64)), 0, 1))
    levels = levels.astype(np.uint8)
    levels = levels[..., 0] if levels.shape[-1] == 1 else levels
    memory = io.BytesIO()
    image.fromarray(levels).save(memory, format="PNG", optimize=True)
    data = base64.b64encode(memory.getvalue()).decode()
    size = f' width="{width}"' if width else ""
    name = f' class="{kind}"' if kind else ""
    return f'<img{name}{size} alt="{escape(about)}" src="data:image/png;base64,{data}">'
