"""Runs of the tensor-core kernels for the tests: data, records, plans, launches, references.

Storage is float32 (multiplied as tf32), bfloat16 or float16. Integers are small enough that every
product and partial sum is exact in float32 and every result exact in the storage type, except where
a case says otherwise; then the reference rounds r as the kernel does.
"""

import ctypes
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from pyinception.kernels import cuda_mma_args as records
from pyinception.kernels import reference
from pyinception.kernels.cuda_args import SUM_CHUNKS_CUDA_ARGS

ROOT = Path(__file__).resolve().parents[1]
CUDA = ROOT / "kernels" / "cuda"
CXX = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
KB = 1024
STORAGE = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
}

# map, C, then (Cr, K) of the 3x3 and of the 5x5 branch
MODULES = {
    "3a": (28, 192, (96, 128), (16, 32)),
    "3b": (28, 256, (128, 192), (32, 96)),
    "4a": (14, 480, (96, 208), (16, 48)),
    "4b": (14, 512, (112, 224), (24, 64)),
    "4c": (14, 512, (128, 256), (24, 64)),
    "4d": (14, 512, (144, 288), (32, 64)),
    "4e": (14, 528, (160, 320), (32, 128)),
    "5a": (7, 832, (160, 320), (32, 128)),
    "5b": (7, 832, (192, 384), (48, 128)),
}

WRAPPERS = """
#include "conv_mma_plan.h"
#include "reduce_conv_mma_plan.h"
template <class Args>
static int give(const MmaPlan<Args>& plan, void* record, void* sum, int* rows, double* clocks,
                char* reason) {
  for (int i = 0; i < plan.count; i++) {
    const MmaLaunch& l = plan.launches[i];
    const int row[] = {l.entry,       (int)l.grid_x, (int)l.grid_y,
                       (int)l.grid_z, (int)l.block,  (int)l.shared_bytes};
    for (int j = 0; j < 6; j++) rows[6 * i + j] = row[j];
  }
  __builtin_memcpy(record, &plan.args, sizeof plan.args);
  __builtin_memcpy(sum, &plan.sum, sizeof plan.sum);
  __builtin_memcpy(reason, plan.reason.text, sizeof plan.reason.text);
  *clocks = plan.clocks;
  return plan.count;
}
#define T_PLAN(NAME, ARGS, CALL)                                                             \
  extern "C" int NAME(const ARGS* a, void* record, void* sum, int* rows, double* clocks,     \
                      char* reason) {                                                        \
    MmaPlan<ARGS> plan;                                                                      \
    CALL;                                                                                    \
    return give(plan, record, sum, rows, clocks, reason);                                    \
  }
T_PLAN(t_reduce_conv, ReduceConvMmaArgs, plan_reduce_conv_mma(*a, plan))
T_PLAN(t_conv, ConvMmaArgs, plan_conv_mma(*a, plan))
T_PLAN(t_wgrad, ConvWgradMmaArgs, plan_conv_wgrad_mma(*a, false, plan))
T_PLAN(t_wgrad_size, ConvWgradMmaArgs, plan_conv_wgrad_mma(*a, true, plan))
T_PLAN(t_mask, MaskMmaArgs, plan_mask_mma(*a, plan))
T_PLAN(t_flip, FlipFilterMmaArgs, plan_flip_filter_mma(*a, plan))
extern "C" {
void t_dgrad_of(const ConvMmaArgs* f, ConvMmaArgs* d) { *d = dgrad_of(*f); }
const char* t_reduce_conv_name(int i) { return kReduceConvMmaEntries[i]; }
const char* t_conv_name(int i) { return kConvMmaEntries[i]; }
int t_layout(ReduceConvMmaArgs* a, int unit) { lay_out_reduced(*a, unit); return a->row_units; }
}
"""


def build_plans(folder: Path) -> ctypes.CDLL:
    """The host plans as plain C++, warnings being errors."""
    (folder / "plans.cpp").write_text(WRAPPERS)
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{CUDA}"]
    command = [CXX, *flags, str(folder / "plans.cpp"), "-o", str(folder / "plans.so")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    library = ctypes.CDLL(str(folder / "plans.so"))
    for name in ("t_reduce_conv_name", "t_conv_name"):
        getattr(library, name).restype = ctypes.c_char_p
    return library


@dataclass(frozen=True)
class Launch:
    source: Path
    entry: str
    grid: tuple[int, int, int]
    block: int
    shared_bytes: int
    record: np.void


class Planned:
    """What a plan says: reason ("" if it takes the problem), completed record, launches, clocks."""

    def __init__(self, plans: ctypes.CDLL, op: str, asked: np.ndarray) -> None:
        raw, out = asked.tobytes(), ctypes.create_string_buffer(asked.nbytes)
        sums = ctypes.create_string_buffer(SUM_CHUNKS_CUDA_ARGS.itemsize)
        rows, clocks = (ctypes.c_int * 12)(), ctypes.c_double()
        reason = ctypes.create_string_buffer(192)
        count = getattr(plans, f"t_{op}")(raw, out, sums, rows, ctypes.byref(clocks), reason)
        self.reason = reason.value.decode()
        self.record = np.frombuffer(out.raw, asked.dtype)[0].copy()
        self.clocks = clocks.value
        fused = op == "reduce_conv"
        name = plans.t_reduce_conv_name if fused else plans.t_conv_name
        source = CUDA / ("reduce_conv_mma.cu" if fused else "conv_mma.cu")
        self.launches = []
        for i in range(count):
            entry, *grid, block, shared = rows[6 * i : 6 * i + 6]
            record = np.frombuffer(sums.raw, SUM_CHUNKS_CUDA_ARGS)[0] if i else self.record
            self.launches.append(
                Launch(source, name(entry).decode(), tuple(grid), block, shared, record)
            )


def strides_of(a: np.ndarray) -> tuple[int, int, int]:
    return tuple(s // a.itemsize for s in a.strides[:3])


def integers(rng: np.random.Generator, shape, limit: int, density: float = 1.0) -> np.ndarray:
    values = rng.integers(-limit, limit + 1, shape)
    if density < 1:
        values = values * (rng.random(shape) < density)
    return values.astype(np.float32)


class Slice:
    """A map as a slice of the channels of a wider buffer, NaN around it."""

    def __init__(self, shape, storage: np.dtype, before: int = 0, after: int = 0) -> None:
        n, h, w, c = shape
        self.buffer = np.full((n, h, w, before + c + after), np.nan, storage)
        self.before, self.channels = before, c

    @property
    def map(self) -> np.ndarray:
        return self.buffer[..., self.before : self.before + self.channels]

    def fill(self, values: np.ndarray) -> "Slice":
        self.map[...] = values.astype(self.buffer.dtype)
        return self

    def address(self, base: int) -> int:
        return base + self.before * self.buffer.itemsize


def rounded(values: np.ndarray, storage: np.dtype) -> np.ndarray:
    return values.astype(storage).astype(values.dtype)


class ReduceConv:
    """One fused problem: integers, NaN-framed slices, the record over a device's buffers."""

    def __init__(self, extents, *, stride=(1, 1), padding=(0, 0), storage="bfloat16", seed=0,
                 frame=(0, 0), bias=True, save_r=False, limit=227 * KB,
                 multiprocessors=132) -> None:  # fmt: skip
        self.extents, self.stride, self.padding = extents, stride, padding
        n, h, w, c, cr, k, r, s = extents
        self.storage, rng = STORAGE[storage], np.random.default_rng(seed)
        p = (h + 2 * padding[0] - r) // stride[0] + 1
        q = (w + 2 * padding[1] - s) // stride[1] + 1
        # r stays within 256, where bf16 still holds every integer: a few ones in each row of wr
        self.x = integers(rng, (n, h, w, c), 3)
        self.wr = integers(rng, (cr, 1, 1, c), 1, min(1.0, 24 / c))
        self.w = integers(rng, (k, r, s, cr), 2, min(1.0, 200 / (r * s * cr)))
        self.br = integers(rng, cr, 8) if bias else None
        self.b = integers(rng, k, 8) if bias else None
        self.maps = {
            "x": Slice((n, h, w, c), self.storage, *frame).fill(self.x),
            "y": Slice((n, p, q, k), self.storage, *frame),
            "r": Slice((n, h, w, cr), self.storage, *frame) if save_r else None,
        }
        a = self.asked = np.zeros((), records.REDUCE_CONV_MMA_ARGS)
        for name, value in zip(("N", "H", "W", "C", "Cr", "K", "R", "S"), extents, strict=True):
            a[name] = value
        (a["stride_h"], a["stride_w"]), (a["pad_h"], a["pad_w"]) = stride, padding
        a["type"], a["shared_limit"] = records.MMA_TYPES[storage], limit
        a["multiprocessors"] = multiprocessors

    def place(self, buffer) -> np.ndarray:
        """The record; ``buffer(name, array)`` puts an array on the device, returns its address."""
        a = self.asked
        for name, piece in self.maps.items():
            if piece is not None:
                a[name] = piece.address(buffer(name, piece.buffer))
                a[f"{name}_strides"] = strides_of(piece.buffer)
        for name in ("wr", "w"):
            a[name] = buffer(name, getattr(self, name).astype(self.storage))
        for name in ("br", "b"):
            if getattr(self, name) is not None:
                a[name] = buffer(name, getattr(self, name))
        return a

    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """y and r: r rounded to the storage type between the stages, y at the end."""
        _, r = reference.reduce_conv_fprop(self.x, self.wr, self.br, self.w, self.b,
                                           stride=self.stride, padding=self.padding)  # fmt: skip
        r = rounded(r, self.storage)
        y = reference.conv2d_fprop(r, self.w, self.b, stride=self.stride, padding=self.padding,
                                   relu=True)  # fmt: skip
        return rounded(y, self.storage), r


class Conv:
    """One convolution, its gradients, or stacked 1x1s: integers and NaN-framed slices.

    ``outputs`` are the columns of each output; more than one for stacked filters.
    """

    def __init__(self, extents, *, stride=(1, 1), padding=(0, 0), storage="bfloat16", seed=0,
                 frame=(0, 0), outputs=None, relu=True, bias=True, limit=227 * KB,
                 multiprocessors=132) -> None:  # fmt: skip
        self.extents, self.stride, self.padding, self.relu = extents, stride, padding, relu
        n, h, w, c, k, r, s = extents
        self.storage, rng = STORAGE[storage], np.random.default_rng(seed)
        self.p = (h + 2 * padding[0] - r) // stride[0] + 1
        self.q = (w + 2 * padding[1] - s) // stride[1] + 1
        self.x = integers(rng, (n, h, w, c), 3)
        self.w = integers(rng, (k, r, s, c), 2, min(1.0, 60 / (r * s * c)))
        self.b = integers(rng, k, 8) if bias else None
        self.gy = integers(rng, (n, self.p, self.q, k), 2, min(1.0, 60 / (r * s * k)))
        self.y = integers(rng, (n, self.p, self.q, k), 1)  # a mask: zeros and both signs
        self.r = integers(rng, (n, h, w, c), 1)  # the mask of gx
        self.old = integers(rng, (n, h, w, c), 9)
        self.outputs, self.frame, self.type = outputs or (k,), frame, records.MMA_TYPES[storage]
        self.limit, self.multiprocessors = limit, multiprocessors

    def framed(self, values: np.ndarray) -> Slice:
        return Slice(values.shape, self.storage, *self.frame).fill(values)

    def forward(self, buffer) -> tuple[np.ndarray, list[Slice]]:
        """The record of fprop and the outputs it writes, buffers y0, y1 ..."""
        n = self.extents[0]
        a = np.zeros((), records.CONV_MMA_ARGS)
        for name, value in zip("NHWCKRS", self.extents, strict=True):
            a[name] = value
        (a["stride_h"], a["stride_w"]), (a["pad_h"], a["pad_w"]) = self.stride, self.padding
        a["step_h"] = a["step_w"] = 1
        a["P"], a["Q"], a["relu"], a["type"] = self.p, self.q, self.relu, self.type
        a["shared_limit"], a["multiprocessors"] = self.limit, self.multiprocessors
        x = self.framed(self.x)
        a["x"], a["x_strides"] = x.address(buffer("x", x.buffer)), strides_of(x.buffer)
        a["w"] = buffer("w", self.w.astype(self.storage))
        if self.b is not None:
            a["b"] = buffer("b", self.b)
        pieces, first = [], 0
        for i, columns in enumerate(self.outputs):
            piece = Slice((n, self.p, self.q, columns), self.storage, *self.frame)
            out = a["outputs"][i]
            out["y"] = piece.address(buffer(f"y{i}", piece.buffer))
            out["strides"] = strides_of(piece.buffer)
            out["first"], out["count"] = first, columns
            first += columns
            pieces.append(piece)
        a["output_count"] = len(pieces)
        return a, pieces

    def expected_forward(self) -> np.ndarray:
        y = reference.conv2d_fprop(self.x, self.w, self.b, stride=self.stride,
                                   padding=self.padding, relu=self.relu)  # fmt: skip
        return rounded(y, self.storage)

    def mask(self, buffer) -> np.ndarray:
        """gy [y > 0] into the contiguous buffer gm."""
        n, *_, k, _, _ = self.extents
        a = np.zeros((), records.MASK_MMA_ARGS)
        a["N"], a["P"], a["Q"], a["K"], a["type"] = n, self.p, self.q, k, self.type
        for name in ("gy", "y"):
            piece = self.framed(getattr(self, name))
            a[name] = piece.address(buffer(name, piece.buffer))
            a[f"{name}_strides"] = strides_of(piece.buffer)
        a["out"] = buffer("gm", np.full((n, self.p, self.q, k), np.nan, self.storage))
        return a

    def flip(self, buffer) -> np.ndarray:
        _, _, _, c, k, r, s = self.extents
        a = np.zeros((), records.FLIP_FILTER_MMA_ARGS)
        a["K"], a["R"], a["S"], a["C"], a["type"] = k, r, s, c, self.type
        a["w"] = buffer("w", self.w.astype(self.storage))
        a["out"] = buffer("flipped", np.full((c, r, s, k), np.nan, self.storage))
        return a

    def dgrad(self, plans, forward, addresses, buffer) -> tuple[np.ndarray, Slice]:
        """gx += dgrad [r > 0]: the record over the masked gy and the flipped filter."""
        c, k = self.extents[3:5]
        out = ctypes.create_string_buffer(forward.nbytes)
        plans.t_dgrad_of(forward.tobytes(), out)
        a = np.frombuffer(out.raw, forward.dtype)[0].copy()
        a["x"], a["w"] = addresses["gm"], addresses["flipped"]
        a["x_strides"] = (self.p * self.q * k, self.q * k, k)
        mask, gx = self.framed(self.r), self.framed(self.old)
        a["mask"], a["mask_strides"] = (
            mask.address(buffer("r", mask.buffer)),
            strides_of(mask.buffer),
        )
        a["output_count"], a["accumulate"] = 1, 1
        a["outputs"][0] = (gx.address(buffer("gx", gx.buffer)), strides_of(gx.buffer), 0, c)
        return a, gx

    def expected_dgrad(self) -> np.ndarray:
        gx = reference.conv2d_dgrad(self.gy, self.w, self.x.shape, stride=self.stride,
                                    padding=self.padding, y=self.y)  # fmt: skip
        return rounded(np.where(self.r > 0, gx, 0) + self.old, self.storage)

    def wgrad(self, plans, addresses, buffer) -> np.ndarray:
        _, _, _, c, k, r, s = self.extents
        a = np.zeros((), records.CONV_WGRAD_MMA_ARGS)
        for name, value in zip("NHWCKRS", self.extents, strict=True):
            a[name] = value
        (a["stride_h"], a["stride_w"]), (a["pad_h"], a["pad_w"]) = self.stride, self.padding
        a["P"], a["Q"], a["type"], a["shared_limit"] = self.p, self.q, self.type, self.limit
        x = self.framed(self.x)
        a["x"], a["x_strides"] = x.address(buffer("x", x.buffer)), strides_of(x.buffer)
        a["gy"], a["gy_strides"] = addresses["gm"], (self.p * self.q * k, self.q * k, k)
        a["gw"] = buffer("gw", np.full((k, r, s, c), np.nan, np.float32))
        a["gb"] = buffer("gb", np.full(k, np.nan, np.float32))
        a["partial_bytes"] = size = int(Planned(plans, "wgrad_size", a).record["partial_bytes"])
        if size:
            a["partial"] = buffer("partial", np.full(size // 4, np.nan, np.float32))
        return a

    def expected_wgrad(self) -> tuple[np.ndarray, np.ndarray]:
        return reference.conv2d_wgrad(self.x, self.gy, self.w.shape, stride=self.stride,
                                      padding=self.padding, y=self.y)  # fmt: skip


def read_slice(piece: Slice, buffer: np.ndarray) -> np.ndarray:
    """The slice of a buffer that came back; what lies around it must still be NaN."""
    buffer = buffer.astype(np.float32)
    end = piece.before + piece.channels
    around = np.concatenate([buffer[..., : piece.before], buffer[..., end:]], axis=3)
    assert np.isnan(around).all(), "written outside the slice"
    return buffer[..., piece.before : end]


def made_up_addresses():
    """A ``buffer`` for plans that are not run."""
    addresses = iter(range(1 << 32, 1 << 40, 1 << 32))
    return lambda name, array: next(addresses)
