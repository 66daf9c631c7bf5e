"""Runs PTX written by the tests on the emulator, and value opcodes over vectors of operands."""

import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from zlib import crc32

import emulator_formats as formats
import numpy as np
import pytest
from emulator_formats import BITS, NAN
from emulator_oracle import Case

from pyinception.emulator import compile as compiling
from pyinception.emulator import parse
from pyinception.emulator.device import Device, Kernel

HEAD = ".version 8.5\n.target sm_90\n.address_size 64\n"
VECTORS = 64  # operand vectors of an opcode: one thread each
SLOTS = 4  # sources of a case in the input buffer
BATCH = 120  # cases of one entry

needs_cxx = pytest.mark.skipif(
    compiling.host_reason() is not None, reason=str(compiling.host_reason())
)


def build(text: str, entry: str, *, checked: bool = False) -> Kernel:
    """An entry of PTX text, ready to launch."""
    translation, path = compiling.build(parse.parse(HEAD + text), entry, checked=checked)
    return Kernel.load(path, entry, translation.sites)


def build_all(texts: Sequence[str], entries: Sequence[str]) -> list[Kernel]:
    """Several, two host compilers at a time."""
    with ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
        return list(pool.map(build, texts, entries))


def run(
    kernel: Kernel,
    *arrays: np.ndarray,
    out: np.ndarray,
    threads: int,
    shared: int = 0,
    **device: Any,
) -> np.ndarray:
    """Launch one block; parameters are the addresses of ``arrays``, then of a copy of ``out``."""
    where = Device(**device)
    buffers = [where.buffer(f"in{i}", array) for i, array in enumerate(arrays)]
    result = where.buffer("out", out)
    params = struct.pack(f"<{len(arrays) + 1}Q", *(b.ctypes.data for b in (*buffers, result)))
    where.launch(kernel, (1,), (threads,), np.frombuffer(params, np.uint8), shared)
    return result.copy()


# ---- operands ------------------------------------------------------------------------------------
def _float_pool(t: str) -> list[int]:
    exponent, mantissa = formats.FORMATS[t]
    shift = 13 if t == "tf32" else 0
    infinity = ((1 << exponent) - 1) << mantissa
    one = ((1 << (exponent - 1)) - 1) << mantissa
    sizes = [
        0, 1, (1 << mantissa) - 1, 1 << mantissa, one, one + 1, one - 1, infinity - 1, infinity,
        infinity | 1 << (mantissa - 1) | 1, one + (1 << (mantissa - 1)), one + (1 << mantissa),
    ]  # fmt: skip
    sizes += [formats.encode(formats.Fraction(x), t) for x in (0.5, 2.5, 3.5, 100.0)]
    sizes += [formats.encode(formats.Fraction(2) ** n, t) for n in (8, 15, 31, 32, 63, 64, 127)]
    return [(size | sign << (exponent + mantissa)) << shift for size in sizes for sign in (0, 1)]


def _integer_pool(t: str) -> list[int]:
    top = 1 << (BITS[t] - 1)
    return [
        0,
        1,
        2,
        top - 1,
        top,
        top + 1,
        2 * top - 1,
        2 * top - 2,
        0x55AA55AA55AA & (2 * top - 1),
    ]


COUNTS = [0, 1, 4, 8, 15, 16, 24, 31, 32, 33, 63, 64, 65, 255, 256, 0x80000001]


def operand(rng: Random, t: str, position: int, stem: str) -> int:
    """One source: special values half of the time, then near ones and random bits."""
    if t == "pred":
        return rng.getrandbits(1)
    lane = t.removesuffix("x2")
    if lane != t:
        return operand(rng, lane, position, stem) | operand(rng, lane, position, stem) << 16
    counts = ("shl", "shr", "shf", "bfe", "bfi", "bmsk", "szext")
    if t == "u32" and stem in counts and (position > 0 or stem == "bmsk"):
        return rng.choice(COUNTS)
    kind = rng.random()
    if formats.is_float(t):
        if kind < 0.5:
            return rng.choice(_float_pool(t))
        if kind < 0.75:
            value = rng.choice((rng.uniform(-4, 4), rng.uniform(-1e5, 1e5), rng.gauss(0, 1e-6)))
            return formats.encode(formats.Fraction(value), t)
        return rng.getrandbits(BITS[t])
    value = rng.choice(_integer_pool(t)) if kind < 0.5 else rng.getrandbits(BITS[t])
    return value or 1 if stem in ("div", "rem") and position == 1 else value


def vectors(opcode: str, case: Case) -> list[tuple[int, ...]]:
    rng, stem = Random(crc32(opcode.encode())), opcode.split(".")[0]
    return [
        tuple(operand(rng, t, i, stem) for i, t in enumerate(case.sources)) for _ in range(VECTORS)
    ]


# ---- value opcodes -------------------------------------------------------------------------------
@dataclass(frozen=True)
class Trial:
    """An opcode to run; ``constants`` are sources written into the statement."""

    opcode: str
    case: Case
    constants: dict[int, int]


def register_type(t: str, opcode: str, result: bool) -> str:
    if t == "pred" or t in ("f32", "f64"):
        return t
    if BITS[t] == 8 or (opcode.startswith("cvt") and not formats.is_float(t.removesuffix("x2"))):
        return "b64" if result else f"b{max(32, BITS[t])}"  # wider than the type: extended
    return f"b{BITS[t]}"


def literal(value: int, t: str) -> str:
    if t == "f32":
        return f"0f{value:08X}"
    if t == "f64":
        return f"0d{value:016X}"
    return str(formats.signed(value, "s" + t[1:]) if t[0] == "s" else value)


def statement(trial: Trial, index: int) -> str:
    """A scope that loads the sources of this thread, executes the opcode and stores its results."""
    opcode, case = trial.opcode, trial.case
    lines, operands = [], []
    carries = case.results[1:] == ("pred",) and not opcode.startswith("setp")
    for i, t in enumerate(case.sources):
        kind = register_type(t, opcode, False)
        at = f"[%in+{(index * SLOTS + i) * VECTORS * 8}]"
        if i in trial.constants:
            operands.append(literal(trial.constants[i], t))
            continue
        lines.append(f".reg .{kind} a{i};")
        if kind == "pred":
            lines += [f"ld.global.b32 %word, {at};", f"setp.ne.b32 a{i}, %word, 0;"]
        else:
            lines.append(f"ld.global.{kind} a{i}, {at};")
        operands.append(f"a{i}")
    if carries:
        lines += ["selp.u32 %word, 1, 0, " + operands.pop() + ";", "add.cc.u32 %word, %word, -1;"]
    results = [register_type(t, opcode, True) for t in case.results]
    lines += [f".reg .{kind} d{i};" for i, kind in enumerate(results)]
    written = "d0|d1" if len(results) == 2 and not carries else "d0"
    lines.append(f"{opcode} {', '.join([written, *operands])};")
    if carries:
        lines += ["addc.u32 %word, 0, 0;", "setp.ne.u32 d1, %word, 0;"]
    for i, kind in enumerate(results):
        at = f"[%out+{(index * 2 + i) * VECTORS * 8}]"
        if kind == "pred":
            lines += [f"selp.b32 %word, 1, 0, d{i};", f"st.global.b32 {at}, %word;"]
        else:
            lines.append(f"st.global.{kind} {at}, d{i};")
    return "{ " + " ".join(lines) + " }"


def entry_text(name: str, body: str) -> str:
    """An entry with ``%in`` and ``%out`` at this thread's words of 8 bytes."""
    return f""".visible .entry {name}(.param .u64 {name}_in, .param .u64 {name}_out)
{{
  .reg .b64 %in, %out, %at;
  .reg .b32 %t, %word;
  ld.param.u64 %in, [{name}_in];
  ld.param.u64 %out, [{name}_out];
  mov.u32 %t, %tid.x;
  mul.wide.u32 %at, %t, 8;
  add.s64 %in, %in, %at;
  add.s64 %out, %out, %at;
  {body}
  ret;
}}
"""


def batches(trials: Sequence[Trial]) -> tuple[list[list[Trial]], list[str], list[str]]:
    """Trials by entry, the entries' texts and their names."""
    groups = [list(trials[i : i + BATCH]) for i in range(0, len(trials), BATCH)]
    names = [f"values_{i}" for i in range(len(groups))]
    texts = [
        entry_text(name, "\n  ".join(statement(t, i) for i, t in enumerate(group)))
        for name, group in zip(names, groups, strict=True)
    ]
    return groups, texts, names


def failures(trials: Sequence[Trial]) -> list[str]:
    """What differs from the oracle, in words."""
    found = []
    groups, texts, names = batches(trials)
    for group, kernel in zip(groups, build_all(texts, names), strict=True):
        sources = np.zeros((len(group), SLOTS, VECTORS), np.uint64)
        given = []
        for i, trial in enumerate(group):
            rows = [list(v) for v in vectors(trial.opcode, trial.case)]
            for row in rows:
                for position, value in trial.constants.items():
                    row[position] = value
            given.append(rows)
            for j in range(len(trial.case.sources)):
                # Bits above the operand's type must not count.
                high = -1 << BITS[trial.case.sources[j]] if trial.opcode.startswith("cvt") else 0
                sources[i, j] = [(row[j] | high) & (2**64 - 1) for row in rows]
        out = np.zeros((len(group), 2, VECTORS), np.uint64)
        out = run(kernel, sources, out=out, threads=VECTORS)
        for i, trial in enumerate(group):
            for thread, row in enumerate(given[i]):
                actual = [int(out[i, j, thread]) for j in range(len(trial.case.results))]
                text = difference(trial, row, actual)
                if text:
                    found.append(text)
                    break
    return found


def difference(trial: Trial, row: Sequence[int], actual: Sequence[int]) -> str | None:
    case = trial.case
    expected = case.function(*row)
    for t, want, got in zip(case.results, expected, actual, strict=True):
        lane = t.removesuffix("x2")
        if isinstance(want, tuple):
            good = all(same(w, got >> 16 * k & 0xFFFF, lane, case.ulps) for k, w in enumerate(want))
        else:
            width = register_type(t, trial.opcode, True)
            if not isinstance(want, str) and width != "pred" and BITS[width] > BITS[t]:
                want = formats.wrap(formats.signed(want, t), width)
            good = same(want, got, t, case.ulps)
        if not good:
            hexes = [f"{x:#x}" for x in row]
            shown = [w if isinstance(w, (str, tuple)) else f"{w:#x}" for w in expected]
            return f"{trial.opcode} {trial.constants or ''} of {hexes}: {got:#x}, expected {shown}"
    return None


def same(want: int | str, got: int, t: str, ulps: int) -> bool:
    if want == NAN:
        return formats.is_nan_bits(got, t)
    assert isinstance(want, int)
    if want == got or not ulps:
        return want == got
    sign = 1 << (BITS[t] - 1)
    return want & sign == got & sign and abs(want - got) <= ulps


def repository() -> Path:
    return Path(__file__).resolve().parents[1]
