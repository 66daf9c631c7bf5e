"""Our library with its CUDA kernels, built on the machine of a GPU session.

Imports nothing of the package while it loads: it may have to be built first. Needs CMake, nvcc and
a C++ compiler, pybind11 and Numba; nothing is fetched and nothing installed but into this checkout.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from typing import Any

from gpu_checkout import ROOT

NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
LOADED = "import gpu_checkout; from pyinception import _C"
DOCTOR = (
    "import gpu_checkout, json; from pyinception.reports import doctor; print(json.dumps(doctor()))"
)
NEEDED = "import numba, pybind11; print(pybind11.get_cmake_dir())"


def reason(rehearsal: bool) -> str | None:
    """Why nothing can be built here; None where it can, or is built."""
    if rehearsal or _built():
        return None
    unbuilt = "our kernels are not built, and building needs"
    if NVCC is None:
        return f"{unbuilt} nvcc, which was not found"
    if shutil.which("cmake") is None:
        return f"{unbuilt} cmake, which was not found"
    done = _python(NEEDED)  # imported, not looked for: an installed one may refuse its NumPy
    said = done.stderr.strip().rpartition("\n")[2]
    return f"{unbuilt} Numba and pybind11 ({said})" if done.returncode else None


def _python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    here = ROOT / "benchmarks"
    return subprocess.run(command, capture_output=True, text=True, cwd=here, check=False)


def _built() -> bool:
    """Whether a library with CUDA kernels can be loaded, asked of a fresh process."""
    return _python(f"{LOADED}; raise SystemExit(not _C.cuda_built())").returncode == 0


def build_row(rehearsal: bool) -> dict[str, Any]:
    """Build where it is needed; the row says what there is then, as `doctor` sees it."""
    row: dict[str, Any] = {"times": None, "rates": None}
    if not rehearsal and not _built():
        start = time.monotonic()
        architecture = _native()  # for this GPU alone: all architectures take four times as long
        row |= {"architectures": architecture}
        for command in commands(architecture):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                said = (done.stdout + done.stderr)[-1500:]
                return row | {"status": "failed", "reason": f"{' '.join(command[:2])}: {said}"}
        if not _built():
            said = _python(f"{LOADED}; print(_C.cuda_built())")
            return row | {"status": "failed", "reason": (said.stdout + said.stderr)[-600:]}
        row |= {"restart": True, "built_seconds": time.monotonic() - start}
    done = _python(DOCTOR)  # a fresh process: this one may have met the library of before
    said = json.loads(done.stdout) if done.returncode == 0 else done.stderr[-600:]
    return row | {"status": "ok", "doctor": said}


def commands(architecture: str) -> list[list[str]]:
    """Configure, build and lay the libraries beside the package's Python files."""
    folder = ROOT / "build" / f"gpu-{architecture}-{sys.version_info[0]}{sys.version_info[1]}"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    settings = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_CUDA_ARCHITECTURES": architecture,
        "CMAKE_CUDA_COMPILER": NVCC,
        "PYINCEPTION_CUDA": "ON",
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": _python(NEEDED).stdout.strip(),
    }
    set_to = [f"-D{name}={value}" for name, value in settings.items()]
    return [
        ["cmake", "-S", str(ROOT), "-B", str(folder), *generator, *set_to],
        ["cmake", "--build", str(folder), "--parallel", str(len(os.sched_getaffinity(0)))],
        ["cmake", "--install", str(folder), "--prefix", str(ROOT)],
    ]


def _native() -> str:
    """The architecture to compile for: that of the GPU, with Hopper's own instructions."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=False)
        number = done.stdout.split("\n")[0].strip().replace(".", "")
    except OSError:
        number = ""
    return f"{number}a-real" if number == "90" else f"{number or 80}-real"
