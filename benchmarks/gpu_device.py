"""The CUDA driver and runtime through ctypes: memory, events, graphs, and five probe kernels.

``Cuda`` is the one seam between the GPU benchmarks and a card. It needs the driver
(``libcuda``), a CUDA runtime (``libcudart``) and NVRTC (``libnvrtc``) as shared libraries,
wherever a toolkit, PyTorch, CuPy or the ``nvidia-cuda-*`` wheels put them, and no Python package
at all, so that cuDNN can be measured on a machine that has neither torch nor CuPy.

Pointers and streams are plain integers. Every return code is checked; an error raises
`CudaError` with the function's name and the runtime's own words. Nothing here changes a
setting of the card (clocks, power, compute mode).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import glob
import os
import site
import sysconfig
from collections.abc import Callable
from typing import Any

import numpy as np

# cudaDeviceAttr, from driver_types.h
ATTRIBUTES = {
    "clock_khz": 13,
    "multiprocessors": 16,
    "ecc": 32,
    "memory_clock_khz": 36,
    "memory_bus_bits": 37,
    "l2_bytes": 38,
    "major": 75,
    "minor": 76,
    "shared_bytes_per_block": 97,
    "persisting_l2_bytes": 108,
}

_RELAXED_CAPTURE = 2  # libraries may query the device while a graph is being captured
_NON_BLOCKING = 1
_HOST_TO_DEVICE, _DEVICE_TO_HOST, _DEVICE_TO_DEVICE = 1, 2, 3

# 16 bytes per thread and access. `.cg` reads past L1, so that read_loop measures L2 (or DRAM).
PROBES = r"""
typedef unsigned int u32;
__device__ __forceinline__ uint4 load_l2(const uint4* p) {
  uint4 v;
  asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}
extern "C" __global__ void empty(int) {}

// out[thread] = sum of the words it read, `repeats` passes over n vectors
extern "C" __global__ void read_loop(const uint4* p, long long n, int repeats, u32* out) {
  const long long step = (long long)gridDim.x * blockDim.x;
  const long long first = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  u32 sum = 0;
  for (int r = 0; r < repeats; ++r) {
    long long i = first;
    for (; i + 3 * step < n; i += 4 * step) {
      uint4 a = load_l2(p + i), b = load_l2(p + i + step);
      uint4 c = load_l2(p + i + 2 * step), d = load_l2(p + i + 3 * step);
      sum += a.x + a.y + a.z + a.w + b.x + b.y + b.z + b.w;
      sum += c.x + c.y + c.z + c.w + d.x + d.y + d.z + d.w;
    }
    for (; i < n; i += step) { uint4 a = load_l2(p + i); sum += a.x + a.y + a.z + a.w; }
  }
  out[first] = sum;
}

// y = x, `repeats` passes over n vectors
extern "C" __global__ void copy_loop(const uint4* x, uint4* y, long long n, int repeats) {
  const long long step = (long long)gridDim.x * blockDim.x;
  for (int r = 0; r < repeats; ++r) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    for (; i + 3 * step < n; i += 4 * step) {
      uint4 a = load_l2(x + i), b = load_l2(x + i + step);
      uint4 c = load_l2(x + i + 2 * step), d = load_l2(x + i + 3 * step);
      y[i] = a; y[i + step] = b; y[i + 2 * step] = c; y[i + 3 * step] = d;
    }
    for (; i < n; i += step) y[i] = load_l2(x + i);
  }
}

// y (pixels, ldy) = x (pixels, ldx), `vectors` of 16 bytes per pixel
extern "C" __global__ void copy_slice(const uint4* x, int ldx, uint4* y, int ldy,
                                      int vectors, long long pixels) {
  const long long total = pixels * vectors, step = (long long)gridDim.x * blockDim.x;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += step) {
    const long long pixel = i / vectors; const int v = (int)(i - pixel * vectors);
    y[pixel * ldy + v] = x[pixel * ldx + v];
  }
}

template <bool kHalfWords> __device__ __forceinline__ u32 max_word(u32 a, u32 b) {
  if (!kHalfWords) return __uint_as_float(a) >= __uint_as_float(b) ? a : b;
  const u32 high = __uint_as_float(a & 0xffff0000u) >= __uint_as_float(b & 0xffff0000u) ? a : b;
  const u32 low = __uint_as_float(a << 16) >= __uint_as_float(b << 16) ? a : b;
  return (high & 0xffff0000u) | (low & 0xffffu);
}
// 3x3 max, stride 1, pad 1, NHWC packed: (N, H, W, 16-byte vectors); finite inputs
template <bool kHalfWords> __device__ void pool3x3(const uint4* x, uint4* y, int N, int H, int W,
                                                   int vectors) {
  const long long total = (long long)N * H * W * vectors;
  const long long step = (long long)gridDim.x * blockDim.x;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += step) {
    const long long pixel = i / vectors;
    const int w = (int)(pixel % W), h = (int)(pixel / W % H);
    uint4 best = x[i];
    for (int dh = -1; dh <= 1; ++dh)
      for (int dw = -1; dw <= 1; ++dw) {
        if (h + dh < 0 || h + dh >= H || w + dw < 0 || w + dw >= W) continue;
        const uint4 v = x[i + ((long long)dh * W + dw) * vectors];
        best.x = max_word<kHalfWords>(best.x, v.x); best.y = max_word<kHalfWords>(best.y, v.y);
        best.z = max_word<kHalfWords>(best.z, v.z); best.w = max_word<kHalfWords>(best.w, v.w);
      }
    y[i] = best;
  }
}
extern "C" __global__ void pool3x3_bf16(const uint4* x, uint4* y, int N, int H, int W, int v) {
  pool3x3<true>(x, y, N, H, W, v);
}
extern "C" __global__ void pool3x3_fp32(const uint4* x, uint4* y, int N, int H, int W, int v) {
  pool3x3<false>(x, y, N, H, W, v);
}
"""


class CudaError(RuntimeError):
    """A missing CUDA library or a CUDA call that did not return success."""


def library_folders() -> list[str]:
    """Folders where CUDA's shared libraries may lie, in the order in which they are tried."""
    roots = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    folders = [f for f in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if f]
    folders = [f for f in folders if not f.rstrip("/").endswith("stubs")]  # for linking only
    for root in sorted(r for r in roots if r):
        folders += sorted(glob.glob(f"{root}/nvidia/*/lib"), reverse=True)
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        folders += [f"{home}/lib64", f"{home}/lib"] if home else []
    return [*folders, "/usr/local/nvidia/lib64", "/usr/local/nvidia/lib"]


def load_library(stem: str) -> ctypes.CDLL:
    """Load ``lib<stem>.so*``; `CudaError` names what was looked for if it is nowhere."""
    names: list[str] = []
    for folder in library_folders():
        names += sorted(glob.glob(f"{folder}/lib{stem}.so*"), reverse=True)
    found = ctypes.util.find_library(stem)
    names += [found] if found else []
    names += [f"lib{stem}.so.{major}" for major in (1, 13, 12, 9)] + [f"lib{stem}.so"]
    reason = "no such file"
    for name in names:
        try:
            return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            reason = str(error)
    raise CudaError(f"lib{stem} could not be loaded: {reason}")


class Graph:
    """An instantiated CUDA graph; `launch` enqueues it on the stream it was captured from."""

    def __init__(self, cuda: Cuda, handle: ctypes.c_void_p):
        self._cuda, self._handle = cuda, handle

    def launch(self) -> None:
        self._cuda.check("cudaGraphLaunch", self._handle, ctypes.c_void_p(self._cuda.stream))

    def close(self) -> None:
        if self._handle:
            self._cuda.check("cudaGraphExecDestroy", self._handle)
            self._handle = ctypes.c_void_p()


class Cuda:
    """Device 0, one non-blocking stream, its memory, events and graphs.

    Raises
    ------
    CudaError
        No driver, no device, or a library that is missing; the message says which.
    """

    def __init__(self) -> None:
        self.driver = load_library("cuda")
        self._driver_call("cuInit", ctypes.c_uint(0))
        self.runtime = load_library("cudart")
        self.runtime.cudaGetErrorString.restype = ctypes.c_char_p
        count = ctypes.c_int()
        self.check("cudaGetDeviceCount", ctypes.byref(count))
        if not count.value:
            raise CudaError("cudaGetDeviceCount: no CUDA device")
        self.check("cudaSetDevice", 0)
        self.check("cudaFree", ctypes.c_void_p())  # makes the primary context current
        stream = ctypes.c_void_p()
        self.check("cudaStreamCreateWithFlags", ctypes.byref(stream), _NON_BLOCKING)
        self.stream: int = stream.value or 0
        self.attribute = {name: self._attribute(code) for name, code in ATTRIBUTES.items()}
        self._functions: dict[str, ctypes.c_void_p] = {}
        self._start, self._stop = self._event(), self._event()

    # -- calls

    def check(self, name: str, *args: Any) -> None:
        status = getattr(self.runtime, name)(*args)
        if status:
            self.runtime.cudaGetLastError()  # clear it, so that the next call tells its own story
            text = self.runtime.cudaGetErrorString(status).decode()
            raise CudaError(f"{name}: error {status} ({text})")

    def _driver_call(self, name: str, *args: Any) -> None:
        status = getattr(self.driver, name)(*args)
        if status:
            raise CudaError(f"{name}: driver error {status}")

    def _attribute(self, code: int) -> int | None:
        value = ctypes.c_int()
        try:
            self.check("cudaDeviceGetAttribute", ctypes.byref(value), code, 0)
        except CudaError:
            return None
        return value.value

    def name(self) -> str:
        text = ctypes.create_string_buffer(256)
        self._driver_call("cuDeviceGetName", text, 256, 0)
        return text.value.decode()

    def versions(self) -> dict[str, int]:
        driver, runtime = ctypes.c_int(), ctypes.c_int()
        self.check("cudaDriverGetVersion", ctypes.byref(driver))
        self.check("cudaRuntimeGetVersion", ctypes.byref(runtime))
        return {"driver_cuda": driver.value, "runtime": runtime.value}

    def synchronize(self) -> None:
        self.check("cudaStreamSynchronize", ctypes.c_void_p(self.stream))

    # -- memory (plain allocations; pointers are integers)

    def free_bytes(self) -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.check("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def alloc(self, nbytes: int) -> int:
        pointer = ctypes.c_void_p()
        self.check("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(max(int(nbytes), 256)))
        return pointer.value or 0

    def free(self, pointer: int) -> None:
        self.check("cudaFree", ctypes.c_void_p(pointer))

    def upload(self, pointer: int, array: np.ndarray) -> None:
        array = np.ascontiguousarray(array)
        self._copy(pointer, array.ctypes.data, array.nbytes, _HOST_TO_DEVICE)
        self.synchronize()

    def download(self, pointer: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        array = np.empty(shape, dtype)
        self._copy(array.ctypes.data, pointer, array.nbytes, _DEVICE_TO_HOST)
        self.synchronize()
        return array

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Enqueue a copy within the device."""
        self._copy(target, source, nbytes, _DEVICE_TO_DEVICE)

    def fill(self, pointer: int, byte: int, nbytes: int) -> None:
        """Enqueue a byte fill (0xFF in every byte is NaN in fp32 and bf16)."""
        stream = ctypes.c_void_p(self.stream)
        target = ctypes.c_void_p(pointer)
        self.check("cudaMemsetAsync", target, byte, ctypes.c_size_t(nbytes), stream)

    def _copy(self, target: int, source: int, nbytes: int, kind: int) -> None:
        size, stream = ctypes.c_size_t(nbytes), ctypes.c_void_p(self.stream)
        a, b = ctypes.c_void_p(target), ctypes.c_void_p(source)
        self.check("cudaMemcpyAsync", a, b, size, kind, stream)

    # -- time and graphs

    def _event(self) -> ctypes.c_void_p:
        event = ctypes.c_void_p()
        self.check("cudaEventCreate", ctypes.byref(event))
        return event

    def elapsed(self, work: Callable[[], None]) -> float:
        """Seconds on the device between an event before `work` and one after it."""
        stream = ctypes.c_void_p(self.stream)
        self.check("cudaEventRecord", self._start, stream)
        work()
        self.check("cudaEventRecord", self._stop, stream)
        self.check("cudaEventSynchronize", self._stop)
        milliseconds = ctypes.c_float()
        self.check("cudaEventElapsedTime", ctypes.byref(milliseconds), self._start, self._stop)
        return milliseconds.value * 1e-3

    def capture(self, work: Callable[[], None]) -> Graph:
        """Capture what `work` enqueues on our stream and instantiate it."""
        stream, graph = ctypes.c_void_p(self.stream), ctypes.c_void_p()
        self.check("cudaStreamBeginCapture", stream, _RELAXED_CAPTURE)
        try:
            work()
        finally:  # always end the capture: an open one would poison every later call
            self.check("cudaStreamEndCapture", stream, ctypes.byref(graph))
        handle = ctypes.c_void_p()
        flags = ctypes.c_ulonglong(0)
        self.check("cudaGraphInstantiateWithFlags", ctypes.byref(handle), graph, flags)
        self.check("cudaGraphDestroy", graph)
        return Graph(self, handle)

    # -- probe kernels

    def launch(self, name: str, grid: int, block: int, *args: Any) -> None:
        """Enqueue one of the kernels of `PROBES`; `args` are ctypes values."""
        function = self._functions.get(name) or self._load(name)
        params = (ctypes.c_void_p * len(args))(*(ctypes.addressof(a) for a in args))
        stream = ctypes.c_void_p(self.stream)
        shape = [ctypes.c_uint(v) for v in (grid, 1, 1, block, 1, 1)]
        none = ctypes.c_void_p()
        self._driver_call(
            "cuLaunchKernel", function, *shape, ctypes.c_uint(0), stream, params, none
        )

    def _load(self, name: str) -> ctypes.c_void_p:
        if not self._functions:
            arch = f"sm_{self.attribute['major']}{self.attribute['minor']}"
            self._image = compile_probes(arch)
            module = ctypes.c_void_p()
            self._driver_call("cuModuleLoadData", ctypes.byref(module), self._image)
            self._module = module
        function = ctypes.c_void_p()
        self._driver_call(
            "cuModuleGetFunction", ctypes.byref(function), self._module, name.encode()
        )
        self._functions[name] = function
        return function


def compile_probes(arch: str) -> bytes:
    """Compile `PROBES` with NVRTC for `arch` ("sm_90") and return the cubin."""
    nvrtc = load_library("nvrtc")
    nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
    program = ctypes.c_void_p()

    def call(name: str, *args: Any) -> None:
        status = getattr(nvrtc, name)(*args)
        if status:
            log = b""
            if name == "nvrtcCompileProgram":
                size = ctypes.c_size_t()
                nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
                text = ctypes.create_string_buffer(size.value)
                nvrtc.nvrtcGetProgramLog(program, text)
                log = text.value
            reason = nvrtc.nvrtcGetErrorString(status).decode()
            raise CudaError(f"{name}: {reason} {log.decode(errors='replace')}".strip())

    call(
        "nvrtcCreateProgram",
        ctypes.byref(program),
        PROBES.encode(),
        b"probes.cu",
        0,
        ctypes.c_void_p(),
        ctypes.c_void_p(),
    )
    options = (ctypes.c_char_p * 1)(f"--gpu-architecture={arch}".encode())
    call("nvrtcCompileProgram", program, 1, options)
    size = ctypes.c_size_t()
    call("nvrtcGetCUBINSize", program, ctypes.byref(size))
    image = ctypes.create_string_buffer(size.value)
    call("nvrtcGetCUBIN", program, image)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return image.raw
