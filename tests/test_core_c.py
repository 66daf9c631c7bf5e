"""A C program of forty lines calls the core through its one public header."""

import shutil
import subprocess
from pathlib import Path

import pytest

core = pytest.importorskip("pyinception._C", reason="the compiled core is not built")

LIBRARY = Path(core.__file__).with_name("libpyinception.so")

PROGRAM = r"""
#include <stdio.h>
#include "pyinception.h"

static DLTensor tensor(float* data, int ndim, int64_t* shape) {
  DLTensor t = {data, {1, 0}, ndim, {2, 32, 1}, shape, NULL, 0};
  return t;
}

int main(void) {
  /* Ones: 1x1 over 2 channels gives 2; 3x3 over 4 reduced channels gives 8 per tap. */
  float x[1 * 5 * 5 * 2], wr[4 * 2], w[3 * 3 * 3 * 4], y[5 * 5 * 8];
  for (int i = 0; i < 50; ++i) x[i] = 1;
  for (int i = 0; i < 8; ++i) wr[i] = 1;
  for (int i = 0; i < 108; ++i) w[i] = 1;
  for (int i = 0; i < 200; ++i) y[i] = -1;
  int64_t x_shape[] = {1, 5, 5, 2}, wr_shape[] = {4, 1, 1, 2}, w_shape[] = {3, 3, 3, 4};
  int64_t y_shape[] = {1, 5, 5, 3}, y_strides[] = {200, 40, 8, 1};
  DLTensor tx = tensor(x, 4, x_shape), twr = tensor(wr, 4, wr_shape), tw = tensor(w, 4, w_shape);
  DLTensor ty = tensor(y + 2, 4, y_shape);
  ty.strides = y_strides; /* channels 2..4 of a map of 8 channels */
  pyi_conv_params params = {.stride_h = 1, .stride_w = 1, .pad_h = 1, .pad_w = 1, .relu = 1};
  pyi_options options = {.threads = 2};
  if (pyi_reduce_conv_fprop(&tx, &twr, NULL, &tw, NULL, &ty, NULL, &params, &options) != PYI_OK) {
    fprintf(stderr, "%s\n", pyi_last_error());
    return 1;
  }
  y_shape[3] = 4; /* a wrong extent must be refused, in words */
  if (pyi_reduce_conv_fprop(&tx, &twr, NULL, &tw, NULL, &ty, NULL, &params, &options) !=
      PYI_INVALID_VALUE) {
    return 2;
  }
  printf("%g %g %g %g|%s\n", y[2], y[2 * 40 + 2 * 8 + 2], y[1], y[5], pyi_last_error());
  return 0;
}
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")
def test_c_program(tmp_path):
    source, binary = tmp_path / "call.c", tmp_path / "call"
    source.write_text(PROGRAM)
    assert len(PROGRAM.strip().splitlines()) <= 42
    subprocess.run(
        ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic",
         f"-I{LIBRARY.parent / 'include'}", str(source), str(LIBRARY),
         f"-Wl,-rpath,{LIBRARY.parent}", "-o", str(binary)],
        check=True,
    )  # fmt: skip
    done = subprocess.run([str(binary)], capture_output=True, text=True, check=True)
    numbers, message = done.stdout.strip().split("|")
    # A corner sees 4 taps, the centre 9, of 8 each; the neighbouring channels stay as they were.
    assert numbers == "32 72 -1 -1"
    assert "y has shape (1, 5, 5, 4), expected (N, P, Q, K) = (1, 5, 5, 3)" in message
