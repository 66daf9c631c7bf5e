"""Kernels whose threads own 16 bytes each, in every state space, for the emulator's tests."""

import re
from collections.abc import Iterator

import emulator_harness as harness
import numpy as np

from pyinception.emulator import rules

THREADS = 32
DRAW = np.random.default_rng(5)
BYTES = DRAW.integers(0, 256, (THREADS, 16), dtype=np.uint8)  # what each thread loads from
# Operands where .ftz shows: a subnormal f32 and zero, two subnormals, one whose sum is subnormal.
SMALL = np.array([[1, 0, 0, 0], [5, 0, 7, 0], [0x00900000, 0, 0x80880000, 0]], np.uint32)
BYTES[:3] = SMALL.view(np.uint8)
BATCH = 150


def opcodes(stem: str) -> list[str]:
    return [opcode for opcode in rules.accepted() if opcode.split(".")[0] == stem]


def shape(opcode: str) -> tuple[str, str, int]:
    """(space, type, elements) of a load or store; generic accesses go to global memory."""
    parts = opcode.split(".")
    spaces = {"global", "shared", "shared::cta", "local", "const", "param"}
    space = next((p.removesuffix("::cta") for p in parts if p in spaces), "")
    count = next((int(p[1:]) for p in parts if re.fullmatch(r"v\d", p)), 1)
    return space, parts[-1], count


ENTRY = """
.const .align 16 .b8 bank[{size}] = {{{bank}}};
.visible .entry {name}(.param .u64 p_in, .param .u64 p_out, .param .align 16 .b8 blob[16])
{{
  .reg .b64 %in, %out, %const, %local, %generic, %at, %lo, %hi;
  .reg .b32 %t, %shared;
  .shared .align 16 .b8 window[512];
  .local .align 16 .b8 frame[16];
  ld.param.u64 %in, [p_in];
  ld.param.u64 %out, [p_out];
  mov.u32 %t, %tid.x;
  mul.wide.u32 %at, %t, 16;
  add.s64 %in, %in, %at;
  add.s64 %out, %out, %at;
  mov.u64 %const, bank;
  add.s64 %const, %const, %at;
  mov.u32 %shared, window;
  shl.b32 %t, %t, 4;
  add.s32 %shared, %shared, %t;
  mov.u64 %local, frame;
  ld.global.v2.b64 {{%lo, %hi}}, [%in];
  st.shared.v2.b64 [%shared], {{%lo, %hi}};
  st.local.v2.b64 [%local], {{%lo, %hi}};
  {body}
  ret;
}}
"""
WHERE = {
    "": "%in", "global": "%in", "shared": "%shared", "local": "%local", "const": "%const",
    "param": "blob",
}  # fmt: skip


def entry(name: str, lines: list[str]) -> str:
    bank = ", ".join(str(b) for b in BYTES.reshape(-1))
    return ENTRY.format(name=name, size=BYTES.size, bank=bank, body="\n  ".join(lines))


def launch(kernel: harness.Kernel, out: np.ndarray, blob: bytes = b"\0" * 16) -> np.ndarray:
    """Launch with BYTES as input; the third parameter is a record of 16 bytes."""
    device = harness.Device()
    source, result = device.buffer("in", BYTES), device.buffer("out", out)
    words = np.array([source.ctypes.data, result.ctypes.data], np.uint64).tobytes()
    device.launch(kernel, (1,), (THREADS,), np.frombuffer(words + blob, np.uint8))
    return result.copy()


def batched(stem: str) -> Iterator[tuple[list[str], str]]:
    found = opcodes(stem)
    for i in range(0, len(found), BATCH):
        yield found[i : i + BATCH], f"{stem}_{i}"
