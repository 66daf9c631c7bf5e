"""Normalisation and max pooling in one kernel: the bits of the two kernels one after the other."""

import numpy as np
import pytest
from cuda_run import (
    SENTENCES,
    STORAGES,
    Memory,
    Refused,
    assert_only_slice_written,
    open_device,
    plan,
    run,
    sliced,
    strides_of,
)
from pyinception.kernels import cuda_args

# (N, H, W, C), filter, stride, padding, ceil mode, size of the sum's window, offset of the slices
CASES = {
    "stem": ((1, 9, 8, 64), (3, 3), (2, 2), (0, 0), True, 5, 4),
    "conv2": ((1, 6, 7, 192), (3, 3), (2, 2), (0, 0), True, 5, 0),
    "odd": ((2, 7, 5, 13), (3, 2), (2, 1), (1, 1), False, 3, 3),
    "wide window": ((1, 5, 5, 21), (2, 2), (2, 2), (0, 0), True, 13, 1),
    "window wider than the channels": ((1, 5, 4, 3), (3, 3), (1, 1), (1, 1), False, 11, 2),
    "size 1": ((1, 6, 4, 10), (3, 3), (3, 3), (0, 0), True, 1, 4),
    "stride over pixels": ((1, 9, 8, 6), (2, 1), (4, 3), (0, 0), True, 5, 4),
    "one pixel": ((3, 1, 1, 7), (1, 1), (1, 1), (0, 0), False, 5, 3),
}
CONSTANTS = {"alpha": 0.3, "beta": 0.75, "k": 1.5}


def record(dtype, memory, case, storage, **arrays):
    """A record of the pool, of the normalisation or of both: the fields it has."""
    (n, h, w, c), filter_, stride, padding, ceil_mode, size, _ = case
    fields = {"N": n, "H": h, "W": w, "C": c, "R": filter_[0], "S": filter_[1],
              "stride_h": stride[0], "stride_w": stride[1], "pad_h": padding[0],
              "pad_w": padding[1], "ceil_mode": ceil_mode, "size": size,
              "storage": list(STORAGES).index(storage), **CONSTANTS}  # fmt: skip
    a = np.zeros((), dtype)
    for name in set(fields) & set(a.dtype.names):
        a[name] = fields[name]
    for name, view in arrays.items():
        a[name] = memory.put(view, name)
        a[f"{name}_strides"] = strides_of(view)
    return a


def lrn(x, case, storage):
    memory, y = Memory(open_device()), np.full(x.shape, np.nan, x.dtype)
    a = record(cuda_args.LRN_CUDA_ARGS, memory, case, storage, x=x, y=y)
    a["N"], a["H"], a["W"], a["C"] = x.shape
    run(plan("lrn_fprop", a)[0], memory)
    return y


def pool(x, case, storage):
    memory, y = Memory(open_device()), np.full(pooled_shape(case), np.nan, x.dtype)
    a = record(cuda_args.POOL_CUDA_ARGS, memory, case, storage, x=x, y=y)
    run(plan("pool_fprop", a)[0], memory)
    return y


def pooled_shape(case):
    (n, *extents, c), filter_, stride, padding, ceil_mode, *_ = case
    out = []
    for extent, f, s, p in zip(extents, filter_, stride, padding, strict=True):
        span = extent + 2 * p - f
        count = -(-span // s) + 1 if ceil_mode else span // s + 1
        out.append(count - (ceil_mode and (count - 1) * s >= extent + p))
    return (n, *out, c)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("pool_first", (0, 1))
@pytest.mark.parametrize("name", CASES)
def test_the_bits_of_both_kernels_in_turn(name, pool_first, storage):
    case = CASES[name]
    shape, offset = case[0], case[-1]
    rng = np.random.default_rng(len(name))
    values = (3 * rng.standard_normal(shape)).astype(STORAGES[storage])
    values.flat[-1] = np.nan
    values.flat[5 :: 3 * shape[3]] = -0.0
    values.flat[3 :: 5 * shape[3] + 1] = -1e-38  # rounds to -0 in fp16
    x = sliced(values, offset, -shape[3] % 4 if offset % 4 == 0 else 2)
    steps = (pool, lrn) if pool_first else (lrn, pool)
    between = steps[0](x, case, storage)
    expected = steps[1](between, case, storage)
    assert np.isfinite(expected.astype(np.float32)).sum() > 0.5 * expected.size

    y = sliced(np.full(expected.shape, np.nan, x.dtype), offset, 0 if offset % 4 == 0 else 3)
    memory = Memory(open_device(seed=2))
    a = record(cuda_args.LRN_POOL_CUDA_ARGS, memory, case, storage, x=x, y=y)
    a["pool_first"] = pool_first
    [launch], _ = plan("lrn_pool", a)
    run([launch], memory)
    assert launch.shared_bytes <= 48 * 1024
    assert_only_slice_written(y)
    y, bits = np.ascontiguousarray(y), f"u{y.itemsize}"
    numbers = ~np.isnan(expected.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(y.astype(np.float32)), ~numbers)
    np.testing.assert_array_equal(y.view(bits)[numbers], expected.view(bits)[numbers])


REFUSED = {
    "storage": (-9, {"storage": 3}),
    "N": (-1, {"N": -1}),
    "even size": (-11, {"size": 4}),
    "beta": (-11, {"beta": 0.5}),
    "k": (-11, {"k": 0}),
    "padding as large as the filter": (-10, {"pad_h": 3}),
    "stride 0": (-10, {"stride_w": 0}),
    "filter larger than the map": (-3, {"R": 99, "pad_h": 0}),
    "negative stride": (-4, {"x_strides": (-1, 8, 4)}),
    "y beyond 32 bits": (-5, {"y_strides": (2**31 - 1, 8, 4), "N": 2}),
    "no x": (-7, {"x": 0}),
    "a pixel wider than shared memory": (-6, {"C": 1 << 16, "H": 9, "W": 9}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_declines(name):
    status, fields = REFUSED[name]
    a = np.zeros((), cuda_args.LRN_POOL_CUDA_ARGS)
    given = {"x": 64, "y": 64, "N": 1, "H": 9, "W": 8, "C": 16, "R": 3, "S": 3, "stride_h": 2,
             "stride_w": 2, "size": 5, **CONSTANTS, "x_strides": (1152, 128, 16),
             "y_strides": (256, 64, 16)}  # fmt: skip
    for key, value in given.items():
        a[key] = value
    [launch], _ = plan("lrn_pool", a)
    assert launch.entry == "lrn_pool" and launch.block == 256
    for key, value in fields.items():
        a[key] = value
    with pytest.raises(Refused, match=SENTENCES[status]):
        plan("lrn_pool", a)
