"""Rewrite what the README shows but nobody types: the picture, the status table, the measured one.

    python docs/make_readme.py            # rewrite docs/module_bytes.svg and both tables
    python docs/make_readme.py --check    # write nothing; exit 1 if something is old

The picture is a function of `pyinception.spec`, the status table of what the dispatch table answers
on this machine, the measured table of ``benchmarks/results/*.json``. Tables stand between markers
``<!-- NAME begin -->`` and ``<!-- NAME end -->``.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyinception import backend, dispatch, models, tracing
from pyinception.backend import BackendError, Target
from pyinception.bench import Report, shapes
from pyinception.cuda import runs
from pyinception.extents import FLOAT_BYTES, numbers
from pyinception.spec import (
    AddScaledSpec,
    BatchNormSpec,
    ConvSpec,
    DepthwiseConvSpec,
    DropoutSpec,
    InceptionSpec,
    LinearSpec,
    LrnSpec,
    PoolSpec,
    SoftmaxCrossEntropySpec,
    Spec,
)
from pyinception.table import HOST_ROWS, rows

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "module_bytes.svg"
RESULTS = ROOT / "benchmarks" / "results"

# ------------------------------------------------------------------------------------- the picture

MODULE = "3a"
LABELS = ("1x1", "3x3 reduce", "3x3", "5x5 reduce", "5x5", "max pool", "pool 1x1")
PARTS = ("maps read", "weights read", "maps written")
LIGHT = {"panel": "#ffffff", "ink": "#1f2328", "faint": "#c8cdd3"}
DARK = {"panel": "#161b22", "ink": "#e6edf3", "faint": "#3d444d"}
COLOURS = ("#4c78a8", "#9d755d", "#f58518")  # one per part; readable on both panels
WIDTH, LEFT, RIGHT, ROW, BAR = 880, 118, 30, 25, 17


def kernels(spec: InceptionSpec) -> list[tuple[str, tuple[int, int, int]]]:
    """(label, bytes of maps read, of weights read, of maps written) of each launch, unfused.

    Seven kernels and the concatenation; they add up to ``spec.bytes_unfused``.
    """
    rows = []
    stages = [stage for branch in spec.branches for stage in branch.stages]
    for label, stage in zip(LABELS, stages, strict=True):
        read, written = (FLOAT_BYTES * numbers(s) for s in (stage.x_shape, stage.y_shape))
        rows.append((label, (read, stage.bytes - read - written, written)))
    y = FLOAT_BYTES * numbers(spec.y_shape)
    rows.append(("concat", (y, 0, y)))
    if sum(map(sum, (parts for _, parts in rows))) != spec.bytes_unfused:
        raise AssertionError("the rows do not add up to InceptionSpec.bytes_unfused")
    return rows


def fused(spec: InceptionSpec) -> tuple[int, int, int]:
    """Bytes of maps read, weights read and maps written in one pass: ``spec.bytes`` in all."""
    read, written = (FLOAT_BYTES * numbers(s) for s in (spec.x_shape, spec.y_shape))
    return read, spec.bytes - read - written, written


def picture(spec: InceptionSpec, name: str = MODULE) -> str:
    """The SVG: every launch starts where the one before it ended, all bars in one scale."""
    rows, whole = kernels(spec), spec.bytes_unfused
    scale = (WIDTH - LEFT - RIGHT) / whole
    n, h, w, c = spec.x_shape
    out: list[str] = []

    def text(x: float, y: float, words: str, kind: str = "ink", **more: str) -> None:
        extra = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in more.items())
        out.append(f'<text class="{kind}" x="{x:g}" y="{y:g}" fill="{LIGHT[kind]}"{extra}>')
        out[-1] += f"{words}</text>"

    def bar(x: float, y: float, parts: Iterable[int]) -> float:
        for colour, size in zip(COLOURS, parts, strict=True):
            if size:
                place = f'x="{x:.2f}" y="{y:g}" width="{size * scale:.2f}" height="{BAR}"'
                out.append(f'<rect {place} fill="{colour}"/>')
                x += size * scale
        return x

    bold = {"font_weight": "bold"}
    text(16, 28, f"Inception {name}, forward: bytes that each launch reads and writes", **bold)
    images = "one image" if n == 1 else f"{n} images"
    text(16, 47, f"{images} of {h} x {w} x {c}, float32; counted from the shapes, drawn to scale")
    x = float(LEFT)
    for colour, part in zip(COLOURS, PARTS, strict=True):
        out.append(f'<rect x="{x:g}" y="58" width="12" height="12" fill="{colour}"/>')
        text(x + 18, 69, part)
        x += 130
    top = 82
    x, y = float(LEFT), float(top)
    for label, parts in rows:
        text(LEFT - 10, y + 13, label, text_anchor="end")
        end = bar(x, y, parts)
        size = f"{sum(parts) / 1e6:.2f} MB"
        if end + 70 < WIDTH:
            text(end + 6, y + 13, size)
        else:
            text(x - 6, y + 13, size, text_anchor="end")
        x, y = end, y + ROW
    bottom = y + ROW + 6
    text(LEFT - 10, bottom - ROW + 13, "fused", text_anchor="end", **bold)
    end = bar(LEFT, bottom - ROW, fused(spec))
    sizes = f"{spec.bytes / 1e6:.2f} MB: x, weights and y once; unfused {whole / 1e6:.2f} MB"
    text(end + 6, bottom - ROW + 13, sizes, **bold)
    y = bottom + 4
    for megabytes in range(int(whole / 1e6) + 1):
        x = LEFT + megabytes * 1e6 * scale
        line = f'x1="{x:.2f}" y1="{top - 4}" x2="{x:.2f}" y2="{y:g}" stroke-dasharray="2 4"'
        out.insert(0, f'<line class="faint" {line} stroke="{LIGHT["faint"]}"/>')
        text(x, y + 16, f"{megabytes} MB", text_anchor="middle")
    height = int(y + 28)
    dark = "".join(
        f".{kind}{{{'stroke' if kind == 'faint' else 'fill'}:{colour}}}"
        for kind, colour in DARK.items()
    )
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif" font-size="13">',
        f"<title>Inception {name}: {whole} bytes unfused, {spec.bytes} fused</title>",
        f"<style>@media (prefers-color-scheme: dark) {{{dark}}}</style>",
        f'<rect class="panel" width="{WIDTH}" height="{height}" rx="8" fill="{LIGHT["panel"]}"/>',
    ]
    return "\n".join([*head, *out, "</svg>"]) + "\n"


# ------------------------------------------------------------------------------------ status table

BACKENDS = ("cpu", "cuda", "emulated", "reference")
NETS = ("GoogLeNet, 224x224", "small_inception, 28x28")


def features() -> dict[str, list[Spec]]:
    """Name -> the specs that it needs: small ones for the ops, every layer for the networks."""
    n, h, w, c = 2, 9, 9, 8
    ops: dict[str, list[Spec]] = {
        "`reduce_conv2d`": [shapes.reduce_conv(n, h, w, c, 4, 8, 3)],
        "`inception`": [InceptionSpec.of_widths((n, h, w, c), (4, 4, 8, 2, 4, 4))],
        "`conv2d`": [ConvSpec(n, h, w, c, 8, 3, 3, (2, 2), (1, 1), True)],
        "`depthwise_conv2d`": [DepthwiseConvSpec(n, h, w, c, c, 3, 3, (1, 1), (1, 1))],
        "`max_pool2d`": [PoolSpec("max", n, h, w, c, (3, 3), (2, 2), ceil_mode=True)],
        "`avg_pool2d`": [PoolSpec("avg", n, h, w, c, (3, 3), (2, 2))],
        "`lrn`": [LrnSpec(n, h, w, c)],
        "`linear`": [LinearSpec(n, c, 8)],
        "softmax cross-entropy": [SoftmaxCrossEntropySpec(n, 8)],
        "batch normalisation": [BatchNormSpec((n, h, w, c))],
        "residual sum": [AddScaledSpec((n, h, w, c), relu=True)],
        "dropout": [DropoutSpec((n, c), 0.4)],
    }
    for name, net, shape in zip(
        NETS,
        (models.googlenet(), models.small_inception(10)),
        ((1, 224, 224, 3), (1, 28, 28, 3)),
        strict=True,
    ):
        ops[name] = [spec for _, _, spec in tracing.specs(net, shape)]
    return ops


def state(specs: Iterable[Spec], name: str) -> str:
    """What the dispatch table answers for all of ``specs``: "works", some directions, or "-"."""
    target = Target("cuda" if name == "cuda" else "host", "float32")
    asked, taken = set(), {}
    for spec in specs:
        for op, direction in dispatch.operations(spec):
            asked.add(direction)
            try:
                dispatch.choose(op, direction, spec, target, backend=name)
            except BackendError:
                taken[direction] = False
            taken.setdefault(direction, True)
    works = sorted(direction for direction in asked if taken[direction])
    if len(works) == len(asked):
        return "works"
    return f"{', '.join(works)} works" if works else "-"


def lacking(name: str) -> str | None:
    """Why nothing runs on backend ``name``: the table's reason comes before this machine's."""
    if not any(row.backend == name for key in HOST_ROWS for row in rows(*key)):
        return "the dispatch table has no row for it yet"
    return backend.why_not(name)


def compiled_only(specs: Iterable[Spec]) -> str:
    """The state of what CUDA kernels exist for, by their plans, where no GPU is."""
    for spec in specs:
        for key in dispatch.operations(spec):
            if runs.why_not("direct", key, spec, "float32"):
                return "-"
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    return "compiled only" if nvcc else "source only"


def speed(feature: str, reports: Iterable[Report]) -> str:
    """Backends whose time for ``feature`` stands in ``benchmarks/results``."""
    kinds = {"`reduce_conv2d`": "reduce_conv", "`inception`": "module", "`conv2d`": "conv"}
    timed = any(r.kind == kinds.get(feature) or _title(r).startswith(feature) for r in reports)
    return "cpu, forward" if timed else "unmeasured"


def status_table(reports: list[Report]) -> str:
    """The status table as Markdown, with what it was made on under it."""
    heads = ["forward and backward of", *(f"`{name}`" for name in BACKENDS), "time measured"]
    lines = [heads, ["---"] * len(heads)]
    for feature, specs in features().items():
        cells = [state(specs, name) for name in BACKENDS]
        if cells[1] == "-":
            cells[1] = compiled_only(specs)
        lines.append([feature, *cells, speed(feature, reports)])
    missing = [f"`{n}`: {reason}." for n in BACKENDS if (reason := lacking(n))]
    levels = ", ".join(backend.core().levels()) if backend.why_not("cpu") is None else "none"
    notes = [f"CPU levels run on the machine that made this table: {levels}.", *missing]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return body + "\n\n" + "\n".join(f"- {note}" for note in notes)


# ---------------------------------------------------------------------------------- measured table

TITLES = {
    "module": "Whole modules: one call against seven kernels and a concatenation",
    "reduce_conv": "Fused branches: 1x1 -> KxK in one pass against two convolutions",
    "net": "A network, forward",
}
NOTHING = """\
No result file is in `benchmarks/results/` yet. These commands measure, and fill this section:

```sh
pyinception bench module --save benchmarks/results/module.json
pyinception bench reduce_conv --save benchmarks/results/reduce_conv.json
pyinception bench net --save benchmarks/results/net.json
python docs/make_readme.py
```"""


def load_results(folder: Path = RESULTS) -> list[Report]:
    """The CPU reports in ``folder``, the newest of each kind, batch, precision and machine.

    GPU sessions (`benchmarks/gpu_store.py`), figures (`benchmarks/figures.py`) and counted traffic
    (`benchmarks/cuda_counters.py`) and studies (`docs/make_studies.py`) have forms of their own and
    are left out, as are comparisons of two reports. ValueError for any other file.
    """
    newest: dict[tuple[Any, ...], Report] = {}
    for path in sorted(folder.glob("*.json")) if folder.exists() else []:
        text = path.read_text(encoding="utf-8")
        keys = json.loads(text).keys()
        if {"format", "rehearsal"} <= keys or keys & {"figures", "counted", "study"}:
            continue
        report = Report.from_json(text)
        about = report.environment
        where = about["cpu"], about["cores"], about["level"], about["threads"]
        how = report.settings
        what = how.get("batch"), how.get("algorithm"), how.get("dtype", "float32")
        nets = tuple(row["name"] for row in report.rows if report.kind == "net")
        key = report.kind, nets, *what, *where
        if key not in newest or newest[key].environment["date"] < about["date"]:
            newest[key] = report
    order = list(TITLES)
    found = [report for report in newest.values() if report.kind != "compare"]
    return sorted(found, key=lambda r: order.index(r.kind) if r.kind in order else len(order))


def measured_table(reports: Iterable[Report]) -> str:
    """Every row of every report as Markdown, slower and wrong ones too; machine and date below."""
    shown = [_one_report(report) for report in reports if report.kind in TITLES]
    return "\n\n".join(shown) or NOTHING


def _one_report(report: Report) -> str:
    names = list(dict.fromkeys(name for row in report.rows for name in row["columns"]))
    rivals = [name for name in names if name not in ("fused", "unfused", "call")]
    heads = ["layer" if report.kind != "net" else "network", "µs", "p20 - p80", "of FMA peak", "MB"]
    if "unfused" in names:
        heads += ["unfused µs", "MB", "x ours"]
    for rival in rivals:
        heads += [f"{rival} µs", "x ours"]
    heads.append("error")
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for row in report.rows:
        ours = row["columns"]["fused"]
        line = [row["name"], *_ours(ours), _megabytes(ours)]
        if "unfused" in names:
            other = row["columns"].get("unfused", {})
            line += [_time(other), _megabytes(other), _ratio(other)]
        for rival in rivals:
            other = row["columns"].get(rival, {})
            line += [_time(other), _ratio(other)]
        lines.append([*line, f"{ours['error']:.0e}" if "error" in ours else "-"])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"**{_title(report)}**\n\n{table}\n\n{_caption(report)}"


def _title(report: Report) -> str:
    if report.kind != "net" or not report.rows:
        return TITLES.get(report.kind, "")
    name, (_, h, w, _) = report.rows[0]["name"], report.rows[0]["shape"]
    return f"{'GoogLeNet' if name == 'googlenet' else name}, {h}x{w}, forward"


def _ours(cell: dict[str, Any]) -> list[str]:
    if "median_us" not in cell:
        return [_time(cell), "-", "-"]
    spread = f"{cell['p20_us']:.0f} - {cell['p80_us']:.0f}"
    return [_time(cell), spread, f"{100 * cell['share']:.0f} %"]


def _time(cell: dict[str, Any]) -> str:
    if "failed" in cell:
        return "wrong"
    return f"{cell['median_us']:.0f}" if "median_us" in cell else "-"


def _ratio(cell: dict[str, Any]) -> str:
    return f"{cell['ratio']:.2f}" if cell.get("ratio") is not None else "-"


def _megabytes(cell: dict[str, Any]) -> str:
    return f"{cell['bytes'] / 1e6:.2f}" if "bytes" in cell else "-"


def _caption(report: Report) -> str:
    about, settings = report.environment, report.settings
    command = re.sub(r" --save \S+", "", about["command"])  # the file may have moved since
    versions = ", ".join(f"{name} {value}" for name, value in about["versions"].items())
    commit = f"commit {about['commit'][:10]}" if about.get("commit") else "no commit"
    dirty = " with changes" if about.get("dirty") else ""
    algorithm, dtype = settings.get("algorithm"), settings.get("dtype", "float32")
    how = f"algorithm {algorithm}" + (f", {dtype}" if dtype != "float32" else "")
    lines = [
        f"{about['cpu']}, {about['cores']} cores, {about['level']}; threads {about['threads']}, "
        f"batch {settings.get('batch')}, {how}; FMA peak "
        f"{settings.get('peak_gflops', 0):.0f} GFLOP/s in the same run",
        f"{versions}; {commit}{dirty}; {about['date']}; `{command}`",
    ]
    lines += [f"{name} left out: {reason}" for name, reason in report.left_out.items()]
    lines += [note for note in report.notes if note.startswith("DISTURBED")]
    return "\n".join(f"- {line}" for line in lines)


# -------------------------------------------------------------------------------------------- main


def between(text: str, name: str) -> str:
    """What stands between the markers of ``name``; ValueError if they are not there once each."""
    found = re.findall(f"<!-- {name} begin -->\n(.*?)<!-- {name} end -->", text, flags=re.S)
    if len(found) != 1:
        raise ValueError(f"README.md: {len(found)} pairs of markers {name!r}, expected 1")
    return str(found[0]).strip()


def replaced(text: str, name: str, body: str) -> str:
    """``text`` with ``body`` between the markers of ``name``."""
    between(text, name)
    pattern = f"(<!-- {name} begin -->\n).*?(<!-- {name} end -->)"
    return re.sub(pattern, lambda m: f"{m[1]}\n{body}\n\n{m[2]}", text, flags=re.S)


def main() -> int:
    """Write, or with ``--check`` compare; the exit status says whether something was old."""
    parser = argparse.ArgumentParser(description="Rewrite the README's picture and tables.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if old")
    check = parser.parse_args().check
    reports = load_results()
    drawn, text = picture(shapes.module(MODULE)), README.read_text(encoding="utf-8")
    new = replaced(text, "measured", measured_table(reports))
    if check:  # the status table depends on the machine, so its age cannot be told here
        drawing = PICTURE.read_text(encoding="utf-8") if PICTURE.exists() else ""
        old = [n for n, same in (("picture", drawing == drawn), ("table", new == text)) if not same]
        print("up to date" if not old else f"old: {', '.join(old)}; run docs/make_readme.py")
        return 1 if old else 0
    new = replaced(new, "status", status_table(reports))
    PICTURE.write_text(drawn, encoding="utf-8")
    README.write_text(new, encoding="utf-8")
    print(f"{PICTURE.name}, status, measured ({len(reports)} reports) -> {README.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
