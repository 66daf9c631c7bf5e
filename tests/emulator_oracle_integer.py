"""What PTX says of integer and bit opcodes: Python integers, one definition each."""

from collections.abc import Callable, Sequence

from emulator_formats import BITS, signed, wrap

Found = tuple[tuple[str, ...], tuple[str, ...], Callable[..., Sequence[int]]]


def integer_case(opcode: str) -> Found | None:
    """(result types, source types, function) of an opcode; None where it is no integer value."""
    parts = opcode.split(".")
    stem, modifiers, t = parts[0], parts[1:-1], parts[-1]
    for family in (_pairs, _products, _arithmetic, _carry, _bits, _bytes):
        found = family(stem, modifiers, t, parts)
        if found:
            return found
    return None


def _clamp(value: int, t: str) -> int:
    least = -(1 << (BITS[t] - 1)) if t[0] == "s" else 0
    return max(least, min((1 << (BITS[t] - (t[0] == "s"))) - 1, value))


def _divide(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


SIMPLE = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "min": min, "max": max,
    "div": _divide, "rem": lambda a, b: a - b * _divide(a, b),
    "neg": lambda a: -a, "abs": abs, "sad": lambda a, b, c: c + abs(a - b),
}  # fmt: skip


def _pairs(stem, modifiers, t, parts):
    if t not in ("u16x2", "s16x2"):
        return None
    lane = t.removesuffix("x2")

    def both(a, b):
        low = SIMPLE[stem](signed(a, lane), signed(b, lane))
        high = SIMPLE[stem](signed(a >> 16, lane), signed(b >> 16, lane))
        return [wrap(low, lane) | wrap(high, lane) << 16]

    return ("b32",), ("b32", "b32"), both


def _products(stem, modifiers, t, parts):
    if stem not in ("mul", "mad", "mul24", "mad24") or "cc" in modifiers:
        return None
    part = modifiers[0]
    result = t.replace("16", "32") if BITS[t] == 16 else t.replace("32", "64")
    result = result if part == "wide" else t

    def product(a, b, c=0):
        x, y = signed(a, t), signed(b, t)
        if stem.endswith("24"):
            narrow = (lambda v: (v & 0xFFFFFF) - ((v & 0x800000) << 1)) if t[0] == "s" else (
                lambda v: v & 0xFFFFFF
            )  # fmt: skip
            value = narrow(x) * narrow(y) >> (16 if part == "hi" else 0)
        else:
            value = x * y >> (BITS[t] if part == "hi" else 0)
        total = signed(value, result) + signed(c, result)
        return [wrap(_clamp(total, t) if "sat" in modifiers else total, result)]

    if stem.startswith("mad"):
        return (result,), (t, t, result), product
    return (result,), (t, t), product


def _arithmetic(stem, modifiers, t, parts):
    if stem not in SIMPLE or t[0] not in "us" or "cc" in modifiers:
        return None
    count = {"neg": 1, "abs": 1, "sad": 3}.get(stem, 2)

    def compute(*sources):
        value = SIMPLE[stem](*(signed(s, t) for s in sources))
        return [wrap(_clamp(value, t) if "sat" in modifiers else value, t)]

    return (t,), (t,) * count, compute


def _carry(stem, modifiers, t, parts):
    """Sources: a, b, (c,) and the carry that comes in; results: d and the carry that goes out."""
    names = ("addc", "subc", "madc")
    if stem not in names and "cc" not in modifiers:
        return None
    bits, takes, gives = BITS[t], stem in names, "cc" in modifiers

    def compute(*sources):
        *values, flag = sources
        flag_in = flag if takes else 0
        if stem.startswith("mad"):
            a, b, c = values
            shift = bits if "hi" in modifiers else 0
            x, y = wrap(signed(a, t) * signed(b, t) >> shift, t), c
        else:
            x, y = values
        total = x - y - flag_in if stem.startswith("sub") else x + y + flag_in
        out = (total < 0 or total >> bits != 0) if gives else bool(flag)
        return [wrap(total, t), int(out)]

    return (t, "pred"), (t,) * (3 if stem.startswith("mad") else 2) + ("pred",), compute


def _bits(stem, modifiers, t, parts):
    size = BITS.get(t, 32)
    mask = (1 << size) - 1
    two = {"and": lambda a, b: a & b, "or": lambda a, b: a | b, "xor": lambda a, b: a ^ b}
    one = {
        "not": lambda a: a ^ mask, "cnot": lambda a: int(a == 0),
        "brev": lambda a: int(f"{a:0{size}b}"[::-1], 2),
    }  # fmt: skip
    if stem in two:
        return (t,), (t, t), lambda a, b: [two[stem](a, b)]
    if stem in one:
        return (t,), (t,), lambda a: [one[stem](a)]
    if stem == "popc":
        return ("u32",), (t,), lambda a: [f"{a:b}".count("1")]
    if stem == "clz":
        return ("u32",), (t,), lambda a: [size - a.bit_length()]
    if stem == "shl":
        return (t,), (t, "u32"), lambda a, n: [wrap(a << min(n, 64), t)]
    if stem == "shr":
        return (t,), (t, "u32"), lambda a, n: [wrap(signed(a, t) >> min(n, 64), t)]
    if stem == "bfind":

        def find(a):
            value = signed(a, t)
            at = (~value if value < 0 else value).bit_length() - 1
            if at < 0:
                return [0xFFFFFFFF]
            return [size - 1 - at if "shiftamt" in modifiers else at]

        return ("u32",), (t,), find
    if stem == "bfe":

        def extract(a, first, count):
            first, count = first & 255, count & 255
            if count == 0:
                return [0]
            top = min(first + count - 1, size - 1)
            sign = t[0] == "s" and a >> top & 1
            value = (a >> first) & ((1 << count) - 1)
            known = max(0, min(count, size - first))
            return [wrap(value | (-1 << known if sign else 0), t)]

        return (t,), (t, "u32", "u32"), extract
    if stem == "bfi":

        def insert(a, b, first, count):
            first, count = first & 255, count & 255
            field = wrap(((1 << count) - 1) << first, t)
            return [b & ~field | a << first & field]

        return (t,), (t, t, "u32", "u32"), insert
    return None


def _bytes(stem, modifiers, t, parts):
    if stem == "shf":

        def funnel(a, b, n):
            n = n & 31 if "wrap" in modifiers else min(n, 32)
            both = b << 32 | a
            return [both << n >> 32 & 0xFFFFFFFF if "l" in modifiers else both >> n & 0xFFFFFFFF]

        return ("b32",), ("b32", "b32", "u32"), funnel
    if stem == "bmsk":

        def mask(a, b):
            a, b = (a & 31, b & 31) if "wrap" in modifiers else (min(a, 32), min(b, 32))
            return [((1 << b) - 1) << a & 0xFFFFFFFF]

        return ("b32",), ("u32", "u32"), mask
    if stem == "szext":

        def extend(a, n):
            n = n & 31 if "wrap" in modifiers else min(n, 32)
            value = a & ((1 << n) - 1)
            sign = t[0] == "s" and n and value >> (n - 1)
            return [wrap(value - (1 << n if sign else 0), t)]

        return (t,), (t, "u32"), extend
    if stem == "prmt":
        mode = parts[2] if len(parts) > 2 else ""
        return ("b32",), ("b32", "b32", "b32"), lambda a, b, c: [_permute(a, b, c, mode)]
    if stem in ("dp4a", "dp2a"):
        a_type, b_type = parts[-2], parts[-1]

        def dot(a, b, c):
            first = 2 if "hi" in modifiers else 0
            count, width = (4, "8") if stem == "dp4a" else (2, "16")
            total = c
            for i in range(count):
                x = signed(a >> int(width) * i, a_type[0] + width)
                total += x * signed(b >> 8 * (first + i), b_type[0] + "8")
            return [wrap(total, "u32")]

        return ("b32",), ("b32", "b32", "b32"), dot
    return None


def _permute(a: int, b: int, c: int, mode: str) -> int:
    data = [(b << 32 | a) >> 8 * i & 255 for i in range(8)]
    if not mode:
        chosen = []
        for i in range(4):
            selector = c >> 4 * i & 15
            byte = data[selector & 7]
            chosen.append((255 if byte & 128 else 0) if selector & 8 else byte)
        return int.from_bytes(bytes(chosen), "little")
    n = c & 3
    order = {
        "f4e": [n, n + 1, n + 2, n + 3],
        "b4e": [n, (n - 1) % 8, (n - 2) % 8, (n - 3) % 8],
        "rc8": [n] * 4,
        "ecl": [max(i, n) for i in range(4)],
        "ecr": [min(i, n) for i in range(4)],
        "rc16": [0, 1, 0, 1] if n % 2 == 0 else [2, 3, 2, 3],
    }[mode]
    return int.from_bytes(bytes(data[i] for i in order), "little")
