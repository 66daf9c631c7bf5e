"""The runtime's side of the plans without a GPU: every entry of every plan has its kernel.

All sources and the launcher are linked into one library with nvcc, the kernels as PTX that nobody
optimised: what is in the tables is asked here, the gates compile the kernels as they ship. The
core's half of `cuda_run` is compiled as it is where nvcc is there, and refuses by name where not.
"""

import ctypes
import subprocess

import numpy as np
import pytest
from cuda_registers import REGISTERS
from cuda_run import CUDA, CXX, NVCC, core
from pyinception.kernels import cuda_args, cuda_mma_args

CORE = CUDA.parents[1] / "csrc" / "core"


class Entry(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("address", ctypes.c_void_p)]


@pytest.mark.skipif(NVCC is None, reason="no nvcc found")
def test_every_entry_has_its_kernel(tmp_path):
    sources = [str(CUDA / f"{name}.cu") for name in (*REGISTERS, "launcher")]
    flags = [
        "-std=c++17",
        "-shared",
        "-DPYI_CUDA_MMA",
        "-DPYI_CUDA_SM75",
        "-Xcompiler",
        "-fPIC,-Wall,-Werror",
    ]
    target = ["-cudart", "static", "-gencode", "arch=compute_80,code=compute_80", "-Xcicc", "-O0"]
    command = [NVCC, *flags, *target, *sources, "-o", str(tmp_path / "all.so")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    library = ctypes.CDLL(str(tmp_path / "all.so"))
    for source, entries in REGISTERS.items():
        table = (Entry * (len(entries) + 1)).in_dll(library, f"pyi_cuda_{source}_entries")
        assert len({e.name for e in table}) == len(table)
        assert {e.name.decode() for e in table[:-1]} == set(entries)
        assert all(e.address for e in table[:-1]) and table[-1].name is None
    assert library.pyi_cuda_run_launches(None, 0, None) == 0
    library.pyi_cuda_error_text.restype = ctypes.c_char_p
    assert library.pyi_cuda_error_text(1) == b"invalid argument"


@pytest.mark.skipif(CXX is None, reason="no C++ compiler found")
def test_the_core_compiles_with_and_without_cuda(tmp_path):
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{CUDA.parent}", "-c"]
    for define in ([], ["-DPYI_CUDA"]):
        command = [CXX, *flags, *define, str(CORE / "cuda_plan.cpp"), "-o", str(tmp_path / "o")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_table_of_plans():
    """Records have the size of their NumPy twin; a dry run stands beside its plan."""
    sizes = {
        getattr(module, name).itemsize
        for module in (cuda_args, cuda_mma_args)
        for name in module.__all__
        if name.endswith("_ARGS")
    }
    plans = core.cuda_plans()
    assert set(plans.values()) <= sizes and len(plans) > 20
    for name in plans:
        assert plans[name] == plans[name.removesuffix("_size")]
    with pytest.raises(ValueError, match=r'cuda_plan: plan is "conv", expected one of'):
        core.cuda_plan("conv", b"")
    with pytest.raises(ValueError, match=r"cuda_plan: cast: record has 3 bytes, expected 32"):
        core.cuda_plan("cast", b"abc")


def test_what_this_build_cannot_run_it_refuses():
    if core.cuda_built():
        pytest.skip("this build has the CUDA kernels")
    record = np.zeros((), cuda_args.CAST_CUDA_ARGS).tobytes()
    for call in (lambda: core.cuda_run("cast", record), core.cuda_device):
        with pytest.raises(NotImplementedError, match="built without the CUDA kernels"):
            call()
