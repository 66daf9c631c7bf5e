"""Depthwise convolution and the residual sum on CUDA, executed: the bits of the reference."""

import numpy as np
import pytest
from cuda_run import (
    SENTENCES,
    STORAGES,
    Refused,
    assert_only_slice_written,
    integers,
    open_device,
    plan,
    sliced,
)
from pyinception.kernels import cuda_args, reference
from separable_runs import add_scaled, depthwise

# (N, H, W, C), multiplier, (R, S), stride, padding
CASES = {
    "middle": ((1, 9, 8, 140), 1, (3, 3), (1, 1), (1, 1)),  # two slabs of 18 and 17 groups
    "odd channels, a slice": ((2, 7, 6, 17), 1, (3, 3), (1, 1), (1, 1)),
    "stride": ((1, 8, 11, 6), 1, (3, 2), (2, 3), (1, 0)),
    "windows in the padding": ((1, 2, 3, 5), 1, (2, 2), (1, 3), (4, 5)),
    "stem": ((1, 11, 10, 3), 8, (7, 7), (2, 2), (3, 3)),
    "multiplier over fours": ((1, 5, 4, 3), 3, (3, 3), (1, 1), (1, 1)),
    "one pixel": ((3, 1, 1, 7), 1, (1, 1), (1, 1), (0, 0)),
    "several chunks": ((2, 17, 17, 4), 1, (3, 1), (1, 1), (1, 0)),
}


def slot(shape, dtype, fill=np.nan):
    """An output to be, as a slice at an odd offset."""
    return sliced(np.full(shape, fill, dtype), 3, 2)


def wide(array):
    return np.ascontiguousarray(array, np.float32)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", CASES)
def test_the_bits_of_the_reference(name, storage):
    case, dtype = CASES[name], STORAGES[storage]
    shape, multiplier, kernel, stride, padding = case
    where = {"stride": stride, "padding": padding}
    rng = np.random.default_rng(1)
    x = integers(rng, shape, dtype, 2)
    x = sliced(x, 1, 2) if "slice" in name else x
    K = shape[3] * multiplier
    w, b = integers(rng, (K, *kernel, 1), dtype, 2), integers(rng, (K,), np.float32)
    relu = name in ("middle", "stem")
    y = reference.depthwise_conv2d_fprop(wide(x), wide(w), b, relu=relu, **where)
    out = slot(y.shape, dtype)
    depthwise(open_device(), case, "fprop", relu=relu, x=x, w=w, b=b, y=out)
    np.testing.assert_array_equal(wide(out), y)
    assert_only_slice_written(out)

    gy = sliced(integers(rng, y.shape, dtype, 2), 1, 0)
    mask = integers(rng, y.shape, dtype, 2) if name != "stride" else None
    given = None if mask is None else wide(mask)
    expected = reference.depthwise_conv2d_dgrad(wide(gy), wide(w), shape, y=given, **where)
    accumulate = "over fours" in name or "padding" in name
    gx = slot(shape, dtype, 3.0 if accumulate else np.nan)
    arrays = {"gy": gy, "w": w, "y": mask, "gx": gx}
    depthwise(open_device(), case, "dgrad", accumulate=accumulate, **arrays)
    np.testing.assert_array_equal(wide(gx), expected + (3 if accumulate else 0))
    assert_only_slice_written(gx)

    gw, gb = reference.depthwise_conv2d_wgrad(wide(x), wide(gy), w.shape, y=given, **where)
    for with_bias in (True, False):
        made, made_b = np.full(gw.shape, np.nan, np.float32), np.full(K, np.nan, np.float32)
        arrays = {"x": x, "gy": gy, "y": mask, "gw": made, "gb": made_b if with_bias else None}
        launches = depthwise(open_device(), case, "wgrad", **arrays)
        np.testing.assert_array_equal(made, gw)
        if with_bias:
            np.testing.assert_array_equal(made_b, gb)
        if name == "several chunks" and storage == "fp32":
            assert launches[0].record(cuda_args.DEPTHWISE_CUDA_ARGS)["chunks"] > 1


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("relu", (True, False))
def test_add_scaled(relu, storage):
    rng, dtype = np.random.default_rng(2), STORAGES[storage]
    shape = (2, 3, 5, 7)
    a, b = integers(rng, shape, dtype), sliced(integers(rng, shape, dtype), 1, 2)
    gy = sliced(integers(rng, shape, dtype), 4, 1)
    if relu:
        a[0, 0, 0] = np.nan

    def launched(way, **arrays):
        add_scaled(open_device(), way, shape, scale=0.5, relu=relu, **arrays)

    y = reference.add_scaled_fprop(wide(a), wide(b), scale=0.5, relu=relu)
    out = slot(shape, dtype)
    launched("fprop", a=a, b=b, y=out)
    np.testing.assert_array_equal(wide(out), y)
    assert_only_slice_written(out)
    mask = np.ascontiguousarray(out) if relu else None
    ga, gb = reference.add_scaled_dgrad(wide(gy), scale=0.5, y=y if relu else None)
    made_a, made_b = slot(shape, dtype), slot(shape, dtype)
    launched("dgrad", a=made_a, b=made_b, y=mask, gy=gy)
    np.testing.assert_array_equal(wide(made_a), ga)
    np.testing.assert_array_equal(wide(made_b), gb)
    alone = slot(shape, dtype)
    launched("dgrad", a=None, b=alone, y=mask, gy=gy)
    np.testing.assert_array_equal(wide(alone), gb)
    if relu:
        launched("fprop", a=a, b=None, y=out)
        expected = reference.add_scaled_fprop(wide(a), None, scale=0.5, relu=True)
        np.testing.assert_array_equal(wide(out), expected)


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [("C", 0, -1), ("K", 7, -1), ("R", 65, -2), ("H", 1, -3), ("storage", 3, -9), ("x", 0, -7),
     ("K", 3 << 28, -5)],
)  # fmt: skip
def test_refusals(field, value, code):
    a = np.zeros((), cuda_args.DEPTHWISE_CUDA_ARGS)
    for name, number in {"N": 1, "H": 4, "W": 4, "C": 3, "K": 3, "R": 3, "S": 3}.items():
        a[name] = number
    a["stride_h"] = a["stride_w"] = 1
    a["x"] = a["w"] = a["y"] = 1 << 40
    for name in ("x_strides", "y_strides"):
        a[name] = (48, 12, 3)
    assert plan("depthwise_fprop", a)[0][0].entry == "depthwise_fprop"
    a[field] = value
    with pytest.raises(Refused, match=SENTENCES[code]):
        plan("depthwise_fprop", a)


def test_a_filter_beyond_shared_memory_is_refused():
    a = np.zeros((), cuda_args.DEPTHWISE_CUDA_ARGS)
    for name, number in {"N": 1, "H": 64, "W": 64, "C": 128, "K": 128, "R": 11, "S": 11}.items():
        a[name] = number
    a["stride_h"] = a["stride_w"] = 1
    a["x"] = a["w"] = a["y"] = 1 << 40
    with pytest.raises(Refused, match=SENTENCES[-6]):
        plan("depthwise_fprop", a)
