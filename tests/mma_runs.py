"""Runs of the tensor-core kernels for the tests: data, records, plans, launches, references.

Storage is float32 (multiplied as tf32), bfloat16 or float16. Integers are small enough that every
product and partial sum is exact in float32 and every result exact in the storage type, except where
a case says otherwise; then the reference rounds r as the kernel does.
"""

import ctypes
import shutil
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
from pyinception.kernels import cuda_mma_args as records
from pyinception.kernels import reference

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
#include "reduce_conv_mma_plan.h"
template <class Plan>
static int give(const Plan& plan, void* record, int* launch, double* clocks, char* reason) {
  const MmaLaunch& l = plan.launch;
  const unsigned row[] = {(unsigned)l.entry, l.grid_x, l.grid_y, l.grid_z, l.block, l.shared_bytes};
  for (int i = 0; i < 6; i++) launch[i] = (int)row[i];
  __builtin_memcpy(record, &plan.args, sizeof plan.args);
  __builtin_memcpy(reason, plan.reason.text, sizeof plan.reason.text);
  *clocks = plan.clocks;
  return plan.count;
}
extern "C" {
int t_reduce_conv(const ReduceConvMmaArgs* a, void* record, int* launch, double* clocks,
                  char* reason) {
  ReduceConvMmaPlan plan;
  plan_reduce_conv_mma(*a, plan);
  return give(plan, record, launch, clocks, reason);
}
const char* t_reduce_conv_entry(int i) { return kReduceConvMmaEntries[i]; }
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
    for name in ("t_reduce_conv_entry",):
        getattr(library, name).restype = ctypes.c_char_p
    return library


class Planned:
    """What a plan says: reason ("" if it takes the problem), completed record, launch, clocks."""

    def __init__(self, plans: ctypes.CDLL, op: str, asked: np.ndarray) -> None:
        raw, out = asked.tobytes(), ctypes.create_string_buffer(asked.nbytes)
        launch, clocks = (ctypes.c_int * 6)(), ctypes.c_double()
        reason = ctypes.create_string_buffer(192)
        call = getattr(plans, f"t_{op}")
        self.count = call(raw, out, launch, ctypes.byref(clocks), reason)
        self.reason = reason.value.decode()
        self.record = np.frombuffer(out.raw, asked.dtype)[0].copy()
        self.clocks = clocks.value
        entry, *grid, self.block, self.shared_bytes = launch
        self.grid = tuple(grid)
        self.entry = getattr(plans, f"t_{op}_entry")(entry).decode() if self.count else ""


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
        """The record; ``buffer(name, array)`` makes an array of the device and gives its address."""
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
