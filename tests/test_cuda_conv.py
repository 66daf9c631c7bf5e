"""Convolution on CUDA cores, executed: exact against the reference, in every storage."""

import numpy as np
import pytest
from cuda_run import (
    STORAGES,
    Memory,
    assert_only_slice_written,
    integers,
    open_device,
    plan,
    run,
    sliced,
    strides_of,
)
from pyinception.kernels import cuda_args, reference


class Problem:
    """Operands of one convolution with sibling filters, as channel slices; `expected` exact."""

    def __init__(self, extents, channels, filter_, stride=1, pad=0, storage="fp32", offset=3,
                 relu=True, seed=0):  # fmt: skip
        self.stride = (stride,) * 2
        self.pad = pad if isinstance(pad, tuple) else (pad,) * 2
        self.storage, self.dtype = list(STORAGES).index(storage), STORAGES[storage]
        rng = np.random.default_rng(seed)
        c = extents[3]
        self.relu, self.w, self.b, self.y, self.gy, self.mask = relu, [], [], [], [], []
        aligned = offset % 4 == 0  # then buffers are a multiple of four channels wide
        self.x = sliced(integers(rng, extents, self.dtype, 2), offset, -c % 4 if aligned else 1)
        self.old = integers(rng, extents)
        for k in channels:
            filters = integers(rng, (k, *filter_, c), self.dtype, 1)
            self.w.append(filters * (rng.random(filters.shape) > 0.5).astype(self.dtype))
            self.b.append(integers(rng, k))
            y = self.fprop(len(self.w) - 1)
            self.y.append(
                sliced(np.full(y.shape, np.nan, self.dtype), offset, -k % 4 if aligned else 2)
            )
            gy = integers(rng, y.shape, self.dtype, 2)
            self.gy.append(sliced(gy, 4, -k % 4) if aligned else sliced(gy, 1, offset))
            self.mask.append(sliced(integers(rng, y.shape, self.dtype), offset, 0))
        self.gx = sliced(np.full(extents, np.nan, self.dtype), offset, -c % 4 if aligned else 3)
        self.gw = np.full(self.w[0].shape, np.nan, np.float32)
        self.gb = np.full(len(self.w[0]), np.nan, np.float32)

    def fprop(self, i):
        x, w = self.x.astype(np.float32), self.w[i].astype(np.float32)
        how = {"stride": self.stride, "padding": self.pad}
        return reference.conv2d_fprop(x, w, self.b[i], relu=self.relu, **how)

    def backward(self, i):
        """(gx, gw, gb) of panel i."""
        x, w, gy, mask = (
            np.ascontiguousarray(v, np.float32)
            for v in (self.x, self.w[i], self.gy[i], self.mask[i])
        )
        how = {"stride": self.stride, "padding": self.pad, "y": mask}
        return (
            reference.conv2d_dgrad(gy, w, x.shape, **how),
            *reference.conv2d_wgrad(x, gy, w.shape, **how),
        )

    def record(self, memory, **fields):
        a = np.zeros((), cuda_args.CONV_CUDA_ARGS)
        a["N"], a["H"], a["W"], a["C"] = self.x.shape
        a["R"], a["S"] = self.w[0].shape[1:3]
        a["stride_h"], a["stride_w"] = self.stride
        a["pad_h"], a["pad_w"] = self.pad
        a["storage"], a["panel_count"] = self.storage, len(self.w)
        for name in ("x", "gx"):
            a[name] = memory.put(getattr(self, name), name)
            a[f"{name}_strides"] = strides_of(getattr(self, name))
        a["gw"], a["gb"] = memory.put(self.gw, "gw"), memory.put(self.gb, "gb")
        backward = fields.pop("backward", False)
        for i in range(len(self.w)):
            p, y = a["panels"][i], self.mask[i] if backward else self.y[i]
            p["w"], p["b"] = memory.put(self.w[i], f"w{i}"), memory.put(self.b[i], f"b{i}")
            p["y"], p["gy"] = memory.put(y, f"y{i}"), memory.put(self.gy[i], f"gy{i}")
            p["y_strides"], p["gy_strides"] = strides_of(y), strides_of(self.gy[i])
            p["K"], p["relu"] = len(self.w[i]), self.relu
        for name, value in fields.items():
            a[name] = value
        return a


def exact(actual, expected, dtype):
    """Bit equality with what exact sums round to, and results that prove something."""
    assert np.count_nonzero(expected) > 0.02 * expected.size
    assert np.abs(expected).max() < 2**11  # finite in every storage
    np.testing.assert_array_equal(actual, expected.astype(dtype))


# (N, H, W, C), channels of the panels, (R, S), stride, pad. Reduced GoogLeNet geometries first,
# each with the channels that are awkward there; then shapes that are no multiple of anything.
CASES = {
    "conv1": ((1, 21, 19, 3), (24,), (7, 7), 2, 3),
    "conv2 3x3": ((1, 9, 11, 40), (67,), (3, 3), 1, 1),
    "3a 5x5": ((1, 7, 6, 16), (32,), (5, 5), 1, 2),
    "3a siblings": ((2, 5, 4, 48), (64, 96, 16), (1, 1), 1, 0),
    "4a siblings": ((1, 7, 7, 52), (48, 24, 16), (1, 1), 1, 0),
    "4b 3x3": ((1, 7, 7, 112), (56,), (3, 3), 1, 1),
    "4d 3x3": ((1, 5, 7, 144), (72,), (3, 3), 1, 1),
    "4e 1x1": ((1, 4, 5, 528), (40,), (1, 1), 1, 0),
    "5b 5x5": ((2, 3, 3, 48), (32,), (5, 5), 1, 2),
    "linear": ((5, 1, 1, 130), (33,), (1, 1), 1, 0),
    "one pixel, padded": ((3, 1, 1, 5), (7,), (3, 3), 1, 1),
    "stride 2, no pad": ((2, 9, 8, 17), (9, 5), (3, 3), 2, 0),
    "stride over pixels": ((1, 11, 10, 9), (13,), (1, 1), 3, 0),
    "1x7": ((1, 4, 9, 19), (21,), (1, 7), 1, (0, 3)),
    "stride 3, pad 2": ((1, 10, 13, 6), (70,), (5, 4), 3, 2),
}


def problem(name, storage, **fields):
    return Problem(*CASES[name], storage, **fields)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", CASES)
def test_fprop(name, storage):
    p, memory = problem(name, storage), Memory(open_device())
    launches, workspace = plan("conv_fprop", p.record(memory))
    assert len(launches) == 1 and workspace == 0
    run(launches, memory)
    for i, y in enumerate(p.y):
        exact(y, p.fprop(i), p.dtype)
        assert_only_slice_written(y)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", CASES)
def test_dgrad(name, storage):
    p, memory = problem(name, storage), Memory(open_device())
    launches, _ = plan("conv_dgrad", p.record(memory, backward=True))
    run(launches, memory)
    expected = sum(p.backward(i)[0] for i in range(len(p.w)))
    np.testing.assert_array_equal(p.gx, expected.astype(p.dtype))
    assert_only_slice_written(p.gx)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", CASES)
def test_wgrad(name, storage):
    p, memory = problem(name, storage), Memory(open_device())
    launches, workspace = plan("conv_wgrad", p.record(memory, backward=True))
    assert len(launches) == 1 and workspace == 0
    run(launches, memory)
    _, gw, gb = p.backward(0)
    exact(p.gw, gw, np.float32)
    np.testing.assert_array_equal(p.gb, gb)


# ---- what the cases above leave open -----------------------------------------------------------
ALIGNED = {
    "one panel": ((1, 6, 5, 32), (64,), (3, 3), 1, 1),
    "siblings": ((2, 4, 4, 16), (64, 36), (1, 1), 1, 0),
    "last steps in part": ((1, 5, 6, 20), (36, 12), (3, 3), 1, 1),
}


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", ALIGNED)
def test_slices_that_vectors_may_use(name, storage):
    """Four channels an access; beside a slice, and so behind its last step, lies NaN."""
    p = Problem(*ALIGNED[name], storage, offset=4)
    for view in (p.x, p.gx, *p.y, *p.gy, *p.mask):
        assert view.strides[2] // view.itemsize % 4 == 0
    memory = Memory(open_device())
    run(plan("conv_fprop", p.record(memory))[0], memory)
    for i, y in enumerate(p.y):
        exact(y, p.fprop(i), p.dtype)
        assert_only_slice_written(y)
    memory = Memory(open_device())
    run(plan("conv_dgrad", p.record(memory, backward=True))[0], memory)
    exact(p.gx, sum(p.backward(i)[0] for i in range(len(p.w))), p.dtype)
    assert_only_slice_written(p.gx)
    memory = Memory(open_device())
    run(plan("conv_wgrad", p.record(memory, backward=True))[0], memory)
    exact(p.gw, p.backward(0)[1], np.float32)
    np.testing.assert_array_equal(p.gb, p.backward(0)[2])


@pytest.mark.parametrize("offset", (3, 4))
def test_dgrad_accumulates(offset):
    p = Problem((2, 5, 6, 20), (24,), (3, 3), 1, 1, offset=offset)
    p.gx[...] = p.old
    memory = Memory(open_device())
    a = p.record(memory, backward=True, accumulate=1)
    run(plan("conv_dgrad", a)[0], memory)
    exact(p.gx, p.old + p.backward(0)[0], np.float32)
    assert_only_slice_written(p.gx)


@pytest.mark.parametrize("storage", STORAGES)
def test_wgrad_in_chunks(storage):
    """More than 256 pixels: partial sums in the workspace, added in order."""
    p, memory = Problem((3, 13, 14, 7), (9,), (3, 2), 1, 1, storage), Memory(open_device())
    workspace = np.full(16 * 1024, np.nan, np.float32)
    a = p.record(memory, backward=True)
    a["workspace"], a["workspace_bytes"] = memory.put(workspace, "workspace"), workspace.nbytes
    launches, needed = plan("conv_wgrad", a)
    assert [launch.grid[2] for launch in launches] == [3, 1] and needed <= workspace.nbytes
    run(launches, memory)
    _, gw, gb = p.backward(0)
    exact(p.gw, gw, np.float32)
    np.testing.assert_array_equal(p.gb, gb)


def test_no_bias_no_relu_no_mask_no_gb():
    p, memory = Problem((1, 4, 5, 6), (7,), (3, 3), 1, 1, relu=False), Memory(open_device())
    p.b[0][...] = 0
    a = p.record(memory)
    a["panels"]["b"] = 0
    run(plan("conv_fprop", a)[0], memory)
    expected = p.fprop(0)
    assert (expected < 0).any()
    exact(p.y[0], expected, np.float32)
    p.mask[0][...] = 1
    for direction in ("conv_dgrad", "conv_wgrad"):
        memory = Memory(open_device())
        a = p.record(memory, backward=True)
        a["panels"]["y"] = a["gb"] = 0
        run(plan(direction, a)[0], memory)
    gx, gw, _ = p.backward(0)
    exact(p.gx, gx, np.float32)
    exact(p.gw, gw, np.float32)


def test_empty_batch_gives_zero_filter_gradients():
    p, memory = Problem((1, 4, 5, 6), (7,), (3, 3), 1, 1), Memory(open_device())
    a = p.record(memory, backward=True, N=0)
    run(plan("conv_wgrad", a)[0], memory)
    assert not p.gw.any() and not p.gb.any()


@pytest.mark.parametrize("storage", STORAGES)
def test_nan_and_zeros_of_either_sign(storage):
    """relu keeps NaN and gives +0; a masked gy, NaN or not, counts nowhere; padding is not read."""
    p = Problem((1, 4, 4, 16), (6,), (3, 3), 1, 1, storage)
    p.x[...] = np.abs(p.x.astype(np.float32))
    p.x[0, 0, 0, 0], p.w[0][:, 0, 0, 0] = np.nan, 1
    p.w[0][5], p.b[0][5] = -0.0, -0.0  # every term, and so the sum, is -0
    memory = Memory(open_device())
    run(plan("conv_fprop", p.record(memory))[0], memory)
    expected = p.fprop(0)
    assert 0 < np.isnan(expected).sum() < expected.size
    y = p.y[0].astype(np.float32)
    np.testing.assert_array_equal(y, expected.astype(p.dtype).astype(np.float32))
    assert not np.signbit(y[y == 0]).any()

    p.gy[0][0, 1, 1, :] = np.nan
    p.mask[0][0, 1, 1, :] = -0.0
    memory = Memory(open_device())
    run(plan("conv_dgrad", p.record(memory, backward=True))[0], memory)
    gx = p.backward(0)[0]
    assert np.isfinite(gx).all()
    np.testing.assert_array_equal(p.gx, gx.astype(p.dtype))


def test_a_sample_alone_has_the_bits_it_has_in_a_batch():
    """Real numbers: tiles of another batch leave the order of every sum alone."""
    rng = np.random.default_rng(9)
    batch = Problem((3, 5, 5, 37), (41,), (3, 3), 1, 1)
    batch.x[...] = rng.standard_normal(batch.x.shape)
    batch.w[0][...] = rng.standard_normal(batch.w[0].shape)
    alone = Problem((1, 5, 5, 37), (41,), (3, 3), 1, 1)
    alone.x[...], alone.w[0][...], alone.b[0][...] = batch.x[2:], batch.w[0], batch.b[0]
    for p in (batch, alone):
        memory = Memory(open_device(seed=len(p.x)))
        run(plan("conv_fprop", p.record(memory))[0], memory)
    np.testing.assert_array_equal(batch.y[0][2:], alone.y[0])
    assert np.abs(alone.y[0]).max() > 1
