"""What the reference asks of its arguments, the windows of convolutions and pools, ReLU and masks.

An op says its arguments in one line, "x NHWC, w KRSC, b K?": `check` reads it, checks kind, dtype,
rank and extents in that order, and gives back the windows where the op has a stride.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from math import inf, prod
from operator import index
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = Sequence[int]

_DTYPES = {"argmax": "uint8", "labels": "int8 int16 int32 int64 uint8 uint16 uint32"}
_TWO, _WORD = ((2,), 1, 2**31), ((), 0, 2**32)  # shape, least value, limit
_RANGES: dict[str, tuple[tuple[int, ...], int, float]]
_RANGES = {"stride": _TWO, "kernel": _TWO, "padding": ((2,), 0, 2**31), "size": ((), 1, 2**31)}
_RANGES |= {"seed": ((), 0, 2**64), "step": _WORD, "layer": _WORD, "first_sample": _WORD}
_RANGES |= {"p": ((), 0, 1), "eps": ((), 0, inf)}


def rectified(v: Array) -> Array:
    """+0 where v <= 0, else v."""
    return np.where(v <= 0, v.dtype.type(0), v)


def masked(gy: Array, y: Array | None) -> Array:
    """gy where y > 0, else 0; gy itself without y."""
    return gy if y is None else np.where(y > 0, gy, gy.dtype.type(0))


def over_pixels(v: Array) -> Array:
    """The sum over all axes but the last."""
    return cast(Array, v.sum(axis=tuple(range(v.ndim - 1))))


def require(right: Any, text: str, error: type[Exception] = ValueError) -> None:
    if not right:
        raise error(text)


def check(given: Mapping[str, Any], op: str, arguments: str) -> "Windows":
    """Check what is ``given``: ranges, then each of ``arguments`` ("x NHWC, b K?") in this order:
    kind, dtype, rank, extents. Returns the windows, for an op that has a stride.

    An axis is a capital letter, maybe with a small one or a digit, bound to the extent of its first
    use; a number is itself (S.1 are two axes), ``*`` any axes; ``?`` admits None; P and Q follow
    from the windows.
    """
    for name in [name for name in given if name in _RANGES]:
        (shape, least, limit), value = _RANGES[name], np.asarray(given[name])
        kinds = "iuf" if name in ("p", "eps") else "iu"
        right = value.shape == shape and value.dtype.kind in kinds
        right = right and value.min() >= least and value.max() < limit
        right = right and (name != "size" or value % 2 == 1)
        text = "a pair of ints" if shape else "an odd int" if name == "size" else "a number"
        require(right, f"{op}: {name} is {given[name]}, expected {text} in [{least}, {limit})")
    dims: dict[str, Any] = {"dtype": "float32 float64"}
    for name, letters in (argument.split() for argument in arguments.split(", ")):
        value, axes = given[name], re.findall(r"[A-Z][a-z0-9]?|\d|\*", letters)
        if value is None and "?" in letters:
            continue
        shape = tuple(map(index, value)) if name.endswith("shape") else np.shape(value)
        if not name.endswith("shape"):
            dtypes = _DTYPES.get(name, dims["dtype"])
            kind = str(value.dtype) if isinstance(value, np.ndarray) else type(value).__name__
            text = f"{op}: {name} is {kind}, expected an array of {dtypes.replace(' ', ' or ')}"
            require(kind in dtypes.split(), text, TypeError)
            dims["dtype"] = dims["dtype"] if name in _DTYPES else kind
        if "P" in axes and "P" not in dims:
            _bind_windows(op, dims, given)
        if "*" in axes:
            further = dims.setdefault("*", len(shape) + 1 - len(axes))
            axes[1:2] = [f"D{axis}" for axis in range(1, further + 1)]
        text = f"{op}: {name} has shape {shape}, expected ({', '.join(axes)})"
        require(len(shape) == len(axes), text)
        pairs = list(zip(axes, shape, strict=True))
        expected = tuple(int(a) if a.isdigit() else dims.setdefault(a, n) for a, n in pairs)
        require(shape == expected, f"{text} = {expected}")
        require(all(n >= (a != "N") for a, n in pairs), f"{text}, N >= 0 and others >= 1")
        if name in _DTYPES and value.size:
            limit = dims["K"] if name == "labels" else prod(given.get("kernel", (3, 3)))
            text = f"{op}: {name} spans [{value.min()}, {value.max()}], expected [0, {limit})"
            require(0 <= value.min() and value.max() < limit, text)
    if "stride" in given and "P" not in dims:
        _bind_windows(op, dims, given)
    return cast(Windows, dims.get("windows"))


def _bind_windows(op: str, dims: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Check that the windows fit, and bind P and Q; a pool's gy may be of either mode."""
    kernel = given.get("kernel", (dims.get("R"), dims.get("S")))
    geometry = (dims["H"], dims["W"]), kernel, given["stride"], given["padding"]
    outputs: dict[bool, list[int]] = {False: [], True: []}  # by ceil_mode
    for n, k, step, pad in zip(*geometry, strict=True):
        text = f"{op}: filter extent is {k}, expected at most {n + 2 * pad}, the padded image"
        require(k <= n + 2 * pad, text)
        text = f"{op}: padding is {pad}, expected less than the kernel's extent {k}"
        require(pad < k or "kernel" not in given, text)  # else a pooling window could be empty
        outputs[False].append((n + 2 * pad - k) // step + 1)
        count = -((k - n - 2 * pad) // step) + 1
        outputs[True].append(count - ((count - 1) * step >= n + pad))
    made = list(np.shape(given.get("gy", ()))[1:3]) == outputs[True] and "kernel" in given
    P, Q = outputs[given.get("ceil_mode", made)]
    dims.update(P=P, Q=Q, windows=Windows(*geometry, (P, Q)))


class Windows(NamedTuple):
    """Output (p, q) sees rows p sh - ph + r, columns q sw - pw + s of the image, r < R, s < S."""

    image: Shape  # (H, W)
    kernel: Shape  # (R, S)
    stride: Shape
    padding: Shape
    output: Shape  # (P, Q)

    def frame(self, batch: int, channels: int, dtype: npt.DTypeLike) -> tuple[Array, Array]:
        """Zeros that hold the padded image and every window whole; and the image inside them."""
        (H, W), _, _, (ph, pw), _ = self
        axes = zip(*self, strict=True)
        extents = [max(n + 2 * pad, (count - 1) * step + k) for n, k, step, pad, count in axes]
        framed = np.zeros((batch, *extents, channels), dtype)
        return framed, framed[:, ph : ph + H, pw : pw + W]

    def framed(self, x: Array) -> Array:
        framed, image = self.frame(x.shape[0], x.shape[3], x.dtype)
        image[...] = x
        return framed

    def taps(self) -> Iterator[tuple[int, int, Any]]:
        """(r, s, where): framed[where] is what tap (r, s) of every output sees, (N, P, Q, C)."""
        _, (R, S), (sh, sw), _, (P, Q) = self
        for r, s in np.ndindex(R, S):
            yield r, s, np.s_[:, r : r + (P - 1) * sh + 1 : sh, s : s + (Q - 1) * sw + 1 : sw]

    def cells(self, count_include_pad: bool, dtype: npt.DTypeLike) -> Array:
        """(1, P, Q, 1): pixels of the image in each window, or cells up to H + ph, W + pw."""
        (H, W), _, _, (ph, pw), _ = self
        framed, image = self.frame(1, 1, dtype)
        (framed[:, : H + 2 * ph, : W + 2 * pw] if count_include_pad else image)[...] = 1
        return cast(Array, sum(framed[where] for _, _, where in self.taps()))
