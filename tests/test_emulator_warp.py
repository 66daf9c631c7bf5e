"""Conformance of barriers, collectives and control in PTX: each opcode, with its modifiers."""

from collections.abc import Iterator
from itertools import count

import emulator_harness as harness
import numpy as np
import pytest

from pyinception.emulator import rules
from pyinception.emulator.device import EmulatorFault

pytestmark = harness.needs_cxx

THREADS = 64
LANE = np.arange(THREADS) % 32
WORDS = np.random.default_rng(9).integers(0, 2**32, THREADS).astype(np.uint64)
FULL = 0xFFFFFFFF


def opcodes(*stems: str) -> list[str]:
    return [opcode for opcode in rules.accepted() if opcode.split(".")[0] in stems]


def launch(text: str, name: str, results: int, **device: object) -> np.ndarray:
    out = np.zeros((results, THREADS), np.uint64)
    kernel = harness.build(text, name, checked=bool(device.pop("checked", False)))
    return harness.run(kernel, WORDS, out=out, threads=THREADS, **device)


class Writer:
    """Collects statements and numbers their results: ``keep`` stores a 32-bit register."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.rows = count()

    def add(self, *lines: str) -> None:
        self.lines += lines

    def keep(self, register: str = "%d", guard: str = "") -> int:
        row = next(self.rows)
        self.add(f"{guard}st.global.u32 [%out+{row * THREADS * 8}], {register};")
        return row

    def keep_predicate(self, predicate: str = "%q") -> int:
        self.add(f"selp.u32 %d, 1, 0, {predicate};")
        return self.keep()

    def text(self, name: str) -> str:
        head = [
            ".reg .b32 %d, %v, %x, %lane, %warp, %mine, %other, %neighbour, %mask;",
            ".reg .b64 %wide;", ".reg .pred %p, %q, %first;", ".shared .align 4 .b8 words[256];",
            "ld.global.u32 %v, [%in];", "ld.global.u64 %wide, [%in];", "mov.u32 %lane, %laneid;",
            "mov.u32 %warp, %warpid;", "mov.u32 %mine, words;", "mad.lo.u32 %mine, %t, 4, %mine;",
            "xor.b32 %x, %t, 32;", "mov.u32 %other, words;", "mad.lo.u32 %other, %x, 4, %other;",
            "setp.eq.u32 %first, %warp, 0;", "rem.u32 %x, %t, 3;", "setp.eq.u32 %p, %x, 0;",
        ]  # fmt: skip
        return harness.entry_text(name, "\n  ".join(head + self.lines))


# ---- barriers ------------------------------------------------------------------------------------
BARRIERS = [o for o in opcodes("bar", "barrier") if "warp" not in o]


def barrier_text() -> tuple[str, list[tuple[str, int, int]]]:
    """(opcode, row, what it must hold: 0 the other warp's value, 1 the reduction)"""
    to, rows = Writer(), []
    for i, opcode in enumerate(BARRIERS):
        if ".red." in opcode:
            result, target = ("%d", "%d") if "popc" in opcode else ("%q", "%q")
            for operands in ("1, %p", "2, 64, !%p"):
                to.add(f"{opcode} {target}, {operands};")
                row = to.keep() if result == "%d" else to.keep_predicate()
                rows.append((opcode, row, 1 if "!" not in operands else 2))
            continue
        to.add(f"add.u32 %x, %t, {1000 * i};")
        if ".arrive" in opcode:  # the first warp writes and goes on, the second one waits
            wait = opcode.replace(".arrive", ".sync")
            to.add(
                "@%first st.shared.u32 [%mine], %x;", f"@%first {opcode} 3, 64;",
                f"@!%first {wait} 3, 64;", "@!%first ld.shared.u32 %d, [%other];",
                "@%first add.u32 %d, %x, 32;", "bar.sync 0;",
            )  # fmt: skip
            rows.append((opcode, to.keep(), 1000 * i))
            continue
        for operands in ("0", "4, 64"):
            to.add(
                "st.shared.u32 [%mine], %x;", f"{opcode} {operands};",
                "ld.shared.u32 %d, [%other];", f"{opcode} {operands};",
            )  # fmt: skip
            rows.append((opcode, to.keep(), 1000 * i))
    return to.text("barriers"), rows


@pytest.mark.parametrize("checked", [False, True])
def test_barriers(checked: bool) -> None:
    text, rows = barrier_text()
    out = launch(text, "barriers", len(rows), checked=checked, order="greedy", seed=4)
    thread = np.arange(THREADS)
    holds = thread % 3 == 0
    for opcode, row, kind in rows:
        if ".red." in opcode:
            which = holds if kind == 1 else ~holds
            name = opcode.split(".red.")[1].split(".")[0]
            expected = {"popc": which.sum(), "and": which.all(), "or": which.any()}[name]
            assert (out[row] == int(expected)).all(), opcode
        elif ".arrive" in opcode:
            expected = kind + np.where(thread < 32, thread + 32, thread - 32)
            np.testing.assert_array_equal(out[row], expected, opcode)
        else:
            np.testing.assert_array_equal(out[row], kind + (thread ^ 32), opcode)


# ---- collectives ---------------------------------------------------------------------------------
def shuffle_source(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """The lane that is read and whether it was in range, as PTX tells it in pseudocode."""
    segment, clamp = c >> 8 & 31, c & 31
    b &= 31
    most = (lane & segment) | (clamp & ~segment)
    least = lane & segment
    if mode == "up":
        j, good = lane - b, lane - b >= most
    elif mode == "down":
        j, good = lane + b, lane + b <= most
    elif mode == "bfly":
        j, good = lane ^ b, (lane ^ b) <= most
    else:
        j = least | (b & ~segment)
        good = j <= most
    return (j if good else lane), good


SHUFFLES = [(b, c) for b in (0, 1, 3, 16, 31) for c in (0, 31, 0x181F, 0x1C1F, 0x1E03)]


def collective_text() -> tuple[str, list[tuple]]:
    to, rows = Writer(), []
    for opcode in opcodes("shfl"):
        for b, c in SHUFFLES:
            to.add(f"{opcode} %d|%q, %v, {b}, {c}, {FULL};")
            rows.append((opcode, (b, c), to.keep(), to.keep_predicate()))
    to.add("and.b32 %x, %lane, 3;", f"{opcodes('shfl')[0]} %d, %v, 1, 31, -1;")
    to.keep()
    for opcode in opcodes("vote"):
        for predicate in ("%p", "!%p"):
            target = "%d" if "ballot" in opcode else "%q"
            to.add(f"{opcode} {target}, {predicate}, {FULL};")
            row = to.keep() if target == "%d" else to.keep_predicate()
            rows.append((opcode, predicate, row))
    to.add("and.b32 %x, %v, 3;", "cvt.u64.u32 %wide, %x;")
    for opcode in opcodes("match"):
        value = "%wide" if opcode.endswith("b64") else "%x"
        target = "%d|%q" if ".all." in opcode else "%d"
        to.add(f"{opcode} {target}, {value}, {FULL};")
        row = to.keep()
        rows.append((opcode, "", row, to.keep_predicate() if ".all." in opcode else None))
    for opcode in opcodes("redux"):
        to.add(f"{opcode} %d, %v, {FULL};")
        rows.append((opcode, "", to.keep()))
    to.add(f"elect.sync %d|%q, {FULL};")
    rows.append(("elect.sync", "", to.keep(), to.keep_predicate()))
    to.add("activemask.b32 %d;")
    rows.append(("activemask.b32", "", to.keep()))
    return to.text("collectives"), rows


def test_collectives() -> None:
    text, rows = collective_text()
    out = launch(text, "collectives", 400)
    signed = WORDS.astype(np.uint32).astype(np.int32).astype(np.int64)
    for opcode, how, row, *second in rows:
        words = opcode.split(".")
        for warp in (0, 1):
            here = slice(32 * warp, 32 * warp + 32)
            value, result = WORDS[here], out[row, here]
            also = out[second[0], here] if second and second[0] is not None else None
            if words[0] == "shfl":
                source = [shuffle_source(words[2], lane, *how) for lane in range(32)]
                expected = [int(value[j]) for j, _ in source]
                assert also.tolist() == [int(good) for _, good in source], (opcode, how)
            elif words[0] == "vote":
                holds = (np.arange(THREADS)[here] % 3 == 0) == (how == "%p")
                ballot = sum(1 << i for i in range(32) if holds[i])
                full = {"all": holds.all(), "any": holds.any(), "uni": False}
                expected = [ballot if "ballot" in words else int(full[words[2]])] * 32
            elif words[0] == "match":
                same = [(value & np.uint64(3)) == (v & np.uint64(3)) for v in value]
                expected = [sum(1 << i for i in range(32) if row_[i]) for row_ in same]
                if words[1] == "all":
                    assert also.tolist() == [0] * 32
                    expected = [0] * 32
            elif words[0] == "redux":
                operand = signed[here] if words[-1] == "s32" else value.astype(np.int64)
                function = {"add": np.add, "min": np.minimum, "max": np.maximum,
                            "and": np.bitwise_and, "or": np.bitwise_or,
                            "xor": np.bitwise_xor}[words[2]]  # fmt: skip
                expected = [int(function.reduce(operand)) & FULL] * 32
            elif words[0] == "elect":
                leaders = result.tolist()
                assert len(set(leaders)) == 1 and sum(also) == 1 and also[int(leaders[0])] == 1
                continue
            else:  # activemask: any set of lanes that holds this one
                assert all(int(m) >> lane & 1 for lane, m in enumerate(result))
                continue
            assert result.tolist() == expected, (opcode, how)


def test_uniform_votes_and_matches() -> None:
    to = Writer()
    to.add(f"setp.ne.u32 %p, %warp, 7; vote.sync.uni.pred %q, %p, {FULL};")
    to.keep_predicate()
    to.add(f"vote.sync.all.pred %q, %p, {FULL};")
    to.keep_predicate()
    to.add(f"match.all.sync.b32 %d|%q, %warp, {FULL};")
    to.keep()
    to.keep_predicate()
    out = launch(to.text("uniform"), "uniform", 4)
    assert out[:2].tolist() == [[1] * THREADS] * 2
    assert out[2].tolist() == [FULL] * THREADS
    assert out[3].tolist() == [1] * THREADS


def test_a_shuffle_of_half_a_warp() -> None:
    to = Writer()
    to.add("mov.b32 %d, 0; setp.lt.u32 %p, %lane, 16; @!%p bra after;")
    to.add("shfl.sync.bfly.b32 %d, %v, 8, 31, 0xFFFF;", "after:", "bar.warp.sync -1;")
    to.keep()
    out = launch(to.text("half"), "half", 1)
    expected = np.where(LANE < 16, WORDS[np.arange(THREADS) ^ 8], 0)
    np.testing.assert_array_equal(out[0], expected)


# ---- control -------------------------------------------------------------------------------------
FUNCTIONS = """
.func (.param .b32 result) half_of(.param .b32 value)
{
  .reg .b32 %r;
  ld.param.b32 %r, [value];
  shr.u32 %r, %r, 1;
  st.param.b32 [result], %r;
  ret;
}
.func (.param .b32 result) chosen(.param .b32 value)
{
  .reg .b32 %r;
  .reg .pred %p;
  ld.param.b32 %r, [value];
  setp.gt.s32 %p, %r, 100;
  @%p bra.uni large;
  { .param .b32 a; .param .b32 b; st.param.b32 [a], %r; call.uni (b), half_of, (a);
    ld.param.b32 %r, [b]; }
  st.param.b32 [result], %r;
  ret.uni;
large:
  st.param.b32 [result], 7;
  ret;
}
.func nothing()
{
  ret;
}
"""


def control_text() -> str:
    to = Writer()
    call = (
        ".param .b32 a; .param .b32 b; st.param.b32 [a], {}; {} (b), {}, (a); ld.param.b32 %d, [b];"
    )
    for name in ("call", "call.uni"):
        to.add("add.u32 %x, %t, 70;", "{ " + call.format("%x", name, "chosen") + " }")
        to.keep()
    to.add("call nothing; call.uni nothing;")
    to.add("mov.u32 %d, 0;", "mov.u32 %x, 0;", "again:", "add.u32 %d, %d, %x;",
           "add.u32 %x, %x, 1;", "setp.le.u32 %p, %x, %t;", "@%p bra again;")  # fmt: skip
    to.keep()
    for opcode in opcodes("fence", "membar"):
        to.add(f"{opcode};")
    to.add("nanosleep.u32 20;", "{ bra inside; inside: }", "{ bra.uni inside; inside: }")
    for table in (0x80, 0xFE, 0x96, 0xE8, 0x1B):
        to.add(f"lop3.b32 %d, %v, %t, %lane, {table};")
        to.keep()
    specials = ("%tid.x", "%ntid.x", "%ctaid.x", "%nctaid.x", "%tid.y", "%ntid.y", "%ctaid.y",
                "%nctaid.y", "%tid.z", "%ntid.z", "%ctaid.z", "%nctaid.z", "%laneid", "%warpid",
                "WARP_SZ", "%lanemask_eq", "%lanemask_lt", "%lanemask_le", "%lanemask_gt",
                "%lanemask_ge", "%dynamic_smem_size")  # fmt: skip
    for special in specials:
        to.add(f"mov.u32 %d, {special};")
        to.keep()
    to.add("setp.ge.u32 %p, %lane, 16;", "@%p exit;", "mov.u32 %d, 1;")
    to.keep()
    return FUNCTIONS + to.text("control")


def test_control() -> None:
    out = launch(control_text(), "control", 40, shared=48)
    thread = np.arange(THREADS)
    chosen = np.where(thread + 70 > 100, 7, (thread + 70) // 2)
    np.testing.assert_array_equal(out[0], chosen)
    np.testing.assert_array_equal(out[1], chosen)
    np.testing.assert_array_equal(out[2], thread * (thread + 1) // 2)
    a, b, c = (x.astype(np.uint32) for x in (WORDS, thread, LANE))
    np.testing.assert_array_equal(out[3], a & b & c)
    np.testing.assert_array_equal(out[4], a | b | c)
    np.testing.assert_array_equal(out[5], a ^ b ^ c)
    np.testing.assert_array_equal(out[6], (a & b) | (a & c) | (b & c))
    table = sum(
        np.where(
            0x1B >> i & 1, (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c), 0
        )
        for i in range(8)
    )
    np.testing.assert_array_equal(out[7], table)
    one = np.uint64(1) << LANE.astype(np.uint64)
    below = one - np.uint64(1)
    full = np.uint64(FULL)
    expected = [
        thread, 64, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, LANE, thread // 32, 32, one, below, below | one,
        full & ~(below | one), full & ~below, 48,
    ]  # fmt: skip
    for i, value in enumerate(expected):
        np.testing.assert_array_equal(out[8 + i], value, str(i))
    np.testing.assert_array_equal(out[8 + len(expected)], LANE < 16)


def test_a_block_beyond_the_launch_bound_is_a_fault() -> None:
    text = Writer().text("bounded").replace("_out)\n{", "_out)\n.maxntid 8, 4\n{")
    kernel = harness.build(text, "bounded")
    harness.run(kernel, WORDS, out=np.zeros(THREADS, np.uint64), threads=32)
    with pytest.raises(EmulatorFault, match="launch bound"):
        harness.run(kernel, WORDS, out=np.zeros(THREADS, np.uint64), threads=33)


def test_a_shuffle_from_a_lane_that_takes_no_part_is_a_fault() -> None:
    to = Writer()
    to.add("setp.lt.u32 %p, %lane, 16; @!%p bra after;")
    to.add("shfl.sync.idx.b32 %d, %v, 20, 31, 0xFFFF;", "after:")
    with pytest.raises(EmulatorFault, match="takes no part"):
        launch(to.text("absent"), "absent", 1)


def texts() -> Iterator[str]:
    """Every PTX text of this file, for the census."""
    yield barrier_text()[0]
    yield collective_text()[0]
    yield control_text()
    yield Writer().text("registers") + harness.entry_text("warps", "bar.warp.sync -1; trap;")
