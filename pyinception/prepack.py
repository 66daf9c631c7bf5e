"""Packed weights as a value: filters in the order a kernel reads them, made once and reused.

A format is (filter shape, direction, algorithm, CPU level), independent of N, H, W;
``plan.format`` names the one a plan wants. A `Packed` is accepted wherever weights are.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from pyinception import config
from pyinception.backend import Array, core
from pyinception.workspace import aligned

packs: Counter[str] = Counter()  # format -> times packed since the start


@dataclass(frozen=True)
class Format:
    """Filters (K, R, S, C) as one direction of one algorithm reads them at one CPU level."""

    K: int
    R: int
    S: int
    C: int
    direction: str = "fprop"
    algorithm: str = "auto"
    level: str = ""
    dtype: str = "float32"

    @property
    def size(self) -> int:
        """Numbers of a packed array."""
        if self.winograd:  # transformed filters are float32, whatever comes in
            return self._words(self.C, "winograd") * (1 if self.dtype == "float32" else 2)
        if self.dtype == "float32":
            return self._words(self.C, "direct")
        return 2 * self._words(-(-self.C // 2), "direct")  # two channels are one word

    @cached_property
    def winograd(self) -> bool:
        """Whether the filters are transformed: a tile has more points than a filter has taps."""
        return self._words(self.C, self.algorithm) > self._words(self.C, "direct")

    def _words(self, C: int, algorithm: str) -> int:
        size = core().packed_size(self.K, self.R, self.S, C, self.direction, algorithm, self.level)
        return int(size)

    @property
    def bytes(self) -> int:
        """Memory of a packed array."""
        return self.size * (4 if self.dtype == "float32" else 2)

    def reads_like(self, other: "Format") -> bool:
        """Whether both name one order: "" is the host's level; "auto" is what it takes."""
        names = [
            (f.K, f.R, f.S, f.C, f.direction, f.level or core().host_level(), f.dtype)
            for f in (self, other)
        ]
        return names[0] == names[1] and self.winograd == other.winograd


@dataclass(frozen=True, eq=False)
class Packed:
    """Weights in a packed format: ``data`` is a 1-D array of ``format.size`` numbers."""

    format: Format
    data: Array

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The filter shape (K, R, S, C) that was packed."""
        return self.format.K, self.format.R, self.format.S, self.format.C

    @cached_property
    def looks(self) -> bytes:
        """What a call is known by (`known`): the format; the core checks the data's length."""
        return repr(astuple(self.format)).encode()

    @property
    def ndim(self) -> int:
        """Axes of the filter that was packed."""
        return 4

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the packed numbers: the format's."""
        kind: np.dtype[Any] = self.data.dtype
        return kind


def prepack(
    weights: Array, format: Format, out: Array | None = None, launches: Any = None
) -> Packed:
    """Pack filters (K, R, S, C), or a linear layer's (K, C), into ``format``.

    Parameters
    ----------
    weights : C-contiguous, of the format's dtype (float32 or bfloat16) and filter shape.
    format : which order; take ``plan.format`` for the one a plan wants.
    out : ``format.size`` numbers of that dtype, reused if given (a `Session` repacks in place).
    launches : a list of the core's that takes the work; None: it is done now (see `together`).

    Raises
    ------
    TypeError, ValueError
        If the dtype is not the format's; if the shapes differ.
    BackendError
        If the compiled core is missing: the reference takes unpacked weights only.
    """
    if not isinstance(format, Format):
        text = f"format is {format!r} ({type(format).__name__}), expected a Format, as of a plan"
        raise TypeError(f"prepack: {text}")
    wanted = (format.K, format.R, format.S, format.C)
    filters = weights[:, None, None, :] if weights.ndim == 2 else weights
    if tuple(filters.shape) != wanted:
        text = f"expected (K, R, S, C) = {wanted}"
        raise ValueError(f"prepack: weights has shape {tuple(weights.shape)}, {text}")
    if weights.dtype.name != format.dtype:
        raise TypeError(f"prepack: weights has dtype {weights.dtype}, expected {format.dtype}")
    if out is None:
        out = aligned(weights.itemsize * format.size).view(weights.dtype)
    filters = np.ascontiguousarray(filters)
    threads = config.get("threads")
    how = format.direction, format.algorithm, format.level, threads
    core().pack(filters, out, *how, launches)
    packs[str(format)] += 1
    return Packed(format, out)


@contextmanager
def together() -> Iterator[Callable[..., Packed]]:
    """``with together() as pack``: a `prepack` whose work is done at the end, all side by side.

    One filter has too few panels for a team of threads, and waking the team for each takes longer
    than packing most of them. Nothing may read the packed numbers inside the block.
    """
    launches = core().LaunchList()
    yield partial(prepack, launches=launches)
    launches.run(config.get("threads"))


def raw(weights: Array | Packed) -> Array:
    """The array that the core takes for ``weights``."""
    return weights.data if isinstance(weights, Packed) else weights
