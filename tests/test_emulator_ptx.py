"""The PTX parser: scopes, lines, data; what is refused, and in which words; linear time."""

import re
import time

import emulator_harness as harness
import pytest

from pyinception.emulator import parse, ptx, rules, translate


def statements(text: str) -> list[ptx.Statement]:
    function = parse.parse(harness.HEAD + text).functions["k"]
    return [item for item in function.body or () if isinstance(item, ptx.Statement)]


def entry(body: str) -> str:
    return f".visible .entry k(.param .u64 p) {{ .reg .b32 %r<9>; .reg .f32 %f<3>; {body} ret; }}"


# ---- reading -------------------------------------------------------------------------------------
def test_operands() -> None:
    text = entry(
        ".reg .pred %p, %q; .reg .b64 %rd<3>; "
        "@!%p ld.global.v2.b32 {%r1, _}, [%rd1+-8]; setp.lt.s32 %p|%q, %r1, -0x10; "
        "mov.b32 %f1, 0f3F800000; add.s32 %r1, %r2, 017; mov.u32 %r3, %tid.x; "
        "ld.param.u64 %rd2, [p+0]; shl.b32 %r4, %r3, 0b101; vote.sync.all.pred %p, !%q, -1;"
    )
    load, compare, constant, octal, special, param, binary, vote, _ = statements(text)
    r = [ptx.Register(f"%r{i}", "b32") for i in range(9)]
    assert load.guard == ptx.Register("%p", "pred") and load.guard_negated
    assert load.operands == (
        ptx.Vector((r[1], ptx.Sink())), ptx.Address(ptx.Register("%rd1", "b64"), -8),
    )  # fmt: skip
    assert compare.operands[0] == ptx.Pair(ptx.Register("%p", "pred"), ptx.Register("%q", "pred"))
    assert compare.operands[2] == ptx.Immediate(-16)
    assert constant.operands[1] == ptx.Immediate(0x3F800000, "f32")
    assert octal.operands[2] == ptx.Immediate(15)
    assert special.operands[1] == ptx.Special("%tid.x")
    assert param.operands[1] == ptx.Address(ptx.Symbol("p"), 0)
    assert binary.operands[2] == ptx.Immediate(5)
    assert vote.operands[1] == ptx.Negated(ptx.Register("%q", "pred"))
    assert rules.kinds(load.operands) == "{r,_},[r-]"


def test_names_of_scopes_are_kept_apart() -> None:
    text = entry(
        "{ .reg .b32 t; .reg.b32 u; mov.b32 t, 1; { .reg .b32 t; mov.b32 t, 2; bra done; done: } "
        "mov.b32 u, t; bra done; done: } { .reg .b32 t; mov.b32 t, 3; } bra done; done: "
    )
    one, two, first, copy, second, three, third, _ = statements(text)
    names = [s.operands[0].name for s in (one, two, three)]  # type: ignore[union-attr]
    assert len(set(names)) == 3
    assert copy.operands[1] == one.operands[0]
    targets = {s.operands[0].name for s in (first, second, third)}  # type: ignore[union-attr]
    assert len(targets) == 3


def test_names_that_would_meet_in_cpp_are_refused() -> None:
    text = entry(".reg .b32 a$b, a_b; mov.b32 a$b, 1; mov.b32 a_b, 2;")
    with pytest.raises(ptx.PtxError, match=r"k: the names a\$b and a_b cannot be kept apart"):
        translate.translate(parse.parse(harness.HEAD + text), "k")


def test_lines_follow_inlining() -> None:
    text = (
        '.file 1 "/a//kernel.cu"\n.file 2 "wrap.cuh"\n'
        ".visible .entry k() {\n.reg .b32 %r<2>;\n"
        ".loc 1 10 3\nmov.b32 %r0, 0;\n"
        ".loc 2 5 1, function_name $L__info_string0, inlined_at 1 11 7\nmov.b32 %r0, 1;\n"
        ".loc 2 8 2, function_name $L__info_string1+6, inlined_at 2 5 1\nmov.b32 %r0, 2;\n"
        ".loc 2 0 2\nmov.b32 %r0, 3;\n"
        ".loc 1 12 1\nret;\n}"
    )  # fmt: skip
    lines = [str(s.source) for s in statements(text)]
    assert lines == [
        "/a//kernel.cu:10",
        "wrap.cuh:5, inlined at /a//kernel.cu:11",
        "wrap.cuh:8, inlined at wrap.cuh:5, inlined at /a//kernel.cu:11",
        "wrap.cuh:8, inlined at wrap.cuh:5, inlined at /a//kernel.cu:11",
        "/a//kernel.cu:12",
    ]


def test_data() -> None:
    module = parse.parse(
        harness.HEAD + ".const .align 4 .b8 a[4] = {1, 0x2, 3};\n.global .f32 b = 0f3F800000;\n"
        ".extern .shared .align 16 .b8 s[];\n.shared .align 8 .b64 t[2][3]; // {comment}\n"
        ".section .debug_str { $L: .b8 1 }\n"
    )
    a, b, s, t = (module.variables[n] for n in "abst")
    assert (a.init, a.size, a.align) == (b"\1\2\3\0", 4, 4)
    assert b.init == b"\0\0\x80\x3f"
    assert (s.extern, s.size) == (True, 0)
    assert (t.size, t.align) == (48, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (".visible .entry k() { ret }", "semicolon"),
        (entry("bra nowhere;"), "no label nowhere"),
        (entry("@%r1 ret;"), "%r1 is no predicate"),
        (entry(".reg .v4 .b32 %v;"), "no support for the registers"),
        (".visible .entry k() { ret;", "the text ends inside k"),
        (".texref t;", "cannot read"),
        (".global .b32 g = other;", "initialiser"),
        (".address_size 32\n", "address_size is 32, expected 64"),
        (".visible .entry k() .reqnctapercluster 2 { ret; }", r"directive \.reqnctapercluster"),
    ],
)
def test_text_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(ptx.PtxError, match=message):
        parse.parse(harness.HEAD + text)


# ---- refusing ------------------------------------------------------------------------------------
REFUSED = [
    "mbarrier.init.shared.b64 [%r1], 1;",
    "mbarrier.try_wait.parity.shared.b64 %p, [%r1], 0;",
    "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1], 16, [%r2];",
    "cp.async.bulk.tensor.2d.shared::cluster.global.tile [%r1], [%rd1, {%r2, %r3}], [%r4];",
    "cp.async.mbarrier.arrive.shared.b64 [%r1];",
    "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1}, %rd1, %rd2, 1, 1, 1, 0, 0;",
    "wgmma.fence.sync.aligned;",
    "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r1], {%r2};",
    "setmaxnreg.inc.sync.aligned.u32 240;",
    "griddepcontrol.wait;",
    "createpolicy.range.global.L2::evict_last.b64 %rd1, [%rd2], 64, 64;",
    "fence.proxy.async;",
    "barrier.cluster.arrive;",
    "mapa.shared::cluster.u32 %r1, %r2, 1;",
    "mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 {%f1}, {%r1}, {%r2}, {%f2};",
    "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r1}, {%r1}, {%r2}, {%r3};",
    "mma.sp.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 {%f1}, {%r1}, {%r2}, {%f2}, %r1, 0;",
    "wmma.load.a.sync.aligned.row.m16n16k16.f16 {%r1}, [%rd1], 16;",
    "tex.2d.v4.f32.s32 {%f1}, [%rd1, {%r1, %r2}];",
    "vadd2.s32.s32.s32 %r1, %r2, %r3, %r4;",
    "cvt.rn.satfinite.e4m3x2.f32 %rs1, %f1, %f2;",
    "cvt.rn.f16.bf16 %rs1, %rs2;",
    "add.rz.f64 %fd1, %fd2, %fd2;",
    "fma.rn.oob.f16 %rs1, %rs1, %rs1, %rs2;",
    "shfl.up.b32 %r1, %r2, 1, 0;",
    "vote.all.pred %p, %q;",
    "brx.idx %r1, table;",
    "fns.b32 %r1, %r2, 0, 1;",
    "lop3.or.b32 %p|%q, %r1, %r2, %r3, 0x80, %q;",
    "ld.global.v8.b32 {%r1, %r1, %r1, %r1, %r1, %r1, %r1, %r1}, [%rd1];",
    "ld.mmio.relaxed.sys.global.u32 %r1, [%rd1];",
    "atom.global.v4.f32.add {%f1}, [%rd1], {%f1};",
    "multimem.red.relaxed.sys.global.add.u32 [%rd1], %r1;",
    "redux.sync.min.abs.f32 %f1, %f2, -1;",
    "brkpt;",
    "mov.u64 %rd1, %clock64;",
    "mov.u32 %r1, %smid;",
    # known opcodes with operands they do not take
    "add.s32 %r1, %r2, %f1;",
    "add.s32 %r1, %rd1, %r2;",
    "add.s32 %r1, %r2, 0f3F800000;",
    "add.s32 %r1, %r2, 4294967296;",
    "add.s32 %r1, %r2;",
    "add.s32 _, %r2, %r2;",
    "add.f32 %f1, %f1, 1;",
    "ld.global.b64 %r1, [%rd1];",
    "ld.global.b32 %r1, [%r2];",
    "ld.shared.b32 %r1, [k_param];",
    "selp.b32 %r1, %r2, %r3, !%p;",
    "cp.async.cg.shared.global [%r1], [%rd1], 8;",
    "call printf, (%r1);",
    "mov.u64 %rd1, unknown;",
    "bar.sync %rd1;",
    "ld.param.u32 %r1, [k_param+4];",
]


@pytest.mark.parametrize("line", REFUSED)
def test_refusal_names_opcode_line_and_kernel(line: str) -> None:
    text = (
        '.file 1 "some.cu"\n.visible .entry k(.param .u32 k_param) {\n'
        ".reg .pred %p, %q; .reg .b16 %rs<4>; .reg .b32 %r<9>; .reg .b64 %rd<4>; "
        ".reg .f32 %f<4>; .reg .f64 %fd<4>;\n.loc 1 77 3\n" + line + "\nret;\n}"
    )
    opcode = line.split()[0].rstrip(";")
    with pytest.raises(ptx.PtxError) as caught:
        translate.translate(parse.parse(harness.HEAD + text), "k")
    message = str(caught.value)
    assert message.startswith("k: ") and "cannot be emulated" in message
    assert opcode in message and "some.cu:77" in message
    for special in re.findall(r"%clock64|%smid|printf|unknown", line):
        assert special in message


def test_recursion_and_shared_globals_are_refused() -> None:
    text = ".func f() { call f; ret; }\n.visible .entry k() { call f; ret; }"
    with pytest.raises(ptx.PtxError, match="recursion of f"):
        translate.translate(parse.parse(harness.HEAD + text), "k")
    use = "{ .reg .b32 %r; ld.global.b32 %r, [g]; ret; }"
    text = f".global .b32 g;\n.visible .entry k() {use}\n.visible .entry m() {use}"
    module = parse.parse(harness.HEAD + text)
    with pytest.raises(ptx.PtxError, match="variable g of global memory is used by m"):
        translate.translate(module, "k")
    with pytest.raises(ptx.PtxError, match="entry is 'n', expected one of the module's: k, m"):
        translate.translate(module, "n")


# ---- time ----------------------------------------------------------------------------------------
def test_translation_is_linear_in_the_text() -> None:
    """Eight times the inline-assembly scopes take about eight times as long (quadratic: 64)."""

    def seconds(scopes: int) -> float:
        scope = "{ .reg .b32 a, b; .reg .pred p; setp.ne.b32 p, %r1, 0; @p bra skip; " \
                "mov.b32 a, %r1; add.s32 b, a, 1; mov.b32 %r1, b; skip: } "  # fmt: skip
        text = harness.HEAD + entry(scope * scopes)
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            translate.translate(parse.parse(text), "k")
            best = min(best, time.process_time() - start)
        return best

    seconds(10)
    assert seconds(2000) < 24 * seconds(250)
