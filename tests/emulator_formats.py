"""Number formats for the emulator's tests: exact values as fractions, rounding by definition.

Nothing here knows the emulator's code. A float of any format is a Python float (all are exact in
one); the result of exact arithmetic is a `Fraction`, ``"nan"``, an infinity or a signed zero.
"""

import math
from fractions import Fraction

FORMATS = {"f16": (5, 10), "bf16": (8, 7), "f32": (8, 23), "f64": (11, 52), "tf32": (8, 10)}
BITS = {
    "pred": 1, "b8": 8, "u8": 8, "s8": 8, "b16": 16, "u16": 16, "s16": 16, "f16": 16, "bf16": 16,
    "b32": 32, "u32": 32, "s32": 32, "f32": 32, "f16x2": 32, "bf16x2": 32, "u16x2": 32,
    "s16x2": 32, "tf32": 32, "b64": 64, "u64": 64, "s64": 64, "f64": 64,
}  # fmt: skip
NAN = "nan"  # expected: any NaN
Exact = Fraction | float | str


def is_float(t: str) -> bool:
    return t in FORMATS


def wrap(value: int, t: str) -> int:
    return value & ((1 << BITS[t]) - 1)


def signed(bits: int, t: str) -> int:
    """The integer that ``bits`` stand for in an integer type."""
    bits = wrap(bits, t)
    return bits - (1 << BITS[t]) if t[0] == "s" and bits >> (BITS[t] - 1) else bits


def decode(bits: int, t: str) -> float:
    exponent_bits, mantissa_bits = FORMATS[t]
    if t == "tf32":
        bits >>= 13
    mantissa = bits & ((1 << mantissa_bits) - 1)
    exponent = bits >> mantissa_bits & ((1 << exponent_bits) - 1)
    sign = -1.0 if bits >> (exponent_bits + mantissa_bits) & 1 else 1.0
    bias = (1 << (exponent_bits - 1)) - 1
    if exponent == (1 << exponent_bits) - 1:
        return math.nan if mantissa else sign * math.inf
    if exponent == 0:
        return sign * math.ldexp(mantissa, 1 - bias - mantissa_bits)
    return sign * math.ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits)


def canonical_nan(t: str) -> int:
    return {"f64": 0x7FFFFFFFFFFFFFFF, "f32": 0x7FFFFFFF, "tf32": 0x7FFFFFFF}.get(t, 0x7FFF)


def encode(x: Exact, t: str, mode: str = "rn", zero_sign: float = 1.0) -> int:
    """Bits of x in format t; ``mode``: rn, rz, rm, rp or rna (ties away)."""
    exponent_bits, mantissa_bits = FORMATS[t]
    shift = 13 if t == "tf32" else 0
    sign_bit = 1 << (exponent_bits + mantissa_bits)
    infinity = ((1 << exponent_bits) - 1) << mantissa_bits
    if isinstance(x, str) or (isinstance(x, float) and math.isnan(x)):
        return canonical_nan(t)
    if isinstance(x, float):
        if math.isinf(x):
            return (infinity | (sign_bit if x < 0 else 0)) << shift
        if x == 0:
            zero_sign = x
        x = Fraction(x)
    if x == 0:
        return (sign_bit if math.copysign(1, zero_sign) < 0 else 0) << shift
    negative, size = x < 0, abs(x)
    least = 2 - (1 << (exponent_bits - 1))
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= Fraction(2) ** exponent > size
    exponent = max(exponent, least)
    scaled = size / Fraction(2) ** (exponent - mantissa_bits)
    kept, rest = scaled.numerator // scaled.denominator, scaled % 1
    half = Fraction(1, 2)
    up = {
        "rn": rest > half or (rest == half and kept & 1), "rz": False, "rna": rest >= half,
        "rm": negative and rest > 0, "rp": not negative and rest > 0,
    }[mode]  # fmt: skip
    code = kept + up + ((exponent - least) << mantissa_bits)
    if code >= infinity:
        finite = mode == "rz" or (mode == "rm" and not negative) or (mode == "rp" and negative)
        code = infinity - 1 if finite else infinity
    return (code | (sign_bit if negative else 0)) << shift


def is_nan_bits(bits: int, t: str) -> bool:
    return math.isnan(decode(bits, t))


def flush(x: float, t: str) -> float:
    least = 2 - (1 << (FORMATS[t][0] - 1))
    return math.copysign(0.0, x) if 0 < abs(x) < math.ldexp(1, least) else x


# ---- exact arithmetic ----------------------------------------------------------------------------
def _zero(negative: bool) -> float:
    return -0.0 if negative else 0.0


def _is_negative(x: float) -> bool:
    return math.copysign(1, x) < 0


def add(a: float, b: float, mode: str = "rn") -> Exact:
    if not (math.isfinite(a) and math.isfinite(b)):
        return a + b
    total = Fraction(a) + Fraction(b)
    if total:
        return total
    return _zero(_is_negative(a) if _is_negative(a) == _is_negative(b) else mode == "rm")


def mul(a: float, b: float, mode: str = "rn") -> Exact:
    if not (math.isfinite(a) and math.isfinite(b)):
        return a * b
    product = Fraction(a) * Fraction(b)
    return product if product else _zero(_is_negative(a) != _is_negative(b))


def fma(a: float, b: float, c: float, mode: str = "rn") -> Exact:
    if not (math.isfinite(a) and math.isfinite(b)):
        return a * b + c
    if not math.isfinite(c):
        return c
    total = Fraction(a) * Fraction(b) + Fraction(c)
    if total:
        return total
    negative = _is_negative(a) != _is_negative(b)
    return _zero(negative if negative == _is_negative(c) else mode == "rm")


def div(a: float, b: float, mode: str = "rn") -> Exact:
    negative = _is_negative(a) != _is_negative(b)
    if math.isnan(a) or math.isnan(b) or (a == 0 == b) or (math.isinf(a) and math.isinf(b)):
        return math.nan
    if math.isinf(a) or b == 0:
        return -math.inf if negative else math.inf
    if math.isinf(b) or a == 0:
        return _zero(negative)
    return Fraction(a) / Fraction(b)


def sqrt(a: float, mode: str = "rn") -> Exact:
    if math.isnan(a) or a < 0:
        return math.nan
    if a == 0 or math.isinf(a):
        return a
    x = Fraction(a) * 4**1200
    root = math.isqrt(x.numerator // x.denominator)
    exact = Fraction(root) ** 2 == x
    # What is cut off is less than one unit and moves no rounding but an exact one.
    return (Fraction(root) + (0 if exact else Fraction(1, 2))) / 2**1200


def extreme(name: str, a: float, b: float, keep_nan: bool) -> float:
    """min or max: -0 below +0; a NaN gives way to a number unless ``keep_nan``."""
    if math.isnan(a) or math.isnan(b):
        if keep_nan or (math.isnan(a) and math.isnan(b)):
            return math.nan
        return b if math.isnan(a) else a

    def order(x: float) -> tuple[float, float]:
        return x, math.copysign(1, x)

    return (min if name == "min" else max)(a, b, key=order)


def integral(x: float, mode: str) -> Exact:
    if not math.isfinite(x) or x == 0:
        return x
    exact = Fraction(x)
    down = math.floor(exact)
    whole = {
        "rni": round(exact), "rmi": down, "rpi": math.ceil(exact), "rzi": math.trunc(exact)
    }[mode]  # fmt: skip
    return Fraction(whole) if whole else math.copysign(0.0, x)
