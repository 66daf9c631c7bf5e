"""Our library with its CUDA kernels, built on the machine of a GPU session.

Imports nothing of the package while it loads: it may have to be built first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def reason(rehearsal: bool) -> str | None:
    """Why nothing can be built here; None where it can, or is built."""
    if rehearsal or _built():
        return None
    if NVCC is None:
        return "our kernels are not built, and no nvcc was found to build them"
    missing = [n for n in ("scikit_build_core", "pybind11", "numba") if find_spec(n) is None]
    if missing:
        return f"our kernels are not built; building needs {', '.join(missing)}: pip install them"
    return None


def _built() -> bool:
    """Whether a library with CUDA kernels can be loaded, asked of a fresh process."""
    code = "from pyinception import _C; raise SystemExit(not _C.cuda_built())"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, cwd=ROOT, check=False).returncode == 0


def build_row(rehearsal: bool) -> dict[str, Any]:
    """Build where it is needed; the row says what there is then, as `doctor` sees it."""
    row: dict[str, Any] = {"times": None, "rates": None}
    if not rehearsal and not _built():
        start = time.monotonic()
        # For this GPU alone: all architectures take four times as long.
        settings = {"CMAKE_ARGS": "-DPYINCEPTION_CUDA=ON", "CUDAARCHS": _native()}
        command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps"]
        path = os.pathsep.join([str(Path(NVCC or "nvcc").parent), os.environ.get("PATH", "")])
        done = subprocess.run(
            [*command, "-e", str(ROOT)], capture_output=True, text=True, check=False,
            env=os.environ | settings | {"PATH": path},
        )  # fmt: skip
        row |= {"built_seconds": time.monotonic() - start, "restart": done.returncode == 0}
        if done.returncode:
            return row | {"status": "failed", "reason": (done.stdout + done.stderr)[-1500:]}
        return row | {"status": "ok", "architectures": settings["CUDAARCHS"]}
    from pyinception.reports import doctor

    return row | {"status": "ok", "doctor": dict(doctor())}


def _native() -> str:
    """The architecture to compile for: that of the GPU, with Hopper's own instructions."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    number = done.stdout.split("\n")[0].strip().replace(".", "")
    return f"{number}a-real" if number == "90" else f"{number or 80}-real"
