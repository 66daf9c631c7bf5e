"""What of CUDA is on this machine: driver, devices, toolkit, libraries, CuPy.

Plain data for `doctor`; no question here raises, and none starts a CUDA context.
"""

import ctypes
import ctypes.util
import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from pyinception.backend import OLDEST_SM, Array, built_core, memory_of

LIBRARIES = ("cuda", "cudart", "nvrtc", "cudnn")
_NAME, _MAJOR, _MINOR, _PROCESSORS = 256, 75, 76, 16  # bytes; attributes of cuda.h


def look() -> dict[str, Any]:
    """Everything below, by name; ``problems`` are sentences about what is in the way."""
    core = built_core()
    text = core.cuda_architectures() if hasattr(core, "cuda_architectures") else ""
    found: dict[str, Any] = {
        "driver": driver(),
        "toolkit": toolkit(),
        "architectures": text.split(",") if text else [],
        "libraries": {name: where(name) for name in LIBRARIES},
        "cupy": cupy_installs(),
    }
    return found | {"problems": problems(found)}


def driver() -> dict[str, Any] | str:
    """The newest CUDA that the driver runs, its version, its devices; or why there is none."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver (libcuda.so.1 is not there)"
    number, count = ctypes.c_int(), ctypes.c_int()
    status = library.cuInit(0)
    library.cuDriverGetVersion(ctypes.byref(number))
    if status == 0:
        status = library.cuDeviceGetCount(ctypes.byref(count))
    devices = [_device(library, i) for i in range(count.value)]
    known: dict[str, Any] = {"cuda": f"{number.value // 1000}.{number.value % 1000 // 10}"}
    known |= {"version": _driver_version(), "devices": devices}
    return known if status == 0 else known | {"error": f"cuInit gives {status}"}


def _device(library: ctypes.CDLL, index: int) -> dict[str, Any]:
    device, total = ctypes.c_int(), ctypes.c_size_t()
    library.cuDeviceGet(ctypes.byref(device), index)
    name = ctypes.create_string_buffer(_NAME)
    library.cuDeviceGetName(name, _NAME, device)
    library.cuDeviceTotalMem_v2(ctypes.byref(total), device)

    def attribute(which: int) -> int:
        value = ctypes.c_int()
        library.cuDeviceGetAttribute(ctypes.byref(value), which, device)
        return value.value

    return {
        "name": name.value.decode(errors="replace"),
        "sm": 10 * attribute(_MAJOR) + attribute(_MINOR),
        "multiprocessors": attribute(_PROCESSORS),
        "memory_mib": total.value >> 20,
    }


def _driver_version() -> str | None:
    try:
        words = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").split()
    except OSError:
        return None
    return next((word for word in words if word[0].isdigit() and "." in word), None)


def toolkit() -> dict[str, str] | None:
    """nvcc's path and release; None where there is none."""
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")] + ["/usr/local/cuda"]
    places = [shutil.which("nvcc"), *(shutil.which(f"{home}/bin/nvcc") for home in homes if home)]
    path = next((place for place in places if place), None)
    if path is None:
        return None
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    release = done.stdout.partition("release ")[2].partition(",")[0]
    return {"nvcc": path, "release": release or "unknown"}


def where(name: str) -> list[str]:
    """Every place of lib``name``.so that a process here might load, wheels first."""
    found: list[str] = []
    for folder in dict.fromkeys(sys.path):
        root = Path(folder or ".") / "nvidia"
        if root.is_dir():
            found += [str(path) for path in sorted(root.glob(f"*/lib/lib{name}.so.*"))]
    folders = [*os.environ.get("LD_LIBRARY_PATH", "").split(":"), "/usr/local/cuda/lib64"]
    for folder in filter(None, folders):
        found += [str(path) for path in sorted(Path(folder).glob(f"lib{name}.so*"))[:1]]
    system = ctypes.util.find_library(name)
    return list(dict.fromkeys([*found, system] if system else found))


def cupy_installs() -> list[str]:
    """Distributions that bring a package ``cupy``: more than one overwrite each other."""
    names = importlib.metadata.packages_distributions().get("cupy", ())
    return sorted({f"{name} {importlib.metadata.version(name)}" for name in names})


def problems(found: dict[str, Any]) -> list[str]:
    """What is in the way of backend "cuda", or will be."""
    told = []
    if len(found["cupy"]) > 1:
        several = ", ".join(found["cupy"])
        told.append(f"{several} overwrite each other's files: uninstall all, then install one")
    if not isinstance(found["driver"], dict):
        return told
    for index, device in enumerate(found["driver"]["devices"]):
        if device["sm"] < OLDEST_SM:
            told.append(
                f"device {index} is sm_{device['sm']}, kernels need sm_{OLDEST_SM} or later"
            )
        elif found["architectures"] and not serves(found["architectures"], device["sm"]):
            built = ", ".join(found["architectures"])
            told.append(f"device {index} is sm_{device['sm']}, the kernels are built for {built}")
    return told


def serves(architectures: list[str], sm: int) -> bool:
    """Whether a build has code for a device: machine code of its generation, or older PTX.

    CMake's names: "80-real" is machine code, "90-virtual" PTX, "80" both; "90a" runs on 9.0 only.
    """
    for name in architectures:
        number, _, kind = name.partition("-")
        only = number[-1:].isalpha()
        value = int(number.rstrip("af") or 0)
        if only:
            if value == sm and kind != "virtual":
                return True
        elif kind != "virtual" and value // 10 == sm // 10 and value <= sm:
            return True
        elif kind != "real" and value <= sm:
            return True
    return False


def memory(array: Array) -> dict[str, int] | None:
    """Bytes of the device of a CuPy array: held by its pool, free, in all; None for NumPy's."""
    if memory_of(array) == "host":
        return None
    module = sys.modules["cupy"]
    free, total = module.cuda.runtime.memGetInfo()
    held = int(module.get_default_memory_pool().total_bytes())
    return {"pool_bytes": held, "free_bytes": int(free), "device_bytes": int(total)}
