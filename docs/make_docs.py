"""Rewrite what the pages of docs/ show but nobody types.

    python docs/make_docs.py            # figures, tables, reading times
    python docs/make_docs.py --check    # write nothing; exit 1 if something is old

Figures are functions of shapes and stored results (`docs/figures/draw.py`). Tables stand between
markers ``<!-- NAME begin -->`` and ``<!-- NAME end -->``. A stop of the reading path opens with the
minutes that it takes to read.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS / "figures"))

import draw  # noqa: E402

from pyinception import config  # noqa: E402
from pyinception.train.recipe import describe  # noqa: E402

STOPS = sorted((DOCS / "path").glob("[01]*.md"))
WORDS, LINES = 180, 12  # read in a minute: words of prose, lines of code
_FENCE = re.compile(r"^```(\{?\w+\}?)[^\n]*\n(.*?)^```$", re.M | re.S)
_INCLUDE = re.compile(r"^```\{literalinclude\} (\S+)\n((?::[\w-]+:.*\n)*)```$", re.M)
_MADE = re.compile(r"<!-- (\w+) begin -->.*?<!-- \1 end -->", re.S)
_HEAD = re.compile(r"^\*Stop .*\*$", re.M)

# ----------------------------------------------------------------------------------- reading time


def included(page: Path, target: str, options: str) -> list[str]:
    """The lines that a literalinclude directive shows."""
    text = (page.parent / target).read_text(encoding="utf-8")
    given = {key: value.strip('"') for key, value in re.findall(r":([\w-]+): (.*)", options)}
    lines = text.splitlines()
    if name := given.get("pyobject"):
        body = ast.parse(text).body
        for part in name.split("."):
            found = next(n for n in body if getattr(n, "name", None) == part)
            body = getattr(found, "body", [])
        return lines[found.lineno - 1 : found.end_lineno]
    first, last = 0, len(lines)
    for key, after in (("start-at", 0), ("start-after", 1)):
        if key in given:
            first = next(i for i, line in enumerate(lines) if given[key] in line) + after
    for key, after in (("end-before", 0), ("end-at", 1)):
        if key in given:
            start = first if key == "end-at" else first + 1
            last = next(i for i in range(start, last) if given[key] in lines[i]) + after
    return lines[first:last]


def minutes(page: Path) -> int:
    """Reading time of a page without its tables: prose, and all code, the included lines too."""
    text = _MADE.sub("", page.read_text(encoding="utf-8"))
    code = sum(len(included(page, *found)) for found in _INCLUDE.findall(text))
    text = _INCLUDE.sub("", text)
    code += sum(block.count("\n") for _, block in _FENCE.findall(text))
    words = len(_FENCE.sub("", text).split())
    return max(1, round(words / WORDS + code / LINES))


def with_minutes(page: Path, number: int) -> str:
    """The text of a stop with its number and its minutes in place."""
    text = page.read_text(encoding="utf-8")
    if len(_HEAD.findall(text)) != 1:
        raise ValueError(f"{page.name}: expected one line '*Stop ...*'")
    return _HEAD.sub(f"*Stop {number} of {len(STOPS)}, {minutes(page)} minutes.*", text)


# ----------------------------------------------------------------------------------------- tables


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def path_table() -> str:
    """The stops, with what each takes."""
    rows = []
    for number, page in enumerate(STOPS, 1):
        title = page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        rows.append([str(number), f"[{title}](path/{page.name})", str(minutes(page))])
    total = sum(int(row[2]) for row in rows)
    return table(["stop", "", "minutes"], [*rows, ["", "all", str(total)]])


def ladder_table() -> str:
    """The stored rungs, and on what they were timed."""
    found = draw.stored("ladder.json")
    rows = [
        [rung["name"], rung["what"], f"{rung['seconds'] * 1e3:.3g}", f"{rung['gflops']:.3g}",
         f"{rung['gflops'] / found['peak_gflops']:.2%}", f"{rung['error']:.0e}"]
        for rung in found["rungs"]
    ]  # fmt: skip
    about = found["environment"]
    heads = ["rung", "", "ms", "GFLOP/s", "of FMA peak", "error"]
    words = f"{about['cpu']}, {about['level']}, one thread, {about['date'][:10]}"
    return (
        f"{table(heads, rows)}\n\n{words}; `pyinception ladder` times them on yours. The time of "
        "loops is that of two channels of one row, its rate that of the layer."
    )


def rungs(*names: str) -> str:
    """Some of the stored rungs, the first one as the measure of the others."""
    found = {rung["name"]: rung for rung in draw.stored("ladder.json")["rungs"]}
    first = found[names[0]]["gflops"]
    rows = [
        [name, f"{found[name]['seconds'] * 1e3:.3g}", f"{found[name]['gflops']:.3g}",
         f"{found[name]['gflops'] / first:.3g}"]
        for name in names
    ]  # fmt: skip
    return table(["rung", "ms", "GFLOP/s", "x"], rows)


def gains_table() -> str:
    """Unfused over fused as stored: bytes and time of modules and of branches."""
    rows = []
    for label, file, ends in (
        ("modules, batch 1, two threads", "module.json", ""),
        ("modules, batch 8, two threads", "module_batch8.json", ""),
        ("3x3 branches, direct, batch 1, one thread", "reduce_conv.json", "/3x3"),
        ("5x5 branches, direct, batch 1, one thread", "reduce_conv.json", "/5x5"),
    ):
        report = json.loads((draw.RESULTS / file).read_text(encoding="utf-8"))
        columns = [row["columns"] for row in report["rows"] if row["name"].endswith(ends)]
        cells = [label]
        for key in ("bytes", "median_us"):
            ratios = [column["unfused"][key] / column["fused"][key] for column in columns]
            cells.append(f"{median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})")
        rows.append(cells)
    return table(["unfused over fused", "bytes: median (range)", "time: median (range)"], rows)


def times_table() -> str:
    """GoogLeNet forward as stored, ours and the rivals'."""
    rows = []
    for file in ("net.json", "net_batch8.json"):
        report = json.loads((draw.RESULTS / file).read_text(encoding="utf-8"))
        columns, about = report["rows"][0]["columns"], report["environment"]
        times = [f"{columns[name]['median_us'] / 1e3:.1f}" if name in columns else "-"
                 for name in ("fused", "openvino", "onnxruntime")]  # fmt: skip
        rows.append([str(report["settings"]["batch"]), *times])
    words = f"{about['cpu']}, {about['threads']} threads, {about['date'][:10]}; rest in the README."
    return f"{table(['images', 'ours, ms', 'OpenVINO', 'ONNX Runtime'], rows)}\n\n{words}"


def recipe_table() -> str:
    """Every entry of a recipe."""
    from pyinception.cli.train import toml

    rows = [
        [f"`{entry['name']}`", entry["type"], f"`{toml(entry['default'])}`", entry["about"]]
        for entry in describe()
    ]
    return table(["entry", "type", "default", "meaning"], rows)


def switch_table() -> str:
    """Every switch of `pyinception.config`."""
    rows = []
    for switch in config.SWITCHES.values():
        values = ", ".join(f"`{choice or '(empty)'}`" for choice in switch.choices)
        default = int(switch.default) if isinstance(switch.default, bool) else switch.default
        rows.append([f"`{switch.name}`", f"`{switch.environment}`", f"`{default or '(empty)'}`"
                     if default != 0 else "`0`", values or "a number", switch.about])  # fmt: skip
    return table(["switch", "environment", "default", "values", "meaning"], rows)


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "index.md": {"path": path_table},
    "path/01_loops.md": {"ladder": ladder_table},
    "path/02_plain.md": {"rungs": partial(rungs, "loops", "plain", "im2col")},
    "path/03_register_tile.md": {"rungs": partial(rungs, "plain", "im2col", "register tile")},
    "path/04_winograd.md": {"rungs": partial(rungs, "register tile", "Winograd")},
    "path/05_reduce_conv.md": {"rungs": partial(rungs, "branch, unfused", "branch, fused")},
    "path/08_googlenet.md": {"times": times_table},
    "path/10_fusion.md": {"gains": gains_table},
    "training.md": {"recipe": recipe_table},
    "design.md": {"switches": switch_table},
}


def with_tables(text: str, page: str) -> str:
    """The text of a page with its tables in place."""
    for name, make in TABLES.get(page, {}).items():
        pattern = f"(<!-- {name} begin -->\n).*?(<!-- {name} end -->)"
        if len(re.findall(pattern, text, flags=re.S)) != 1:
            raise ValueError(f"{page}: expected one pair of markers {name!r}")
        body = make()
        text = re.sub(pattern, lambda m: f"{m[1]}\n{body}\n\n{m[2]}", text, flags=re.S)  # noqa: B023
    return text


# ------------------------------------------------------------------------------------------- main


def made() -> dict[Path, str]:
    """Every file that this script has a hand in -> its text."""
    found = {DOCS / "figures" / f"{name}.svg": make().svg() for name, make in draw.FIGURES.items()}
    for number, page in enumerate(STOPS, 1):
        found[page] = with_minutes(page, number)
    for name in TABLES:
        page = DOCS / name
        found[page] = with_tables(found.get(page, page.read_text(encoding="utf-8")), name)
    return found


def old() -> list[str]:
    """The files whose text is not what it should be."""
    return [
        str(path.relative_to(DOCS))
        for path, text in made().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def main() -> int:
    """Write, or with ``--check`` compare; the exit status says whether something was old."""
    parser = argparse.ArgumentParser(description="Rewrite figures, tables, reading times of docs/.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if old")
    check = parser.parse_args().check
    names = old()
    if check:
        print("up to date" if not names else f"old: {', '.join(names)}; run docs/make_docs.py")
        return 1 if names else 0
    for path, text in made().items():
        path.write_text(text, encoding="utf-8")
    print(f"written: {', '.join(names) or 'nothing'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
