"""A stem's convolution, normalisation and max pool in one kernel, and the sessions that take it.

With alpha = 0 and k = 1 the normalisation is the identity, so that integers stay exact through the
whole kernel; with others its bits are those of the kernels one after the other.
"""

import re
from dataclasses import replace

import numpy as np
import pytest
from cuda_run import open_device
from mma_runs import STORAGE, Planned, integers, rounded
from pyinception.kernels import cuda_mma_args as mma_args
from pyinception.kernels import reference

import pyinception as pyi
from pyinception import emulator, fusion, init, tracing, workspace
from pyinception.cuda import executor, records_mma, records_stem
from pyinception.layers import AvgPool2d, Conv2d, Lrn, MaxPool2d
from pyinception.module import Module, Sequential
from pyinception.spec import BranchSpec, ConvSpec, LrnSpec, PoolSpec


@pytest.fixture(autouse=True, scope="module")
def emulated() -> None:
    open_device()  # or skip


# N, H, W, C, K, R, S, stride, padding; pool's kernel, stride, padding, ceil mode; size of the sum's
# window; pool first
CASES = {
    "conv1": ((1, 36, 40, 3, 64, 7, 7), 2, 3, (3, 3), 2, 0, True, 5, True),
    "conv2": ((1, 17, 13, 16, 192, 3, 3), 1, 1, (3, 3), 2, 0, True, 5, False),
    "two images, odd widths": ((2, 9, 10, 16, 40, 3, 3), 1, 1, (3, 2), (2, 1), 1, False, 9, False),
    "pool first, three passes": ((1, 8, 7, 24, 136, 1, 1), 1, 0, (2, 3), 2, (0, 1), True, 7, True),
    "most channels, alone": ((1, 5, 6, 8, 256, 1, 1), 1, 0, (2, 2), 2, 0, True, 1, False),
    "fewest channels": ((3, 6, 5, 1, 8, 3, 3), 1, 1, (3, 3), 3, 1, True, 3, True),
    "one pixel": ((2, 1, 1, 8, 16, 1, 1), 1, 0, (1, 1), 1, 0, False, 5, False),
}


def stages(name: str, alpha: float, k: float) -> tuple:
    (n, h, w, c, out, r, s), stride, padding, kernel, step, pad, ceil, size, first = CASES[name]

    def pair(v):
        return v if isinstance(v, tuple) else (v, v)

    conv = ConvSpec(n, h, w, c, out, r, s, pair(stride), pair(padding), True, True, "conv2d")
    window = kernel, pair(step), pair(pad), ceil
    pool = PoolSpec("max", n, conv.P, conv.Q, out, *window)
    extents = (pool.P, pool.Q) if first else (conv.P, conv.Q)
    lrn = LrnSpec(n, *extents, out, size, alpha, 0.75, k)
    return (conv, pool, lrn) if first else (conv, lrn, pool)


def run(chain: tuple, x, w, b, **limits) -> np.ndarray:
    """y of the one kernel, a slice with poison around it."""
    wide = np.full((*BranchSpec(chain).y_shape[:3], chain[0].K + 16), np.nan, x.dtype)
    on = executor.Emulated()
    for name, value in limits.items():
        setattr(on, name, value)
    records_stem.conv_lrn_pool(on, chain, x, w, b, wide[..., 8:-8])
    on.finish()
    assert np.isnan(wide[..., :8].astype(np.float32)).all()
    return wide[..., 8:-8]


@pytest.mark.parametrize("storage", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", CASES)
def test_integers_are_exact(name, storage):
    chain, kind = stages(name, 0.0, 1.0), STORAGE[storage]
    conv, pool = chain[0], next(stage for stage in chain if isinstance(stage, PoolSpec))
    rng = np.random.default_rng(len(name))
    x, w, b = (integers(rng, s, 3) for s in (conv.x_shape, conv.w_shape, conv.K))
    how = {"stride": conv.stride, "padding": conv.padding}
    y = rounded(reference.conv2d_fprop(x, w, b, relu=True, **how), kind)
    expected, _ = reference.max_pool_fprop(
        y, pool.kernel, pool.stride, pool.padding, pool.ceil_mode
    )
    with emulator.using(order="greedy", seed=2):
        for multiprocessors in (1, 4):  # large tiles, smaller ones
            got = run(chain, x.astype(kind), w.astype(kind), b, multiprocessors=multiprocessors)
            np.testing.assert_array_equal(got.astype(np.float32), expected)
    assert (expected > 0).mean() > 0.3


@pytest.mark.parametrize("name", CASES)
def test_the_bits_of_the_kernels_in_turn(name):
    chain, kind = stages(name, 0.4, 1.5), STORAGE["bfloat16"]
    conv, rng = chain[0], np.random.default_rng(len(name))
    x, w, b = (rng.standard_normal(s) for s in (conv.x_shape, conv.w_shape, conv.K))
    x[..., 0].flat[-1] = np.nan
    arrays = x.astype(kind), w.astype(kind), b.astype(np.float32)
    between, expected = (np.empty(s, kind) for s in (conv.y_shape, BranchSpec(chain).y_shape))
    on = executor.Emulated()
    records_mma.conv_mma_fprop(on, conv, *arrays, between)
    records_stem.lrn_pool(on, chain[1:], between, expected)
    on.finish()
    got = run(chain, *arrays, multiprocessors=4, shared_limit=99 << 10)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    numbers = ~np.isnan(expected)
    bits = [np.ascontiguousarray(a).view(np.uint16)[numbers] for a in (got, expected)]
    np.testing.assert_array_equal(*bits)
    assert numbers.any() and bits[0].any()


# ---- the plan ------------------------------------------------------------------------------------
def record() -> np.ndarray:
    """8 -> 64 channels of a 16x16 map, bf16."""
    a = np.zeros((), mma_args.CONV_LRN_POOL_MMA_ARGS)
    conv = {
        "x": 1 << 40,
        "w": 1 << 41,
        "N": 1,
        "H": 16,
        "W": 16,
        "C": 8,
        "K": 64,
        "R": 3,
        "S": 3,
        "stride_h": 1,
        "stride_w": 1,
        "pad_h": 1,
        "pad_w": 1,
        "P": 16,
        "Q": 16,
        "type": 1,
        "x_strides": (2048, 128, 8),
        "shared_limit": 163 << 10,
        "multiprocessors": 108,
    }
    tail = {"y": 1 << 42, "R": 3, "S": 3, "stride_h": 2, "stride_w": 2, "ceil_mode": 1, "size": 5,
            "alpha": 1e-4, "beta": 0.75, "k": 1, "y_strides": (4096, 512, 64)}  # fmt: skip
    for into, fields in ((a["conv"], conv), (a["tail"], tail)):
        for name, value in fields.items():
            into[name] = value
    a["always"] = 1
    return a


REFUSED = {
    "fp32": ("conv", {"type": 0}, r"type is 0, expected 1 \(bf16\) or 2 \(fp16\)"),
    "sm_75": ("conv", {"type": 3}, r"type is 3, expected 1"),
    "C": ("conv", {"C": 12}, r"C is 12, expected a multiple of 8"),
    "extents": (
        "conv",
        {"P": 1 << 20, "Q": 1 << 20},
        "P x Q x K is 1048576 x 1048576 x 64, expected at most 2130706432",
    ),
    "no w": ("conv", {"w": 0}, "w is null"),
    "no y": ("tail", {"y": 0}, "output 0 is null"),
    "beta": ("tail", {"beta": 0.5}, "a constant lies outside"),
    "size": ("tail", {"size": 11}, "size is 11, expected at most 9"),
    "K": ("conv", {"K": 264}, "K is 264, expected at most 256"),
    "y's pixels": (
        "tail", {"y_strides": (4096, 512, 60)}, "y has a pixel stride of 60 elements, expected a"),
    "window": (
        "tail",
        {"R": 16, "S": 17, "pad_w": 1, "pool_first": 1, "stride_h": 1},
        "a window of 16 x 17 over 64 channels needs more than 256 pixels or 166912 bytes",
    ),
    "shared memory": (
        "conv", {"shared_limit": 60000}, "a window of 3 x 3 over 64 channels needs more than"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_declines(name):
    part, fields, sentence = REFUSED[name]
    a = record()
    assert Planned("conv_lrn_pool_mma", a).reason == ""
    for key, value in fields.items():
        a[part][key] = value
    reason = Planned("conv_lrn_pool_mma", a).reason
    assert re.match(sentence, reason), reason


GOOGLENET = Sequential(
    Conv2d(3, 64, 7, 2, 3, relu=True), MaxPool2d(3, 2, ceil_mode=True), Lrn(),
    Conv2d(64, 64, 1, relu=True), Conv2d(64, 192, 3, padding=1, relu=True), Lrn(),
    MaxPool2d(3, 2, ceil_mode=True),
)  # fmt: skip


def test_the_plan_takes_what_ends_first():
    """conv1 at any batch; never conv2, which gathers x three times, unless it is told to."""
    net = init.initialise(GOOGLENET, 1).store_as("bfloat16")
    for batch in (1, 32):
        for algorithm, last in (("auto", ["conv_mma", "lrn_pool"]), ("mma", ["conv_lrn_pool_mma"])):
            how = {"backend": "emulated", "algorithm": algorithm}
            found = entries(pyi.Session(net, (batch, 224, 224, 3), **how))
            wanted = ["pad_maps", "conv_lrn_pool_mma_bf16", "conv_mma", *last]
            assert len(found) == len(wanted) and all(map(str.startswith, found, wanted)), found
    chain = stages("conv2", 1e-4, 1.0)
    chain = tuple(replace(s, N=32, H=56, W=56) for s in chain)
    like = [np.broadcast_to(np.zeros((), STORAGE["bfloat16"]), s)
            for s in (chain[0].x_shape, chain[0].w_shape, (32, 28, 28, 192))]  # fmt: skip
    with pytest.raises(executor.Declined) as declined:
        x, w, y = like
        records_stem.conv_lrn_pool(executor.Dry(), chain, x, w, None, y, always=False)
    words = str(declined.value)
    one, apart = (int(word) for word in re.findall(r" (\d+)", words))
    assert words.startswith("one kernel would take") and one >= apart > 0


# ---- sessions ------------------------------------------------------------------------------------
def stem() -> Sequential:
    """GoogLeNet's, narrower and with maps of 18, 9 and 5 pixels."""
    pool = MaxPool2d(3, 2, ceil_mode=True)
    first = Conv2d(3, 16, 7, 2, 3, relu=True), pool, Lrn()
    layers = *first, Conv2d(16, 24, 3, padding=1, relu=True), Lrn(), pool
    return init.initialise(Sequential(*layers), 1)


def entries(session: pyi.Session) -> list[str]:
    return [launch[1] for launch in session._launches.launches]


FUSED = {
    (None, "bfloat16"): ["pad_maps", "conv_lrn_pool_mma_bf16", "conv_lrn_pool_mma_bf16"],
    ("mma", "float16"): ["pad_maps", "conv_lrn_pool_mma_fp16", "conv_lrn_pool_mma_fp16"],
    ("tf32", "float32"): ["pad_maps", *["conv_mma_tf32", "lrn_pool"] * 2],
    ("direct", "float32"): ["conv_fprop", "lrn_pool"] * 2,
}  # fmt: skip


@pytest.mark.parametrize(("algorithm", "storage"), FUSED)
def test_a_session_has_the_kernels_and_the_bits_of_the_layers(algorithm, storage):
    net, how = stem().store_as(storage), {"backend": "emulated", "algorithm": algorithm or "auto"}
    x = integers(np.random.default_rng(0), (1, 35, 34, 3), 2).astype(STORAGE[storage])
    with emulator.using(checked=False):
        session = pyi.Session(net, x.shape, **how)
        found = entries(session)
        wanted = FUSED[algorithm, storage]
        assert len(found) == len(wanted)
        assert all(entry.startswith(name) for entry, name in zip(found, wanted, strict=True)), found
        with pyi.using(**how):
            expected = net.eval()(x).data
        np.testing.assert_array_equal(session(x), expected)
        assert np.count_nonzero(expected) > 0.3 * expected.size
        plan, _ = session.steps()[0]
        assert plan.op in ("conv", "conv_lrn_pool") and plan.spec.macs == 18 * 17 * 16 * 147
    assert session.arena_bytes < 4 * x.itemsize * 9 * 9 * 24


class Twice(Module):
    """The map between is read by two."""

    def __init__(self, keep: bool) -> None:
        super().__init__()
        self.keep, self.lrn, self.pool = keep, Lrn(), MaxPool2d(2)
        self.conv = Conv2d(8, 8, 1)

    def forward(self, x):
        between = self.lrn(self.conv(x))
        pooled = self.pool(between)
        return between if self.keep else self.conv(pooled) + self.pool(between)


@pytest.mark.parametrize("keep", [False, True])
def test_a_map_with_another_reader_is_made(keep):
    net = init.initialise(Twice(keep), 1)
    x = integers(np.random.default_rng(0), (1, 6, 6, 8), 3)
    session = pyi.Session(net, x.shape, backend="emulated")
    names = [plan.op for plan, _ in session.steps() if plan is not None]
    assert "lrn" in names and "lrn_pool" not in names
    with pyi.using(backend="emulated"):
        np.testing.assert_array_equal(session(x), net.eval()(x).data)


@pytest.mark.parametrize(
    "layers",
    [
        (Conv2d(8, 8, 1), Lrn(), AvgPool2d(2)),
        (Conv2d(8, 8, 1), MaxPool2d(2), Lrn(size=3, beta=0.5)),
    ],
    ids=["a mean", "another beta"],
)
def test_what_no_kernel_takes_stays_apart(layers):
    net = init.initialise(Sequential(*layers), 1)
    try:
        session = pyi.Session(net, (1, 4, 4, 8), backend="emulated")
    except pyi.BackendError as error:  # no CUDA kernel has this beta at all
        assert "a constant lies outside" in str(error)
        return
    assert [plan.op for plan, _ in session.steps()] == ["conv", "lrn", "avg_pool"]


def test_a_convolution_without_relu_keeps_its_kernel():
    layers = Conv2d(8, 8, 1), MaxPool2d(2), Lrn()
    net = init.initialise(Sequential(*layers), 1).store_as("bfloat16")
    session = pyi.Session(net, (1, 4, 4, 8), backend="emulated", algorithm="mma")
    assert [plan.op for plan, _ in session.steps()] == ["conv", "lrn_pool"]


@pytest.mark.parametrize(("offset", "ops"), [(8, ["conv_lrn_pool"]), (4, ["conv", "lrn_pool"])])
def test_a_slice_that_is_no_whole_units_is_left_to_what_can_write_it(offset, ops):
    layers = Conv2d(8, 8, 1, relu=True), MaxPool2d(2), Lrn()
    net = init.initialise(Sequential(*layers), 1).store_as("bfloat16")
    x = workspace.empty((1, 4, 4, 8), next(net.parameters()).data)
    with pyi.using(backend="emulated", algorithm="mma"):
        _, noted = tracing.trace(net, x)
    wide = workspace.empty((1, 2, 2, 24), x)
    (plan, (between, _)), y = noted.calls[-1], wide[..., offset : offset + 8]
    calls = [*noted.calls[:-1], (plan, (between, y))]
    found = fusion.fused(calls, wide, (163 << 10, 108), 80, always=True)
    assert [plan.op for plan, _ in found] == ops
