"""NVIDIA's headers and math library on the emulator, against NumPy: real compilers' PTX at breadth.

Single precision is held to the bounds the CUDA programming guide gives (in units of the last
place), halves to their correctly rounded values.
"""

import math
import struct

import emulator_formats as formats
import emulator_harness as harness
import numpy as np
import pytest
from numpy.typing import DTypeLike

from pyinception.emulator import compile as compiling
from pyinception.emulator import parse
from pyinception.emulator.device import Device, Kernel

pytestmark = pytest.mark.skipif(compiling.why_not() is not None, reason=str(compiling.why_not()))

SOURCE = harness.repository() / "tests" / "emulator_library.cu"
COUNT = 96
DRAW = np.random.default_rng(8)


def run(
    name: str,
    x: np.ndarray,
    rows: int,
    dtype: DTypeLike = None,
    *,
    text: str = "",
    arch: str = "90",
) -> np.ndarray:
    """The rows that one of the source's kernels writes for x, one thread an element."""
    module = parse.parse(text or compiling.ptx_of(SOURCE, arch=arch))
    translation, path = compiling.build(module, name, checked=False)
    device = Device()
    source, out = device.buffer("x", x), device.empty("y", (rows, x.size), dtype or x.dtype)
    params = struct.pack("<QQi", source.ctypes.data, out.ctypes.data, x.size)
    kernel = Kernel.load(path, name, translation.sites)
    device.launch(kernel, (1,), (x.size,), np.frombuffer(params, np.uint8))
    return out.copy()


def test_single_precision() -> None:
    x = np.concatenate([DRAW.uniform(-8, 8, COUNT - 6), [0.5, -0.5, 1, -1, 2.5, 3.5]])
    x = x.astype(np.float32)
    v, p = x.astype(np.float64), np.abs(x.astype(np.float64))
    erf = np.vectorize(math.erf)
    expected = [
        (np.exp(v), 2), (np.log(p), 1), (p**0.75, 4), (np.sqrt(p), 0.5), (1 / np.sqrt(p), 2),
        (np.tanh(v), 2), (np.sin(v), 2), (np.cos(v), 2), (erf(v), 2), (np.exp2(v), 2),
        (np.log2(p), 1), (np.log1p(p), 1), (np.expm1(v), 1), (np.cbrt(v), 1),
        (np.fmod(v, 3), 0.5), (np.floor(v), 0.5), (np.ceil(v), 0.5), (np.rint(v), 0.5),
        (np.trunc(v), 0.5), (v / 3, 0.5), (1 / p, 0.5), (v * v + 1, 0.51), (np.maximum(v, 1), 0.5),
        (np.minimum(v, 1), 0.5), (np.copysign(2, v), 0.5), (v * 8, 0.5), (np.clip(v, 0, 1), 0.5),
        (np.sin((x * np.float32(40000)).astype(np.float64)), 2),
    ]  # fmt: skip
    y = run("single_precision", x, len(expected))
    for k, (want, ulps) in enumerate(expected):
        step = np.spacing(np.abs(want).astype(np.float32)).astype(np.float64)
        assert (np.abs(y[k] - want) <= (ulps + 0.5) * step).all(), k


def test_double_precision() -> None:
    x = DRAW.uniform(-20, 20, COUNT)
    p = np.abs(x)
    expected = [
        np.exp(x), np.log(p), p**0.3, np.sqrt(p), x / 3, 1 / p, 1 / np.sqrt(p), np.sin(x),
        np.cos(x), np.tanh(x), np.floor(x), np.rint(x), x.astype(np.float32), np.trunc(x),
        x * x + 1,
    ]  # fmt: skip
    y = run("double_precision", x, len(expected))
    for k, want in enumerate(expected):
        assert (np.abs(y[k] - want) <= 3 * np.spacing(np.abs(want))).all(), k


def half(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float16)


def test_half_precision() -> None:
    x = half(np.concatenate([DRAW.uniform(-3, 3, COUNT - 4), [0.0, 6e-8, 60000, -2.5]]))
    v, w = x.astype(np.float64), np.roll(x, -1).astype(np.float64)
    with np.errstate(over="ignore"):
        expected = [
            half(v + w), half(v * w), half(v * w + v), half(np.maximum(v, w)),
            half(np.minimum(v, w)), half(np.abs(v)), half(-v), half(np.rint(v)), half(v + w),
            half(np.maximum(w, v)), half(w * v + w), half(np.clip(half(v + w), 0, 1)),
            half(np.maximum(half(v * w + v), 0)),
            half(x.astype(np.float32) * np.float32(1.001)), half(np.trunc(v)),
            half(np.where(v < w, v, w)),
        ]  # fmt: skip
    y = run("half_precision", x, len(expected))
    for k, want in enumerate(expected):
        np.testing.assert_array_equal(y[k], want, str(k))


def brain(x: np.ndarray, mode: str = "rn") -> np.ndarray:
    return np.array(
        [
            formats.decode(formats.encode(formats.Fraction(float(e)), "bf16", mode), "bf16")
            for e in x
        ]
    )


@pytest.mark.parametrize("arch", ["80", "90"])
def test_brain_float(arch: str) -> None:
    """sm_80 has no add or mul of bf16: there the header writes them as fma."""
    x = DRAW.uniform(-3, 3, COUNT).astype(np.float32)
    v = brain(x)
    w = np.roll(v, -1)
    expected = [
        v, brain(v + w), brain(v * w), brain(v * w + v), np.maximum(v, w), np.minimum(v, w),
        brain(v * v + v), brain(w * w + 1), brain(x, "rz"), -v,
    ]  # fmt: skip
    y = run("brain_float", x, len(expected), np.uint16, arch=arch)
    for k, want in enumerate(expected):
        values = [formats.decode(int(bits), "bf16") for bits in y[k]]
        np.testing.assert_array_equal(values, want, str(k))


def test_integers() -> None:
    x = DRAW.integers(-(2**31), 2**31, COUNT).astype(np.int32)
    x[:4] = (0, -1, 2**31 - 1, -7)
    y = run("integers", x, 20)

    def wrapped(value: int) -> int:
        return (value + 2**31) % 2**32 - 2**31

    def toward_zero(a: int, b: int) -> int:
        return abs(a) // b * (1 if a >= 0 else -1)

    for i in range(COUNT):
        v, nearby = int(x[i]), int(x[(i + 1) % COUNT])
        u, wide = v % 2**32, v * nearby
        data, added = u.to_bytes(4, "little"), (u + 1) % 65536 | ((u >> 16) + 1) % 65536 << 16
        dot = sum((b - 256 * (b > 127)) ** 2 for b in data) + v
        expected = [
            toward_zero(v, 7), v - 7 * toward_zero(v, 7), u // 7, toward_zero(wide, 1000003),
            wide - 1000003 * toward_zero(wide, 1000003), u.bit_count(), 32 - u.bit_length(),
            int(f"{u:032b}"[::-1], 2), (u & -u).bit_length(), v * v >> 32, u * u >> 32, min(v, 3),
            abs(v), int.from_bytes(bytes([data[0], 77, data[1], 0]), "little"),
            (77 << 32 | u) << 9 >> 32, dot, added, wide >> 17, v << 3,
            (u & 255) - 256 * (u >> 7 & 1),
        ]  # fmt: skip
        assert y[:, i].tolist() == [wrapped(e) for e in expected], v


def test_both_compilers_of_cuda_mean_the_same() -> None:
    if compiling._nvcc() is None or compiling._nvrtc() is None:
        pytest.skip("needs nvcc and NVRTC (extra emulator)")
    x = DRAW.uniform(-3, 3, COUNT).astype(np.float32)
    texts = [one.compile(SOURCE, [], "90") for one in (compiling._nvcc(), compiling._nvrtc())]
    results = [run("brain_float", x, 10, np.uint16, text=text) for text in texts]
    np.testing.assert_array_equal(*results)
