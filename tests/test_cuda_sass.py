"""The count of a loop's instructions in machine code, on a loop made by hand, and the record."""

import json
import shutil
import site
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import cuda_sass  # noqa: E402

# 0x10 .. 0x0d0: quads where P0, values one by one elsewhere; P1 marks a tap's end, once in a while
LOOP = """
MOV R0, RZ
ISETP.NE.AND P0, PT, R0, RZ, PT
@!P0 BRA 0x50
@P2 LDG.E.128.CONSTANT R4, desc[UR4][R2.64]
BRA 0x70
@P2 LDG.E.CONSTANT R4, desc[UR4][R2.64]
@P3 LDG.E.CONSTANT R5, desc[UR4][R2.64+0x4]
LDS.128 R8, [R20]
@!P1 BRA 0xb0
IADD3 R0, R0, 0x1, RZ
IADD3 R1, R1, 0x1, RZ
{multiplies}
STS.128 [R21], R4
@P4 BRA 0x10
EXIT
"""


def instructions(multiplies: int) -> list[tuple[int, str]]:
    lines = LOOP.format(multiplies="FFMA R1, R4, R8, R1").strip().split("\n")
    at = lines.index("FFMA R1, R4, R8, R1")
    lines[at : at + 1] = ["FFMA R1, R4, R8, R1"] * multiplies
    return [(16 * i, line) for i, line in enumerate(lines)]


def test_a_turn_goes_the_way_of_whole_accesses_and_leaves_out_what_is_rare():
    [loop] = cuda_sass.loops("kernel", instructions(20))
    assert (loop.at, loop.multiplies, loop.reads, loop.fetches, loop.stores) == (
        "0x10",
        20,
        1,
        1,
        1,
    )
    # the comparison, two branches, a quad, a read, a branch over the tap's end, a store, the end
    assert loop.instructions == 20 + 8


def test_a_loop_with_few_multiplies_is_none():
    assert cuda_sass.loops("kernel", instructions(cuda_sass.LEAST - 1)) == []


@pytest.mark.parametrize("missing", ["nvcc", "cuobjdump"])
def test_a_tool_that_is_missing_is_named(missing, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None if name == missing else f"/bin/{name}")
    monkeypatch.setattr(site, "getsitepackages", list)
    with pytest.raises(SystemExit, match=f"{missing} is not found: install"):
        cuda_sass.machine_code("conv", "sm_90a", ROOT / "kernels")


def test_the_record_is_what_the_page_says():
    record = json.loads((ROOT / "benchmarks/results/cuda_sass.json").read_text(encoding="utf-8"))
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    named = {"reduce_conv_fprop_wide", "conv_fprop_wide_f32", "conv_dgrad_wide_f32",
             "conv_wgrad_wide_f32", "reduce_conv_dgrad_wide"}  # fmt: skip
    rows = [row for row in record["loops"] if row["kernel"] in named]
    assert record["architecture"] == "sm_90a" and len(rows) == 7
    for row in rows:
        share = row["multiplies"] / row["instructions"]
        assert f"| {row['instructions']} | {100 * share:.0f} %" in text, row
