"""Rules of floating-point arithmetic and comparison; values in ``csrc/emulator/floating.h``.

``.ftz`` flushes the operands and the result, ``.sat`` and ``.relu`` act on the rounded result.
"""

from collections.abc import Iterator

from pyinception.emulator.rules import Rule, rule
from pyinception.emulator.rules_integer import ORDERED, combinations

DIRECTED = {"rz": "zero", "rm": "down", "rp": "up"}
UNORDERED = (*ORDERED, "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan")
HALVES = ("f16", "f16x2", "bf16", "bf16x2")


def rules() -> Iterator[Rule]:
    yield from _arithmetic()
    yield from _half_arithmetic()
    yield from _division()
    yield from _approximations()
    yield from _signs_and_extremes()
    yield from _comparison()
    yield from _half_comparison()


def call(function: str, count: int, ftz: bool = False, after: str = "") -> str:
    """``after(ftz(function(ftz($1), ...)))``"""
    operands = [f"emu::ftz(${i})" if ftz else f"${i}" for i in range(1, count + 1)]
    text = f"emu::{function}({', '.join(operands)})"
    text = f"emu::ftz({text})" if ftz else text
    return f"emu::{after}({text})" if after else text


def _types(t: str, count: int) -> str:
    return f"={t}" + f" {t}" * count


def _arithmetic() -> Iterator[Rule]:
    for name, count in (("add", 2), ("sub", 2), ("mul", 2), ("fma", 3), ("mad", 3)):
        function = "fma" if name == "mad" else name
        nearest = (".rn",) if count == 3 else ("", ".rn")
        modes = dict.fromkeys(nearest, function)
        modes |= {f".{m}": f"{function}_round<emu::Round::{w}>" for m, w in DIRECTED.items()}
        for mode, rounded in modes.items():
            for ftz in ("", ".ftz"):
                for sat in ("", ".sat"):
                    code = call(rounded, count, bool(ftz), sat[1:])
                    yield from rule(f"{name}{mode}{ftz}{sat}.f32", _types("f32", count), code)
        for mode in nearest:
            yield from rule(f"{name}{mode}.f64", _types("f64", count), call(function, count))


def _half_arithmetic() -> Iterator[Rule]:
    for t in HALVES:
        is_f16 = t.startswith("f16")
        for name in ("add", "sub", "mul"):
            for mode in ("", ".rn"):
                yield from rule(f"{name}{mode}.{t}", _types(t, 2), call(name, 2))
                if not is_f16:
                    continue
                for ftz, sat in ((".ftz", ""), ("", ".sat"), (".ftz", ".sat")):
                    code = call(name, 2, bool(ftz), sat[1:])
                    yield from rule(f"{name}{mode}{ftz}{sat}.{t}", _types(t, 2), code)
        for ftz in ("", ".ftz") if is_f16 else ("",):
            for after in ("", ".sat", ".relu") if is_f16 else ("", ".relu"):
                code = call("fma", 3, bool(ftz), after[1:])
                yield from rule(f"fma.rn{ftz}{after}.{t}", _types(t, 3), code)


def _division() -> Iterator[Rule]:
    for ftz in ("", ".ftz"):
        flush = bool(ftz)
        yield from rule(f"div.approx{ftz}.f32", _types("f32", 2), call("div_approx", 2, flush))
        for name, count in (("div", 2), ("rcp", 1), ("sqrt", 1)):
            near = "div.full" if name == "div" else f"{name}.approx"
            yield from rule(f"{near}{ftz}.f32", _types("f32", count), call(name, count, flush))
            yield from rule(f"{name}.rn{ftz}.f32", _types("f32", count), call(name, count, flush))
            for mode, word in DIRECTED.items():
                code = call(f"{name}_round<emu::Round::{word}>", count, flush)
                yield from rule(f"{name}.{mode}{ftz}.f32", _types("f32", count), code)
    for name, count in (("div", 2), ("rcp", 1), ("sqrt", 1)):
        yield from rule(f"{name}.rn.f64", _types("f64", count), call(name, count))


def _approximations() -> Iterator[Rule]:
    for name in ("rsqrt", "sin", "cos", "lg2", "ex2"):
        for ftz in ("", ".ftz"):
            yield from rule(f"{name}.approx{ftz}.f32", "=f32 f32", call(name, 1, bool(ftz)))
    yield from rule("rsqrt.approx.f64", "=f64 f64", call("rsqrt", 1))
    for name in ("rcp", "rsqrt"):
        yield from rule(f"{name}.approx.ftz.f64", "=f64 f64", call(f"{name}_gross", 1))
    yield from rule("tanh.approx.f32", "=f32 f32", call("tanh", 1))
    for t in HALVES:
        yield from rule(f"tanh.approx.{t}", f"={t} {t}", call("tanh", 1))
        ftz = "" if t.startswith("f16") else ".ftz"
        yield from rule(f"ex2.approx{ftz}.{t}", f"={t} {t}", call("ex2", 1, bool(ftz)))


def _signs_and_extremes() -> Iterator[Rule]:
    for t in ("f32", "f64", *HALVES):
        flushes = ("", ".ftz") if t in ("f32", "f16", "f16x2") else ("",)
        for ftz in flushes:
            for name in ("neg", "abs"):
                yield from rule(f"{name}{ftz}.{t}", _types(t, 1), call(name, 1, bool(ftz)))
            for name in ("min", "max"):
                for keep in ("", ".NaN") if t != "f64" else ("",):
                    function = name + ("_nan" if keep else "")
                    code = call(function, 2, bool(ftz))
                    yield from rule(f"{name}{ftz}{keep}.{t}", _types(t, 2), code)
                    if t == "f64":
                        continue
                    a, b = (f"emu::ftz(${i})" if ftz else f"${i}" for i in (1, 2))
                    magnitude = f"emu::{function}(emu::abs({a}), emu::abs({b}))"
                    code = f"emu::xorsign({magnitude}, {a}, {b})"
                    opcode = f"{name}{ftz}{keep}.xorsign.abs.{t}"
                    yield from rule(opcode, _types(t, 2), code)
    for t in ("f32", "f64"):
        yield from rule(f"copysign.{t}", _types(t, 2), call("copysign", 2))
        for test, function in (
            ("finite", "is_finite"), ("infinite", "is_infinite"), ("number", "is_number"),
            ("notanumber", "is_nan"), ("normal", "is_normal"), ("subnormal", "is_subnormal"),
        ):  # fmt: skip
            yield from rule(f"testp.{test}.{t}", f"=pred {t}", call(function, 1))


def _comparison() -> Iterator[Rule]:
    for t in ("f32", "f64"):
        for ftz in ("", ".ftz") if t == "f32" else ("",):
            a, b = (f"emu::ftz(${i})" if ftz else f"${i}" for i in (1, 2))
            for compare in UNORDERED:
                test = f"emu::{compare}({a}, {b})"
                for modifiers, third, holds, fails in combinations(compare, ftz):
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


def _half_comparison() -> Iterator[Rule]:
    """Scalars give p and its complement, pairs the results of their two lanes."""
    for t in HALVES:
        pair = t.endswith("x2")
        for ftz in ("", ".ftz") if t.startswith("f16") else ("",):
            a, b = (f"emu::ftz(${i})" if ftz else f"${i}" for i in (1, 2))
            for compare in UNORDERED:
                lanes = [
                    f"emu::{compare}(emu::lane({a}, {i}), emu::lane({b}, {i}))" for i in (0, 1)
                ]
                test = f"emu::{compare}({a}, {b})"
                for modifiers, third, holds, fails in combinations(compare, ftz):
                    if pair:
                        first, second = (holds.replace("$is", one) for one in lanes)
                    else:
                        first, second = (one.replace("$is", test) for one in (holds, fails))
                    operands = f"{t} {t}{third}"
                    yield from rule(
                        f"setp.{modifiers}.{t}", f"=pred|pred {operands}", f"{first} ;; {second}"
                    )
                    if third:
                        continue
                    lane = t.removesuffix("x2")
                    if pair:
                        code = f"emu::ones<emu::{lane}>({first}, {second})"
                        mask = f"({first} ? 0xffffu : 0u) | ({second} ? 0xffff0000u : 0u)"
                        yield from rule(f"set.{modifiers}.{t}.{t}", f"={t} {operands}", code)
                        yield from rule(f"set.{modifiers}.u32.{t}", f"=u32 {operands}", mask)
                    else:
                        code = f"emu::round_to<emu::{lane}>({first} ? 1 : 0)"
                        yield from rule(f"set.{modifiers}.{t}.{t}", f"={t} {operands}", code)
                        mask = f"static_cast<uint16_t>(({first}) ? 0xffff : 0)"
                        yield from rule(f"set.{modifiers}.u16.{t}", f"=u16 {operands}", mask)
