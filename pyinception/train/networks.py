"""Networks by name or by a table of one's own; the smallest one that has GoogLeNet's modules."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyinception import config, init, models
from pyinception.backend import Array, BackendError, beside, to_host
from pyinception.layers import (
    AvgPool2d,
    BatchNorm,
    ConvBatchNorm,
    Dropout,
    GlobalAvgPool,
    Inception,
    Linear,
    MaxPool2d,
    SeparableConv2d,
)
from pyinception.models.rows import Mixed, Network, batch_norm_unit
from pyinception.models.small_inception import SmallModule
from pyinception.module import Module
from pyinception.precision import PRECISIONS
from pyinception.tensor import Tensor, no_grad
from pyinception.train.recipe import RecipeError


class TinyInception(Module):
    """conv 3x3 -> max pool -> two modules with reduces, batch norms -> mean -> dropout -> logits.

    x (N, H, W, C) -> (N, num_classes). About 30,000 parameters: what trains in seconds and still
    runs the fused 1x1 -> 3x3 and 1x1 -> 5x5 forward and backward.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = ConvBatchNorm(in_channels, 32, 3)
        self.pool1 = MaxPool2d(3, 2, ceil_mode=True)
        #                                1x1 r3x3 3x3 r5x5 5x5 proj
        self.inception_a = Inception(32, 16, 16, 32, 8, 16, 16)
        self.norm_a = BatchNorm(80)
        self.inception_b = Inception(80, 32, 24, 48, 8, 16, 16)
        self.norm_b = BatchNorm(112)
        self.pool2 = GlobalAvgPool()
        self.drop = Dropout(0.2)
        self.fc = Linear(112, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.conv1(x))
        x = self.norm_a(self.inception_a(x))
        x = self.norm_b(self.inception_b(x))
        return self.fc(self.drop(self.pool2(x)))


def tiny_inception(num_classes: int = 10, *, in_channels: int = 3, seed: int = 0) -> TinyInception:
    """`TinyInception` with xavier weights by ``seed``."""
    net = TinyInception(num_classes, in_channels)
    init.initialise(net, seed)
    return net


# Every function of pyinception.models, by its name; what is written large there are classes.
MODELS: dict[str, Callable[..., Module]] = {
    name: getattr(models, name) for name in models.__all__ if name.islower()
} | {"tiny_inception": tiny_inception}

__all__ = ["MODELS", "TinyInception", "branches", "build", "read_rows", "tiny_inception"]


def build(
    name: str, num_classes: int, shape: tuple[int, int, int], seed: int, *, aux: bool = True
) -> Module:
    """The initialised network ``name`` for images of ``shape`` (H, W, C).

    With backend "cuda" in force its weights are in CUDA memory.

    Parameters
    ----------
    name : one of `MODELS`, or a table of rows as `read_rows` takes it.
    aux : whether to build the auxiliary classifiers, where the network has some.

    Raises
    ------
    RecipeError
        For an unknown name, rows that cannot be read, or images that the network cannot take.
    """
    if is_table(name):
        return _ready("the network", _from_rows(name, num_classes, shape[2], seed), shape, False)
    if name not in MODELS:
        close = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise RecipeError(
            f"build: unknown model {name!r}, expected one of {', '.join(MODELS)}{hint}"
        )
    height, width, channels = shape
    if name == "googlenet" and (height, width) != (224, 224):
        text = f"googlenet takes images of 224 x 224, these have {height} x {width}"
        raise RecipeError(f"build: {text}")
    heads = "aux" in inspect.signature(MODELS[name]).parameters
    options = {"aux": aux} if heads else {}
    net = MODELS[name](num_classes, in_channels=channels, seed=seed, **options)
    return _ready(name, net, shape, heads and aux)


def _ready(name: str, net: Module, shape: tuple[int, int, int], heads: bool) -> Module:
    """The network, probed, in the memory of the backend in force."""
    chosen = config.get("backend")
    with config.using(backend="auto" if chosen in ("cuda", "emulated") else chosen):
        _probe(name, net, shape, heads)  # extents are the same on every backend
    return net.to("cuda") if chosen == "cuda" else net


def placed(net: Module, images: NDArray[np.float32]) -> Array:
    """``images`` in the memory of the network's filters and as they are stored."""
    first = next(net.parameters()).data
    return beside(images.astype(first.dtype, copy=False), first)


def scores_of(outputs: Tensor | Sequence[Tensor]) -> NDArray[np.float32]:
    """The logits (N, K) of a network's outputs, in host memory and float32."""
    logits = outputs if isinstance(outputs, Tensor) else outputs[0]
    scores: NDArray[np.float32] = to_host(logits.data).astype(np.float32, copy=False)
    return scores


def finite_scores(outputs: Tensor | Sequence[Tensor]) -> NDArray[np.float32]:
    """`scores_of` a network that is judged; FloatingPointError where it has diverged."""
    scores = scores_of(outputs)
    if not np.isfinite(scores).all():
        raise FloatingPointError("the network's result is not finite, it has diverged")
    return scores


def store(net: Module, precision: str) -> None:
    """Store the network's filters as ``precision`` has it.

    Raises
    ------
    BackendError
        For 16 bits on a backend that computes in float32 only.
    """
    name = config.get("backend")
    if precision != "fp32" and name not in ("cuda", "emulated"):
        text = f'precision {precision} with backend "{name}", expected "cuda" or "emulated"'
        raise BackendError(f"train: {text}: the kernels of the CPU compute in float32")
    if precision != "fp32":
        net.store_as(PRECISIONS[precision])


def is_table(model: str) -> bool:
    """Whether a recipe's ``model`` is a table of rows and no name: names are one word."""
    return len(model.split()) > 1


_TAKEN = set(vars(Network([("stem", "1x1 1")], 1, 1, batch_norm_unit()))) - {"stem"}


def read_rows(text: str) -> list[tuple[str, str]]:
    """(name, stages) of each row: "stem 3x3 32; pool1 max 3x3/2", or a row to a line.

    Raises
    ------
    RecipeError
        For a row without stages, or a name that is no word, is taken or comes twice.
    """
    rows: list[tuple[str, str]] = []
    for line in filter(None, map(str.strip, text.replace(";", "\n").splitlines())):
        name, _, stages = line.partition(" ")
        if not stages.strip():
            raise RecipeError(f"build: row {line!r} has no stages, expected such as 'stem 3x3 32'")
        if not name.isidentifier() or name in _TAKEN or hasattr(Network, name):
            raise RecipeError(f"build: row {line!r}: {name!r} cannot be the name of a row")
        if name in dict(rows):
            raise RecipeError(f"build: two rows are called {name!r}")
        rows.append((name, " ".join(stages.split())))
    return rows


def _from_rows(text: str, num_classes: int, in_channels: int, seed: int) -> Network:
    """The rows, every convolution with batch norm and ReLU, then mean, linear layer, logits."""
    try:
        net = Network(read_rows(text), num_classes, in_channels, batch_norm_unit())
    except RecipeError:
        raise
    except ValueError as error:
        raise RecipeError(f"build: {error}") from None
    init.initialise(net, seed)
    return net


def _probe(name: str, net: Module, shape: tuple[int, int, int], heads: bool) -> None:
    """Send one black image through, as in training: a map that gets too small shows now."""
    buffers = [(buffer, buffer.data.copy()) for _, buffer in net.named_buffers()]
    training = net.training
    try:
        with no_grad():
            net.train()(np.zeros((1, *shape), np.float32))
    except ValueError as error:
        hint = "; without auxiliary classifiers (aux = false) smaller ones may do" if heads else ""
        text = f"{name} takes no images of {shape[0]} x {shape[1]}{hint} ({error})"
        raise RecipeError(f"build: {text}") from None
    finally:
        net.train(training)
        for buffer, before in buffers:
            buffer.data[...] = before
            buffer.version += 1


def branches(module: Module) -> list[tuple[str, slice]]:
    """(label, channels of the output) of each branch; empty for what is no module of branches."""
    if isinstance(module, SmallModule):
        widths = [("1x1", module.a), ("3x3", module.out_channels - module.a)]
    elif isinstance(module, Inception):
        last = ("conv1x1", "conv3x3", "conv5x5", "pool_proj")
        labels = ("1x1", "1x1 - 3x3", "1x1 - 5x5", "pool - 1x1")
        counts = [int(getattr(module, name).weight.shape[0]) for name in last]
        widths = list(zip(labels, counts, strict=True))
    elif isinstance(module, Mixed):
        widths = [_chain(module, i, fork) for i, fork in enumerate(module.forks, 1)]
    else:
        return []
    found, start = [], 0
    for label, width in widths:
        found.append((label, slice(start, start + width)))
        start += width
    return found


def _chain(module: Mixed, place: int, fork: int) -> tuple[str, int]:
    """Label and channels of one branch, whose last ``fork`` layers stand side by side."""
    layers: list[Any] = [layer for _, layer in getattr(module, f"branch{place}").children()]
    labels, channels = [], [module.in_channels]
    for layer in layers:
        if isinstance(layer, (MaxPool2d, AvgPool2d)):
            labels.append("max" if isinstance(layer, MaxPool2d) else "avg")
            channels.append(channels[-1])
        elif isinstance(layer, SeparableConv2d):
            _, r, s, _ = layer.depthwise.weight.shape
            labels.append(f"sep {r}x{s}")
            channels.append(layer.extents((1, r, s, channels[-1]))[2])
        else:
            k, r, s, _ = getattr(layer, "conv", layer).weight.shape
            labels.append(f"{r}x{s}")
            channels.append(int(k))
    ends = [" & ".join(labels[-fork:])]
    return " - ".join(labels[:-fork] + ends), sum(channels[-fork:])
