"""Conformance of loads, stores and addresses: each opcode, with its modifiers, on real bytes."""

from collections.abc import Iterator

import emulator_formats as formats
import emulator_harness as harness
import numpy as np
import pytest
from emulator_bytes import BYTES, THREADS, WHERE, batched, entry, launch, shape
from emulator_formats import BITS

from pyinception.emulator import compile as compiling
from pyinception.emulator.device import EmulatorFault

pytestmark = pytest.mark.skipif(
    compiling.host_reason() is not None, reason=str(compiling.host_reason())
)


def wide(t: str) -> str:
    return t if t in ("f32", "f64") else "b64"


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
    for group in (load_texts(), store_texts()):
        yield from (text for _, _, text in group)
    yield address_text()
