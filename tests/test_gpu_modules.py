"""The cuDNN rows of the GPU session, without a GPU: forms, offsets, poison, the float64 check.

They run on stand-ins for the card and for the library: NumPy in host memory, with real addresses
and strides, NaN-filled outputs and a guard band behind every allocation.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import gpu_cudnn
import gpu_device
import gpu_modules
import gpu_timing as timing

# -- the table and the float64 truth


def test_module_table_matches_the_paper():
    assert sum(m.flops(1) for m in timing.MODULES.values()) == 2 * 1_103_972_352
    for before, after in zip("3a 4a 4b 4c 4d 5a".split(), "3b 4b 4c 4d 4e 5b".split(), strict=True):
        assert timing.MODULES[before].K == timing.MODULES[after].C
    assert timing.MODULES["5b"].K == 1024


def test_truth_matches_plain_loops():
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (1, 4, 5, 2)).astype(np.float64)
    w = rng.integers(-3, 4, (3, 5, 5, 2)).astype(np.float64)
    b = rng.integers(-3, 4, 3).astype(np.float64)
    y = np.zeros((1, 4, 5, 3))
    pooled = np.full(x.shape, -np.inf)
    for p, q in np.ndindex(4, 5):
        for r, s in np.ndindex(5, 5):
            h, v = p + r - 2, q + s - 2
            if 0 <= h < 4 and 0 <= v < 5:
                y[0, p, q] += w[:, r, s] @ x[0, h, v]
                if abs(h - p) <= 1 and abs(v - q) <= 1:
                    pooled[0, p, q] = np.maximum(pooled[0, p, q], x[0, h, v])
    assert np.array_equal(timing.conv_relu(x, w, b), np.maximum(y + b, 0))
    assert np.array_equal(timing.max_pool_3x3(x), pooled)


def test_bf16_rounds_to_nearest_even():
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -0.0], np.float32)
    want = np.array([1.0, 1.0, 1 + 2**-6, 1 + 2**-7, -0.0], np.float32)
    got = timing.widen_bf16(timing.round_bf16(values))
    assert np.array_equal(got.view(np.uint32), want.view(np.uint32))


def test_nan_is_an_error():
    reference = np.ones(4)
    error = timing.compare(np.array([1, 1, np.nan, 1]), reference)
    assert not error["max_rel"] <= timing.error_limit("bf16", 22)


# -- stand-ins: a card in host memory, a cuDNN in NumPy


class HostCuda:
    """The methods of `gpu_device.Cuda` on host memory; addresses are real, the clock is not.

    The card's clock advances by what each call says it costs, so no timing decides a test.
    """

    stream = 0
    clock = 0.0  # seconds

    def __init__(self):
        self.attribute = {"l2_bytes": 1 << 16, "multiprocessors": 1}
        self.blocks = {}
        self.freed = 0

    def alloc(self, nbytes):
        block = np.zeros(nbytes + 64, np.uint8)
        block[nbytes:] = 0xA5  # a guard band: a write past the end is found when it is freed
        self.blocks[block.ctypes.data] = block
        return block.ctypes.data

    def free(self, pointer):
        assert (self.blocks.pop(pointer)[-64:] == 0xA5).all()
        self.freed += 1

    def free_bytes(self):
        return 1 << 30

    def upload(self, pointer, array):
        ctypes.memmove(pointer, np.ascontiguousarray(array).ctypes.data, array.nbytes)

    def download(self, pointer, shape, dtype):
        return view(pointer, shape, dtype).copy()

    def copy(self, target, source, nbytes):
        ctypes.memmove(target, source, nbytes)

    def fill(self, pointer, byte, nbytes):
        ctypes.memset(pointer, byte, nbytes)

    def synchronize(self):
        pass

    def elapsed(self, work):
        before = HostCuda.clock
        work()
        HostCuda.clock += 1e-6
        return HostCuda.clock - before

    def capture(self, work):
        return SimpleNamespace(launch=work, close=lambda: None)

    def launch(self, name, grid, block, *args):
        values = [arg.value for arg in args]
        if name.startswith("pool3x3"):
            x, y, N, H, W, vectors = values
            dtype = np.uint16 if name.endswith("bf16") else np.float32
            shape = (N, H, W, vectors * 16 // np.dtype(dtype).itemsize)
            pooled = timing.max_pool_3x3(timing.load(view(x, shape, dtype)))
            put(y, shape, dtype, pooled)
        else:
            assert name == "copy_slice"
            x, ldx, y, ldy, vectors, pixels = values
            source = view(x, (pixels, ldx, 16), np.uint8, last=vectors * 16)
            target = view(y, (pixels, ldy, 16), np.uint8, last=vectors * 16)
            target[...] = source


def view(pointer, shape, dtype, *, last=None, pixel=None):
    """An array at an address: packed, or `last` bytes of each row, or a wide pixel stride."""
    itemsize = np.dtype(dtype).itemsize
    if last is not None:
        rows, row = shape[0], shape[1] * shape[2]
        raw = (ctypes.c_uint8 * ((rows - 1) * row + last)).from_address(pointer)
        return np.lib.stride_tricks.as_strided(np.frombuffer(raw, np.uint8), (rows, last), (row, 1))
    N, H, W, C = shape if len(shape) == 4 else (1, 1, 1, int(np.prod(shape)))
    pixel = pixel or C
    elements = (N * H * W - 1) * pixel + C
    flat = np.frombuffer((ctypes.c_uint8 * (elements * itemsize)).from_address(pointer), dtype)
    strides = tuple(itemsize * v for v in (H * W * pixel, W * pixel, pixel, 1))
    array = np.lib.stride_tricks.as_strided(flat, (N, H, W, C), strides)
    return array if len(shape) == 4 else array.reshape(shape)


def put(pointer, shape, dtype, values, pixel=None):
    precision = "bf16" if dtype == np.uint16 else "fp32"
    view(pointer, shape, dtype, pixel=pixel)[...] = timing.store(values, precision)


class HostTensor:
    def __init__(self, dim=None, stride=None):
        self.dim, self.stride = dim, stride

    def set_output(self, value):
        assert value
        return self

    def set_data_type(self, kind):
        return self

    def set_dim(self, dim):
        self.dim = dim
        return self

    def set_stride(self, stride):
        self.stride = stride
        return self


class Unsupported(Exception):
    """cuDNN's refusals derive from Exception, not from RuntimeError."""


class HostGraph:
    """The calls of cudnn.pygraph that the benchmark makes; executes in NumPy."""

    broken = False

    def __init__(self, io_data_type, intermediate_data_type, compute_data_type, handle):
        self.dtype = np.uint16 if io_data_type == "bf16" else np.float32
        self.built = set()

    def tensor(self, name, dim, stride, data_type):
        return HostTensor(dim, stride)

    def conv_fprop(self, image, weight, padding, stride, dilation, name):
        assert padding == [weight.dim[2] // 2] * 2 and stride == dilation == [1, 1]
        self.x, self.w = image, weight
        return HostTensor()

    def matmul(self, A, B, name):
        assert A.dim[2] == B.dim[1] and A.stride[2] == B.stride[1] == 1
        self.x, self.w = A, B
        return HostTensor()

    def bias(self, input, bias, name):
        self.b = bias
        return HostTensor()

    def relu(self, input, name):
        self.y = HostTensor()
        return self.y

    def validate(self):
        C, K = (1, 0) if len(self.w.dim) == 4 else (1, 2)
        channel = 1 if len(self.w.dim) == 4 else 2
        assert self.y.dim[channel] == self.w.dim[K] and self.x.dim[channel] == self.w.dim[C]

    def build_operation_graph(self):
        pass

    def create_execution_plans(self, modes):
        assert modes == ["A", "B", "FALLBACK"]

    def deselect_numeric_notes(self, notes):
        pass

    def get_execution_plan_count(self):
        return 4

    def get_plan_name_at_index(self, index):
        return f"plan{index}"

    def build_plan_at_index(self, index):
        if index == 0:
            raise Unsupported("plan 0 is not supported here")
        self.built.add(index)

    def get_workspace_size_plan_at_index(self, index):
        return 64 * index

    def execute_plan_at_index(self, pack, workspace, index, handle):
        assert index in self.built and workspace
        HostCuda.clock += 1e-5 if index == 2 else 2e-4  # plan 2 is the one to choose
        if len(self.x.dim) == 4:
            N, C, H, W = self.x.dim
            K, _, R, _ = self.w.dim
            ldx, ldy = self.x.stride[3], self.y.stride[3]
        else:
            (_, H, C), K, (N, W, R) = self.x.dim, self.w.dim[2], (1, 1, 1)
            ldx, ldy = self.x.stride[1], self.y.stride[1]
        x = timing.load(view(pack[self.x], (N, H, W, C), self.dtype, pixel=ldx))
        w = timing.load(view(pack[self.w], (K, R, R, C), self.dtype))
        b = timing.load(view(pack[self.b], (K,), self.dtype))
        y = timing.conv_relu(x, w, b) + (0.5 if self.broken else 0)
        put(pack[self.y], (N, H, W, K), self.dtype, y, pixel=ldy)


@pytest.fixture
def library(monkeypatch):
    notes = SimpleNamespace(TENSOR_CORE=1, DOWN_CONVERT_INPUTS=2)
    fake = SimpleNamespace(
        data_type=SimpleNamespace(BFLOAT16="bf16", FLOAT="fp32"),
        heur_mode=SimpleNamespace(A="A", B="B", FALLBACK="FALLBACK"),
        numerical_note=notes,
        pygraph=type("Graph", (HostGraph,), {}),
        backend_version=lambda: 92800,
        create_handle=lambda: object(),
        set_stream=lambda handle, stream: None,
    )
    monkeypatch.setitem(sys.modules, "cudnn", fake)

    def refuse(*names):
        raise gpu_device.CudaError("no cuDNN library here")

    monkeypatch.setattr(gpu_cudnn, "load_library", refuse)
    quick = timing.sample
    monkeypatch.setattr(
        timing, "sample", lambda measure, **_: quick(measure, seconds=0, least=2, most=2)
    )
    return gpu_cudnn.Cudnn(HostCuda())


SMALL = timing.Module("small", 5, 16, 8, 16, 24, 8, 16, 8)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("form", gpu_modules.FORMS)
def test_every_form_computes_the_module(library, form, precision):
    row = gpu_modules.cudnn_row(library, SMALL, form, 3, precision)
    assert row["status"] == "ok", row["error"]
    assert set(row["times"]) == {"events_warm", "events_cold", "graph_warm", "graph_cold"}
    convs = [layer for layer in row["layers"] if layer["name"] not in ("pool", "copy")]
    assert {layer["plan"] for layer in convs} == {"plan2"}
    assert {layer["graph"] for layer in convs if layer["name"] in ("c3", "c5")} == {"conv"}
    assert all(layer["others_us"] for layer in convs if layer["name"] not in ("c3", "c5"))
    assert all(layer["plans_declined"] == 1 and layer["plans_timed"] == 3 for layer in convs)
    assert row["launches"] == {"stacked": 5, "inplace": 7, "chain": 11}[form]
    assert row["cold"]["over_2x_l2"] and row["bytes_moved"] > row["bytes_min"]
    left = set(library.cuda.blocks)
    assert len(left) == 1, "only the shared workspace stays allocated"


def test_a_refused_product_leaves_the_convolution(library, monkeypatch):
    def refuse(self, A, B, name):
        raise Unsupported("no matrix product here")

    monkeypatch.setattr(library.cudnn.pygraph, "matmul", refuse)
    row = gpu_modules.cudnn_row(library, SMALL, "stacked", 2, "bf16")
    siblings = row["layers"][0]
    assert row["status"] == "ok" and siblings["graph"] == "conv"
    assert siblings["refused"] == {"matmul": "no matrix product here"}


def test_a_wrong_result_shows_no_time(library):
    library.cudnn.pygraph.broken = True
    row = gpu_modules.cudnn_row(library, SMALL, "stacked", 2, "fp32")
    assert row["status"] == "wrong" and row["times"] is None and "rates" not in row
    assert row["error"]["max_rel"] > row["error_limit"]


def test_an_unwritten_slice_is_wrong(library, monkeypatch):
    buffers, steps = gpu_modules.program(SMALL, "inplace")
    fewer = [step for step in steps if step.name != "c5"]
    monkeypatch.setattr(gpu_modules, "program", lambda module, form: (buffers, fewer))
    row = gpu_modules.cudnn_row(library, SMALL, "inplace", 2, "bf16")
    assert row["status"] == "wrong" and np.isnan(row["error"]["max_rel"])
