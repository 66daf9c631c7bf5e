"""Rules of control, barriers, warp collectives and matrix instructions."""

from collections.abc import Iterator
from typing import Any

from pyinception.emulator.rules import Emit, Rule, rule


def rules() -> Iterator[Rule]:
    yield from _control()
    yield from _barriers()
    yield from _collectives()
    yield from _matrices()


def _control() -> Iterator[Rule]:
    for uni in ("", ".uni"):
        yield from rule(f"bra{uni}", "@", lambda to: to.branch())
        yield from rule(f"ret{uni}", "", lambda to: to.leave())
        for results in ("", "() "):
            for arguments in ("", " ()"):
                yield from rule(f"call{uni}", f"{results}@{arguments}", lambda to: to.call())
    yield from rule("exit", "", lambda to: to.exit())
    yield from rule("trap", "", lambda to: f"emu::trap(t, {to.site});")
    yield from rule("nanosleep.u32", "u32", lambda to: f"emu::back_edge(t, {to.site});")
    fences = ["membar.{cta,gl,sys}", "fence.{sc,acq_rel}.{cta,gpu,sys}"]
    for opcode in fences:
        yield from rule(opcode, "", lambda to: f"emu::fence(t, {to.site});")


# ---- barriers of a block -------------------------------------------------------------------------
def _barriers() -> Iterator[Rule]:
    # bar is barrier with .aligned.
    for stem, aligned in (
        ("bar{,.cta}", ""), ("barrier{,.cta}", ".aligned"), ("barrier{,.cta}", ""),
    ):  # fmt: skip
        together = stem.startswith("bar{") or aligned != ""
        tail = "" if together else ", false"
        yield from rule(f"{stem}.sync{aligned}", "u32", _barrier("bar_sync", False, tail))
        yield from rule(f"{stem}.sync{aligned}", "u32 u32", _barrier("bar_sync", True, tail))
        yield from rule(f"{stem}.arrive{aligned}", "u32 u32", _barrier("bar_arrive", True, tail))
        for name, kind in (("popc", "u32"), ("and", "pred"), ("or", "pred")):
            for counted in (False, True):
                slots = f"={kind} u32{' u32' if counted else ''} !pred"
                emit = _reduction(name, counted, kind == "pred", tail)
                yield from rule(f"{stem}.red.{name}{aligned}.{kind}", slots, emit)
    yield from rule(
        "bar.warp.sync", "u32", lambda to: f"emu::warp_sync(t, {to.source(0)}, {to.site});"
    )


def _barrier(function: str, counted: bool, tail: str) -> Emit:
    def emit(to: Any) -> str:
        count = f"emu::barrier_count(t, {to.source(1)}, {to.site})" if counted else "0"
        return f"emu::{function}(t, {to.source(0)}, {count}, {to.site}{tail});"

    return emit


def _reduction(name: str, counted: bool, truth: bool, tail: str) -> Emit:
    def emit(to: Any) -> str:
        count = f"emu::barrier_count(t, {to.source(2)}, {to.site})" if counted else "0"
        predicate = to.source(3 if counted else 2)
        kind = f"emu::BarrierRed::k{name.capitalize()}"
        code = f"emu::bar_red<{kind}>(t, {to.source(1)}, {count}, {predicate}, {to.site}{tail})"
        return to.assign(0, f"{code} != 0" if truth else code)

    return emit


# ---- collectives of a warp -----------------------------------------------------------------------
def _collectives() -> Iterator[Rule]:
    for mode in ("up", "down", "bfly", "idx"):
        yield from rule(
            f"shfl.sync.{mode}.b32", "=b32|pred b32 u32 u32 u32",
            _pair(f"emu::shfl<emu::Shfl::k{mode.capitalize()}>(t, $1, $2, $3, $4, $site)",
                  "v.value", "v.predicate"),
        )  # fmt: skip
    for name in ("all", "any", "uni"):
        code = f"emu::vote_{name}(t, $1, $2, $site)"
        yield from rule(f"vote.sync.{name}.pred", "=pred !pred u32", code)
    yield from rule("vote.sync.ballot.b32", "=b32 !pred u32", "emu::vote_ballot(t, $1, $2, $site)")
    for t in ("b32", "b64"):
        yield from rule(f"match.any.sync.{t}", f"=b32 {t} u32", "emu::match_any(t, $1, $2, $site)")
        yield from rule(
            f"match.all.sync.{t}", f"=b32|pred {t} u32",
            _pair("emu::match_all(t, $1, $2, $site)", "v.mask", "v.predicate"),
        )  # fmt: skip
    operations = {f"{name}.b32": name.capitalize() for name in ("and", "or", "xor")}
    operations |= {"add.u32": "Add", "add.s32": "Add", "min.u32": "MinU", "min.s32": "MinS",
                   "max.u32": "MaxU", "max.s32": "MaxS"}  # fmt: skip
    for name, kind in operations.items():
        code = f"emu::redux<emu::Redux::k{kind}>(t, $1, $2, $site)"
        yield from rule(f"redux.sync.{name}", "=b32 b32 u32", code)
    yield from rule("activemask.b32", "=b32", "emu::activemask(t)")
    elected = _pair("emu::elect(t, $1, $site)", "v.lane", "v.is_leader")
    yield from rule("elect.sync", "=u32|pred u32", elected)


def _pair(call: str, first: str, second: str) -> Emit:
    def emit(to: Any) -> str:
        return f"{{ const auto v = {to.fill(call)}; {to.assign_pair(0, first, second)} }}"

    return emit


# ---- matrices ------------------------------------------------------------------------------------
def _matrices() -> Iterator[Rule]:
    for count in (1, 2, 4):
        for trans in ("", ".trans"):
            for space in (".shared", ".shared::cta"):
                opcode = f"ldmatrix.sync.aligned.m8n8.x{count}{trans}{space}.b16"
                emit = _load_matrix(count, trans != "")
                yield from rule(opcode, f"={{b32*{count}}} [shared]", emit)
    yield from rule(
        "movmatrix.sync.aligned.m8n8.trans.b16", "=b32 b32", "emu::transpose(t, $1, $site)"
    )
    # (shape, D A B C, kind of the operands, registers of A and B)
    shapes = [("m16n8k16", t, 4, 2) for t in ("f16", "bf16")]
    shapes += [("m16n8k8", t, 2, 1) for t in ("f16", "bf16")]
    shapes += [("m16n8k8", "tf32", 4, 2), ("m16n8k4", "tf32", 2, 1)]
    for shape, kind, a, b in shapes:
        for sum_kind in ("f32", "f16") if kind == "f16" else ("f32",):
            c = ("b32", 2) if sum_kind == "f16" else ("f32", 4)
            opcode = f"mma.sync.aligned.{shape}.row.col.{sum_kind}.{kind}.{kind}.{sum_kind}"
            slots = f"={{{c[0]}*{c[1]}}} {{b32*{a}}} {{b32*{b}}} {{{c[0]}*{c[1]}}}"
            depth = int(shape.rpartition("k")[2])
            function = (
                f"emu::mma<emu::{kind}, {depth}, {'emu::f16' if sum_kind == 'f16' else 'float'}>"
            )
            yield from rule(opcode, slots, _multiply(function, c[1]))


def _load_matrix(count: int, trans: bool) -> Emit:
    def emit(to: Any) -> str:
        parts = to.assign_items(0, [f"v.v[{i}]" for i in range(count)])
        arguments = f"{count}, {'true' if trans else 'false'}"
        call = f"emu::ldmatrix<{arguments}>(t, {to.address(1, 'shared')}, {to.site})"
        return f"{{ const auto v = {call}; {parts} }}"

    return emit


def _multiply(function: str, results: int) -> Emit:
    def emit(to: Any) -> str:
        a, b, c = ("{{" + ", ".join(to.items(i)) + "}}" for i in (1, 2, 3))
        parts = to.assign_items(0, [f"v.v[{i}]" for i in range(results)])
        return f"{{ const auto v = {function}(t, {a}, {b}, {c}, {to.site}); {parts} }}"

    return emit
