"""Conformance of atomics and asynchronous copies: each opcode with its modifiers, on real bytes."""

import re
from collections.abc import Iterator

import emulator_formats as formats
import emulator_harness as harness
import numpy as np
from emulator_bytes import BYTES, THREADS, batched, entry, launch, opcodes, shape
from emulator_formats import BITS, NAN

pytestmark = harness.needs_cxx


# ---- atomics -------------------------------------------------------------------------------------
def atomic_lines(index: int, opcode: str) -> list[str]:
    """Old value from the upper half of the thread's bytes, operands from the lower one."""
    space, t, _ = shape(opcode)
    kind = "b" + str(BITS[t])
    registers = t if t in ("f32", "f64") else kind
    at = index * THREADS * 16
    lines = [
        f".reg .{registers} old, b, c;", f".reg .{kind} start;", "mov.b64 %lo, 0;",
        f"st.global.b64 [%out+{at}], %lo;", f"ld.global.{registers} b, [%in];",
        f"ld.global.{registers} c, [%in+{BITS[t] // 8}];", f"ld.global.{kind} start, [%in+8];",
    ]  # fmt: skip
    if (index + THREADS) % 3 == 0 and "cas" in opcode:
        lines.append(f"mov.{kind} b, start;")  # a comparison that holds
    where = "[%shared]" if space == "shared" else f"[%out+{at + 8}]"
    lines.append(f"st.{space or 'global'}.{kind} {where}, start;")
    operands = "b, c" if ".cas." in opcode else "b"
    if opcode.startswith("atom"):
        lines += [f"{opcode} old, {where}, {operands};", f"st.global.{registers} [%out+{at}], old;"]
    else:
        lines.append(f"{opcode} {where}, {operands};")
    if space == "shared":
        lines += [
            f"ld.shared.{kind} start, [%shared];",
            f"st.global.{kind} [%out+{at + 8}], start;",
        ]
    return ["{ " + " ".join(lines) + " }"]


def atomic_texts() -> Iterator[tuple[list[str], str, str]]:
    for stem in ("atom", "red"):
        for group, name in batched(stem):
            lines = [line for i, opcode in enumerate(group) for line in atomic_lines(i, opcode)]
            yield group, name, entry(name, lines)


def atomic_value(name: str, t: str, space: str, old: int, b: int, c: int) -> int | str | tuple:
    lane = t.removesuffix("x2")
    if lane != t:
        return tuple(
            atomic_value(name, lane, space, old >> s & 0xFFFF, b >> s & 0xFFFF, 0) for s in (0, 16)
        )
    if formats.is_float(t):
        x, y = formats.decode(old, t), formats.decode(b, t)
        flushed = t == "f32" and space != "shared"
        if flushed:
            x, y = formats.flush(x, t), formats.flush(y, t)
        bits = formats.encode(formats.add(x, y), t)
        if formats.is_nan_bits(bits, t):
            return NAN
        return formats.encode(formats.flush(formats.decode(bits, t), t), t) if flushed else bits
    x, y = formats.signed(old, t), formats.signed(b, t)
    value = {
        "add": x + y, "min": min(x, y), "max": max(x, y), "and": x & y, "or": x | y, "xor": x ^ y,
        "exch": y, "cas": c if x == y else x, "inc": 0 if x >= y else x + 1,
        "dec": y if x == 0 or x > y else x - 1,
    }[name]  # fmt: skip
    return formats.wrap(value, t)


def test_every_atomic_returns_the_old_value_and_leaves_the_new_one() -> None:
    groups, names, texts = zip(*atomic_texts(), strict=True)
    wrong = []
    for group, kernel in zip(groups, harness.build_all(texts, names), strict=True):
        out = launch(kernel, np.zeros((len(group), THREADS, 16), np.uint8))
        for i, opcode in enumerate(group):
            space, t, _ = shape(opcode)
            name = re.search(r"\.(add|min|max|and|or|xor|exch|cas|inc|dec)\.", opcode).group(1)
            size, lane = BITS[t] // 8, t.removesuffix("x2")
            for thread in range(THREADS):
                source = BYTES[thread].tobytes()
                b, c, old = (int.from_bytes(source[s : s + size], "little") for s in (0, size, 8))
                if (i + THREADS) % 3 == 0 and name == "cas":
                    b = old
                got = out[i, thread].tobytes()
                returned, left = (int.from_bytes(got[s : s + size], "little") for s in (0, 8))
                want = atomic_value(name, t, space, old, b, c)
                lanes = zip(want, (left & 0xFFFF, left >> 16)) if lane != t else [(want, left)]
                good = all(harness.same(w, g, lane, 0) for w, g in lanes)
                if not good or (opcode.startswith("atom") and returned != old):
                    wrong.append(opcode)
    assert sorted(set(wrong)) == []


def test_atomics_of_all_threads_add_up() -> None:
    body = "st.shared.v2.b64 [%shared], {%lo, %hi}; red.global.add.u32 [%sum], 3;"
    text = entry("adds", [".reg .b64 %sum;", "sub.s64 %sum, %out, %at;", body])
    out = launch(harness.build(text, "adds"), np.zeros(THREADS * 4, np.uint32))
    assert out[0] == 3 * THREADS


# ---- copies --------------------------------------------------------------------------------------
def copy_lines(index: int, opcode: str, size: int, third: str) -> list[str]:
    tail = ", %policy" if "cache_hint" in opcode else ""
    return [
        "st.shared.v2.b64 [%shared], {%ones, %ones};",
        f"{opcode} [%shared], [%in], {size}{third}{tail};",
        "cp.async.commit_group;" if index % 2 else "",
        "cp.async.wait_group 0;" if index % 2 else "cp.async.wait_all;",
        "ld.shared.v2.b64 {%lo, %hi}, [%shared];",
        f"st.global.v2.b64 [%out+{index * THREADS * 16}], {{%lo, %hi}};",
    ]


def copies() -> list[tuple[str, int, str, int]]:
    """(opcode, bytes written, third operand, bytes read)"""
    found = []
    for opcode in opcodes("cp"):
        if ".global" not in opcode:
            continue
        for size in (16,) if ".cg." in opcode else (4, 8, 16):
            found += [(opcode, size, "", size), (opcode, size, ", %three", 3)]
            found += [(opcode, size, ", %yes", 0), (opcode, size, ", %no", size)]
    return found


def copy_text() -> str:
    lines = [
        ".reg .b64 %ones, %policy;", ".reg .b32 %three;", ".reg .pred %yes, %no;",
        "mov.b64 %ones, -1;", "mov.b64 %policy, 0;", "mov.b32 %three, 3;",
        *(f"{opcode} %policy; {opcode} %policy, 0f3F000000;" for opcode in opcodes("createpolicy")),
        "setp.eq.u32 %yes|%no, %three, 3;",
    ]  # fmt: skip
    for i, (opcode, size, third, _) in enumerate(copies()):
        lines += copy_lines(i, opcode, size, third)
    return entry("copies", lines)


def test_every_copy_lands_at_its_wait_and_pads_with_zeros() -> None:
    cases = copies()
    out = launch(
        harness.build(copy_text(), "copies"), np.zeros((len(cases), THREADS, 16), np.uint8)
    )
    for i, (opcode, size, third, read) in enumerate(cases):
        for thread in range(THREADS):
            expected = BYTES[thread].tobytes()[:read].ljust(size, b"\0").ljust(16, b"\xff")
            assert out[i, thread].tobytes() == expected, (opcode, size, third)


def texts() -> Iterator[str]:
    """Every PTX text of this file, for the census."""
    yield from (text for _, _, text in atomic_texts())
    yield copy_text()
