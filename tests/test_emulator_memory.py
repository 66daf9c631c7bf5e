"""Conformance of loads, stores and addresses: each opcode, with its modifiers, on real bytes."""

from collections.abc import Iterator
from itertools import count

import emulator_formats as formats
import emulator_harness as harness
import numpy as np
import pytest
from emulator_bytes import BYTES, THREADS, WHERE, batched, entry, launch, shape
from emulator_formats import BITS

from pyinception.emulator.device import EmulatorFault

pytestmark = harness.needs_cxx


def wide(t: str) -> str:
    return t if t in ("f32", "f64") else "b64"


# ---- loads ---------------------------------------------------------------------------------------
def load_lines(index: int, opcode: str) -> list[str]:
    space, t, n = shape(opcode)
    names = [f"d{k}" for k in range(n)]
    target = "{" + ", ".join(names) + "}" if n > 1 else "d0"
    stores = [
        f"st.global.{wide(t)} [%out+{(index * 4 + k) * THREADS * 16}], d{k};" for k in range(n)
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
            space, t, n = shape(opcode)
            size = BITS[t] // 8
            for thread in range(THREADS):
                source = BYTES[0 if space == "param" else thread].tobytes()
                for k in range(n):
                    bits = int.from_bytes(source[k * size : (k + 1) * size], "little")
                    expected = formats.wrap(formats.signed(bits, t), "b64")
                    if int.from_bytes(out[i, k, thread, :8].tobytes(), "little") != expected:
                        wrong.append(opcode)
    assert sorted(set(wrong)) == []


# ---- stores --------------------------------------------------------------------------------------
def store_lines(index: int, opcode: str) -> list[str]:
    space, t, n = shape(opcode)
    names = [f"s{k}" for k in range(n)]
    kind = "b64" if wide(t) == "b64" else t
    source = "{" + ", ".join(names) + "}" if n > 1 else "s0"
    step = 8 if kind == "b64" else BITS[t] // 8
    lines = [f".reg .{kind} {', '.join(names)};"]
    lines += [f"ld.global.{kind} s{k}, [%in+{step * (k % (16 // step))}];" for k in range(n)]
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
            _, t, n = shape(opcode)
            size = BITS[t] // 8
            step = 8 if wide(t) == "b64" else size
            for thread in range(THREADS):
                source = BYTES[thread].tobytes()
                parts = [source[(s := step * (k % (16 // step))) : s + size] for k in range(n)]
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
        ("add.s64 %local, %local, 16; st.local.b32 [%local], %t;", "beyond the local arrays"),
        ("ld.local.v2.b64 {%lo, %hi}, [%local+-16];", "beyond the local arrays"),
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


# ---- offsets and names ---------------------------------------------------------------------------
NAMES = {"shared": "window", "local": "frame", "param": "blob", "const": "bank", "global": "cell"}


def offset_text() -> str:
    """Words through ``[r+4]``, ``[r-4]``, ``[name]`` and ``[name+4]`` in every state space."""
    lines = [".reg .b64 %p; .reg .b32 %w, %x;"]
    row = count()

    def keep(register: str) -> str:
        return f"st.global.b32 [%out+{next(row) * THREADS * 16}], {register};"

    for space, name in NAMES.items():
        width = "b32" if space == "shared" else "b64"
        base = "%x" if space == "shared" else "%p"
        lines += [f"mov.{width} {base}, {name}+8;"]
        lines += [f"ld.{space}.b32 %w, [{base}+4];", keep("%w")]
        lines += [f"ld.{space}.b32 %w, [{base}+-4];", keep("%w")]
        lines += [f"ld.{space}.b32 %w, [{name}];", keep("%w")]
        lines += [f"ld.{space}.b32 %w, [{name}+12];", keep("%w")]
    for space in ("local", "shared", "global"):
        name, width = NAMES[space], "b32" if space == "shared" else "b64"
        base = "%x" if space == "shared" else "%p"
        lines += ["mov.b32 %w, 11; bar.sync 0;", f"mov.{width} {base}, {name};"]
        lines += [f"st.{space}.b32 [{name}], %w; st.{space}.b32 [{name}+4], %w;"]
        lines += [f"st.{space}.b32 [{base}+8], %w;", f"add.s{width[1:]} {base}, {base}, 16;"]
        lines += [f"st.{space}.b32 [{base}+-4], %w; bar.sync 0;"]
        for at in (0, 4, 8, 12):
            lines += [f"ld.{space}.b32 %w, [{name}+{at}];", keep("%w")]
    lines += ["mov.u32 %x, window; mov.u64 %p, frame;", "ld.b32 %w, [%in+4];", keep("%w")]
    lines += ["ld.b32 %w, [cell];", keep("%w")]
    cell = ".global .align 4 .b32 cell[4] = {5, 6, 7, 8};\n"
    return cell + entry("offsets", lines)


def test_offsets_and_names() -> None:
    blob = BYTES[3].tobytes()
    out = launch(
        harness.build(offset_text(), "offsets"), np.zeros((34, THREADS, 16), np.uint8), blob
    )
    words = out.view(np.uint32)[:, :, 0]
    own = {"shared": BYTES[0], "const": BYTES[0], "param": BYTES[3]}
    row = 0
    for space in NAMES:
        for at in (3, 1, 0, 3):
            for thread in range(THREADS):
                if space == "global":
                    expected = 5 + at
                else:
                    expected = own.get(space, BYTES[thread]).view(np.uint32)[at]
                assert words[row, thread] == expected, (space, at)
            row += 1
    assert (words[row : row + 12] == 11).all()
    np.testing.assert_array_equal(words[row + 12], BYTES.view(np.uint32)[:, 1])
    assert (words[row + 13] == 11).all()


# ---- packing -------------------------------------------------------------------------------------
PACKINGS = (("b16", "b8", 2), ("b32", "b16", 2), ("b32", "b8", 4), ("b64", "b32", 2),
            ("b64", "b16", 4))  # fmt: skip


def packing_text() -> str:
    """Every word is taken apart and put together in reverse; a sink drops a part."""
    lines = [".reg .b64 %w64, %v64; .reg .b32 %w32, %v32; .reg .b16 %w16, %v16;"]
    for i, (whole, part, n) in enumerate(PACKINGS):
        names = [f"q{k}" for k in range(n)]
        bits = whole[1:]
        turned = ", ".join(reversed(names))
        lines += [
            "{ " + f".reg .{part} {', '.join(names)}; ld.global.{whole} %w{bits}, [%in];",
            f"mov.{whole} {{{', '.join(names)}}}, %w{bits};",
            f"mov.{whole} {{{', '.join(['_', *names[1:]])}}}, %w{bits};",
            f"mov.{whole} %v{bits}, {{{turned}}};",
            f"st.global.{whole} [%out+{i * THREADS * 16}], %v{bits};" + " }",
        ]
    return entry("packing", lines)


def test_packing() -> None:
    out = launch(
        harness.build(packing_text(), "packing"), np.zeros((len(PACKINGS), THREADS, 16), np.uint8)
    )
    for i, (whole, _, n) in enumerate(PACKINGS):
        size = BITS[whole] // 8
        for thread in range(THREADS):
            source = BYTES[thread, :size].reshape(n, size // n)
            assert out[i, thread, :size].tobytes() == source[::-1].tobytes(), whole


def texts() -> Iterator[str]:
    """Every PTX text of this file, for the census."""
    for group in (load_texts(), store_texts()):
        yield from (text for _, _, text in group)
    yield from (address_text(), offset_text(), packing_text())
