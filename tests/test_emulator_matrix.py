"""ldmatrix, movmatrix and mma.sync against CuTe's statement of their fragments.

A CuTe layout is a function: a coordinate, split by the shape, times the strides. CuTe gives one for
each operand of an instruction, from (thread, value) to a place in the matrix; the ones below are
its ``MMA_Traits`` and ``Copy_Traits``, written down here and nowhere else.
"""

from collections.abc import Iterator

import emulator_formats as formats
import emulator_harness as harness
import numpy as np
import pytest
from emulator_formats import BITS

from pyinception.emulator import rules
from pyinception.emulator.device import EmulatorFault

pytestmark = harness.needs_cxx

Nested = int | tuple["Nested", ...]


def layout(shape: Nested, stride: Nested, at: int) -> int:
    """shape:stride applied to a flat coordinate, first mode fastest."""
    if isinstance(shape, int):
        assert isinstance(stride, int)
        return at % shape * stride
    total = 0
    for part, step in zip(shape, stride, strict=True):
        size = int(np.prod([int(n) for n in np.ravel(_flat(part))]))
        total += layout(part, step, at % size)
        at //= size
    return total


def _flat(shape: Nested) -> list[int]:
    return [shape] if isinstance(shape, int) else [n for part in shape for n in _flat(part)]


LANES: Nested = (4, 8)
# (shape of the values, strides of lanes, strides of values) of A, B and C; places are m + 16 k,
# n + 8 k and m + 16 n.
C = ((2, 2), (32, 1), (16, 8))
LAYOUTS = {
    ("m16n8k16", 16): (((2, 2, 2), (32, 1), (16, 8, 128)), ((2, 2), (16, 1), (8, 64)), C),
    ("m16n8k8", 16): (((2, 2), (32, 1), (16, 8)), ((2,), (16, 1), (8,)), C),
    ("m16n8k8", 32): (((2, 2), (16, 1), (8, 64)), ((2,), (8, 1), (32,)), C),
    ("m16n8k4", 32): (((2,), (16, 1), (8,)), ((1,), (8, 1), (0,)), C),
}
MULTIPLIES = [opcode for opcode in rules.accepted() if opcode.startswith("mma.")]


def place(operand: tuple[Nested, Nested, Nested], lane: int, value: int) -> int:
    shape, lanes, values = operand
    return layout(LANES, lanes, lane) + layout(shape, values, value)


def parts(opcode: str) -> tuple[str, str, str]:
    """(shape, type of A and B, type of C and D)"""
    words = opcode.split(".")
    return words[3], words[7], words[6]


def registers(opcode: str) -> tuple[int, int, int]:
    shape, kind, sums = parts(opcode)
    depth = int(shape.rpartition("k")[2])
    per = 32 // (32 if kind == "tf32" else 16)
    return 16 * depth // 32 // per, 8 * depth // 32 // per, 2 if sums == "f16" else 4


def multiply_text() -> str:
    lines = [".reg .b64 %row; .reg .b32 %a<4>, %b<2>, %c<4>, %d<4>;"]
    for i, opcode in enumerate(MULTIPLIES):
        a, b, c = registers(opcode)
        names = [f"%a{k}" for k in range(a)] + [f"%b{k}" for k in range(b)]
        names += [f"%c{k}" for k in range(c)]
        for k, name in enumerate(names):
            lines.append(f"ld.global.b32 {name}, [%in+{(i * 10 + k) * 256}];")
        groups = [names[:a], names[a : a + b], names[a + b :]]
        results = [f"%d{k}" for k in range(c)]
        operands = ", ".join("{" + ", ".join(g) + "}" for g in (results, *groups))
        lines.append(f"{opcode} {operands};")
        lines += [f"st.global.b32 [%out+{(i * 4 + k) * 256}], {r};" for k, r in enumerate(results)]
    return harness.entry_text("multiply", "\n  ".join(lines))


def encode_all(matrix: np.ndarray, t: str) -> np.ndarray:
    return np.vectorize(lambda x: formats.encode(formats.Fraction(float(x)), t))(matrix)


def rounded(matrix: np.ndarray, t: str) -> np.ndarray:
    return np.vectorize(lambda bits: formats.decode(int(bits), t))(encode_all(matrix, t))


def pack(matrix: np.ndarray, operand: tuple[Nested, Nested, Nested], t: str, count: int) -> list:
    """Registers of every lane, of a matrix whose first axis is m or n."""
    codes = encode_all(matrix, t).T.reshape(-1)  # place: first axis fastest
    per = 32 // BITS[t]
    rows = np.zeros((count, 32), np.uint64)
    for lane in range(32):
        for value in range(count * per):
            bits = int(codes[place(operand, lane, value)])
            rows[value // per, lane] |= np.uint64(bits << BITS[t] * (value % per))
    return list(rows)


@pytest.fixture(scope="module")
def multiply() -> harness.Kernel:
    return harness.build(multiply_text(), "multiply")


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("opcode", MULTIPLIES)
def test_multiply(opcode: str, real: bool, multiply: harness.Kernel) -> None:
    shape, kind, sums = parts(opcode)
    depth = int(shape.rpartition("k")[2])
    draw = np.random.default_rng(depth)
    sizes = ((16, depth), (8, depth), (16, 8))
    if real:
        a, b, c = (draw.standard_normal(size) for size in sizes)
    else:
        a, b, c = (draw.integers(-8, 9, size).astype(float) for size in sizes)
    types = (kind, kind, sums)
    a, b, c = (rounded(m, t) for m, t in zip((a, b, c), types, strict=True))
    layouts = LAYOUTS[shape, BITS[kind]]
    rows = [
        row
        for matrix, one, t, n in zip((a, b, c), layouts, types, registers(opcode), strict=True)
        for row in pack(matrix, one, t, n)
    ]
    source = np.zeros((len(MULTIPLIES), 10, 32), np.uint64)
    source[MULTIPLIES.index(opcode), : len(rows)] = rows
    out = np.zeros((len(MULTIPLIES), 4, 32), np.uint64)
    out = harness.run(multiply, source, out=out, threads=32)[MULTIPLIES.index(opcode)]
    per = 32 // BITS[sums]
    d = np.zeros(16 * 8)
    for lane in range(32):
        for value in range(4):
            bits = int(out[value // per, lane]) >> BITS[sums] * (value % per)
            d[place(layouts[2], lane, value)] = formats.decode(formats.wrap(bits, sums), sums)
    d = d.reshape(8, 16).T
    expected = a @ b.T + c
    if not real:
        np.testing.assert_array_equal(d, expected)
    else:
        size = np.abs(a) @ np.abs(b.T) + np.abs(c)
        step = 2.0 ** (-11 if sums == "f16" else -24)
        assert (np.abs(d - expected) <= (depth + 1) * step * size).all()


@pytest.mark.parametrize("opcode", MULTIPLIES)
def test_multiply_keeps_nan_and_infinity(opcode: str, multiply: harness.Kernel) -> None:
    _, kind, sums = parts(opcode)
    special = formats.encode(float("inf"), kind)
    special |= special << 16 if BITS[kind] == 16 else 0
    source = np.zeros((len(MULTIPLIES), 10, 32), np.uint64)
    index = MULTIPLIES.index(opcode)
    source[index, 0, 0] = special  # row 0 of A: infinity times zero is NaN
    out = np.zeros((len(MULTIPLIES), 4, 32), np.uint64)
    out = harness.run(multiply, source, out=out, threads=32)[index]
    for lane in range(4):  # row 0 of D
        assert formats.is_nan_bits(formats.wrap(int(out[0, lane]), sums), sums)
    assert not formats.is_nan_bits(formats.wrap(int(out[0, 4]), sums), sums)


def test_a_matrix_instruction_needs_its_whole_warp(multiply: harness.Kernel) -> None:
    source = np.zeros((len(MULTIPLIES), 10, 32), np.uint64)
    with pytest.raises(EmulatorFault, match="part of a warp"):
        harness.run(multiply, source, out=np.zeros((len(MULTIPLIES), 4, 32), np.uint64), threads=16)


# ---- ldmatrix ------------------------------------------------------------------------------------
LOADS = [opcode for opcode in rules.accepted() if opcode.startswith("ldmatrix")]


def load_text() -> str:
    """Rows of 16 bytes, one a lane, in shared memory; every opcode loads from the lane's row."""
    lines = [
        ".shared .align 16 .b8 rows[512];", ".reg .b64 %lo, %hi, %row; .reg .b32 %s, %r<4>;",
        "mul.wide.u32 %row, %t, 8;", "add.s64 %row, %in, %row;",
        "ld.global.v2.b64 {%lo, %hi}, [%row];", "mov.u32 %s, rows;",
        "mad.lo.u32 %s, %t, 16, %s;", "st.shared.v2.b64 [%s], {%lo, %hi};", "bar.warp.sync -1;",
    ]  # fmt: skip
    for i, opcode in enumerate(LOADS):
        count = int(opcode.split(".x")[1][0])
        results = [f"%r{k}" for k in range(count)]
        lines.append(f"{opcode} {{{', '.join(results)}}}, [%s];")
        lines += [f"st.global.b32 [%out+{(i * 4 + k) * 256}], {r};" for k, r in enumerate(results)]
    lines.append("movmatrix.sync.aligned.m8n8.trans.b16 %r1, %r0;")
    lines.append(f"st.global.b32 [%out+{len(LOADS) * 1024}], %r1;")
    lines.append(f"st.global.b32 [%out+{len(LOADS) * 1024 + 256}], %r0;")
    return harness.entry_text("load_matrix", "\n  ".join(lines))


def test_ldmatrix_and_movmatrix() -> None:
    words = np.random.default_rng(2).integers(0, 2**16, (32, 8)).astype(np.uint16)
    source = words.reshape(-1).view(np.uint64).reshape(32, 2)
    bits = int.from_bytes(words.tobytes(), "little")
    kernel = harness.build(load_text(), "load_matrix")
    out = np.zeros((len(LOADS) + 1, 4, 32), np.uint64)
    out = harness.run(kernel, source, out=out, threads=32)
    for i, opcode in enumerate(LOADS):
        count = int(opcode.split(".x")[1][0])
        for lane in range(32):
            for k in range(count):
                value = int(out[i, k, lane])
                for bit in (0, 5, 15, 16, 20, 31):
                    if ".trans" in opcode:  # bits: ((4,8),(16,2,n)):((256,16),(1,128,1024))
                        at = layout((4, 8), (256, 16), lane)
                        at += layout((16, 2, count), (1, 128, 1024), 32 * k + bit)
                    else:  # (32,(32,n)):(32,(1,1024))
                        at = layout(32, 32, lane) + layout((32, count), (1, 1024), 32 * k + bit)
                    assert value >> bit & 1 == bits >> at & 1, opcode
    before, after = out[len(LOADS), 1], out[len(LOADS), 0]
    halves = np.array([[int(b) >> s & 0xFFFF for s in (0, 16)] for b in before]).reshape(8, 8)
    turned = np.array([[int(a) >> s & 0xFFFF for s in (0, 16)] for a in after]).reshape(8, 8)
    np.testing.assert_array_equal(turned, halves.T)


def texts() -> Iterator[str]:
    """Every PTX text of this file, for the census."""
    yield multiply_text()
    yield load_text()
