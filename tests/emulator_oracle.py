"""What PTX says of every value opcode, written from the opcode's text alone.

``case_of(opcode)`` gives the types of results and sources and a function from source bits to result
bits (or ``NAN``: any NaN will do). It reads the modifiers itself and shares nothing with the
emulator's rules. Opcodes with side effects are not values: it returns None for them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import emulator_formats as formats
from emulator_formats import BITS, NAN, decode, encode, signed, wrap
from emulator_oracle_integer import integer_case

Function = Callable[..., Sequence[int | str]]


@dataclass(frozen=True)
class Case:
    results: tuple[str, ...]
    sources: tuple[str, ...]
    function: Function
    ulps: int = 0  # by which an approximation may differ, in units of the last place


APPROXIMATE = {
    "sin": math.sin, "cos": math.cos, "tanh": math.tanh, "rsqrt": lambda x: 1 / math.sqrt(x),
    "lg2": math.log2, "ex2": lambda x: 2.0**x,
}  # fmt: skip
MODES = ("rn", "rz", "rm", "rp")


def case_of(opcode: str) -> Case | None:
    parts = opcode.split(".")
    stem, modifiers, t = parts[0], parts[1:-1], parts[-1]
    lanes = t.endswith("x2") and t[0] in "fb"
    lane = t.removesuffix("x2")
    if stem == "mov":
        return Case((t,), (t,), lambda a: [a])
    if stem == "cvt":
        return _convert(parts[1:])
    if stem in ("setp", "set"):
        return _compare(stem, parts[1:])
    if stem in ("selp", "slct"):
        return _select(stem, modifiers, t)
    if stem in ("testp", "copysign") or lane not in formats.FORMATS:
        return _classes(stem, modifiers, t) or _integers(opcode)
    if stem in (
        "add",
        "sub",
        "mul",
        "fma",
        "mad",
        "div",
        "rcp",
        "sqrt",
        "min",
        "max",
        "neg",
        "abs",
    ):
        function, count = _arithmetic(stem, modifiers, lane)
    elif stem in APPROXIMATE:
        function, count = _approximation(stem, modifiers, lane), 1
    else:
        return None
    if not lanes:
        ulps = int("approx" in modifiers or "full" in modifiers)
        if t == "f64" and modifiers == ["approx", "ftz"]:
            ulps = 2 << 32  # these read and write upper halves only
        return Case((t,), (t,) * count, lambda *s: [function(*s)], ulps)

    def both(*sources: int) -> list[int | str]:
        low = function(*(s & 0xFFFF for s in sources))
        high = function(*(s >> 16 for s in sources))
        return [(low, high)]  # type: ignore[list-item]

    return Case((t,), (t,) * count, both, 1 if "approx" in modifiers else 0)


def _integers(opcode: str) -> Case | None:
    found = integer_case(opcode)
    return Case(*found) if found else None


def _finish(exact: formats.Exact, t: str, mode: str, modifiers: Sequence[str]) -> int | str:
    bits = encode(exact, t, mode)
    if "ftz" in modifiers and not formats.is_nan_bits(bits, t):
        bits = encode(formats.flush(decode(bits, t), t), t)
    value = decode(bits, t)
    if "sat" in modifiers:
        if math.isnan(value) or value <= 0:
            return 0
        return encode(Fraction(1), t) if value > 1 else bits
    if "relu" in modifiers:
        return formats.canonical_nan(t) if math.isnan(value) else bits if value > 0 else 0
    return NAN if math.isnan(value) else bits


def _arithmetic(
    stem: str, modifiers: Sequence[str], t: str
) -> tuple[Callable[..., int | str], int]:
    mode = next((m for m in modifiers if m in MODES), "rn")
    sign = 1 << (BITS[t] - 1)

    def read(bits: int) -> float:
        x = decode(bits, t)
        return formats.flush(x, t) if "ftz" in modifiers else x

    if stem in ("neg", "abs"):

        def change(a: int) -> int:
            if "ftz" in modifiers and not formats.is_nan_bits(a, t):
                a = encode(read(a), t)
            return a ^ sign if stem == "neg" else a & ~sign

        return change, 1
    if stem in ("min", "max"):

        def choose(a: int, b: int) -> int:
            x, y = read(a), read(b)
            if "xorsign" in modifiers:
                negative = (a ^ b) & sign
                best = formats.extreme(stem, abs(x), abs(y), "NaN" in modifiers)
                return encode(best, t) & ~sign | negative
            return encode(formats.extreme(stem, x, y, "NaN" in modifiers), t)

        return choose, 2
    exact = {
        "add": formats.add, "sub": lambda a, b, m: formats.add(a, -b, m), "mul": formats.mul,
        "fma": formats.fma, "mad": formats.fma, "div": formats.div, "sqrt": formats.sqrt,
        "rcp": lambda a, m: formats.div(1.0, a, m),
    }[stem]  # fmt: skip
    count = {"fma": 3, "mad": 3, "rcp": 1, "sqrt": 1}.get(stem, 2)

    def compute(*sources: int) -> int | str:
        values = [read(s) for s in sources]
        if stem == "div" and "approx" in modifiers and 2.0**126 < abs(values[1]) < math.inf:
            if not math.isfinite(values[0]):
                return NAN
            return encode(math.copysign(0.0, values[0]) * math.copysign(1.0, values[1]), t)
        return _finish(exact(*values, mode), t, mode, modifiers)

    return compute, count


def _approximation(stem: str, modifiers: Sequence[str], t: str) -> Callable[[int], int | str]:
    def compute(bits: int) -> int | str:
        x = decode(bits, t)
        x = formats.flush(x, t) if "ftz" in modifiers else x
        if math.isnan(x):
            return NAN
        special = {
            ("lg2", 0.0): -math.inf, ("lg2", math.inf): math.inf, ("ex2", -math.inf): 0.0,
            ("ex2", math.inf): math.inf, ("tanh", math.inf): 1.0, ("tanh", -math.inf): -1.0,
            ("rsqrt", math.inf): 0.0,
        }  # fmt: skip
        if stem == "rsqrt" and x == 0:
            return encode(math.copysign(math.inf, x), t)
        if (stem, x) in special:
            return encode(special[stem, x], t)
        if (stem in ("lg2", "rsqrt") and x < 0) or (stem in ("sin", "cos") and math.isinf(x)):
            return NAN
        if stem == "ex2" and abs(x) > 1100:
            return encode(0.0 if x < 0 else math.inf, t)
        if stem in ("sin", "tanh") and x == 0:
            return bits if "ftz" not in modifiers else encode(x, t)
        return _finish(APPROXIMATE[stem](x), t, "rn", modifiers)

    return compute


# ---- comparison and selection --------------------------------------------------------------------
ORDERED = {
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
}  # fmt: skip
UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
LOGIC = {"and": lambda x, y: x and y, "or": lambda x, y: x or y, "xor": lambda x, y: x != y}


def _holds(compare: str, a: int, b: int, t: str, ftz: bool) -> bool:
    if not formats.is_float(t):
        return ORDERED[UNSIGNED.get(compare, compare)](signed(a, t), signed(b, t))
    x, y = decode(a, t), decode(b, t)
    if ftz:
        x, y = formats.flush(x, t), formats.flush(y, t)
    unordered = math.isnan(x) or math.isnan(y)
    if compare in ("num", "nan"):
        return unordered == (compare == "nan")
    if unordered:
        return compare.endswith("u") and compare not in ORDERED
    return ORDERED[compare if compare in ORDERED else compare[:-1]](x, y)


def _compare(stem: str, parts: Sequence[str]) -> Case:
    compare, t = parts[0], parts[-1]
    logic = next((LOGIC[p] for p in parts if p in LOGIC), None)
    ftz, lane = "ftz" in parts, t.removesuffix("x2")
    pair = lane != t

    def test(a: int, b: int, c: int = 0) -> tuple[bool, bool]:
        if pair:
            low = _holds(compare, a & 0xFFFF, b & 0xFFFF, lane, ftz)
            high = _holds(compare, a >> 16, b >> 16, lane, ftz)
            return (logic(low, bool(c)), logic(high, bool(c))) if logic else (low, high)
        is_so = _holds(compare, a, b, t, ftz)
        return (logic(is_so, bool(c)), logic(not is_so, bool(c))) if logic else (is_so, not is_so)

    sources = (t, t, "pred") if logic else (t, t)
    if stem == "setp":
        return Case(("pred", "pred"), sources, lambda *s: [int(b) for b in test(*s)])
    d = parts[-2]

    def value(*s: int) -> list[int]:
        first, second = test(*s)
        if pair:
            one = 0xFFFF if d == "u32" else encode(Fraction(1), lane)
            return [first * one | second * one << 16]
        ones = encode(Fraction(1), d) if formats.is_float(d) else wrap(-1, d)
        return [ones if first else 0]

    return Case((d,), sources, value)


def _select(stem: str, modifiers: Sequence[str], t: str) -> Case:
    if stem == "selp":
        return Case((t,), (t, t, "pred"), lambda a, b, p: [a if p else b])
    d = modifiers[-1]

    def select(a: int, b: int, c: int) -> list[int]:
        x = decode(c, "f32") if t == "f32" else signed(c, "s32")
        if "ftz" in modifiers:
            x = formats.flush(x, "f32")
        return [a if x >= 0 else b]

    return Case((d,), (d, d, t), select)


def _classes(stem: str, modifiers: Sequence[str], t: str) -> Case | None:
    if stem == "copysign":
        sign = 1 << (BITS[t] - 1)
        return Case((t,), (t, t), lambda a, b: [b & ~sign | a & sign])
    if stem != "testp":
        return None
    least = 2.0 ** (2 - (1 << (formats.FORMATS[t][0] - 1)))
    tests = {
        "finite": math.isfinite, "infinite": math.isinf, "notanumber": math.isnan,
        "number": lambda x: not math.isnan(x), "subnormal": lambda x: 0 < abs(x) < least,
        "normal": lambda x: math.isfinite(x) and (x == 0 or abs(x) >= least),
    }  # fmt: skip
    return Case(("pred",), (t,), lambda a: [int(tests[modifiers[0]](decode(a, t)))])


# ---- conversion ----------------------------------------------------------------------------------
def _convert(parts: Sequence[str]) -> Case:
    *modifiers, d, s = parts
    mode = next((m for m in modifiers if m[:2] in MODES), "rn")
    lane = d.removesuffix("x2")
    if lane != d:
        narrow = _narrow(lane, s, mode, modifiers)
        return Case((d,), (s, s), lambda a, b: [(narrow(b), narrow(a))])  # type: ignore[list-item]
    if formats.is_float(d) and formats.is_float(s) and d != s:
        narrow = _narrow(d, s, mode, modifiers)
        return Case((d,), (s,), lambda a: [narrow(a)])

    def convert(a: int) -> list[int | str]:
        if not formats.is_float(s) and not formats.is_float(d):
            value = signed(a, s)
            if "sat" in modifiers:
                value = max(_least(d), min(_most(d), value))
            return [wrap(value, d)]
        if not formats.is_float(s):
            return [_finish(Fraction(signed(a, s)), d, mode, modifiers)]
        x = decode(a, s)
        x = formats.flush(x, s) if "ftz" in modifiers else x
        if formats.is_float(d):
            whole = formats.integral(x, mode) if mode.endswith("i") else x
            bits = _finish(whole, d, "rn", modifiers)
            return [formats.canonical_nan(d) if bits == NAN and mode.endswith("i") else bits]
        if math.isnan(x):
            return [1 << (BITS[d] - 1) if s == "f64" or BITS[d] == 64 else 0]
        if math.isinf(x):
            return [wrap(_most(d) if x > 0 else _least(d), d)]
        return [wrap(max(_least(d), min(_most(d), int(formats.integral(x, mode)))), d)]

    return Case((d,), (s,), convert)


def _least(t: str) -> int:
    return -(1 << (BITS[t] - 1)) if t[0] == "s" else 0


def _most(t: str) -> int:
    return (1 << (BITS[t] - (t[0] == "s"))) - 1


def _narrow(d: str, s: str, mode: str, modifiers: Sequence[str]) -> Callable[[int], int | str]:
    def convert(a: int) -> int | str:
        x = decode(a, s)
        if "ftz" in modifiers and s == "f32":
            x = formats.flush(x, s)
        flushes = [m for m in modifiers if m != "ftz" or d == "f32"]
        bits = _finish(x, d, mode, [m for m in flushes if m != "relu"])
        if bits == NAN:
            return NAN if d == "f64" else formats.canonical_nan(d)
        if "satfinite" in modifiers and math.isinf(decode(int(bits), d)):
            bits = encode(Fraction(10) ** 400 * (1 if x > 0 else -1), d, "rz")
        return 0 if "relu" in modifiers and decode(int(bits), d) <= 0 else bits

    return convert
