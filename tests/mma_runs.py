"""The plans of the tensor-core kernels as the tests call them, and slices framed by NaN."""

import ctypes
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
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
#include "inception_mma_plan.h"
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
T_PLAN(t_inception, InceptionMmaArgs, plan_inception_mma(*a, plan))
T_PLAN(t_mask, MaskMmaArgs, plan_mask_mma(*a, plan))
T_PLAN(t_flip, FlipFilterMmaArgs, plan_flip_filter_mma(*a, plan))
extern "C" {
void t_dgrad_of(const ConvMmaArgs* f, ConvMmaArgs* d) { *d = dgrad_of(*f); }
const char* t_reduce_conv_name(int i) { return kReduceConvMmaEntries[i]; }
const char* t_inception_name(int i) { return kInceptionMmaEntries[i]; }
const char* t_conv_name(int i) { return kConvMmaEntries[i]; }
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
    for name in ("t_reduce_conv_name", "t_inception_name", "t_conv_name"):
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
        family = op if op in ("reduce_conv", "inception") else "conv"
        name, source = getattr(plans, f"t_{family}_name"), CUDA / f"{family}_mma.cu"
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
