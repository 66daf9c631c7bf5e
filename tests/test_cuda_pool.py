"""Pooling on CUDA, executed: the bits of the reference, in every storage."""

import numpy as np
import pytest
from cuda_run import (
    SENTENCES,
    STORAGES,
    Memory,
    Refused,
    assert_only_slice_written,
    integers,
    open_device,
    plan,
    run,
    sliced,
    strides_of,
)
from pyinception.kernels import cuda_args, reference

# (N, H, W, C), kernel, stride, padding, ceil mode
CASES = {
    "pool1": ((1, 13, 12, 20), (3, 3), (2, 2), (0, 0), True),
    "module": ((2, 7, 6, 17), (3, 3), (1, 1), (1, 1), False),
    "2x2, odd map": ((1, 7, 9, 5), (2, 2), (2, 2), (0, 0), True),
    "floor": ((1, 8, 11, 6), (3, 2), (2, 3), (1, 0), False),
    "ceil drops a window": ((1, 4, 5, 4), (2, 2), (3, 3), (1, 1), True),
    "one pixel": ((3, 1, 1, 7), (1, 1), (1, 1), (0, 0), False),
    "global": ((2, 5, 5, 9), (5, 5), (1, 1), (0, 0), False),
    "aux 5x5/3": ((1, 9, 9, 8), (5, 5), (3, 3), (0, 0), False),
    "stride over pixels": ((1, 9, 8, 3), (2, 1), (4, 3), (0, 0), True),
}


def record(memory, case, storage, average, include=True, **arrays):
    a = np.zeros((), cuda_args.POOL_CUDA_ARGS)
    (a["N"], a["H"], a["W"], a["C"]), kernel, stride, padding, ceil_mode = case
    (a["R"], a["S"]), (a["stride_h"], a["stride_w"]), (a["pad_h"], a["pad_w"]) = (
        kernel, stride, padding
    )  # fmt: skip
    a["average"], a["ceil_mode"], a["count_include_pad"] = average, ceil_mode, include
    a["storage"] = list(STORAGES).index(storage)
    for name, view in arrays.items():
        a[name] = memory.put(view, name)
        if view is not None and name != "argmax":
            a[f"{name}_strides"] = strides_of(view)
    return a


def empty(shape, dtype, before):
    """An output to be, as a slice at an odd offset, or at one that vectors may use."""
    after = -(before + shape[-1]) % 4 if before % 4 == 0 else 2
    return sliced(np.full(shape, np.nan, dtype), before, after)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", CASES)
def test_max(name, storage):
    case, dtype = CASES[name], STORAGES[storage]
    rng = np.random.default_rng(1)
    values = integers(rng, case[0], dtype, 9)  # with ties
    values[:, 0, 0, 0] = np.nan
    values[:, -1, -1, 1:3] = -np.inf
    x = sliced(values, 3, 2) if name != "aux 5x5/3" else sliced(values, 4, 4)
    y, argmax = reference.max_pool_fprop(x.astype(np.float32), *case[1:])
    out, won = empty(y.shape, dtype, x.base.shape[-1] % 2 + 4), np.full(argmax.shape, 77, np.uint8)
    memory = Memory(open_device())
    launches, _ = plan("pool_fprop", record(memory, case, storage, 0, x=x, y=out, argmax=won))
    run(launches, memory)
    np.testing.assert_array_equal(out.astype(np.float32), y)
    np.testing.assert_array_equal(won, argmax)
    assert_only_slice_written(out)

    gy = sliced(integers(rng, y.shape, dtype, 4), 1, 0)
    expected = reference.max_pool_dgrad(
        np.ascontiguousarray(gy, np.float32), argmax, case[0], *case[1:4]
    )
    gx, memory = empty(case[0], dtype, 5), Memory(open_device())
    launches, _ = plan("pool_dgrad", record(memory, case, storage, 0, gy=gy, gx=gx, argmax=won))
    run(launches, memory)
    np.testing.assert_array_equal(gx.astype(np.float32), expected)
    assert_only_slice_written(gx)


@pytest.mark.parametrize("include", (True, False))
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", CASES)
def test_average(name, storage, include):
    """Sums are exact and the division is IEEE's, so the bits are the reference's, rounded once."""
    case, dtype, rng = CASES[name], STORAGES[storage], np.random.default_rng(2)
    x = sliced(integers(rng, case[0], dtype, 9), 0, -case[0][-1] % 4)
    values = np.ascontiguousarray(x, np.float32)
    y = reference.avg_pool_fprop(values, *case[1:], count_include_pad=include)
    out, memory = empty(y.shape, dtype, 4), Memory(open_device())
    launches, _ = plan("pool_fprop", record(memory, case, storage, 1, include, x=x, y=out))
    run(launches, memory)
    np.testing.assert_array_equal(out, y.astype(dtype))
    assert np.count_nonzero(y) > y.size / 2

    gy = sliced(integers(rng, y.shape, dtype, 9), 3, 2)
    values = np.ascontiguousarray(gy, np.float32)
    expected = reference.avg_pool_dgrad(values, case[0], *case[1:4], count_include_pad=include)
    gx, memory = empty(case[0], dtype, 3), Memory(open_device())
    launches, _ = plan("pool_dgrad", record(memory, case, storage, 1, include, gy=gy, gx=gx))
    run(launches, memory)
    np.testing.assert_array_equal(gx, expected.astype(dtype))
    assert_only_slice_written(gx)


def test_accumulate_and_no_argmax():
    case, rng = CASES["module"], np.random.default_rng(3)
    x = sliced(integers(rng, case[0]), 1, 1)
    y, argmax = reference.max_pool_fprop(np.ascontiguousarray(x), *case[1:])
    out, memory = empty(y.shape, np.float32, 1), Memory(open_device())
    launches, _ = plan("pool_fprop", record(memory, case, "fp32", 0, x=x, y=out, argmax=None))
    run(launches, memory)
    np.testing.assert_array_equal(out, y)

    gy, old = integers(rng, y.shape), integers(rng, case[0])
    gx, memory = sliced(old, 3, 3), Memory(open_device())
    a = record(memory, case, "fp32", 0, gy=gy, gx=gx, argmax=argmax)
    a["accumulate"] = 1
    run(plan("pool_dgrad", a)[0], memory)
    expected = reference.max_pool_dgrad(gy, argmax, case[0], *case[1:4])
    np.testing.assert_array_equal(gx, old + expected)


REFUSED = {
    "storage 3": (-9, {"storage": 3}),
    "C 0": (-1, {"C": 0}),
    "padding as wide as the window": (-10, {"pad_h": 3}),
    "256 taps": (-10, {"R": 16, "S": 16, "H": 40, "W": 40}),
    "stride 0": (-10, {"stride_w": 0}),
    "window larger than the image": (-3, {"R": 9}),
    "negative stride": (-4, {"x_strides": (100, -10, 1)}),
    "map beyond 32 bits": (-5, {"y_strides": (2**31 - 1, 1, 1)}),
    "batch beyond 32 bits": (-5, {"N": 2**26}),
    "no x": (-7, {"x": 0}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    status, fields = REFUSED[name]
    a = np.zeros((), cuda_args.POOL_CUDA_ARGS)
    sizes = {"N": 2, "H": 7, "W": 6, "C": 8, "R": 3, "S": 3, "stride_h": 1, "stride_w": 1}
    for field, value in ({"x": 4096, "y": 8192} | sizes | fields).items():
        a[field] = value
    with pytest.raises(Refused, match=SENTENCES[status]):
        plan("pool_fprop", a)
    a["N"] = 0
    if status == -7:
        assert plan("pool_fprop", a)[0] == []  # an empty batch needs no arrays
