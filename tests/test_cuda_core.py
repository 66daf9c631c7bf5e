"""The C interface takes DLTensors in CUDA memory and a stream: values, gradients, refusals."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from core_cuda import STUB

from pyinception import backend

if reason := backend.why_not("emulated"):
    pytest.skip(reason, allow_module_level=True)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")
def test_the_entry_points_on_cuda_memory(tmp_path: Path) -> None:
    source, library = tmp_path / "stub.c", tmp_path / "stub.so"
    source.write_text(STUB)
    subprocess.run(["gcc", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    script = Path(__file__).with_name("core_cuda.py")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "LD_PRELOAD": str(library)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    plans, rest, workspace, strides, device = done.stdout.splitlines()
    assert plans.split()[1:] == [
        "conv_dgrad", "conv_fprop", "conv_wgrad", "inception_backward", "inception_fprop",
        "reduce_conv_backward", "reduce_conv_fprop",
    ]  # fmt: skip
    assert rest == "slice and empty batch"
    has, expected = (int(word) for word in workspace.split() if word.isdigit())
    assert workspace.startswith("inception_fprop: workspace has ") and expected == has + 4
    assert (
        strides == "conv_fprop: w has strides (45, 3, 1, 9), expected (45, 15, 5, 1) in CUDA memory"
    )
    assert device == "conv_fprop: w lives on device (2, 1), expected (2, 0) as the first array"
