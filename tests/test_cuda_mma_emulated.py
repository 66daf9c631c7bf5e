"""The tensor-core kernels, executed: equal to the reference, bit by bit, on integers.

Maps are slices of wider buffers whose other channels are NaN, and every output is NaN before: what
is read beside a slice, or not written, shows.
"""

from pathlib import Path

import numpy as np
import pytest
from cuda_run import Launch
from mma_device import Emulated, why_not
from mma_problems import Conv, Inception, ReduceConv
from mma_runs import (
    CXX,
    KB,
    MODULES,
    STORAGE,
    Planned,
    read_slice,
    rounded,
)

PROBE = Path(__file__).parent / "ptx_probe.cu"
REASON = why_not() or ("no C++ compiler found" if CXX is None else None)
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


def launch(device, name: str, asked) -> Planned:
    planned = Planned(name, asked)
    assert planned.reason == "" and planned.launches
    for one in planned.launches:
        device.launch(one)
    return planned


def hold(got: np.ndarray, expected: np.ndarray) -> None:
    assert (expected != 0).mean() > 0.1, "mostly zeros: this proves little"
    np.testing.assert_array_equal(got, expected)


def hold_reduce_conv(case: ReduceConv, entry: str = "", **how) -> None:
    device = Emulated(**how)
    planned = launch(device, "reduce_conv_mma", case.place(device.buffer))
    assert planned.launches[0].entry.endswith(entry)
    y, r = case.expected()
    hold(read_slice(case.maps["y"], device.read("y")), y)
    if case.maps["r"] is not None:
        hold(read_slice(case.maps["r"], device.read("r")), r)


def hold_conv(case: Conv, **how) -> None:
    """fprop, then mask, flip, dgrad and wgrad of the same problem."""
    device, addresses = Emulated(**how), {}

    def buffer(name: str, array: np.ndarray) -> int:
        addresses[name] = device.buffer(name, array)
        return addresses[name]

    forward, pieces = case.forward(buffer)
    launch(device, "conv_mma", forward)
    parts = [read_slice(piece, device.read(f"y{i}")) for i, piece in enumerate(pieces)]
    hold(np.concatenate(parts, axis=3), case.expected_forward())
    launch(device, "mask_mma", case.mask(buffer))
    launch(device, "flip_filters_mma", case.flip(buffer))
    dgrad, gx = case.dgrad(forward, addresses, buffer)
    launch(device, "conv_mma", dgrad)
    hold(read_slice(gx, device.read("gx")), case.expected_dgrad())
    launch(device, "conv_wgrad_mma", case.wgrad(addresses, buffer))
    for name, expected in zip(("gw", "gb"), case.expected_wgrad(), strict=True):
        hold(device.read(name), expected)


# ---- reduce_conv -------------------------------------------------------------------------------
# extents (N, H, W, C, Cr, K, R, S), stride, padding
AWKWARD = {
    "odd map": ((1, 14, 13, 64, 96, 104, 3, 3), (1, 1), (1, 1)),
    "5x5, three images": ((3, 7, 7, 72, 24, 40, 5, 5), (1, 1), (2, 2)),
    "one pixel": ((2, 1, 1, 8, 8, 8, 1, 1), (1, 1), (0, 0)),
    "stride 2": ((1, 9, 11, 40, 16, 24, 3, 3), (2, 2), (1, 1)),
    "wide padding": ((1, 9, 11, 40, 48, 24, 2, 3), (1, 2), (3, 2)),
    "7x1": ((1, 12, 5, 24, 112, 56, 7, 1), (1, 1), (3, 0)),
    "C 528, Cr 144": ((1, 6, 6, 528, 144, 288, 3, 3), (1, 1), (1, 1)),
    "stride beyond filter": ((1, 10, 10, 32, 8, 64, 2, 2), (3, 3), (0, 0)),
}
FRAMED = {"frame": (8, 16), "save_r": True}
HOW = {  # forms of one case; most in bf16: every entry takes seconds to translate
    "framed, r saved": ("bfloat16", FRAMED),
    "framed, r saved, fp16": ("float16", FRAMED),
    "framed, r saved, tf32": ("float32", FRAMED),
    "whole maps": ("bfloat16", {"multiprocessors": 1, "bias": False}),
    "99 KB": ("bfloat16", {"multiprocessors": 1, "limit": 99 * KB, "frame": (24, 8)}),
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", AWKWARD)
def test_reduce_conv(name, how):
    (extents, stride, padding), (storage, more) = AWKWARD[name], HOW[how]
    hold_reduce_conv(ReduceConv(extents, stride=stride, padding=padding, storage=storage, **more))


BRANCHES = [
    pytest.param((extent, extent, c, cr, k, filter_, filter_), id=f"{name} {filter_}x{filter_}")
    for name, (extent, c, *pairs) in MODULES.items()
    for (cr, k), filter_ in zip(pairs, (3, 5), strict=True)
]


@pytest.mark.parametrize("extents", BRANCHES)
def test_reduce_conv_of_the_modules(extents):
    """Whole geometry: as planned for a full device, four maps of 7x7 to a block."""
    images = 4 if extents[0] == 7 else 1
    pad = (extents[-1] // 2,) * 2
    case = ReduceConv((images, *extents), padding=pad, frame=(16, 8), multiprocessors=1)
    hold_reduce_conv(case)


@pytest.mark.parametrize("extents", BRANCHES)
def test_reduce_conv_of_the_modules_reduced(extents):
    """A quarter of the map, a third of C and K, the reduced widths as they are; r saved."""
    extent, _, c, cr, k, filter_, _ = extents
    small = (1, extent // 4 + 3, extent // 4 + 2, c // 3 // 8 * 8, cr, k // 24 * 8, *extents[-2:])
    pad = (filter_ // 2,) * 2
    case = ReduceConv(small, padding=pad, frame=(8, 8), save_r=True)
    hold_reduce_conv(case)


CHECKED = {  # under each tile, with more stages than the ring has
    "wide": ((1, 14, 14, 160, 112, 72, 3, 3), (1, 1)),
    "flat": ((1, 7, 7, 160, 48, 40, 5, 5), (2, 2)),
    "tall": ((1, 14, 14, 160, 24, 64, 5, 5), (2, 2)),
}


@pytest.mark.parametrize("tile", CHECKED)
def test_reduce_conv_without_races(tile):
    extents, pad = CHECKED[tile]
    for order, seed in (("fair", 0), ("greedy", 1), ("greedy", 2)):
        case = ReduceConv(extents, padding=pad, frame=(8, 16), multiprocessors=1)
        hold_reduce_conv(case, order=order, seed=seed)


def test_the_bits_do_not_depend_on_the_tile():
    """Real numbers: the same sums under every split, for a sample alone and in a batch."""
    results = []
    for images, multiprocessors, limit in ((4, 1, 227), (4, 264, 227), (1, 264, 227), (4, 1, 64)):
        case = ReduceConv((images, 7, 7, 96, 24, 72, 3, 3), padding=(1, 1), limit=limit * KB,
                          multiprocessors=multiprocessors, bias=False)  # fmt: skip
        rng = np.random.default_rng(1)
        for name in ("wr", "w"):
            setattr(case, name, rng.standard_normal(getattr(case, name).shape, np.float32))
        case.maps["x"].fill(rng.standard_normal((1, 7, 7, 96)).repeat(images, axis=0))
        device = Emulated()
        planned = launch(device, "reduce_conv_mma", case.place(device.buffer))
        y = read_slice(case.maps["y"], device.read("y"))
        assert (y == y[:1]).all()
        results.append((planned.launches[0].entry, planned.launches[0].grid, y[0]))
    assert len({result[:2] for result in results}) == len(results), "one split, tested twice"
    for _, _, y in results[1:]:
        np.testing.assert_array_equal(y, results[0][2])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_value_stays_where_it_belongs(value):
    """In x it reaches the outputs whose windows hold it and no other, zero units or not; past the
    end of a filter row nothing is multiplied, or infinity times zero would be there."""
    case = ReduceConv((1, 9, 10, 40, 24, 40, 3, 3), padding=(1, 1), frame=(8, 8))
    case.x[0, 4, 5, 7] = value
    case.maps["x"].fill(case.x)
    case.wr[:], case.w[:] = 1, 1
    device = Emulated()
    launch(device, "reduce_conv_mma", case.place(device.buffer))
    y = read_slice(case.maps["y"], device.read("y"))
    expected, _ = case.expected()
    assert (~np.isfinite(expected)).sum() == 9 * 40
    np.testing.assert_array_equal(y, expected)


# ---- conv ----------------------------------------------------------------------------------------
CONVS = {  # extents (N, H, W, C, K, R, S), stride, padding, more
    "3x3": ((2, 9, 8, 24, 40, 3, 3), (1, 1), (1, 1), {"frame": (8, 16)}),
    "one pixel": ((1, 1, 1, 8, 8, 1, 1), (1, 1), (0, 0), {}),
    "stride 2": ((2, 11, 10, 16, 96, 3, 3), (2, 2), (1, 1), {"frame": (16, 8)}),
    "siblings": ((3, 14, 14, 48, 112, 1, 1), (1, 1), (0, 0), {"outputs": (48, 24, 40)}),
    "5x5, wide": ((2, 12, 9, 32, 72, 5, 5), (1, 1), (2, 2), {"multiprocessors": 1}),
    "2x7, stride 3": ((1, 8, 9, 40, 136, 2, 7), (1, 3), (3, 5), {"bias": False, "relu": False}),
    "7x7, stride 3 2": ((1, 13, 13, 8, 16, 7, 7), (3, 2), (3, 3), {}),
    "padded 1x1": ((2, 6, 5, 16, 24, 1, 1), (1, 1), (1, 2), {}),
    "two columns of blocks": ((3, 16, 16, 56, 264, 3, 3), (1, 1), (1, 1), {"multiprocessors": 1}),
}


# fp16 differs from bf16 in single instructions: one tile of it is enough
@pytest.mark.parametrize(
    ("name", "storage"),
    [
        (n, s)
        for n in CONVS
        for s in STORAGE
        if s != "float16" or "multiprocessors" not in CONVS[n][3]
    ],
)
def test_conv_and_its_gradients(name, storage):
    extents, stride, padding, more = CONVS[name]
    hold_conv(Conv(extents, stride=stride, padding=padding, storage=storage, **more))


def test_conv1_with_its_channels_padded():
    """Three channels and one of zeros, as the layout kernel writes them: a whole unit of fp32."""
    case = Conv((1, 15, 13, 4, 64, 7, 7), stride=(2, 2), padding=(3, 3), storage="float32")
    case.x[..., 3] = 0
    hold_conv(case)


@pytest.mark.parametrize("storage", ["bfloat16", "float32"])
def test_conv_without_races(storage):
    for order, seed in (("fair", 0), ("greedy", 1), ("greedy", 2)):
        case = Conv((1, 14, 15, 40, 72, 3, 3), padding=(1, 1), storage=storage, frame=(8, 8))
        hold_conv(case, order=order, seed=seed)


def test_siblings_of_the_modules():
    """r3 | r5 | c1 of every module in one pass over a corner of its map."""
    plain = {"3a": 64, "3b": 128, "4a": 192, "4b": 160, "4c": 128, "4d": 112, "4e": 256,
             "5a": 256, "5b": 384}  # fmt: skip
    for name, (_, c, (cr3, _), (cr5, _)) in MODULES.items():
        outputs = (cr3, cr5, plain[name])
        case = Conv((1, 7, 5, c, sum(outputs), 1, 1), outputs=outputs, frame=(8, 0))
        device = Emulated()
        asked, pieces = case.forward(device.buffer)
        launch(device, "conv_mma", asked)
        parts = [read_slice(piece, device.read(f"y{i}")) for i, piece in enumerate(pieces)]
        hold(np.concatenate(parts, axis=3), case.expected_forward())


# ---- a module in one launch ----------------------------------------------------------------------
PLAIN = {"3a": (64, 32), "3b": (128, 64), "4a": (192, 64), "4b": (160, 64), "4c": (128, 64),
         "4d": (112, 64), "4e": (256, 128), "5a": (256, 128), "5b": (384, 128)}  # fmt: skip


def hold_inception(case: Inception, **how) -> Planned:
    device = Emulated(**how)
    planned = launch(device, "inception_mma", case.place(device.buffer))
    assert len(planned.launches) == 1
    hold(read_slice(case.piece, device.read("y")), case.expected())
    return planned


@pytest.mark.parametrize("name", MODULES)
def test_inception(name):
    """Widths of the module on its whole map from 4a on, a third of C."""
    extent, c, (cr3, k3), (cr5, k5) = MODULES[name]
    c1, cp = PLAIN[name]
    widths = (c1, cr3, k3, cr5, k5, cp)
    hold_inception(Inception(1, min(extent, 14), c // 48 * 16, widths))


def test_inception_without_races():
    for order, seed in (("fair", 0), ("greedy", 1), ("greedy", 2)):
        case = Inception(2, 9, 160, (24, 48, 40, 16, 24, 32), multiprocessors=8)
        hold_inception(case, order=order, seed=seed)


# ---- counters ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["wide", "flat", "tall"])
def test_no_bank_conflicts(name):
    """Panels and tap-shifted rows alike: as many wavefronts as the distinct bytes need."""
    extents, pad = CHECKED[name]
    case = ReduceConv(extents, padding=pad, multiprocessors=1)
    device = Emulated(count=True)
    launch(device, "reduce_conv_mma", case.place(device.buffer))
    rows = [row for row in device.counters() if row.width == 16]
    reads = [row for row in rows if row.kind == "shared matrix"]
    copies = [row for row in rows if row.kind == "shared copy"]
    assert reads and copies
    assert all(row.units == row.ideal for row in reads)  # rows of a matrix are never in one bank
    assert sum(row.units for row in copies) == sum(row.ideal for row in copies)


# ---- wrappers ------------------------------------------------------------------------------------
def test_wrappers_of_single_instructions():
    """fp16 mma over eight k, and every conversion with NaN, infinities, ties and overflow."""
    rng, device = np.random.default_rng(0), Emulated()
    a, b = (rng.integers(-9, 10, (rows, 8)).astype(np.float16) for rows in (16, 8))
    d = rng.integers(-9, 10, (16, 8)).astype(np.float32)
    odd = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8, 65520.0, 3e38, 1e-40,
           1 + 2**-11, 1 + 3 * 2**-11, -1.5, 2**-25, 65504.0, 1 / 3]  # fmt: skip
    pairs = np.array(odd * 4, np.float32).reshape(32, 2)
    words = np.array(odd * 2, np.float32)
    record = np.array(
        [
            device.buffer(name, array)
            for name, array in zip("abdpt", (a, b, d, pairs, words), strict=True)
        ],
        np.uint64,
    )
    for entry in ("probe_mma_k8", "probe_conversions"):
        device.launch(Launch(PROBE, entry, (1, 1, 1), 32, 0, record.tobytes(), 0.0))
    np.testing.assert_array_equal(device.read("d"), d + a.astype(np.float32) @ b.T)
    with np.errstate(over="ignore"):
        expected = np.concatenate([rounded(pairs[:16], STORAGE["bfloat16"]),
                                   rounded(pairs[16:], STORAGE["float16"])])  # fmt: skip
    np.testing.assert_array_equal(device.read("p"), expected)
    bits = words.view(np.uint32)
    kept = ~np.isnan(words)  # to nearest, ties away from zero; a NaN stays one
    tf32 = device.read("t").view(np.uint32)
    np.testing.assert_array_equal(tf32[kept], (bits[kept] + 0x1000) & 0xFFFFE000)
    assert np.isnan(device.read("t")[~kept]).all()
