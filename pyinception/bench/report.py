"""What a benchmark run leaves: rows of plain data, the environment, a table, a comparison."""

import json
import os
import platform
import shlex
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np

from pyinception.backend import core

MACHINE = ("cpu", "cores", "threads", "level", "platform")  # what makes two runs comparable
_WORDS = ("name", "column", "kernel", "verdict")  # set flush left
NOISE = 0.02  # medians closer than this are the same: one machine repeats no better


def environment(threads: int, level: str = "") -> dict[str, Any]:
    """CPU, cores, threads, versions, commit, date and command of this process, plain data."""
    import pyinception

    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "level": level or core().host_level(),
        "platform": platform.platform(),
        "versions": {
            "pyinception": pyinception.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        **_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _commit() -> dict[str, Any]:
    """Commit of the checkout this package lies in, and whether files differ from it."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


@dataclass
class Report:
    """Rows of one run: ``rows`` for programs, ``table()`` for people, ``to_json()`` for files.

    A row is plain data: ``name shape kernel macs macs_inside checked pack_us same_bits
    peak_gflops`` and ``columns``. ``macs_inside`` leaves out filter rows outside the image,
    ``checked`` counts the images compared with float64, ``peak_gflops`` is the peak loop's median
    while this row was timed. ``columns`` maps "fused", "unfused", "call" and each rival to a
    cell: ``median_us p20_us p80_us samples gflops share share_inside bytes error error_of_bound
    ratio`` and, for rivals, ``first_us convert_us``. ``ratio`` is the cell's time over the fused
    time. A cell whose result is wrong has ``failed`` instead of times.
    """

    kind: str
    rows: list[dict[str, Any]]
    environment: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[str]:
        """ "row: column" of every result that is wrong."""
        return [
            f"{row['name']}: {name}"
            for row in self.rows
            for name, cell in row.get("columns", {}).items()
            if "failed" in cell
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dict(vars(self))

    def to_json(self) -> str:
        """The report as JSON text; `from_json` reads it back."""
        return json.dumps(self.as_dict(), indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """A report from the text of `to_json`; ValueError if it is something else."""
        try:
            data = json.loads(text)
            return cls(**data)
        except (TypeError, ValueError) as error:
            raise ValueError(f"Report.from_json: not a report of pyinception ({error})") from None

    def table(self) -> str:
        """Aligned text: a line a shape, what surrounds the times, a summary, the environment."""
        if self.kind == "compare":
            tables = [_compared(self)]
        elif self.kind == "quick":
            tables = [_quick(self)]
        elif self.kind == "own":
            tables = [_side_by_side(self)]
        else:
            tables = [_measured(self), _around(self)]
        blocks = ["\n".join(_align([heads, *lines])) for heads, lines in tables]
        below = [*_summary(self), *self.notes, _caption(self)]
        return "\n\n".join([*blocks, "\n".join(below)])


def _align(lines: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    words = {place for place, head in enumerate(lines[0]) if head in _WORDS}
    aligned = []
    for line in lines:
        cells = [
            text.ljust(width) if place in words else text.rjust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        aligned.append("  ".join(cells).rstrip())
    return aligned


def number(value: float | None) -> str:
    """Three to four digits, no exponent for times."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _competitors(report: Report) -> list[str]:
    """Every column beside our own, "unfused" first."""
    names = dict.fromkeys(name for row in report.rows for name in row["columns"])
    return [name for name in names if name not in ("fused", "call")]


def _measured(report: Report) -> tuple[list[str], list[list[str]]]:
    names = _competitors(report)
    heads = ["name", "us", "p20-p80", "GFLOP/s", "of peak", "inside", "MB", "error"]
    for name in names:
        heads += [f"{name} us", "MB", "x ours"] if name == "unfused" else [f"{name} us", "x ours"]
    lines = []
    for row in report.rows:
        ours = row["columns"]["fused"]
        spread = f"{number(ours.get('p20_us'))}-{number(ours.get('p80_us'))}"
        line = [row["name"], _time(ours), spread, number(ours.get("gflops"))]
        line += [_percent(ours, "share"), _percent(ours, "share_inside")]
        line += [_megabytes(ours), _error(ours)]
        for name in names:
            cell = row["columns"].get(name, {})
            line += [_time(cell)] + [_megabytes(cell)] * (name == "unfused")
            line += [number(cell.get("ratio"))]
        lines.append([*line, row["kernel"]])
    return [*heads, "kernel"], lines


def _quick(report: Report) -> tuple[list[str], list[list[str]]]:
    heads = ["name", "column", "us", "p20-p80", "GFLOP/s", "error"]
    lines = []
    for row in report.rows:
        for name, cell in row["columns"].items():
            spread = f"{number(cell.get('p20_us'))}-{number(cell.get('p80_us'))}"
            numbers = [_time(cell), spread, number(cell.get("gflops")), _error(cell)]
            lines.append([row["name"], name, *numbers])
    return heads, lines


def _around(report: Report) -> tuple[list[str], list[list[str]]]:
    """What a caller pays beside the timed call, and the rivals' errors."""
    names = [name for name in _competitors(report) if name != "unfused"]
    heads = ["name", "call us", "pack us"]
    for name in names:
        heads += [f"{name} convert us", "first ms", "error"]
    lines = []
    for row in report.rows:
        call = row["columns"].get("call", {})
        line = [row["name"], _time(call), number(row.get("pack_us"))]
        for name in names:
            cell = row["columns"].get(name, {})
            first = cell.get("first_us")
            line += [number(cell.get("convert_us"))]
            line += [number(first / 1000 if first is not None else None), _error(cell)]
        lines.append(line)
    return heads, lines


def _side_by_side(report: Report) -> tuple[list[str], list[list[str]]]:
    """A line for each shape and kernel: counters, or times where there are any."""
    timed = any("median_us" in c for row in report.rows for c in row["columns"].values())
    keys = ["wavefronts", "wavefronts_least", "sectors", "sectors_least", "instructions"]
    heads = ["name", "kernel", "error", "of bound"]
    heads += ["us", "p20-p80", "GFLOP/s"] if timed else ["wavefronts", "least", "sectors", "least"]
    heads += ["model MB"] if timed else ["instructions", "MB", "model MB"]
    lines = []
    for row in report.rows:
        for name, cell in row["columns"].items():
            line = [row["name"], name, _error(cell), number(cell.get("error_of_bound"))]
            if timed:
                spread = f"{number(cell.get('p20_us'))}-{number(cell.get('p80_us'))}"
                line += [_time(cell), spread, number(cell.get("gflops"))]
            elif "failed" in cell:
                line += ["WRONG", *["-"] * 5]
            else:
                line += [f"{cell[key]:,}" for key in keys] + [_megabytes(cell)]
            lines.append([*line, f"{row['bytes'] / 1e6:.3g}"])
    return heads, lines


def _time(cell: Mapping[str, Any]) -> str:
    return "WRONG" if "failed" in cell else number(cell.get("median_us"))


def _percent(cell: Mapping[str, Any], key: str) -> str:
    share = cell.get(key)
    return "-" if share is None else f"{100 * share:.0f} %"


def _megabytes(cell: Mapping[str, Any]) -> str:
    size = cell.get("bytes")
    return "-" if size is None else f"{size / 1e6:.3g}"


def _error(cell: Mapping[str, Any]) -> str:
    error = cell.get("error")
    return "-" if error is None else f"{error:.0e}"


def _compared(report: Report) -> tuple[list[str], list[list[str]]]:
    lines = []
    for row in report.rows:
        times = [number(row["a_us"]), number(row["b_us"]), number(row["ratio"])]
        lines.append([row["name"], row["column"], *times, row["verdict"]])
    return ["name", "column", "a us", "b us", "b / a", "verdict"], lines


def _summary(report: Report) -> list[str]:
    """Geometric means of the ratios, with the rows that lose."""
    if report.kind == "compare":
        verdicts = [row["verdict"] for row in report.rows]
        return [", ".join(f"{verdicts.count(v)} {v}" for v in sorted(set(verdicts)))]
    if report.kind in ("own", "quick"):
        cells = [(row["name"], *item) for row in report.rows for item in row["columns"].items()]
        return [f"{row}, {name}: {c['failed']}" for row, name, c in cells if "failed" in c]
    lines = [f"{place} gave a wrong result: no time shown" for place in report.failed]
    ratios: dict[str, list[tuple[float, str]]] = {}
    for row in report.rows:
        for name, cell in row["columns"].items():
            if name not in ("fused", "call") and cell.get("ratio") is not None:
                ratios.setdefault(name, []).append((cell["ratio"], row["name"]))
    for name, found in ratios.items():
        faster = [shape for ratio, shape in found if ratio < 1]
        text = f", and is faster on {', '.join(faster)}" if faster else ""
        mean = geometric_mean(ratio for ratio, _ in found)
        lines.append(f"{name} takes {mean:.2f} times our time (geometric mean){text}")
    if len(rivals := set(ratios) - {"unfused"}) > 1:
        least = _least(report, rivals)
        mean = geometric_mean(ratio for ratio, _ in least)
        lowest, shape = min(least)
        text = f"the fastest rival of each row takes {mean:.2f} times our time, at least"
        lines.append(f"{text} {lowest:.2f} ({shape})")
    lines += [f"{name} left out: {reason}" for name, reason in report.left_out.items()]
    return lines


def _least(report: Report, rivals: set[str]) -> list[tuple[float, str]]:
    """(the fastest rival's time over ours, row's name) of every row."""
    found = []
    for row in report.rows:
        cells = [cell for name, cell in row["columns"].items() if name in rivals]
        ratios = [cell["ratio"] for cell in cells if cell.get("ratio") is not None]
        found += [(min(ratios), row["name"])] if ratios else []
    return found


def _caption(report: Report) -> str:
    about = report.environment
    versions = ", ".join(f"{name} {value}" for name, value in about["versions"].items())
    commit = f"commit {about['commit'][:10]}" if about.get("commit") else "no commit"
    dirty = " with changes" if about.get("dirty") else ""
    peak = report.settings.get("peak_gflops")
    roof = f"; FMA peak {peak:.0f} GFLOP/s" if peak else ""
    where = f"{about['cpu']}, {about['cores']} cores, {about['level']}, threads {about['threads']}"
    return f"{where}{roof}; {versions}; {commit}{dirty}; {about['date']}"


def load(source: "Report | str | os.PathLike[str]") -> Report:
    """A report, or the one in a file that `Report.to_json` filled."""
    if isinstance(source, Report):
        return source
    return Report.from_json(Path(source).read_text(encoding="utf-8"))


def compare(a: "Report | str | os.PathLike[str]", b: "Report | str | os.PathLike[str]") -> Report:
    """Row by row, what became of ``a``'s times in ``b``.

    Parameters
    ----------
    a, b : reports or paths of their JSON, before and after.

    Returns
    -------
    A `Report` of kind "compare"; its rows have ``name column a_us b_us ratio verdict``. The verdict
    is "faster" or "slower" where the medians differ by more than 2 % and the spans p20..p80 do not
    meet, "same" otherwise, "wrong" where one result failed, "only in a" or "only in b".

    Warns
    -----
    UserWarning
        If CPU, cores, threads, level or platform differ: times of two machines say little.
    """
    first, second = load(a), load(b)
    notes = []
    for key in MACHINE:
        old, new = first.environment.get(key), second.environment.get(key)
        if old != new:
            notes.append(f"{key} differs: {old!r} in a, {new!r} in b")
    if first.kind != second.kind:
        notes.append(f"kind differs: {first.kind!r} in a, {second.kind!r} in b")
    if notes:
        warnings.warn(f"compare: {'; '.join(notes)}", UserWarning, stacklevel=2)
    cells = [
        {(row["name"], name): cell for row in r.rows for name, cell in row["columns"].items()}
        for r in (first, second)
    ]
    rows = [
        {"name": key[0], "column": key[1], **_verdict(cells[0].get(key), cells[1].get(key))}
        for key in dict.fromkeys([*cells[0], *cells[1]])
    ]
    return Report("compare", rows, second.environment, second.settings, {}, notes)


def _verdict(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> dict[str, Any]:
    old, new = (cell.get("median_us") if cell else None for cell in (a, b))
    ratio = new / old if old and new else None
    if a is None or b is None:
        verdict = "only in b" if a is None else "only in a"
    elif ratio is None:
        verdict = "wrong"
    elif ratio < 1 - NOISE and b["p80_us"] < a["p20_us"]:
        verdict = "faster"
    elif ratio > 1 + NOISE and b["p20_us"] > a["p80_us"]:
        verdict = "slower"
    else:
        verdict = "same"
    return {"a_us": old, "b_us": new, "ratio": ratio, "verdict": verdict}
