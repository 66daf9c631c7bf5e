"""The C example builds without a warning against the one public header, and is right."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pyinception.kernels import reference

core = pytest.importorskip("pyinception._C", reason="the compiled core is not built")

LIBRARY = Path(core.__file__).with_name("libpyinception.so")
EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "reduce_conv.c"
needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")


def build(source: Path, binary: Path) -> None:
    warnings = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
    where = [f"-I{LIBRARY.parent / 'include'}", str(source), str(LIBRARY)]
    end = [f"-Wl,-rpath,{LIBRARY.parent}", "-o", str(binary)]
    subprocess.run(["gcc", "-std=c11", *warnings, *where, *end], check=True)


def numbers(*shape: int) -> np.ndarray:
    """What the example fills its arrays with."""
    return (np.arange(np.prod(shape)) * 7 % 5 - 2).astype(np.float64).reshape(shape)


@needs_compiler
def test_example(tmp_path: Path) -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 60
    build(EXAMPLE, tmp_path / "example")
    done = subprocess.run([tmp_path / "example"], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    operands = numbers(1, 28, 28, 192), numbers(96, 1, 1, 192), numbers(96), numbers(128, 3, 3, 96)
    y, _ = reference.reduce_conv_fprop(*operands, numbers(128), padding=(1, 1))
    assert 0 < y.max() < 2**24 and (y > 0).mean() > 0.2  # exact, and worth the name of a result
    beside = numbers(28 * 28 * 256)
    words = f"sum of y {y.sum():.0f}, beside it {beside[63]:g} {beside[192]:g}"
    assert first == f"level {core.host_level()}, {words}"
    assert second.startswith("reduce_conv_fprop: y has shape (1, 28, 28, 129), expected (N, P, Q,")


@needs_compiler
def test_every_refusal_has_a_status_and_words(tmp_path: Path) -> None:
    """NULL where an array is needed, a wrong dtype, memory of two devices."""
    source = tmp_path / "refuse.c"
    source.write_text(r"""
#include <stdio.h>
#include "pyinception.h"
int main(void) {
  float data[64] = {0};
  int64_t shape[] = {1, 2, 2, 4}, filter[] = {4, 1, 1, 4};
  DLTensor x = {data, {1, 0}, 4, {2, 32, 1}, shape, NULL, 0};
  DLTensor w = {data + 16, {1, 0}, 4, {2, 32, 1}, filter, NULL, 0};
  DLTensor y = {data + 32, {1, 0}, 4, {2, 32, 1}, shape, NULL, 0};
  DLTensor half = x, device = x, over = y;
  half.dtype.bits = 16;
  device.device.device_type = 2;
  over.data = data + 8;
  pyi_conv_params p = {.stride_h = 1, .stride_w = 1};
  const DLTensor* xs[] = {&x, NULL, &half, &device, &x, &x};
  const DLTensor* ys[] = {&y, &y, &y, &y, &over, &y};
  for (int i = 0; i < 6; ++i) {
    pyi_status s = pyi_conv_fprop(xs[i], &w, NULL, ys[i], i == 5 ? NULL : &p, NULL);
    printf("%d|%s\n", s, s ? pyi_last_error() : "fine");
  }
  return 0;
}
""")
    build(source, tmp_path / "refuse")
    done = subprocess.run([tmp_path / "refuse"], capture_output=True, text=True, check=True)
    rows = [line.split("|") for line in done.stdout.splitlines()]
    assert [int(status) for status, _ in rows] == [0, 2, 2, 2, 1, 1]
    words = (
        "fine",
        "x is missing",
        "x has dtype float16",
        "w lives on device (1, 0), expected (2, 0) as the first array",
        "y overlaps x",
        "params is NULL",
    )
    for (status, text), expected in zip(rows, words, strict=True):
        assert expected in text, text
        assert status == "0" or text.startswith("conv_fprop: ")


@needs_compiler
def test_the_header_serves_cplusplus_and_dlpack(tmp_path: Path) -> None:
    """The header compiles as C++17, and beside DLPack's own declarations, which then win."""
    source = tmp_path / "both.cpp"
    source.write_text(r"""
#include <cstdint>
#define DLPACK_MAJOR_VERSION 1
struct DLDevice { int32_t device_type, device_id; };
struct DLDataType { uint8_t code, bits; uint16_t lanes; };
struct DLTensor { void* data; DLDevice device; int32_t ndim; DLDataType dtype;
                  int64_t *shape, *strides; uint64_t byte_offset; };
#include "pyinception.h"
int main() { return pyi_default_threads() > 0 ? 0 : 1; }
""")
    for compiler, standard, text in (
        ("g++", "c++17", source.read_text()),
        (
            "gcc",
            "c11",
            '#include "pyinception.h"\nint main(void) { return pyi_program(0, 0) > 1; }',
        ),
    ):
        if shutil.which(compiler) is None:
            pytest.skip(f"no {compiler}")
        file = tmp_path / ("unit.cpp" if compiler == "g++" else "unit.c")
        file.write_text(text)
        include = f"-I{LIBRARY.parent / 'include'}"
        command = [compiler, f"-std={standard}", "-Wall", "-Wextra", "-Werror", "-pedantic"]
        command += ["-fsyntax-only", include, str(file)]
        subprocess.run(command, check=True)
