"""Memory traffic of the CUDA kernels at GoogLeNet's shapes, counted on the emulator.

    python benchmarks/cuda_counters.py [stem 3a 4a 5a] [--only TEXT] [--channels N] [--json FILE]

Nothing is measured on a GPU: the emulator executes every memory instruction and counts wavefronts
of shared memory and 32-byte sectors of global memory (docs/emulator.md). Per kernel: the worst site
above 1 % of its wavefronts (sectors) against the least such an instruction needs, all sites
together, and the bytes of its sectors against the plan's model (kernels/cuda/traffic.h). Batch 1.
The last lines are the same for the fused kernels of the modules alone, clause by clause.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from cuda_count_cases import MODULES, cases  # noqa: E402
from cuda_counts import Counted, Site  # noqa: E402

SHARE, LIMIT, DEVIATION = 0.01, 1.1, 0.05


def worst(counted: Counted, shared: bool) -> Site | None:
    """The site above `SHARE` that is furthest from its least; None where there is none."""
    return max(counted.sites_above(SHARE, shared), key=lambda s: s.ratio, default=None)


def row_of(op: str, counted: Counted) -> dict[str, Any]:
    """One row of the table, as plain data."""
    row: dict[str, Any] = {"layer": counted.layer, "op": op, "kernel": counted.kernel}
    for name, shared in (("shared", True), ("global", False)):
        site = worst(counted, shared)
        row[name] = round(counted.ratio(shared), 3)
        row[f"worst {name}"] = round(site.ratio, 3) if site else None
        row[f"at {name}"] = f"{site.kind} {site.where}" if site else None
    bytes_site = max(
        counted.sites_above(SHARE, True), key=lambda s: s.units / s.distinct, default=None
    )
    row["shared of distinct bytes"] = (
        round(bytes_site.units / bytes_site.distinct, 3) if bytes_site else None
    )
    row["MB"] = round(counted.counted / 1e6, 3)
    row["of model"] = round(counted.deviation, 4)
    row["sites"] = [
        asdict(site)
        | {"least": site.least, "share": round(site.units / counted.total(site.is_shared), 4)}
        for shared in (True, False)
        for site in counted.sites_above(SHARE, shared)
    ]
    return row


def holds(row: dict[str, Any]) -> bool:
    """Whether the row keeps the limits of `LIMIT` and `DEVIATION`."""
    ratios = (row["worst shared"] or 1.0, row["worst global"] or 1.0)
    return max(ratios) <= LIMIT and abs(row["of model"]) <= DEVIATION


def clauses(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many of the modules' fused kernels (`reduce_conv*`, `inception*`) hold each clause.

    shared: wavefronts within `LIMIT` of the distinct bytes at every site above `SHARE`; least: of
    what such an instruction takes at least; sectors: of the distinct bytes, the whole kernel;
    worst: its worst site; bytes: within `DEVIATION` of the plan's model.
    """
    found = []
    for kind in ("CUDA cores, fp32", *(f"tensor cores, {s}" for s in ("fp32", "bf16", "fp16"))):
        cores, storage = kind.split(", ")
        mine = [
            row
            for row in rows
            if row["op"].startswith(("reduce_conv", "inception"))
            and ("_mma" in row["op"]) == (cores == "tensor cores")
            and ("_mma" not in row["op"] or storage in row["op"])
        ]
        found.append(
            {"kernels": kind, "count": len(mine)}
            | {
                name: sum((row[of] or 1.0) <= LIMIT for row in mine)
                for name, of in (
                    ("shared", "shared of distinct bytes"),
                    ("least", "worst shared"),
                    ("sectors", "global"),
                    ("every site", "worst global"),
                )
            }
            | {
                "bytes": sum(abs(row["of model"]) <= DEVIATION for row in mine),
                "worst site": max((row["worst global"] or 1.0 for row in mine), default=1.0),
            }
        )
    return found


def table(found: list[dict[str, Any]]) -> list[str]:
    """`clauses` in Markdown."""
    lines = [
        "| fused kernels of the modules | rows | shared, of the distinct bytes | of the least "
        "| sectors, kernel | every site | worst site | bytes |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in found:
        names = ("kernels", "count", "shared", "least", "sectors", "every site")
        cells = [*(row[name] for name in names), f"{row['worst site']:.2f}", row["bytes"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def line(row: dict[str, Any], seconds: float) -> str:
    """One line of the table."""
    cells = [f"{row['layer']:9}", f"{row['op']:29}", f"{row['kernel']:26}"]
    for name in ("shared", "global"):
        top = row[f"worst {name}"]
        cells.append(f"{row[name]:6.2f} {top if top else 0:6.2f}")
    verdict = "" if holds(row) else "  <-"
    return (
        " ".join(cells)
        + f" {row['MB']:9.2f} {100 * row['of model']:+6.1f} % {seconds:5.1f}{verdict}"
    )


def _without_sites(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "sites"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", default=["stem", *MODULES])
    parser.add_argument("--only", default="", help="operations whose name holds this text")
    parser.add_argument("--channels", type=int, default=1, help="divide C and K by this")
    parser.add_argument("--rows", type=int, default=1, help="divide the map's side by this")
    parser.add_argument("--sites", action="store_true", help="all sites above 1 %% as well")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    say = lambda text: print(text, flush=True)  # noqa: E731
    say(f"{'layer':9} {'operation':29} {'kernel':26} {'shared':>6} {'worst':>6} {'global':>6} "
        f"{'worst':>6} {'MB':>9} {'model':>8} {'s':>5}")  # fmt: skip
    rows = []
    for module in options.modules:
        for case in cases(module, options.channels, options.rows):
            if options.only not in case.op:
                continue
            begin = time.perf_counter()
            for counted in case.count():
                rows.append(row_of(case.op, counted))
                say(line(rows[-1], time.perf_counter() - begin))
                for site in rows[-1]["sites"] if options.sites else ():
                    say(f"    {site['share']:6.1%} {site['units'] / site['distinct']:6.2f} "
                        f"{site['units'] / site['least']:6.2f} "
                        f"{site['kind']:13} {site['width']:2} {site['where']}")  # fmt: skip
    say(f"{sum(map(holds, rows))} of {len(rows)} kernels within {LIMIT} at every site and "
        f"{DEVIATION:.0%} of the model")  # fmt: skip
    say("\n".join(table(clauses(rows))))
    if options.json:
        what = {
            "counted": "on the emulator, not measured on a GPU; batch 1",
            "divided": {"channels": options.channels, "rows": options.rows},
            "fused": clauses(rows),
            "rows": rows if options.sites else [_without_sites(row) for row in rows],
        }
        options.json.write_text(json.dumps(what, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
