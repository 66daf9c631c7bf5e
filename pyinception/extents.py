"""Checks and counts that all specs share: ints, pairs, padding, windows, work and traffic."""

from collections.abc import Iterable
from dataclasses import field
from math import inf, prod
from numbers import Real
from operator import index
from typing import Any

LIMIT = 2**31 - 1  # extents and parameters stay inside int32; products are taken in Python ints
FLOAT_BYTES = 4

Pair = tuple[int, int]
Shape = tuple[int, int, int, int]


def integer(function: str, argument: str, value: Any, least: int) -> int:
    """``value`` as an int in [least, 2^31 - 1]; TypeError or ValueError names the argument."""
    try:
        number = index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        kind = type(value).__name__
        raise TypeError(f"{function}: {argument} is {value!r} ({kind}), expected an int")
    if not least <= number <= LIMIT:
        raise ValueError(f"{function}: {argument} is {number}, expected {least} ... {LIMIT}")
    return number


def real(
    function: str,
    argument: str,
    value: Any,
    least: float = 0,
    below: float = inf,
    most: float = inf,
) -> None:
    """Raise an error that names the argument unless least <= ``value`` < below and <= most."""
    if isinstance(value, bool) or not isinstance(value, Real):
        kind = type(value).__name__
        raise TypeError(f"{function}: {argument} is {value!r} ({kind}), expected a number")
    if not least <= float(value) < below or float(value) > most:
        bound = "finite" if below == inf else f"below {below:g}"
        bound = bound if most == inf else f"at most {most:g}"
        text = f"expected at least {least:g}, {bound}"
        raise ValueError(f"{function}: {argument} is {value}, {text}")


def pair(function: str, argument: str, value: Any, least: int) -> Pair:
    """An int, meaning both axes, or a pair (rows, columns)."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{function}: {argument} is {value!r}, expected an int or a pair")
        rows, columns = value
        return integer(function, argument, rows, least), integer(function, argument, columns, least)
    number = integer(function, argument, value, least)
    return number, number


def input_shape(function: str, value: Any, *axes: str) -> tuple[int, ...]:
    """``value`` as the extents of one of ``axes``, such as "N H W C"; N may be 0, no other one."""
    if not isinstance(value, (tuple, list)) or len(value) not in [len(a.split()) for a in axes]:
        wanted = " or ".join(f"({', '.join(letters.split())})" for letters in axes)
        raise ValueError(f"{function}: input_shape is {value!r}, expected {wanted}")
    return tuple(
        integer(function, f"input_shape[{axis}]", extent, min(axis, 1))
        for axis, extent in enumerate(value)
    )


def padding_pair(function: str, value: Any, kernel: Pair) -> Pair:
    """``padding`` as (ph, pw): an int, a pair, "valid" = 0, or "same" = (kernel - 1) / 2."""
    if not isinstance(value, str):
        return pair(function, "padding", value, 0)
    if value == "valid":
        return 0, 0
    if value != "same":
        text = 'expected an int, a pair, "same" or "valid"'
        raise ValueError(f"{function}: padding is {value!r}, {text}")
    if kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
        raise ValueError(f'{function}: padding is "same", expected an odd kernel, not {kernel}')
    return kernel[0] // 2, kernel[1] // 2


def flag(function: str, argument: str, value: Any) -> None:
    """Raise TypeError naming the argument unless ``value`` equals True or False."""
    if value not in (False, True):
        raise TypeError(f"{function}: {argument} is {value!r}, expected True or False")


def flags(spec: Any, names: str) -> None:
    """Check switches that are on or off: True, False, or what equals one of them."""
    for name in names.split():
        flag(spec.function, name, getattr(spec, name))


def extents(spec: Any, letters: str) -> None:
    """Check every extent: at least 1, the batch N at least 0."""
    for letter in letters.split():
        integer(spec.function, letter, getattr(spec, letter), int(letter != "N"))


def window(spec: Any, kernel: Pair) -> None:
    """Check stride and padding, and that one window fits the padded image."""
    pair(spec.function, "stride", spec.stride, 1)
    pair(spec.function, "padding", spec.padding, 0)
    padded = spec.H + 2 * spec.padding[0], spec.W + 2 * spec.padding[1]
    if kernel[0] > padded[0] or kernel[1] > padded[1]:
        raise ValueError(
            f"{spec.function}: kernel (R, S) = {kernel} is larger than the padded image "
            f"(H + 2 ph, W + 2 pw) = {padded}"
        )


def caller(text: str) -> Any:
    """A field that names the public function in errors and takes no part in comparison."""
    return field(default=text, compare=False, repr=False)


def numbers(*shapes: Iterable[int]) -> int:
    return sum(prod(shape) for shape in shapes)


class Work:
    """Counts of arithmetic that every spec has."""

    @property
    def macs(self) -> int:
        """Multiply-adds, counting taps that fall on padding (the usual nominal count)."""
        return 0

    @property
    def flops(self) -> int:
        return 2 * self.macs


class Same(Work):
    """What ops share whose result has the shape of their input; parameters are left out."""

    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return 2 * FLOAT_BYTES * prod(self.shape)


class Map(Work):
    """What every spec over one map x (N, H, W, C) shares: no weights unless a subclass has some."""

    N: int
    H: int
    W: int
    C: int

    @property
    def x_shape(self) -> Shape:
        return self.N, self.H, self.W, self.C

    @property
    def y_shape(self) -> Shape:
        return self.x_shape

    @property
    def bytes(self) -> int:
        """Least traffic in float32: operands read once, the result written once."""
        return FLOAT_BYTES * numbers(self.x_shape, self.y_shape)
