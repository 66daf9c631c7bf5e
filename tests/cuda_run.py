"""Plans the launches of the CUDA kernels in plain C++ and runs them on the emulator.

`plan` compiles the plan headers once with the host's C++ compiler; `Memory` lays views of NumPy
arrays out in the emulator's guarded buffers; `run` executes launches and reads the buffers back.
"""

import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from ml_dtypes import bfloat16

ROOT = Path(__file__).resolve().parents[1]
CUDA = ROOT / "kernels" / "cuda"
CXX = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")

WRAPPERS = """
#include "conv_plan.h"
#include "elementary_plan.h"
#include "pool_plan.h"

struct Row {
  const char* entry;
  const void* params;
  unsigned grid[3], block, shared_bytes, params_bytes;
};

template <class Plan>
static int rows_of(int status, const Plan& plan, const char* (*name)(int), Row* rows, int* count,
                   long long* workspace) {
  *count = status ? 0 : plan.count, *workspace = plan.workspace_bytes;
  for (int i = 0; i < *count; i++) {
    const CudaLaunch& l = plan.launches[i];
    rows[i] = {name(l.entry), l.params,       {l.grid_x, l.grid_y, l.grid_z},
               l.block,       l.shared_bytes, l.params_bytes};
  }
  return status;
}

#define PLAN(NAME, PLAN_TYPE, ARGS, NAMES, CALL)                                                \\
  extern "C" int NAME(const ARGS* asked, Row* rows, int* count, long long* workspace) {         \\
    static thread_local PLAN_TYPE plan;                                                         \\
    return rows_of(CALL, plan, NAMES, rows, count, workspace);                                  \\
  }
PLAN(conv_fprop, ConvPlan, ConvCudaArgs, conv_entry_name, plan_conv_fprop(*asked, plan))
PLAN(conv_dgrad, ConvPlan, ConvCudaArgs, conv_entry_name, plan_conv_dgrad(*asked, plan))
PLAN(conv_wgrad, ConvPlan, ConvCudaArgs, conv_entry_name, plan_conv_wgrad(*asked, false, plan))
PLAN(conv_size, ConvPlan, ConvCudaArgs, conv_entry_name, plan_conv_wgrad(*asked, true, plan))
PLAN(pool_fprop, PoolPlan, PoolCudaArgs, pool_entry_name, plan_pool(*asked, false, plan))
PLAN(pool_dgrad, PoolPlan, PoolCudaArgs, pool_entry_name, plan_pool(*asked, true, plan))

#define ELEMENTARY(NAME, KIND, CALL) \\
  PLAN(NAME, KIND##Plan, KIND##CudaArgs, elementary_entry_name, CALL)
ELEMENTARY(lrn_fprop, Lrn, plan_lrn(*asked, false, plan))
ELEMENTARY(lrn_dgrad, Lrn, plan_lrn(*asked, true, plan))
ELEMENTARY(softmax_fprop, Softmax, plan_softmax(*asked, false, plan))
ELEMENTARY(softmax_backward, Softmax, plan_softmax(*asked, true, plan))
ELEMENTARY(batch_norm_fprop, BatchNorm,
           plan_batch_norm(*asked, BatchNormPass::kTraining, false, plan))
ELEMENTARY(batch_norm_inference, BatchNorm,
           plan_batch_norm(*asked, BatchNormPass::kInference, false, plan))
ELEMENTARY(batch_norm_dgrad, BatchNorm,
           plan_batch_norm(*asked, BatchNormPass::kBackward, false, plan))
ELEMENTARY(batch_norm_size, BatchNorm,
           plan_batch_norm(*asked, BatchNormPass::kTraining, true, plan))
ELEMENTARY(dropout, Dropout, plan_dropout(*asked, plan))
ELEMENTARY(cast, Cast, plan_cast(*asked, plan))
ELEMENTARY(check_finite, Finite, plan_check_finite(*asked, false, plan))
ELEMENTARY(check_finite_size, Finite, plan_check_finite(*asked, true, plan))
ELEMENTARY(sgd, Sgd, plan_sgd(*asked, plan))
ELEMENTARY(layout, Layout, plan_layout(*asked, plan))

extern "C" const char* status_text(int status) { return cuda_status_text(status); }
"""


class Launch(NamedTuple):
    entry: str
    grid: tuple[int, int, int]
    block: int
    shared_bytes: int
    params: bytes


class _Row(ctypes.Structure):
    _fields_ = [("entry", ctypes.c_char_p), ("params", ctypes.c_void_p),
                ("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint),
                ("shared_bytes", ctypes.c_uint), ("params_bytes", ctypes.c_uint)]  # fmt: skip


class Refused(Exception):
    """A plan declined; ``status`` is its code."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@cache
def _plans() -> ctypes.CDLL:
    """The plans as a shared library, warnings being errors."""
    folder = Path(tempfile.mkdtemp(prefix="pyinception-plans-"))
    (folder / "plans.cpp").write_text(WRAPPERS)
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{CUDA}"]
    command = [CXX, *flags, str(folder / "plans.cpp"), "-o", str(folder / "plans.so")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    library = ctypes.CDLL(str(folder / "plans.so"))
    library.status_text.restype = ctypes.c_char_p
    shutil.rmtree(folder)
    return library


def plan(name: str, record: np.ndarray) -> tuple[list[Launch], int]:
    """(launches, workspace bytes) of a filled record; raises `Refused` where the plan declines."""
    rows, count, workspace = (_Row * 8)(), ctypes.c_int(), ctypes.c_longlong()
    asked = ctypes.create_string_buffer(record.tobytes(), record.nbytes)
    out = ctypes.byref(count), ctypes.byref(workspace)
    status = getattr(_plans(), name)(asked, rows, *out)
    if status:
        raise Refused(status, _plans().status_text(status).decode())
    launches = [
        Launch(r.entry.decode(), tuple(r.grid), r.block, r.shared_bytes,
               ctypes.string_at(r.params, r.params_bytes))
        for r in rows[: count.value]
    ]  # fmt: skip
    return launches, workspace.value


class Memory:
    """Views of NumPy arrays in device buffers: one buffer for each array that owns its memory."""

    def __init__(self, device) -> None:
        self.device = device
        self.buffers: dict[int, tuple[np.ndarray, int]] = {}  # by id: the owner, its address

    def put(self, view: np.ndarray | None, name: str) -> int:
        """The device address of the view's first element; None is null."""
        if view is None:
            return 0
        owner = view
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        if id(owner) not in self.buffers:
            assert owner.flags.c_contiguous
            self.buffers[id(owner)] = owner, self.device.upload(name, owner)
        address = self.buffers[id(owner)][1]
        return address + view.__array_interface__["data"][0] - owner.ctypes.data

    def take_back(self) -> None:
        """Copy every buffer back into its array."""
        for owner, address in self.buffers.values():
            self.device.download(address, owner)


def strides_of(view: np.ndarray) -> tuple[int, int, int]:
    """Elements from image to image, row to row and pixel to pixel of an NHWC view."""
    assert view.strides[3] == view.itemsize or view.shape[3] == 1
    return tuple(s // view.itemsize for s in view.strides[:3])


def run(source: str, launches: list[Launch], memory: Memory) -> None:
    """Execute the launches of one ``.cu`` file in order, then read all buffers back."""
    for launch in launches:
        memory.device.launch(CUDA / source, *launch)
    memory.take_back()


class Emulated:
    """The emulator as `Memory` and `run` use a device: checked, in a greedy order."""

    def __init__(self, emulator, seed: int) -> None:
        self.emulator = emulator
        self.device = emulator.device.Device(order="greedy", seed=seed)
        self.buffers: dict[int, np.ndarray] = {}

    def upload(self, name: str, array: np.ndarray) -> int:
        buffer = self.device.buffer(name, array.view(_bits(array)))
        self.buffers[buffer.ctypes.data] = buffer
        return buffer.ctypes.data

    def download(self, address: int, array: np.ndarray) -> None:
        array.view(_bits(array))[...] = self.buffers[address]

    def launch(self, source: Path, entry, grid, block, shared_bytes, params) -> None:
        kernel = _kernel(self.emulator, source, entry)
        self.device.launch(kernel, grid, (block,), np.frombuffer(params, np.uint8), shared_bytes)


def _bits(array: np.ndarray) -> str:
    return f"u{array.itemsize}"


@cache
def _module(emulator, source: Path):
    return emulator.compile.module_of(source)


@cache
def _kernel(emulator, source: Path, entry: str):
    translation, library = emulator.compile.build(_module(emulator, source), entry, checked=True)
    return emulator.device.Kernel.load(library, entry, translation.sites)


def open_device(seed: int = 1) -> Emulated:
    """A device of the emulator, or a skip that says what is missing."""
    if CXX is None:
        pytest.skip("no C++ compiler found")
    try:
        from pyinception import emulator
        from pyinception.emulator import compile, device  # noqa: F401
    except ImportError:
        pytest.skip("this build has no CUDA emulator")
    if reason := compile.why_not():
        pytest.skip(reason)
    try:
        return Emulated(emulator, seed)
    except RuntimeError as error:  # its library is not built
        pytest.skip(str(error))


STORAGES = {"fp32": np.dtype(np.float32), "bf16": np.dtype(bfloat16), "fp16": np.dtype(np.float16)}


def integers(rng: np.random.Generator, shape, dtype=np.float32, top=3) -> np.ndarray:
    """Small integers, a third of them zero: every partial sum of the tests is exact in fp32."""
    return (rng.integers(-top, top + 1, shape) * (rng.random(shape) > 0.2)).astype(dtype)


def sliced(map_: np.ndarray, before: int, after: int) -> np.ndarray:
    """The map as a slice of the channels of a wider buffer of NaN."""
    *extents, channels = map_.shape
    wide = np.full((*extents, before + channels + after), np.nan, map_.dtype)
    wide[..., before : before + channels] = map_
    return wide[..., before : before + channels]


def assert_only_slice_written(view: np.ndarray) -> None:
    """What lies beside the slice in its buffer is NaN still."""
    wide = view.base.copy()
    first = (view.__array_interface__["data"][0] - view.base.ctypes.data) // view.itemsize
    wide[..., first : first + view.shape[-1]] = np.nan
    assert np.isnan(wide.astype(np.float32)).all()
