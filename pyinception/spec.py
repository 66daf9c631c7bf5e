"""What is asked: frozen descriptions of one op on one shape.

Letters: N H W C input, K R S filter, P Q output. P, Q, multiply-adds and bytes are derived here and
nowhere else; how an op is done is a ``Plan`` (`dispatch.py`). Maps are NHWC, filters KRSC; pairs
are (rows, columns). ``function`` only names the caller in errors.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import prod

from pyinception.extents import (
    FLOAT_BYTES,
    Map,
    Pair,
    Same,
    Shape,
    Work,
    caller,
    extents,
    flags,
    integer,
    numbers,
    pair,
    window,
)
from pyinception.spec_separable import AddScaledSpec, DepthwiseConvSpec


@dataclass(frozen=True)
class ConvSpec(Map):
    """y = [relu](conv(x, w) + b): P = floor((H + 2 ph - R) / sh) + 1, Q alike."""

    N: int
    H: int
    W: int
    C: int
    K: int
    R: int
    S: int
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    relu: bool = False
    bias: bool = True
    function: str = caller("ConvSpec")

    def __post_init__(self) -> None:
        extents(self, "N H W C K R S")
        flags(self, "relu")
        window(self, self.kernel)

    @cached_property
    def kernel(self) -> Pair:
        return self.R, self.S

    @property
    def P(self) -> int:
        return (self.H + 2 * self.padding[0] - self.R) // self.stride[0] + 1

    @property
    def Q(self) -> int:
        return (self.W + 2 * self.padding[1] - self.S) // self.stride[1] + 1

    @property
    def w_shape(self) -> Shape:
        return self.K, self.R, self.S, self.C

    @cached_property
    def y_shape(self) -> Shape:
        return self.N, self.P, self.Q, self.K

    @property
    def macs(self) -> int:
        return prod(self.y_shape) * self.R * self.S * self.C

    @property
    def bytes(self) -> int:
        weights = numbers(self.w_shape) + self.K * self.bias
        return super().bytes + FLOAT_BYTES * weights


@dataclass(frozen=True)
class PoolSpec(Map):
    """Windowed maximum or mean; with ``ceil_mode`` Caffe's extents (module docs of `pool`)."""

    kind: str  # "max" or "avg"
    N: int
    H: int
    W: int
    C: int
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    ceil_mode: bool = False
    count_include_pad: bool = True
    function: str = caller("PoolSpec")

    def __post_init__(self) -> None:
        if self.kind not in ("max", "avg"):
            raise ValueError(f'{self.function}: kind is {self.kind!r}, expected "max" or "avg"')
        extents(self, "N H W C")
        flags(self, "ceil_mode count_include_pad")
        pair(self.function, "kernel", self.kernel, 1)
        window(self, self.kernel)
        if self.padding[0] >= self.kernel[0] or self.padding[1] >= self.kernel[1]:
            text = f"padding is {self.padding}, expected less than kernel = {self.kernel}"
            raise ValueError(f"{self.function}: {text}")
        if self.kind == "max" and self.kernel[0] * self.kernel[1] > 255:
            text = f"kernel is {self.kernel}, expected at most 255 taps (argmax is uint8)"
            raise ValueError(f"{self.function}: {text}")

    def _extent(self, n: int, axis: int) -> int:
        kernel, stride, padding = self.kernel[axis], self.stride[axis], self.padding[axis]
        room = n + 2 * padding - kernel
        if not self.ceil_mode:
            return room // stride + 1
        count = -(-room // stride) + 1
        # Caffe drops the last window if it would start at or beyond the image plus its padding.
        return count - int((count - 1) * stride >= n + padding)

    @property
    def P(self) -> int:
        return self._extent(self.H, 0)

    @property
    def Q(self) -> int:
        return self._extent(self.W, 1)

    @property
    def K(self) -> int:
        return self.C

    @property
    def y_shape(self) -> Shape:
        return self.N, self.P, self.Q, self.C


@dataclass(frozen=True)
class LrnSpec(Map):
    """y_c = x_c (k + alpha/size sum_{c' in window} x_c'^2)^-beta over (..., C) maps."""

    N: int
    H: int
    W: int
    C: int
    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0
    function: str = caller("LrnSpec")

    def __post_init__(self) -> None:
        extents(self, "N H W C")
        if integer(self.function, "size", self.size, 1) % 2 == 0:
            raise ValueError(f"{self.function}: size is {self.size}, expected an odd number")
        if not (self.alpha >= 0 and self.beta >= 0 and self.k > 0):
            text = f"(alpha, beta, k) = {(self.alpha, self.beta, self.k)}"
            raise ValueError(f"{self.function}: {text}, expected alpha >= 0, beta >= 0, k > 0")


@dataclass(frozen=True)
class LinearSpec(Work):
    """y = [relu](x w^T + b): x (N, C), w (K, C), y (N, K)."""

    N: int
    C: int
    K: int
    relu: bool = False
    bias: bool = True
    function: str = caller("LinearSpec")

    def __post_init__(self) -> None:
        extents(self, "N C K")
        flags(self, "relu")

    @property
    def y_shape(self) -> tuple[int, int]:
        return self.N, self.K

    @property
    def macs(self) -> int:
        return self.N * self.C * self.K

    @property
    def bytes(self) -> int:
        return FLOAT_BYTES * (self.N * (self.C + self.K) + self.K * (self.C + self.bias))


@dataclass(frozen=True)
class BatchNormSpec(Same):
    """y = [relu](gamma (x - mean) / sqrt(var + eps) + beta), per last axis of ``shape``."""

    shape: tuple[int, ...]
    eps: float = 1e-5
    relu: bool = False
    function: str = caller("BatchNormSpec")

    def __post_init__(self) -> None:
        for axis, extent in enumerate(self.shape):
            integer(self.function, f"extent {axis}", extent, int(axis > 0))
        flags(self, "relu")
        if not self.eps > 0:
            raise ValueError(f"{self.function}: eps is {self.eps}, expected more than 0")


@dataclass(frozen=True)
class DropoutSpec(Same):
    """y = x keep / (1 - p), keep where a Philox word is at least round(p 2^32)."""

    shape: tuple[int, ...]
    p: float
    function: str = caller("DropoutSpec")

    def __post_init__(self) -> None:
        if not 0 <= self.p < 1:
            raise ValueError(f"{self.function}: p is {self.p}, expected 0 <= p < 1")


@dataclass(frozen=True)
class SoftmaxCrossEntropySpec(Work):
    """loss_n = log sum_k exp(logits_nk) - logits_n,label: logits (N, K), labels (N,)."""

    N: int
    K: int
    function: str = caller("SoftmaxCrossEntropySpec")

    def __post_init__(self) -> None:
        extents(self, "N K")

    @property
    def bytes(self) -> int:
        return 2 * FLOAT_BYTES * self.N * self.K


Single = ConvSpec | PoolSpec | LrnSpec
Stage = Single | tuple[ConvSpec, ConvSpec]


def _parts(stage: Stage) -> tuple[Single, ...]:
    return stage if isinstance(stage, tuple) else (stage,)


@dataclass(frozen=True)
class BranchSpec(Map):
    """A chain of convs, pools, LRNs; the last may be a pair that forks (Inception-v3's E block).

    ``reduce_conv`` is the chain of two convolutions 1x1 -> RxS, ReLU after both.
    """

    stages: tuple[Stage, ...]
    function: str = caller("BranchSpec")

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError(f"{self.function}: stages is empty, expected at least one")
        if any(isinstance(stage, tuple) for stage in self.stages[:-1]):
            raise ValueError(f"{self.function}: only the last stage may be a pair")
        for before, after in self._links():
            for part in _parts(after):
                if part.x_shape != before.y_shape:
                    text = f"a stage takes {part.x_shape}, expected {before.y_shape}"
                    raise ValueError(f"{self.function}: {text}, the output of the stage before")
        if len({(part.x_shape, part.y_shape[:3]) for part in _parts(self.stages[-1])}) != 1:
            raise ValueError(f"{self.function}: the last pair's stages differ in input or N, P, Q")

    def _links(self) -> list[tuple[Single, Stage]]:
        pairs = zip(self.stages, self.stages[1:], strict=False)
        return [(before, after) for before, after in pairs if not isinstance(before, tuple)]

    @property
    def x_shape(self) -> Shape:
        return _parts(self.stages[0])[0].x_shape

    @cached_property
    def y_shape(self) -> Shape:
        last = _parts(self.stages[-1])
        return (*last[0].y_shape[:3], sum(part.y_shape[3] for part in last))

    @property
    def K(self) -> int:
        return self.y_shape[3]

    @property
    def macs(self) -> int:
        return sum(part.macs for stage in self.stages for part in _parts(stage))

    @property
    def is_reduce_conv(self) -> bool:
        """Whether this is the fused op's chain, 1x1 -> RxS with ReLU after both."""
        convs = [stage for stage in self.stages if isinstance(stage, ConvSpec)]
        if len(convs) != 2 or len(self.stages) != 2 or not all(conv.relu for conv in convs):
            return False
        first = convs[0]
        return (first.kernel, first.stride, first.padding) == ((1, 1), (1, 1), (0, 0))

    @property
    def bytes_unfused(self) -> int:
        """Least traffic stage by stage: every map between two stages is written and read."""
        return sum(part.bytes for stage in self.stages for part in _parts(stage))

    @property
    def bytes(self) -> int:
        """Least traffic of the fused chain: the maps between stages never reach memory."""
        return self.bytes_unfused - sum(
            FLOAT_BYTES * prod(before.y_shape) * (1 + len(_parts(after)))
            for before, after in self._links()
        )


@dataclass(frozen=True)
class InceptionSpec(Map):
    """Branches over one input, concatenated along channels in order."""

    branches: tuple[BranchSpec, ...]
    function: str = caller("InceptionSpec")

    def __post_init__(self) -> None:
        if not self.branches:
            raise ValueError(f"{self.function}: branches is empty, expected at least one")
        shapes = {(branch.x_shape, branch.y_shape[:3]) for branch in self.branches}
        if len(shapes) != 1:
            raise ValueError(f"{self.function}: branches differ in input or in N, P, Q: {shapes}")

    @staticmethod
    def of_widths(
        x_shape: Iterable[int],
        widths: Iterable[int],
        function: str = "InceptionSpec",
        third: int = 5,
    ) -> "InceptionSpec":
        """GoogLeNet's module: widths = (1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool proj).

        ``third`` is the extent of the third branch's filter: 5, or 3 as in torchvision's network.
        """
        N, H, W, C = x_shape
        n1, r3, n3, r5, n5, proj = widths
        pool = PoolSpec("max", N, H, W, C, (3, 3), (1, 1), (1, 1), function=function)

        def one(c: int, k: int) -> ConvSpec:
            return ConvSpec(N, H, W, c, k, 1, 1, relu=True, function=function)

        def square(c: int, k: int, side: int) -> ConvSpec:
            half = (side // 2, side // 2)
            return ConvSpec(N, H, W, c, k, side, side, (1, 1), half, True, function=function)

        chains: tuple[tuple[Stage, ...], ...] = (
            (one(C, n1),),
            (one(C, r3), square(r3, n3, 3)),
            (one(C, r5), square(r5, n5, third)),
            (pool, one(C, proj)),
        )
        branches = tuple(BranchSpec(chain, function=function) for chain in chains)
        return InceptionSpec(branches, function=function)

    @property
    def x_shape(self) -> Shape:
        return self.branches[0].x_shape

    @cached_property
    def y_shape(self) -> Shape:
        return (*self.branches[0].y_shape[:3], sum(branch.K for branch in self.branches))

    @property
    def is_googlenet(self) -> bool:
        """Whether the branches are those that `of_widths` makes."""
        convs = [[p for p in b.stages if isinstance(p, ConvSpec)] for b in self.branches]
        if [len(chain) for chain in convs] != [1, 2, 2, 1] or convs[2][1].R not in (3, 5):
            return False
        widths, third = [conv.K for chain in convs for conv in chain], convs[2][1].R
        return self == InceptionSpec.of_widths(self.x_shape, widths, third=third)

    @property
    def slices(self) -> tuple[slice, ...]:
        """The output channels of each branch."""
        stops = [sum(b.K for b in self.branches[: i + 1]) for i in range(len(self.branches))]
        return tuple(slice(stop - b.K, stop) for stop, b in zip(stops, self.branches, strict=True))

    @property
    def macs(self) -> int:
        return sum(branch.macs for branch in self.branches)

    @property
    def bytes_unfused(self) -> int:
        """Traffic of separate ops and a concatenation that reads and writes every branch."""
        concat = 2 * FLOAT_BYTES * prod(self.y_shape)
        return sum(branch.bytes_unfused for branch in self.branches) + concat

    @property
    def bytes(self) -> int:
        """Least traffic of the fused module: x read once, weights once, y written once."""
        again = (len(self.branches) - 1) * FLOAT_BYTES * prod(self.x_shape)
        return sum(branch.bytes for branch in self.branches) - again


_MapSpec = ConvSpec | DepthwiseConvSpec | PoolSpec | LrnSpec | BranchSpec | InceptionSpec
_OtherSpec = LinearSpec | BatchNormSpec | DropoutSpec | SoftmaxCrossEntropySpec | AddScaledSpec
Spec = _MapSpec | _OtherSpec
