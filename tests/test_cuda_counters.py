"""Memory traffic of the CUDA kernels, counted at small shapes, against what it must not exceed.

Every site with more than 1 % of a kernel's wavefronts (sectors) stays within 1.1 of the least such
an instruction needs, and the bytes of all sectors within 5 % of the plan's model. So do eight and
24 columns of 16 bits a warp, half sectors that the block stores as whole ones.
"""

import json
import sys
from pathlib import Path

import cuda_count_cases as counting
import pytest
from cuda_counts import Device
from cuda_run import open_device

from pyinception.spec import ConvSpec

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import cuda_counters  # noqa: E402

X = (1, 8, 8, 96)
CASES = {
    "reduce_conv 3x3": lambda d: counting.simt_reduce_conv(d, X, 32, 64, 3, "fprop"),
    "reduce_conv 5x5, backward": lambda d: counting.simt_reduce_conv(d, X, 32, 64, 5, "backward"),
    "conv fp32": lambda d: counting.simt_conv(d, X, (64, 32), 1, "fp32", "fprop"),
    "conv bf16": lambda d: counting.simt_conv(d, X, (64, 64), 3, "bf16", "fprop"),
    "conv bf16 dgrad": lambda d: counting.simt_conv(d, X, (64,), 3, "bf16", "dgrad"),
    "conv bf16 wgrad": lambda d: counting.simt_conv(d, X, (64,), 3, "bf16", "wgrad"),
    "reduce_conv_mma bf16": lambda d: counting.mma_reduce_conv(d, X, 64, 256, 3, "bf16", 1),
    "reduce_conv_mma tf32": lambda d: counting.mma_reduce_conv(d, X, 64, 256, 3, "fp32", 1),
    "reduce_conv_mma bf16, 8 and 24 columns a warp": lambda d: counting.mma_reduce_conv(
        d, X, 96, 32, 3, "bf16", 1
    ),
    "conv_mma fp16 dgrad, 24 columns a warp": lambda d: counting.mma_conv(
        d, X, (64,), 3, "fp16", "dgrad"
    ),
    "conv_mma bf16 dgrad": lambda d: counting.mma_conv(d, (*X[:3], 128), (64,), 3, "bf16", "dgrad"),
    "conv_wgrad_mma bf16": lambda d: counting.mma_conv(d, (*X[:3], 128), (64,), 3, "bf16", "wgrad"),
    "conv_mma bf16, taps share sectors": lambda d: counting.mma_conv(
        d, (1, 8, 8, 16), (64,), 5, "bf16", "fprop"
    ),
    "conv_wgrad_mma bf16, taps share sectors": lambda d: counting.mma_conv(
        d, (1, 8, 8, 24), (64,), 5, "bf16", "wgrad"
    ),
    "inception_mma bf16": lambda d: counting.mma_inception(
        d, X, (64, 64, 128, 32, 64, 64), "bf16", 1
    ),
    "lrn_pool bf16": lambda d: counting.lrn_pool(d, (1, 16, 16, 64), False, "bf16"),
    "conv_lrn_pool_mma bf16": lambda d: counting.conv_lrn_pool(
        d, ConvSpec(1, 20, 20, 32, 128, 3, 3, (1, 1), (1, 1), True), False
    ),
    "conv_lrn_pool_mma bf16, pool first": lambda d: counting.conv_lrn_pool(
        d, ConvSpec(1, 20, 20, 32, 64, 3, 3, (2, 1), (1, 1), True), True
    ),
    "lrn_pool fp32, pool first": lambda d: counting.lrn_pool(d, (1, 16, 16, 64), True, "fp32"),
}


@pytest.mark.parametrize("name", CASES)
def test_traffic(name):
    open_device()  # or a skip that says what is missing
    device = Device()
    CASES[name](device)
    results = list(device.results(name))
    assert results
    for counted in results:
        for shared in (True, False):
            sites = counted.sites_above(0.01, shared)
            assert sites or (shared and counted.kernel == "conv_sum_chunks")
            for site in sites:
                assert site.ratio <= 1.1, f"{counted.kernel}: {site}"
        assert abs(counted.deviation) <= 0.05, f"{counted.kernel}: {counted.deviation:+.1%}"


def test_the_register_tile_reads_what_differs():
    """Two wavefronts of B by 16 bytes a lane; one of A, and of a narrow tile's B, by eight."""
    open_device()
    for name, widths in (("conv fp32", {8}), ("conv bf16 wgrad", {4, 8, 16})):
        device = Device()
        CASES[name](device)
        counted = next(iter(device.results(name)))
        reads = [s for s in counted.sites if s.kind == "shared read"]
        assert {site.width for site in reads} == widths
        for site in reads:
            wavefronts = max(1, site.width // 8)
            assert site.units == site.distinct == wavefronts * site.instructions, site
        assert sum(site.units for site in reads) > 0.7 * counted.total(shared=True)


def test_the_recorded_table_keeps_the_limits():
    """At whole shapes: every shared site, sectors of whole kernels, bytes against the model."""
    path = Path(__file__).parents[1] / "benchmarks" / "results" / "cuda_counters.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["divided"] == {"channels": 1, "rows": 1}
    rows = record["rows"]
    assert len(rows) == 222 and {row["kernel"] for row in rows} > {
        "lrn_pool", "conv_lrn_pool_mma_bf16", "conv_lrn_pool_mma_fp16"
    }  # fmt: skip
    assert {row["layer"].partition("/")[0] for row in rows} > {"3a", "4a", "5a"}
    for row in rows:
        assert (row["worst shared"] or 1) <= 1.1 and row["global"] <= 1.1, row
        assert (row["shared of distinct bytes"] or 1) <= 1.1, row
        assert abs(row["of model"]) <= 0.05, row


def test_the_fused_kernels_hold_the_clauses():
    """Each, letter by letter."""
    record = json.loads((ROOT / "benchmarks/results/cuda_counters.json").read_text())
    found = cuda_counters.clauses(record["rows"])
    assert record["fused"] == found and [row["count"] for row in found] == [20, 15, 15, 15]
    for row in found:
        assert row["least"] == row["sectors"] == row["bytes"] == row["shared"] == row["count"]
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert "\n".join(cuda_counters.table(found)) in text


def test_a_clause_that_does_not_hold_is_not_counted():
    good = {"op": "reduce_conv_mma bf16 on 1", "shared of distinct bytes": 1.1, "of model": 0.05,
            "worst shared": None, "global": 1.1, "worst global": 1.1}  # fmt: skip
    names = ("shared", "least", "sectors", "every site", "bytes")
    bad = {"shared of distinct bytes": 1.11, "worst shared": 1.11, "global": 1.11,
           "worst global": 1.11, "of model": -0.051}  # fmt: skip
    for name, field in zip(names, bad, strict=True):
        *_, row, _ = cuda_counters.clauses([good, good | {field: bad[field]}, {"op": "conv bf16"}])
        assert {n: row[n] for n in ("count", *names)} == {
            "count": 2, **{n: 1 if n == name else 2 for n in names}
        }  # fmt: skip


def test_explain_counts_a_branch(capsys):
    open_device()
    from pyinception.cli import main

    asked = ["explain", "reduce_conv", "1,7,7,32,16,24,3", "--backend", "emulated"]
    assert main.run([*asked, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["counters"]
    assert {row["kernel"] for row in rows} == {"reduce_conv_fprop_narrow"}
    assert any(row["line"].startswith("tile.cuh:") for row in rows)
    assert not any(".hpp" in row["line"] for row in rows)
    for memory in ("shared", "global"):
        mine = [row for row in rows if row["kind"].startswith(memory)]
        assert sum(row["share"] for row in mine) == pytest.approx(1, abs=0.01)
    assert main.run(asked) == 0
    text = capsys.readouterr().out
    assert "counted, one call" in text and "global read" in text
