"""What the card itself can do, and what the machine is: the record every other row leans on.

Bandwidth (device memory, L2, copies), the gap between two dependent kernels in a CUDA graph, and
the environment. Reads settings and counters; changes none.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gpu_timing as timing
import numpy as np
from gpu_device import Cuda, CudaError, load_library

MIB = 1 << 20
BANDWIDTH_MIB = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 1024)
TRAFFIC = 4 << 30  # bytes read per sample: long against the launch
_NVML_SM, _NVML_MEMORY = 1, 2


def bandwidth_row(cuda: Cuda, kind: str, mib: int) -> dict[str, Any]:
    """GB/s of `kind` ("read", "copy", "memcpy") over a buffer of `mib` MiB, passed repeatedly.

    A read counts the bytes read; a copy counts bytes read plus bytes written, and its footprint
    is two buffers. Small footprints show L2, large ones device memory.
    """
    nbytes, vectors = mib * MIB, mib * MIB // 16
    if nbytes * 2.5 > cuda.free_bytes():
        raise CudaError(f"{mib} MiB twice does not fit in the free device memory")
    threads = 512
    grid = 4 * (cuda.attribute["multiprocessors"] or 1)
    rng = np.random.default_rng(mib)
    words = rng.integers(0, 1 << 32, nbytes // 4, np.uint32)
    passes = max(1, TRAFFIC // nbytes) if kind != "memcpy" else 1
    x, y = cuda.alloc(nbytes), cuda.alloc(max(nbytes, grid * threads * 4))
    try:
        cuda.upload(x, words)
        cuda.fill(y, 0xFF, nbytes)
        source, target = ctypes.c_void_p(x), ctypes.c_void_p(y)
        count = ctypes.c_longlong(vectors)

        def work() -> None:
            if kind == "memcpy":
                cuda.copy(y, x, nbytes)
            elif kind == "copy":
                repeats = ctypes.c_int(passes)
                cuda.launch("copy_loop", grid, threads, source, target, count, repeats)
            else:
                repeats = ctypes.c_int(passes)
                cuda.launch("read_loop", grid, threads, source, count, repeats, target)

        work()
        if kind == "read":
            got = cuda.download(y, (grid * threads,), np.uint32)
            want = (int(words.sum(dtype=np.uint64)) * passes) % 2**32
            right = int(got.sum(dtype=np.uint64)) % 2**32 == want
        else:
            right = bool(np.array_equal(cuda.download(y, words.shape, np.uint32), words))
        moved = nbytes * passes * (1 if kind == "read" else 2)
        row: dict[str, Any] = {
            "error": {"exact": right},
            "bytes_min": moved,
            "footprint_bytes": nbytes * (1 if kind == "read" else 2),
            "passes": passes,
            "clock": "cuda events",
        }
        if not right:
            return row | {"status": "wrong", "times": None}
        samples = timing.sample(lambda: cuda.elapsed(work), least=10, most=50)
        times = {"events": timing.summarize(samples)}
        return row | {"status": "ok", "times": times, "rates": timing.rates(times, 0, moved)}
    finally:
        cuda.synchronize()
        cuda.free(x)
        cuda.free(y)


def launch_gap_row(cuda: Cuda, blocks: int) -> dict[str, Any]:
    """Microseconds per empty kernel in a chain: (t(2n) - t(n)) / n.

    By graph replay, where the difference of two lengths removes the cost of launching the graph,
    and by launches from Python one by one, which shows the host more than the card.
    """
    n = 500

    def chain(length: int) -> None:
        for _ in range(length):
            cuda.launch("empty", blocks, 32, ctypes.c_int(0))

    times: dict[str, dict[str, Any]] = {}
    for mode in ("graph", "python_stream"):
        medians = []
        for length in (n, 2 * n):
            if mode == "graph":
                graph = cuda.capture(lambda length=length: chain(length))
                graph.launch()
                samples = timing.sample(lambda graph=graph: cuda.elapsed(graph.launch), most=50)
                graph.close()
            else:
                chain(length)
                cuda.synchronize()
                samples = timing.sample(
                    lambda length=length: cuda.elapsed(lambda: chain(length)), most=50
                )
            times[f"{mode}_{length}"] = timing.summarize(samples)
            medians.append(float(np.median(samples)))
        gap = (medians[1] - medians[0]) / n * 1e6
        times[f"{mode}_gap_per_kernel"] = {"median_us": gap, "samples": len(samples)}
    return {
        "status": "ok",
        "error": {"note": "an empty kernel has no result to check"},
        "times": times,
        "blocks": blocks,
        "clock": "cuda events",
    }


class Monitor:
    """Clocks, temperature and power through NVML, read only; empty where NVML is missing."""

    def __init__(self) -> None:
        self._device = ctypes.c_void_p()
        self._nvml: Any = None
        with contextlib.suppress(CudaError, AttributeError):
            nvml = load_library("nvidia-ml")
            by_index = nvml.nvmlDeviceGetHandleByIndex_v2
            if not nvml.nvmlInit_v2() and not by_index(0, ctypes.byref(self._device)):
                self._nvml = nvml

    def read(self) -> dict[str, int]:
        if self._nvml is None:
            return {}
        calls: dict[str, tuple[Any, ...]] = {
            "sm_mhz": ("nvmlDeviceGetClockInfo", _NVML_SM),
            "memory_mhz": ("nvmlDeviceGetClockInfo", _NVML_MEMORY),
            "celsius": ("nvmlDeviceGetTemperature", 0),
            "milliwatts": ("nvmlDeviceGetPowerUsage",),
            "throttle_reasons": ("nvmlDeviceGetCurrentClocksThrottleReasons",),
        }
        values = {}
        for key, (name, *args) in calls.items():
            value = ctypes.c_ulonglong()
            with contextlib.suppress(AttributeError):
                if not getattr(self._nvml, name)(self._device, *args, ctypes.byref(value)):
                    values[key] = value.value
        return values


def _output(*command: str, cwd: Path | None = None) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=cwd)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def environment(cuda: Cuda | None, libraries: dict[str, Any], commit: str | None) -> dict[str, Any]:
    """The machine: ``fingerprint`` decides whether a finished row counts, the rest is record."""
    here = Path(__file__).resolve().parent
    status = _output("git", "status", "--porcelain", cwd=here)
    fields = "driver_version,clocks.max.sm,clocks.max.mem,power.limit,ecc.mode.current"
    query = f"--query-gpu=name,{fields},mig.mode.current,persistence_mode,clocks.applications.gr"
    smi = _output("nvidia-smi", query, "--format=csv") if cuda else None
    nvcc = _output("nvcc", "--version")
    fingerprint: dict[str, Any] = {
        "device": cuda.name() if cuda else "cpu",
        "processor": _processor(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        **libraries,
    }
    if cuda:
        fingerprint |= {**cuda.attribute, **cuda.versions()}
    return {
        "fingerprint": fingerprint,
        "commit": commit or _output("git", "rev-parse", "HEAD", cwd=here),
        "uncommitted_changes": None if status is None else bool(status),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "platform": platform.platform(),
        "processors": len(os.sched_getaffinity(0)),
        "nvidia_smi": smi,
        "nvcc": nvcc.splitlines()[-1] if nvcc else None,
        "clocks_idle": Monitor().read() if cuda else {},
    }
