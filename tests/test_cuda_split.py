"""The split of output channels by (module, batch): the plan's choice is the table of the docs."""

from pathlib import Path

import pytest
from mma_problems import ReduceConv
from mma_runs import CXX, MODULES, Planned, made_up_addresses

DOCS = Path(__file__).parents[1] / "docs" / "kernels.md"
BATCHES = (1, 32, 256)
HEADER = "| branch | " + " | ".join(f"batch {n}" for n in BATCHES) + " |"


def choice(branch: tuple[int, ...], batch: int) -> str:
    """Tile, images x rows x channels of a block: 132 multiprocessors, 227 KB, bf16."""
    case = ReduceConv((1, *branch), padding=(branch[-1] // 2,) * 2)
    asked = case.place(made_up_addresses())
    asked["N"] = batch
    planned = Planned("reduce_conv_mma", asked)
    tile = planned.launches[0].entry.rpartition("_")[2]
    extents = (int(planned.record[name]) for name in ("tile_images", "tile_p", "slice"))
    return f"{tile} " + "x".join(map(str, extents))


@pytest.mark.skipif(CXX is None, reason="no C++ compiler found")
def test_the_split_is_the_table():
    lines = [HEADER, "| --- |" + " --- |" * len(BATCHES)]
    for name, (extent, c, *branches) in MODULES.items():
        for (cr, k), filter_ in zip(branches, (3, 5), strict=True):
            row = [choice((extent, extent, c, cr, k, filter_, filter_), n) for n in BATCHES]
            lines.append(f"| {name} {filter_}x{filter_} | " + " | ".join(row) + " |")
    text = DOCS.read_text(encoding="utf-8")
    assert HEADER in text
    rows = text[text.index(HEADER) :].split("\n\n")[0].splitlines()
    assert rows == lines, "the table is:\n" + "\n".join(lines)
