"""Normalisation, loss, dropout, casts, SGD and layout on CUDA, executed.

Exact where the arithmetic is (integers, bits, words); elsewhere within a bound on the rounding of
the formula, against the reference in float64: eps is 2^-23, and a 16-bit result may be off by half
a unit of its own.
"""

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

EPS = 2.0**-23
HALF_UNIT = {"fp32": 2.0**-24, "bf16": 2.0**-8, "fp16": 2.0**-11}
TINY = {"fp32": 0.0, "bf16": 0.0, "fp16": 2.0**-25}  # half a unit of the subnormal numbers


def fill(dtype, memory, **fields):
    """A record: arrays become addresses, 4-d ones their strides too; the rest are numbers."""
    a = np.zeros((), dtype)
    for name, value in fields.items():
        if isinstance(value, np.ndarray) and value.ndim:
            a[name] = memory.put(value, name)
            if value.ndim == 4 and f"{name}_strides" in dtype.names:
                a[f"{name}_strides"] = strides_of(value)
        elif value is not None:
            a[name] = value
    return a


def extents(shape):
    return dict(zip("NHWC", shape, strict=True))


def normal(rng, shape, storage, scale=1.0):
    """Normal numbers of the storage, as a slice of a wider buffer."""
    return sliced((scale * rng.standard_normal(shape)).astype(STORAGES[storage]), 3, 2)


def output(shape, storage, before=5):
    return sliced(np.full(shape, np.nan, STORAGES[storage]), before, 4 - before % 4)


def wide(view):
    return np.ascontiguousarray(view).astype(np.float64)


def assert_close(actual, expected, magnitude, units, storage="fp32"):
    """|actual - expected| <= units eps magnitude, and half a unit of the storage."""
    bound = units * EPS * magnitude
    bound = bound + HALF_UNIT[storage] * (np.abs(expected) + bound) + TINY[storage]
    assert np.isfinite(actual.astype(np.float64)).all()
    worst = np.max(np.abs(actual.astype(np.float64) - expected) / (bound + 1e-300))
    assert worst <= 1, f"{worst:.2f} times the bound"
    assert np.count_nonzero(expected) > 0.5 * np.size(expected)


# ---- local response normalisation --------------------------------------------------------------
LRN_SHAPES = {
    "conv1": ((1, 5, 4, 64), 5),
    "conv2": ((1, 3, 3, 192), 5),
    "odd": ((2, 3, 2, 13), 3),
    "window wider than the channels": ((1, 2, 3, 4), 11),
    "one channel": ((1, 3, 2, 1), 5),
    "size 1": ((1, 2, 2, 9), 1),
}


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", LRN_SHAPES)
def test_lrn(name, storage):
    shape, size = LRN_SHAPES[name]
    rng, how = np.random.default_rng(1), {"size": size, "alpha": 0.3, "beta": 0.75, "k": 1.5}
    x, gy = normal(rng, shape, storage, 2), normal(rng, shape, storage)
    y, gx = output(shape, storage), output(shape, storage, 4)
    memory = Memory(open_device())
    common = dict(storage=list(STORAGES).index(storage), x=x, **extents(shape), **how)
    a = fill(cuda_args.LRN_CUDA_ARGS, memory, y=y, **common)
    run(plan("lrn_fprop", a)[0], memory)
    expected = reference.lrn_fprop(wide(x), **how)
    # s: size products, their sum and two more; its power 3/4 and the power's own four roundings
    assert_close(y, expected, np.abs(expected), size + 8, storage)
    assert_only_slice_written(y)

    memory = Memory(open_device())
    a = fill(cuda_args.LRN_CUDA_ARGS, memory, gy=gy, gx=gx, **common)
    run(plan("lrn_dgrad", a)[0], memory)
    expected = reference.lrn_dgrad(wide(gy), wide(x), **how)
    direct = reference.lrn_dgrad(wide(gy), wide(x) * 0, **how)  # upper bound of |gy s^-b|
    terms = np.abs(direct) * (1 + 2 * 0.3 * 0.75 * np.abs(wide(x)) * np.abs(wide(x)).max() * size)
    assert_close(gx, expected, np.maximum(terms, np.abs(terms).max()), size + 12, storage)
    assert_only_slice_written(gx)


# ---- softmax cross-entropy ---------------------------------------------------------------------
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("classes", (1, 2, 10, 128, 1000))
def test_softmax_cross_entropy(classes, storage):
    rng = np.random.default_rng(classes)
    logits = np.full((5, classes + 3), np.nan, STORAGES[storage])
    logits[:, :classes] = 6 * rng.standard_normal((5, classes))
    labels = rng.integers(0, classes, 5)
    loss, probs = np.full(5, np.nan, np.float32), np.full((5, classes), np.nan, np.float32)
    kept = {
        "storage": list(STORAGES).index(storage),
        "N": 5,
        "K": classes,
        "logits_row": classes + 3,
    }
    memory = Memory(open_device())
    a = fill(cuda_args.SOFTMAX_CUDA_ARGS, memory, logits=logits, labels=labels, loss=loss,
             probs=probs, **kept)  # fmt: skip
    run(plan("softmax_fprop", a)[0], memory)
    z = np.ascontiguousarray(logits[:, :classes]).astype(np.float64)
    expected, shares = reference.softmax_cross_entropy_fprop(z, labels)
    # e^z of a rounded argument: |z| eps and the function's own two units; the sum of K of them
    span = np.ptp(z, axis=1) if classes > 1 else np.ones(5)
    relative = span[:, None] + 8 + classes / 64
    assert (np.abs(probs - shares) <= relative * EPS * shares + 1e-38).all()
    assert (np.abs(loss - expected) <= (2 * span + 16 + classes / 64) * EPS).all()

    g = rng.standard_normal(5).astype(np.float32)
    glogits = np.full((5, classes + 3), np.nan, STORAGES[storage])
    memory = Memory(open_device())
    a = fill(cuda_args.SOFTMAX_CUDA_ARGS, memory, glogits=glogits, labels=labels, probs=probs, g=g,
             **kept)  # fmt: skip
    run(plan("softmax_backward", a)[0], memory)
    expected = reference.softmax_cross_entropy_dgrad(probs, labels, g)
    np.testing.assert_array_equal(glogits[:, :classes], expected.astype(STORAGES[storage]))
    assert np.isnan(glogits[:, classes:].astype(np.float32)).all()


def test_softmax_of_nan_infinity_and_unknown_labels():
    logits = np.zeros((4, 6), np.float32)
    logits[0, 3], logits[1, 2], logits[2, :] = np.nan, -np.inf, 1e30
    labels = np.array([1, 2, 5, 6])
    loss, probs = np.zeros(4, np.float32), np.zeros((4, 6), np.float32)
    memory = Memory(open_device())
    a = fill(cuda_args.SOFTMAX_CUDA_ARGS, memory, logits=logits, labels=labels, loss=loss,
             probs=probs, N=4, K=6, logits_row=6)  # fmt: skip
    run(plan("softmax_fprop", a)[0], memory)
    assert np.isnan(loss[0]) and np.isnan(probs[0]).all()
    assert loss[1] == np.inf and probs[1, 2] == 0
    assert abs(loss[2] - np.log(6)) < 4 * EPS
    assert np.isnan(loss[3])  # 6 is no class


# ---- batch normalisation -----------------------------------------------------------------------
def batch_norm(name, memory, storage, shape, **fields):
    workspace = np.full(64 * 1024, np.nan, np.float32)
    a = fill(cuda_args.BATCH_NORM_CUDA_ARGS, memory, workspace=workspace,
             workspace_bytes=workspace.nbytes, storage=list(STORAGES).index(storage),
             **extents(shape), **fields)  # fmt: skip
    run(plan(name, a)[0], memory)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("shape", ((2, 8, 4, 37), (4, 16, 16, 5), (1, 1, 1, 3)))
def test_batch_norm(shape, storage):
    """Integers over 2^k pixels: the sums, mean and variance are exact; the rest within a bound."""
    rng, pixels = np.random.default_rng(2), np.prod(shape[:3])
    c, relu = shape[3], shape[3] != 5
    x, gy = (sliced(integers(rng, shape, STORAGES[storage], 2), 1, 2) for _ in range(2))
    gamma, beta = (rng.standard_normal(c).astype(np.float32) for _ in range(2))
    mean, var, ggamma, gbeta = (np.full(c, np.nan, np.float32) for _ in range(4))
    y, gx = output(shape, storage), output(shape, storage, 4)
    kept = {"x": x, "gamma": gamma, "mean": mean, "var": var, "y": y, "relu": relu, "eps": 1e-3}
    memory = Memory(open_device())
    batch_norm("batch_norm_fprop", memory, storage, shape, beta=beta, **kept)
    x64, gamma64, beta64 = wide(x), gamma.astype(np.float64), beta.astype(np.float64)
    eps = float(np.float32(1e-3))
    how = {"eps": eps, "relu": relu}
    expected, mean64, var64 = reference.batch_norm_fprop(x64, gamma64, beta64, **how)
    np.testing.assert_array_equal(mean, mean64.astype(np.float32))
    if pixels <= 64:  # squares of multiples of 1 / pixels: exact that far
        np.testing.assert_array_equal(var, var64.astype(np.float32))
    np.testing.assert_allclose(var, var64, rtol=(pixels / 8 + 8) * EPS)
    h = np.abs((x64 - mean64) / np.sqrt(var64 + eps))
    if pixels > 1:
        assert_close(y, expected, np.abs(gamma64) * h + np.abs(beta64), 8, storage)
    assert_only_slice_written(y)

    memory = Memory(open_device())
    a = dict(kept) if relu else {**kept, "y": None}
    batch_norm("batch_norm_dgrad", memory, storage, shape, gy=gy, gx=gx, ggamma=ggamma,
               gbeta=gbeta, **a)  # fmt: skip
    mask = wide(y) if relu else None
    expected, ggamma64, gbeta64 = reference.batch_norm_dgrad(
        wide(gy), x64, gamma64, mean64, var64, eps=eps, y=mask
    )
    np.testing.assert_array_equal(gbeta, gbeta64)
    terms = np.sum(np.abs(wide(gy)) * h, axis=(0, 1, 2))
    assert (np.abs(ggamma - ggamma64) <= (pixels / 8 + 8) * EPS * terms + 1e-30).all()
    magnitude = np.abs(gamma64) / np.sqrt(var64 + eps) * (
        np.abs(wide(gy)) + np.abs(gbeta64) / pixels + h * (terms / pixels)
    )  # fmt: skip
    bound = (pixels / 8 + 16) * EPS * magnitude
    bound = bound + HALF_UNIT[storage] * (np.abs(expected) + bound) + TINY[storage]
    assert (np.abs(wide(gx) - expected) <= bound + 1e-30).all()
    assert_only_slice_written(gx)


def test_batch_norm_inference_and_the_empty_batch():
    shape, rng = (2, 3, 5, 6), np.random.default_rng(3)
    x, y = normal(rng, shape, "fp32"), output(shape, "fp32")
    gamma, beta, mean = (rng.standard_normal(6).astype(np.float32) for _ in range(3))
    var = rng.random(6).astype(np.float32)
    kept = {"gamma": gamma, "beta": beta, "mean": mean, "var": var, "eps": 1e-5}
    memory = Memory(open_device())
    batch_norm("batch_norm_inference", memory, "fp32", shape, x=x, y=y, **kept)
    as64 = [v.astype(np.float64) for v in (gamma, beta, mean, var)]
    expected = reference.batch_norm_inference(wide(x), *as64, eps=float(np.float32(1e-5)))
    h = np.abs((wide(x) - mean) / np.sqrt(as64[3] + 1e-5))
    assert_close(y, expected, np.abs(gamma) * (h + np.abs(mean) / np.sqrt(var)) + np.abs(beta), 8)

    memory = Memory(open_device())
    batch_norm("batch_norm_fprop", memory, "fp32", (0, 3, 5, 6), **kept)
    assert not mean.any() and not var.any()
    a = fill(cuda_args.BATCH_NORM_CUDA_ARGS, memory, **kept, **extents(shape))
    a["x"] = a["y"] = 64
    for name, short in (("batch_norm_fprop", -8), ("batch_norm_inference", None)):
        if short is None:
            assert len(plan(name, a)[0]) == 1  # needs no workspace
            continue
        with pytest.raises(Refused) as refused:
            plan(name, a)
        assert SENTENCES[short] in str(refused.value)
    assert plan("batch_norm_fprop_size", a)[1] == 256


# ---- dropout -----------------------------------------------------------------------------------
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("shape", ((3, 1, 1, 1024), (2, 5, 3, 7), (1, 2, 2, 20)))
def test_dropout_has_the_words_of_the_reference(shape, storage):
    rng, p = np.random.default_rng(4), 0.4
    place = {
        "seed": 0x1234_5678_9ABC_DEF0,
        "step": 77,
        "layer": 0xDEAD_BEEF,
        "first_sample": 2**32 - 5,
    }
    x, y = normal(rng, shape, storage), output(shape, storage)
    x[0, 0, 0, 0] = np.inf
    memory = Memory(open_device())
    a = fill(
        cuda_args.DROPOUT_CUDA_ARGS, memory, x=x, y=y, storage=list(STORAGES).index(storage),
        threshold=round(p * 2**32), divisor=np.float32(1 - p), step=place["step"],
        layer=place["layer"], first_sample=place["first_sample"],
        seed_low=place["seed"] % 2**32, seed_high=place["seed"] // 2**32, **extents(shape),
    )  # fmt: skip
    run(plan("dropout", a)[0], memory)
    expected = reference.dropout(np.ascontiguousarray(x, np.float32), p, **place)
    rounded = expected.astype(STORAGES[storage]).astype(np.float32)
    np.testing.assert_array_equal(y.astype(np.float32), rounded)
    assert 0.3 < np.mean(expected == 0) < 0.5
    assert_only_slice_written(y)


# ---- cast, finite check ------------------------------------------------------------------------
def awkward_floats():
    """Signs, subnormals, ties of both 16-bit types, the largest numbers, infinity, NaN."""
    rng = np.random.default_rng(5)
    bits = rng.integers(0, 2**32, 3000, np.uint32)
    ties = (rng.integers(0, 2**16, 500, np.uint32) << 16) | 0x8000
    ties16 = (rng.integers(0, 2**19, 500, np.uint32) << 13) | 0x1000
    special = np.array([0.0, -0.0, 1e-45, -1e-40, 6e-8, 2.9e-8, 3e-8, 65504, 65519.996, 65520, 1e39,
                        -np.inf, np.inf, 3.39e38, 3.4e38, np.nan], np.float64)  # fmt: skip
    with np.errstate(over="ignore"):
        special = special.astype(np.float32)
    return np.concatenate([special, *(b.view(np.float32) for b in (bits, ties, ties16))])


@pytest.mark.parametrize("to", STORAGES)
@pytest.mark.parametrize("given", STORAGES)
def test_cast(given, to):
    with np.errstate(over="ignore", invalid="ignore"):
        x = awkward_floats().astype(STORAGES[given])
        expected = x.astype(np.float32).astype(STORAGES[to])
    y, memory = np.full(x.shape, np.nan, STORAGES[to]), Memory(open_device())
    names = list(STORAGES)
    a = fill(cuda_args.CAST_CUDA_ARGS, memory, x=x, y=y, count=len(x), to=names.index(to))
    a["from"] = names.index(given)
    run(plan("cast", a)[0], memory)
    is_nan = np.isnan(expected.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(y.astype(np.float32)), is_nan)
    bits = f"u{y.itemsize}"
    np.testing.assert_array_equal(y.view(bits)[~is_nan], expected.view(bits)[~is_nan])


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("count", (0, 1, 255, 1000, 70_001))
def test_check_finite(count, storage):
    largest = np.full(count, 65000 if storage == "fp16" else 3e38, STORAGES[storage])
    for place, value in ((None, 0), (0, np.nan), (count - 1, -np.inf), (count // 2, np.inf)):
        if count == 0 and place is not None:
            continue
        x = largest.copy()
        if place is not None:
            x[place] = value
        verdict, workspace = np.full(1, np.nan, np.float32), np.full(512, np.nan, np.float32)
        memory = Memory(open_device())
        a = fill(cuda_args.FINITE_CUDA_ARGS, memory, x=x, verdict=verdict, workspace=workspace,
                 workspace_bytes=workspace.nbytes, count=count,
                 storage=list(STORAGES).index(storage))  # fmt: skip
        launches, needed = plan("check_finite", a)
        assert needed <= workspace.nbytes and needed == plan("check_finite_size", a)[1]
        run(launches, memory)
        assert verdict[0] == (place is not None)


# ---- SGD ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("decay", (0.0, 2e-4))
def test_sgd_has_the_bits_of_numpy(decay, storage):
    rng, number = np.random.default_rng(6), np.float32
    w, v, g = (rng.standard_normal(777).astype(number) for _ in range(3))
    g[5], w[5], copy = np.inf, 0.5, np.full(777, np.nan, STORAGES[storage])
    rate, momentum = number(0.013), number(0.9)
    for scale, skip in ((1.0, None), (2.0**-10, np.zeros(1, number)), (1.0, np.ones(1, number))):
        with np.errstate(invalid="ignore"):
            update = number(scale) * g
            if decay:
                update = update + number(decay) * w
            new_v = v * momentum + rate * update
            new_w = w - new_v
        if skip is not None and skip[0]:
            new_w, new_v = w.copy(), v.copy()
        memory = Memory(open_device())
        a = fill(cuda_args.SGD_CUDA_ARGS, memory, w=w, v=v, g=g, copy=copy, skip=skip, rate=rate,
                 momentum=momentum, decay=decay, scale=scale, count=777,
                 storage=list(STORAGES).index(storage))  # fmt: skip
        run(plan("sgd", a)[0], memory)
        np.testing.assert_array_equal(w, new_w)
        np.testing.assert_array_equal(v, new_v)
        rounded = new_w.astype(STORAGES[storage]).astype(number)
        np.testing.assert_array_equal(copy.astype(number), rounded)


# ---- layout ------------------------------------------------------------------------------------
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("shape", ((2, 7, 9, 37), (1, 4, 8, 64), (3, 1, 1, 5), (2, 1, 1, 528)))
def test_layout_there_and_back(shape, storage):
    n, h, w, c = shape
    nchw = np.random.default_rng(7).integers(0, 2**15, (n, c, h, w)).astype(np.uint16)
    nchw = (nchw.astype(np.uint32) * 65537 if storage == "fp32" else nchw).view(STORAGES[storage])
    nhwc, back = output(shape, storage), np.full_like(nchw, np.nan)
    bits = f"u{nchw.itemsize}"
    for x, y, to_nchw in ((nchw, nhwc, 0), (nhwc, back, 1)):
        memory = Memory(open_device())
        a = np.zeros((), cuda_args.LAYOUT_CUDA_ARGS)
        a["x"], a["y"], a["strides"] = memory.put(x, "x"), memory.put(y, "y"), strides_of(nhwc)
        a["N"], a["H"], a["W"], a["C"] = shape
        a["storage"], a["to_nchw"] = list(STORAGES).index(storage), to_nchw
        run(plan("layout", a)[0], memory)
    np.testing.assert_array_equal(
        np.ascontiguousarray(nhwc).view(bits), nchw.transpose(0, 2, 3, 1).view(bits)
    )
    assert_only_slice_written(nhwc)
    np.testing.assert_array_equal(back.view(bits), nchw.view(bits))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(("channels", "padding"), ((3, 1), (3, 5), (31, 33)))
def test_layout_pads_channels_with_zeros(channels, padding, storage):
    n, h, w = 2, 5, 7
    nchw = np.random.default_rng(3).standard_normal((n, channels, h, w)).astype(STORAGES[storage])
    nhwc, memory = output((n, h, w, channels + padding), storage), Memory(open_device())
    a = np.zeros((), cuda_args.LAYOUT_CUDA_ARGS)
    a["x"], a["y"], a["strides"] = memory.put(nchw, "x"), memory.put(nhwc, "y"), strides_of(nhwc)
    a["N"], a["H"], a["W"], a["C"], a["padding"] = n, h, w, channels, padding
    a["storage"] = list(STORAGES).index(storage)
    run(plan("layout", a)[0], memory)
    np.testing.assert_array_equal(nhwc[..., :channels], nchw.transpose(0, 2, 3, 1))
    assert not nhwc[..., channels:].astype(np.float32).any()
    assert_only_slice_written(nhwc)
