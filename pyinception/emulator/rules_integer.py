"""Rules of integers, bits, selection and predicates; values in ``csrc/emulator/integer.h``."""

from collections.abc import Iterator

from pyinception.emulator.rules import Rule, rule

INTEGERS = ("u16", "s16", "u32", "s32", "u64", "s64")
WIDE = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}
ORDERED = ("eq", "ne", "lt", "le", "gt", "ge")
UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}


def rules() -> Iterator[Rule]:
    yield from _arithmetic()
    yield from _carry()
    yield from _bits()
    yield from _selection()
    yield from _comparison()


def _arithmetic() -> Iterator[Rule]:
    for t in INTEGERS:
        for name in ("add", "sub", "min", "max"):
            yield from rule(f"{name}.{t}", f"={t} {t} {t}", f"emu::{name}($1, $2)")
        for name in ("div", "rem"):
            divide = f"emu::{name}($1, emu::divisor(t, $2, $site))"
            yield from rule(f"{name}.{t}", f"={t} {t} {t}", divide)
        for part in ("lo", "hi"):
            product = f"emu::mul_{part}($1, $2)"
            yield from rule(f"mul.{part}.{t}", f"={t} {t} {t}", product)
            yield from rule(f"mad.{part}.{t}", f"={t} {t} {t} {t}", f"emu::add({product}, $3)")
        yield from rule(f"sad.{t}", f"={t} {t} {t} {t}", "emu::sad($1, $2, $3)")
        if t[0] == "s":
            yield from rule(f"neg.{t}", f"={t} {t}", "emu::neg($1)")
            yield from rule(f"abs.{t}", f"={t} {t}", "emu::abs($1)")
    for t, w in WIDE.items():
        yield from rule(f"mul.wide.{t}", f"={w} {t} {t}", "emu::mul_wide($1, $2)")
        wide = "emu::add(emu::mul_wide($1, $2), $3)"
        yield from rule(f"mad.wide.{t}", f"={w} {t} {t} {w}", wide)
    for name in ("add", "sub"):
        yield from rule(f"{name}.sat.s32", "=s32 s32 s32", f"emu::{name}_sat($1, $2)")
    yield from rule("mad.hi.sat.s32", "=s32 s32 s32 s32", "emu::mad_hi_sat($1, $2, $3)")
    for t in ("u32", "s32"):
        for part in ("lo", "hi"):
            product = f"emu::mul24_{part}($1, $2)"
            yield from rule(f"mul24.{part}.{t}", f"={t} {t} {t}", product)
            yield from rule(f"mad24.{part}.{t}", f"={t} {t} {t} {t}", f"emu::add({product}, $3)")
    for t in ("u16x2", "s16x2"):
        for name in ("add", "min", "max"):
            code = f"emu::{name}(emu::{t}{{$1}}, emu::{t}{{$2}})"
            yield from rule(f"{name}.{t}", "=b32 b32 b32", code)
    kinds = {"u32": "uint8_t", "s32": "int8_t"}
    halves = {"u32": "uint16_t", "s32": "int16_t"}
    for a in kinds:
        for b in kinds:
            dot = f"emu::dp4a<{kinds[a]}, {kinds[b]}>($1, $2, $3)"
            yield from rule(f"dp4a.{a}.{b}", "=b32 b32 b32 b32", dot)
            for mode, first in (("lo", 0), ("hi", 2)):
                dot = f"emu::dp2a<{halves[a]}, {kinds[b]}, {first}>($1, $2, $3)"
                yield from rule(f"dp2a.{mode}.{a}.{b}", "=b32 b32 b32 b32", dot)


def _carry() -> Iterator[Rule]:
    for t in ("u32", "s32", "u64", "s64"):
        for name, function in (("add", "add_carry"), ("sub", "sub_borrow")):
            for opcode, taken, kept in (
                (f"{name}.cc", "false", "carry"),
                (f"{name}c.cc", "carry", "carry"),
                (f"{name}c", "carry", "unused_carry"),
            ):
                code = f"emu::{function}($1, $2, {taken}, {kept})"
                yield from rule(f"{opcode}.{t}", f"={t} {t} {t}", code)
        for part in ("lo", "hi"):
            for opcode, taken, kept in (
                (f"mad.{part}.cc", "false", "carry"),
                (f"madc.{part}.cc", "carry", "carry"),
                (f"madc.{part}", "carry", "unused_carry"),
            ):
                code = f"emu::add_carry(emu::mul_{part}($1, $2), $3, {taken}, {kept})"
                yield from rule(f"{opcode}.{t}", f"={t} {t} {t} {t}", code)


def _bits() -> Iterator[Rule]:
    for bits, t in ((16, "b16"), (32, "b32"), (64, "b64")):
        for name, sign in (("and", "&"), ("or", "|"), ("xor", "^")):
            code = f"static_cast<uint{bits}_t>($1 {sign} $2)"
            yield from rule(f"{name}.{t}", f"={t} {t} {t}", code)
        yield from rule(f"not.{t}", f"={t} {t}", f"static_cast<uint{bits}_t>(~$1)")
        yield from rule(f"cnot.{t}", f"={t} {t}", f"static_cast<uint{bits}_t>($1 == 0)")
        yield from rule(f"shl.{t}", f"={t} {t} u32", "emu::shl($1, $2)")
        for s in (t, f"u{bits}", f"s{bits}"):
            yield from rule(f"shr.{s}", f"={s} {s} u32", "emu::shr($1, $2)")
    for name, sign in (("and", "&&"), ("or", "||"), ("xor", "!=")):
        yield from rule(f"{name}.pred", "=pred pred pred", f"$1 {sign} $2")
    yield from rule("not.pred", "=pred pred", "!$1")
    for t in ("b32", "b64"):
        for name in ("popc", "clz"):
            yield from rule(f"{name}.{t}", f"=u32 {t}", f"emu::{name}($1)")
        yield from rule(f"brev.{t}", f"={t} {t}", "emu::brev($1)")
        yield from rule(f"bfi.{t}", f"={t} {t} {t} u32 u32", "emu::bfi($1, $2, $3, $4)")
    for t in ("u32", "s32", "u64", "s64"):
        yield from rule(f"bfe.{t}", f"={t} {t} u32 u32", "emu::bfe($1, $2, $3)")
        yield from rule(f"bfind.{t}", f"=u32 {t}", "emu::bfind($1)")
        yield from rule(f"bfind.shiftamt.{t}", f"=u32 {t}", "emu::bfind_shift($1)")
    for mode in ("clamp", "wrap"):
        for side in ("l", "r"):
            code = f"emu::shf_{side}_{mode}($1, $2, $3)"
            yield from rule(f"shf.{side}.{mode}.b32", "=b32 b32 b32 u32", code)
        yield from rule(f"bmsk.{mode}.b32", "=b32 u32 u32", f"emu::bmsk_{mode}($1, $2)")
        for t in ("u32", "s32"):
            yield from rule(f"szext.{mode}.{t}", f"={t} {t} u32", f"emu::szext_{mode}($1, $2)")
    yield from rule("lop3.b32", "=b32 b32 b32 b32 #", "emu::lop3<$4>($1, $2, $3)")
    yield from rule("prmt.b32", "=b32 b32 b32 b32", "emu::prmt($1, $2, $3)")
    for mode in ("f4e", "b4e", "rc8", "ecl", "ecr", "rc16"):
        yield from rule(f"prmt.b32.{mode}", "=b32 b32 b32 b32", f"emu::prmt_{mode}($1, $2, $3)")


def _selection() -> Iterator[Rule]:
    plain = ("b16", "b32", "b64", *INTEGERS, "f32", "f64")
    for t in plain:
        yield from rule(f"selp.{t}", f"={t} {t} {t} pred", "$3 ? $1 : $2")
        yield from rule(f"slct.{t}.s32", f"={t} {t} {t} s32", "$3 >= 0 ? $1 : $2")
        yield from rule(f"slct.{t}.f32", f"={t} {t} {t} f32", "$3 >= 0 ? $1 : $2")
        flushed = "emu::ftz($3) >= 0 ? $1 : $2"
        yield from rule(f"slct.ftz.{t}.f32", f"={t} {t} {t} f32", flushed)
        yield from rule(f"mov.{t}", f"={t} &{t}", "$1")
    yield from rule("mov.pred", "=pred pred", "$1")
    yield from rule("mov.pred", "=pred #", "$1 != 0")


def combinations(compare: str, ftz: str = "") -> Iterator[tuple[str, str, str, str]]:
    """(modifiers, operands after the two, holds, does not hold), without and with a third one."""
    yield compare + ftz, "", "$is", "!$is"
    for name, sign in (("and", "&&"), ("or", "||"), ("xor", "!=")):
        yield f"{compare}.{name}{ftz}", " !pred", f"($is) {sign} $3", f"!($is) {sign} $3"


def _comparison() -> Iterator[Rule]:
    for t in ("b16", "b32", "b64", *INTEGERS):
        compares = {"eq": "eq", "ne": "ne"} if t[0] == "b" else {c: c for c in ORDERED}
        if t[0] == "u":
            compares |= UNSIGNED
        for compare, function in compares.items():
            test = f"emu::{function}($1, $2)"
            for modifiers, third, holds, fails in combinations(compare):
                holds, fails = holds.replace("$is", test), fails.replace("$is", test)
                operands = f"{t} {t}{third}"
                yield from rule(
                    f"setp.{modifiers}.{t}", f"=pred|pred {operands}", f"{holds} ;; {fails}"
                )
                if third:
                    continue  # no compiler emits set with a third operand
                for d, one in (("u32", "~0u"), ("s32", "-1"), ("f32", "1.0f")):
                    value = f"{holds} ? {one} : 0"
                    yield from rule(f"set.{modifiers}.{d}.{t}", f"={d} {operands}", value)
