"""Rewrite docs/studies.md from the studies stored in benchmarks/results.

    python docs/make_studies.py            # tables and sentences between the markers, pictures
    python docs/make_studies.py --check    # write nothing, exit 1 if the page is old

A study is stored by ``pyinception study NAME --save benchmarks/results``.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

from pyinception import study

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "studies.md"
TITLES = {"digits": "On digits", "shapes": "On shapes", "cifar10": "On CIFAR-10"}


def section(name: str) -> str:
    """Every stored outcome of a study: picture, table, sentence; a command where there is none."""
    paths = sorted(RESULTS.glob(f"study_{name}_*.json")) or sorted(
        RESULTS.glob(f"study_{name}.json")
    )
    if not paths:
        return f"Not run yet: `pyinception study {name} --save benchmarks/results`."
    parts = []
    for path in paths:
        outcome = study.load(path)
        picture = os.path.relpath(path.with_suffix(".svg"), PAGE.parent)
        title = TITLES.get(outcome.recipe.get("data", ""), "")
        parts += [f"**{title}**"] if title else []
        parts += [study.markdown(outcome), f"![{name}]({picture})"]
    return "\n\n".join(parts)


def written(page: str) -> str:
    """``page`` with every study's section between its markers; ValueError if one lacks them."""
    for name in study.STUDIES:
        pattern = f"(<!-- {name} begin -->\n).*?(<!-- {name} end -->)"
        body = f"\n{study.STUDIES[name].claim}\n\n{section(name)}\n\n"
        page, count = re.subn(
            pattern, lambda m, body=body: m[1] + body + m[2], page, flags=re.DOTALL
        )
        if count != 1:
            raise ValueError(f"{PAGE.name}: {count} pairs of markers {name!r}, expected 1")
    return page


def main() -> int:
    """Write, or with ``--check`` compare; the exit status says whether the page was old."""
    parser = argparse.ArgumentParser(description="Rewrite docs/studies.md.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if old")
    check = parser.parse_args().check
    page = PAGE.read_text(encoding="utf-8")
    new = written(page)
    if check:
        print("up to date" if new == page else "old; run docs/make_studies.py")
        return int(new != page)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
