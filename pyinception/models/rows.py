"""Networks as tables of text, one row per layer or module, as the papers print them.

    stage    := RxS[/stride][v] channels [linear]       convolution, batch norm, ReLU
              | sep RxS[/stride][v] channels [linear]   depthwise RxS, then the same of a 1x1
              | relu
              | max RxS[/stride][v|c] | avg RxS[/stride][v|c]
    chain    := stage > stage > ... [> stage & stage]   the last may fork into two
    module   := chain | chain | ...                     concatenated along channels, in order
    residual := res SCALE module                        relu(x + SCALE (1x1 of the module))
    sum      := stage + chain | x + chain               stage(x) or x itself, plus chain(x)

``v`` is "valid" (no padding), ``c`` no padding and Caffe's ceil extents; without either the padding
is "same". ``linear`` leaves the ReLU out; ``res SCALE linear ...`` the one after the sum.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pyinception import ops, workspace
from pyinception.backend import Array
from pyinception.layers import (
    AvgPool2d,
    Conv2d,
    ConvBatchNorm,
    Dropout,
    GlobalAvgPool,
    Linear,
    MaxPool2d,
    Relu,
    SeparableConv2d,
)
from pyinception.module import Module, Sequential
from pyinception.ops import concat
from pyinception.tensor import Tensor

Unit = Callable[..., Module]  # (in, out, kernel, stride, padding, relu=) -> convolution

_STAGE = re.compile(
    r"(?:(?P<pool>max|avg) |(?P<sep>sep) )?"
    r"(?P<r>\d+)x(?P<s>\d+)(?:/(?P<stride>\d+))?(?P<border>[vc])?"
    r"(?: (?P<out>\d+))?(?P<linear> linear)?"
)
_RESIDUAL = re.compile(r"res (?P<scale>[\d.]+) (?P<linear>linear )?(?P<rest>.+)")


def batch_norm_unit(eps: float = 1e-3) -> Unit:
    """conv without bias, batch norm, ReLU: the unit of every network since BN-Inception."""

    def unit(c: int, k: int, kernel: Any, stride: Any, padding: Any, *, relu: bool) -> Module:
        return ConvBatchNorm(c, k, kernel, stride, padding, bias=False, eps=eps, relu=relu)

    return unit


def plain_unit(c: int, k: int, kernel: Any, stride: Any, padding: Any, *, relu: bool) -> Module:
    """conv with bias (initially 0) and ReLU."""
    return Conv2d(c, k, kernel, stride, padding, relu=relu, bias=0.0)


class Mixed(Module):
    """y = [chain 1 | chain 2 | ...]: every chain's last layer writes its own channels of y.

    The layers are ``branch1.0``, ``branch1.1``, ... A 1x1 and the convolution after it, both with
    ReLU and neither with a batch norm (plain, or folded), run as one `reduce_conv`.
    """

    def __init__(
        self, in_channels: int, branches: Sequence[tuple[list[Module], list[Module], int]]
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        for i, (chain, last, _) in enumerate(branches, 1):
            layers = {str(n): layer for n, layer in enumerate(chain)}
            names = [str(len(chain))] if len(last) == 1 else [f"{len(chain)}a", f"{len(chain)}b"]
            setattr(self, f"branch{i}", Sequential(**layers, **dict(zip(names, last, strict=True))))
        self.forks = tuple(len(last) for _, last, _ in branches)
        self.out_channels = sum(channels for _, _, channels in branches)

    def forward(self, x: Tensor) -> Tensor:
        y: Array | None = None
        parts: list[Tensor] = []
        first = 0
        for i, fork in enumerate(self.forks, 1):
            layers = [layer for _, layer in getattr(self, f"branch{i}").children()]
            steps = _steps(layers[:-fork]) if fork > 1 else _steps(layers)
            t = x
            for step in steps if fork > 1 else steps[:-1]:
                t = _run(step, t)
            for step in [(layer,) for layer in layers[-fork:]] if fork > 1 else steps[-1:]:
                p, q, k = _extents(step, t.shape)
                if y is None:
                    y = workspace.empty((x.shape[0], p, q, self.out_channels), x.data)
                parts.append(_run(step, t, y[..., first : first + k]))
                first += k
        return concat(parts, out=y)


def _steps(layers: list[Any]) -> list[tuple[Any, ...]]:
    """The layers of a chain, each 1x1 that may be fused with its successor joined to it."""
    steps: list[tuple[Any, ...]] = []
    for layer in layers:
        if steps and len(steps[-1]) == 1 and _reduces(steps[-1][0]) and _takes_bias(layer):
            steps[-1] = (steps[-1][0], layer)
        else:
            steps.append((layer,))
    return steps


def _takes_bias(layer: Any) -> bool:
    return type(layer) is Conv2d and layer.relu and layer.bias is not None


def _reduces(layer: Any) -> bool:
    one = type(layer) is Conv2d and layer.weight.shape[1:3] == (1, 1)
    return one and _takes_bias(layer) and layer.stride in (1, (1, 1))


def _run(step: tuple[Any, ...], x: Tensor, out: Array | None = None) -> Tensor:
    if len(step) == 1:
        y: Tensor = step[0](x, out=out)
        return y
    reduce, conv = step
    op = ops.ReduceConv(conv.stride, conv.padding, out)
    return op(x, reduce.weight, reduce.bias, conv.weight, conv.bias)


def _extents(step: tuple[Any, ...], x_shape: Sequence[int]) -> tuple[int, int, int]:
    """(P, Q, channels) of a step's result."""
    shape: tuple[int, int, int] = step[-1].extents(x_shape)
    return shape


class Residual(Module):
    """y = [relu](x + scale (1x1 of the module's output, with bias)): Inception-ResNet's block."""

    def __init__(self, mixed: Mixed, scale: float, relu: bool) -> None:
        super().__init__()
        self.mixed = mixed
        self.out_channels = mixed.in_channels
        self.conv = Conv2d(mixed.out_channels, mixed.in_channels, 1, bias=0.0)
        self.scale, self.relu = scale, relu

    def forward(self, x: Tensor) -> Tensor:
        return ops.AddScaled(self.scale, self.relu)(x, self.conv(self.mixed(x)))


class Sum(Module):
    """y = shortcut(x) + chain(x), or x + chain(x) without a shortcut: Xception's block."""

    def __init__(self, shortcut: Module | None, chain: list[Module]) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.chain = Sequential(**{str(n): layer for n, layer in enumerate(chain)})

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.shortcut is None else self.shortcut(x)
        return ops.AddScaled(1.0, False)(kept, self.chain(x))


def build(name: str, text: str, c: int, unit: Unit, include_pad: bool = True) -> tuple[Module, int]:
    """(layer, output channels) of one row; ValueError names row and stage it can't read."""
    if found := _RESIDUAL.fullmatch(text):
        mixed = _mixed(name, found["rest"], c, unit, include_pad)
        return Residual(mixed, float(found["scale"]), not found["linear"]), c
    if " + " in text:
        return _sum(name, text, c, unit, include_pad)
    if not any(sign in text for sign in "|>&"):
        return _stage(name, text, c, unit, include_pad)
    mixed = _mixed(name, text, c, unit, include_pad)
    return mixed, mixed.out_channels


def _sum(
    name: str, text: str, in_channels: int, unit: Unit, include_pad: bool
) -> tuple[Module, int]:
    kept, _, chain_text = text.partition(" + ")
    shortcut, kept_channels = None, in_channels
    if kept != "x":
        shortcut, kept_channels = _stage(name, kept, in_channels, unit, include_pad)
    chain, c = [], in_channels
    for stage in chain_text.split(">"):
        layer, c = _stage(name, stage, c, unit, include_pad)
        chain.append(layer)
    if c != kept_channels:
        raise ValueError(f"row {name}: the sides of + have {kept_channels} and {c} channels")
    return Sum(shortcut, chain), c


def _mixed(name: str, text: str, in_channels: int, unit: Unit, include_pad: bool) -> Mixed:
    branches = []
    for chain_text in text.split("|"):
        if "relu" in re.split(r"\s*[>&]\s*", chain_text.strip()):
            raise ValueError(f"row {name}: relu stands by itself, not within a branch")
        *before, last = chain_text.split(">")
        chain, c = [], in_channels
        for stage in before:
            layer, c = _stage(name, stage, c, unit, include_pad)
            chain.append(layer)
        ends = [_stage(name, stage, c, unit, include_pad) for stage in last.split("&")]
        branches.append((chain, [layer for layer, _ in ends], sum(k for _, k in ends)))
    return Mixed(in_channels, branches)


def _stage(name: str, text: str, c: int, unit: Unit, include_pad: bool) -> tuple[Module, int]:
    if text.strip() == "relu":
        return Relu(), c
    found = _STAGE.fullmatch(text.strip())
    if found is None or (found["out"] is None) == (found["pool"] is None):
        raise ValueError(f"row {name}: can't read the stage {text.strip()!r}")
    kernel = int(found["r"]), int(found["s"])
    stride = int(found["stride"] or 1)
    padding = 0 if found["border"] else "same"
    if not found["pool"]:
        k = int(found["out"])
        if found["sep"]:
            pointwise = unit(c, k, 1, 1, 0, relu=not found["linear"])
            return SeparableConv2d(c, kernel, stride, padding, pointwise), k
        return unit(c, k, kernel, stride, padding, relu=not found["linear"]), k
    kind = MaxPool2d if found["pool"] == "max" else AvgPool2d
    return kind(kernel, stride, padding, found["border"] == "c", include_pad), c


class Network(Module):
    """x (N, H, W, C) -> logits (N, num_classes); in training (logits, head, ...) with heads.

    Parameters
    ----------
    rows : (name, text) from the input on; see the module's text.
    num_classes, in_channels : of the classifier, of the images.
    unit : makes a convolution.
    heads : row name -> function of its channels that makes an auxiliary classifier on its output.
    drop : share dropped before the classifier.
    include_pad : whether an average over the border counts the padding as cells.
    classifier : False ends with the mean over the map, for rows whose last maps are the classes.
    """

    def __init__(
        self,
        rows: Iterable[tuple[str, str]],
        num_classes: int,
        in_channels: int,
        unit: Unit,
        *,
        heads: dict[str, Callable[[int], Module]] | None = None,
        drop: float = 0.0,
        include_pad: bool = True,
        classifier: bool = True,
    ) -> None:
        super().__init__()
        c = in_channels
        self.rows: list[str] = []
        self.heads: dict[str, str] = {}
        for name, text in rows:
            layer, c = build(name, text, c, unit, include_pad)
            setattr(self, name, layer)
            self.rows.append(name)
            if heads and name in heads:
                self.heads[name] = f"aux{len(self.heads) + 1}"
                setattr(self, self.heads[name], heads[name](c))
        self.pool = GlobalAvgPool()
        self.drop = Dropout(drop)
        self.fc = Linear(c, num_classes) if classifier else None

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        auxiliary = []
        for name in self.rows:
            x = getattr(self, name)(x)
            if self.training and name in self.heads:
                auxiliary.append(getattr(self, self.heads[name])(x))
        x = self.drop(self.pool(x))
        logits = ops.flatten(x) if self.fc is None else self.fc(x)
        return (logits, *auxiliary) if auxiliary else logits

    def endpoints(self, x: Any, names: Iterable[str]) -> dict[str, Tensor]:
        """The maps after the rows ``names``, up to the last of them: features for other tasks."""
        return endpoints(self, self.rows, x, names)


def endpoints(net: Module, rows: Sequence[str], x: Any, names: Iterable[str]) -> dict[str, Tensor]:
    """Row -> its map, for a network whose layers ``rows`` run one after another."""
    wanted = set(names)
    if unknown := wanted.difference(rows):
        text = f"names has {sorted(unknown)}, expected some of {', '.join(rows)}"
        raise ValueError(f"endpoints: {text}")
    found: dict[str, Tensor] = {}
    for name in rows:
        if len(found) == len(wanted):
            break
        x = getattr(net, name)(x)
        if name in wanted:
            found[name] = x
    return found
