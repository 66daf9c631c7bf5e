"""Conformance of loads, stores, atomics and copies: each opcode, with its modifiers, on real bytes."""

import re
from collections.abc import Iterator

import emulator_formats as formats
import emulator_harness as harness
import numpy as np
import pytest
from emulator_formats import BITS, NAN

from pyinception.emulator import compile as compiling
from pyinception.emulator import rules
from pyinception.emulator.device import EmulatorFault

pytestmark = pytest.mark.skipif(
    compiling.host_reason() is not None, reason=str(compiling.host_reason())
)

THREADS = 32
DRAW = np.random.default_rng(5)
BYTES = DRAW.integers(0, 256, (THREADS, 16), dtype=np.uint8)  # what each thread loads from
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


def wide(t: str) -> str:
    return t if t in ("f32", "f64") else "b64"


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


# ---- loads ---------------------------------------------------------------------------------------
def load_lines(index: int, opcode: str) -> list[str]:
    space, t, count = shape(opcode)
    names = [f"d{k}" for k in range(count)]
    target = "{" + ", ".join(names) + "}" if count > 1 else "d0"
    stores = [
        f"st.global.{wide(t)} [%out+{(index * 4 + k) * THREADS * 16}], d{k};" for k in range(count)
    ]
    registers = f".reg .{wide(t)} {', '.join(names)};"
    return ["{ " + " ".join([registers, f"{opcode} {target}, [{WHERE[space]}];", *stores]) + " }"]


def load_texts() -> Iterator[tuple[list[str], str, str]]:
    for group, name in batched("ld"):
        lines = [line for i, opcode in enumerate(group) for line in load_lines(i, opcode)]
        yield group, name, entry(name, lines)


def test_every_load_brings_its_bytes_extended_by_its_type() -> None:
    groups, names, texts = zip(*load_texts(), strict=True)
    wrong = []
    for group, kernel in zip(groups, harness.build_all(texts, names), strict=True):
        out = np.zeros((len(group), 4, THREADS, 16), np.uint8)
        out = launch(kernel, out, blob=BYTES[0].tobytes())
        for i, opcode in enumerate(group):
            space, t, count = shape(opcode)
            size = BITS[t] // 8
            for thread in range(THREADS):
                source = BYTES[0 if space == "param" else thread].tobytes()
                for k in range(count):
                    bits = int.from_bytes(source[k * size : (k + 1) * size], "little")
                    expected = formats.wrap(formats.signed(bits, t), "b64")
                    if int.from_bytes(out[i, k, thread, :8].tobytes(), "little") != expected:
                        wrong.append(opcode)
    assert sorted(set(wrong)) == []


# ---- stores --------------------------------------------------------------------------------------
def store_lines(index: int, opcode: str) -> list[str]:
    space, t, count = shape(opcode)
    names = [f"s{k}" for k in range(count)]
    kind = "b64" if wide(t) == "b64" else t
    source = "{" + ", ".join(names) + "}" if count > 1 else "s0"
    step = 8 if kind == "b64" else BITS[t] // 8
    lines = [f".reg .{kind} {', '.join(names)};"]
    lines += [f"ld.global.{kind} s{k}, [%in+{step * (k % (16 // step))}];" for k in range(count)]
    at = f"[%out+{index * THREADS * 16}]"
    if space in ("", "global"):
        lines.append(f"{opcode} {at}, {source};")
    elif space == "param":  # the argument of a call, which stores it
        lines += [
            ".param .align 16 .b8 argument[16];",
            "st.param.v2.b64 [argument], {0, 0};".replace("{0, 0}", "{%zero, %zero}"),
            f"{opcode} [argument], {source};",
            ".reg .b64 place;", f"add.s64 place, %out, {index * THREADS * 16};",
            ".param .b64 address;", "st.param.b64 [address], place;",
            "call.uni keep, (address, argument);",
        ]  # fmt: skip
    else:
        where = WHERE[space]
        lines += [
            f"st.{space}.v2.b64 [{where}], {{%zero, %zero}};", f"{opcode} [{where}], {source};",
            f"ld.{space}.v2.b64 {{%lo, %hi}}, [{where}];", f"st.global.v2.b64 {at}, {{%lo, %hi}};",
        ]  # fmt: skip
    return ["{ " + " ".join(lines) + " }"]


KEEP = """
.func keep(.param .b64 to, .param .align 16 .b8 what[16])
{
  .reg .b64 %to, %lo, %hi;
  ld.param.b64 %to, [to];
  ld.param.v2.b64 {%lo, %hi}, [what];
  st.global.v2.b64 [%to], {%lo, %hi};
  ret;
}
"""


def store_texts() -> Iterator[tuple[list[str], str, str]]:
    for group, name in batched("st"):
        lines = [".reg .b64 %zero;", "mov.b64 %zero, 0;"]
        lines += [line for i, opcode in enumerate(group) for line in store_lines(i, opcode)]
        yield group, name, KEEP + entry(name, lines)


def test_every_store_writes_its_bytes_and_no_others() -> None:
    groups, names, texts = zip(*store_texts(), strict=True)
    wrong = []
    for group, kernel in zip(groups, harness.build_all(texts, names), strict=True):
        out = launch(kernel, np.zeros((len(group), THREADS, 16), np.uint8))
        for i, opcode in enumerate(group):
            _, t, count = shape(opcode)
            size = BITS[t] // 8
            step = 8 if wide(t) == "b64" else size
            for thread in range(THREADS):
                source = BYTES[thread].tobytes()
                parts = [source[(s := step * (k % (16 // step))) : s + size] for k in range(count)]
                if out[i, thread].tobytes() != b"".join(parts).ljust(16, b"\0"):
                    wrong.append(opcode)
    assert sorted(set(wrong)) == []


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
        lines += ["ld.shared.b64 %lo, [%shared];", f"st.global.{kind} [%out+{at + 8}], start;"]
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


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cp.async.ca.shared.global [%shared], [%in], 4, %t;", "cp.async reads more bytes"),
        ("ld.shared.b32 %t, [%out];", "more than 32 bits"),
        ("cvta.to.shared.u64 %lo, %in;", "outside shared memory"),
        ("div.u32 %t, %t, 0;", "integer division by zero"),
        ("rem.s64 %lo, %lo, 0;", "integer division by zero"),
        ("bar.sync 1, 33;", "no multiple of 32"),
        ("trap;", "trap"),
    ],
)
def test_what_ptx_leaves_undefined_is_a_fault(line: str, message: str) -> None:
    kernel = harness.build(entry("undefined", ["mov.b32 %t, 5;", line]), "undefined")
    with pytest.raises(EmulatorFault, match=message):
        launch(kernel, np.zeros(THREADS * 16, np.uint8))


# ---- addresses -----------------------------------------------------------------------------------
def address_text() -> str:
    """Addresses through every conversion, loaded from as generic ones."""
    lines = [".reg .b64 %g, %p;", ".reg .pred %is;", ".reg .b32 %one;"]
    index = 0
    for space in ("shared", "local", "const", "global", "param"):
        base = {"global": "%in", "param": "blob", "shared": "window"}.get(space, WHERE[space])
        width = "mov.u64 %p, " + base + ";"
        lines += [width, f"cvta.{space}.u64 %g, %p;", f"cvta.to.{space}.u64 %p, %g;"]
        lines += ["ld.b64 %lo, [%g];", f"ld.{space}.b64 %hi, [%p];"]
        lines.append(f"st.global.v2.b64 [%out+{index * THREADS * 16}], {{%lo, %hi}};")
        index += 1
        for test in (".shared", ".shared::cta"):
            lines += [f"isspacep{test} %is, %g;", "selp.b32 %one, 1, 0, %is;"]
            lines.append(f"st.global.b32 [%out+{index * THREADS * 16}], %one;")
            index += 1
    lines += [
        "mov.u64 %p, window+8;",
        "ld.shared.b64 %lo, [window+8];",
        "ld.const.b64 %hi, [bank+8];",
    ]
    lines.append(f"st.global.v2.b64 [%out+{index * THREADS * 16}], {{%lo, %hi}};")
    lines += [
        f"prefetch{space}.{level} [%in];" for space in ("", ".global") for level in ("L1", "L2")
    ]
    return entry("addresses", lines)


def test_addresses_survive_their_conversions() -> None:
    blob = bytes(range(16))
    out = launch(
        harness.build(address_text(), "addresses"), np.zeros((16, THREADS, 16), np.uint8), blob
    )
    first = {"shared": 0, "const": 0}
    for i, space in enumerate(("shared", "local", "const", "global", "param")):
        for thread in range(THREADS):
            # The window and the bank begin with the bytes of thread 0, but const has its offset.
            at = thread if space == "const" else first.get(space, thread)
            source = blob if space == "param" else BYTES[at].tobytes()
            assert out[3 * i, thread].tobytes() == source[:8] * 2, space
        is_shared = np.unique(out[3 * i + 1 : 3 * i + 3, :, 0])
        assert is_shared.tolist() == [int(space == "shared")]
    assert out[15, 3].tobytes() == BYTES[0].tobytes()[8:] * 2


def texts() -> Iterator[str]:
    """Every PTX text of this file, for the census."""
    for group in (load_texts(), store_texts(), atomic_texts()):
        yield from (text for _, _, text in group)
    yield copy_text()
    yield address_text()
