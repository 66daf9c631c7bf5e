"""A network as a benchmark problem: our Session, its graph for rivals, float64 logits.

GoogLeNet's graph is written out as the paper has it; the others are read off their rows' layers,
batch norms folded on every side.
"""

import copy
from typing import Any

import numpy as np

from pyinception import config, models, session, tracing
from pyinception.backend import Array, core, dtype_of
from pyinception.bench.problems import MOST_CHECKED, TimedSpec, aligned, macs_inside
from pyinception.bench.rivals import Graph
from pyinception.bench.timing import once
from pyinception.extents import padding_pair, pair
from pyinception.layers import AvgPool2d, Conv2d, MaxPool2d, fold_batch_norms
from pyinception.models.googlenet import HEADS, TRUNK
from pyinception.models.rows import Mixed, Network
from pyinception.module import Module

# What the library promises for the logits with algorithm="auto", relative to the largest. In
# bfloat16 (2^-8 a rounding) every layer rounds its map once, and so do the rivals.
LOGIT_LIMIT = 2e-5
LIMITS = {"float32": LOGIT_LIMIT, "bfloat16": 2.0**-6}
_PARTS = ("conv1x1", "reduce3x3", "conv3x3", "reduce5x5", "conv5x5", "pool_proj")


# Side of the images, as each paper has them.
SIDES = {"googlenet": 224, "bn_inception": 224, "inception_v2": 299, "inception_v3": 299,
         "inception_v4": 299}  # fmt: skip
WITH_HEADS = ("googlenet", "inception_v2", "inception_v3")


class Net:
    """One forward pass of a model on ``batch`` random images, prepared."""

    def __init__(
        self,
        batch: int,
        algorithm: str | None = None,
        model: str = "googlenet",
        dtype: str = "float32",
        mode: str = "auto",
    ) -> None:
        if model not in SIDES:
            raise ValueError(f"bench: model is {model!r}, expected one of {', '.join(SIDES)}")
        how = {"aux": False} if model in WITH_HEADS else {}
        net = fold_batch_norms(getattr(models, model)(**how, seed=1).eval())
        self.name, side = model, SIDES[model]
        self.dtype, self.limit = dtype, LIMITS[dtype]
        x = aligned((batch, side, side, 3))
        x[...] = np.random.default_rng(0).standard_normal(x.shape, np.float32)
        self.net, self.x = net, x
        self.graph = network_graph(net) if isinstance(net, Network) else googlenet_graph
        # Copies: torch refuses to share memory that our own parameters may later write.
        self.weights = {name: array.copy() for name, array in net.state_dict().items()}
        specs: list[Any] = [spec for _, _, spec in tracing.specs(net, x.shape)]
        self.macs = sum(spec.macs for spec in specs)
        self.macs_inside = sum(
            macs_inside(spec) if isinstance(spec, TimedSpec) else spec.macs for spec in specs
        )
        self.bytes = sum(spec.bytes for spec in specs)
        self.expected = logits_float64(net, x[:MOST_CHECKED])
        net.store_as(dtype)
        self.given = x if dtype == "float32" else x.astype(dtype_of(dtype))
        self.first = once(lambda: self._open(algorithm, mode))
        level = config.get("cpu_level") or core().host_level()
        self.kernel = f"Session/{algorithm or 'auto'} {level} {self.session.mode}"

    def _open(self, algorithm: str | None, mode: str) -> None:
        self.session = session.Session(self.net, self.x.shape, "cpu", algorithm, mode=mode)
        self.call()

    def call(self) -> None:
        """One forward pass."""
        self.y = self.session(self.given)

    def check(self) -> dict[str, Any]:
        """Errors of the logits computed last."""
        return self.judge(self.y)

    def judge(self, y: Array) -> dict[str, Any]:
        """A cell's error against float64, or its failure."""
        difference = np.abs(y[: len(self.expected)].astype(np.float64) - self.expected)
        error = float(difference.max() / np.abs(self.expected).max())
        if error <= self.limit:
            return {"error": error, "error_of_bound": error / self.limit}
        return {"failed": f"error of the logits is {error:.2g}, expected at most {self.limit:g}"}


def googlenet_graph(ops: Any, x: Any, weights: Any) -> Any:
    """The paper's trunk over a rival's operations; weights by name.

    Where there are weights for the auxiliary heads: (logits, aux1, aux2), dropout left out.
    """
    heads = []

    def head(x: Any, name: str) -> Any:
        x = conv(ops.avg_pool(x, (5, 5), (3, 3), (0, 0), True), f"{name}.conv")
        x = ops.linear(x, weights[f"{name}.fc1.weight"], weights[f"{name}.fc1.bias"])
        return ops.linear(ops.relu(x), weights[f"{name}.fc2.weight"], weights[f"{name}.fc2.bias"])

    def conv(x: Any, name: str, stride: int = 1, padding: int = 0) -> Any:
        w, b = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return ops.conv(x, w, b, (stride, stride), (padding, padding), True)

    def module(x: Any, name: str) -> Any:
        one, reduce3, three, reduce5, five, proj = (f"{name}.{part}" for part in _PARTS)
        pooled = ops.max_pool(x, (3, 3), (1, 1), (1, 1), False)
        branches = [
            conv(x, one),
            conv(conv(x, reduce3), three, 1, 1),
            conv(conv(x, reduce5), five, 1, 2),
            conv(pooled, proj),
        ]
        return ops.concat(branches)

    for name, kind, *numbers in TRUNK:
        if kind == "conv":
            _, _, stride, padding = numbers
            x = conv(x, name, stride, padding)
        elif kind == "inception":
            x = module(x, name)
        elif kind == "max":
            kernel, stride = numbers
            x = ops.max_pool(x, (kernel, kernel), (stride, stride), (0, 0), True)
        elif kind == "avg":
            kernel, stride = numbers
            x = ops.avg_pool(x, (kernel, kernel), (stride, stride), (0, 0), True)
        elif kind == "lrn":
            x = ops.lrn(x, 5, 1e-4, 0.75, 1.0)
        else:
            assert kind == "dropout", kind  # the identity in evaluation
        if name in HEADS and f"{HEADS[name]}.fc1.weight" in weights:
            heads.append(head(x, HEADS[name]))
    logits = ops.linear(x, weights["fc.weight"], weights["fc.bias"])
    return (logits, *heads) if heads else logits


def network_graph(net: Network) -> Graph:
    """The rows of ``net``, its batch norms folded, over a rival's operations.

    The graph holds names and numbers only: a compiler of graphs sees no array of ours in it.
    """
    rows: list[Any] = []
    for name in net.rows:
        row = getattr(net, name)
        rows.append(_branches(row, name) if isinstance(row, Mixed) else _step(row, name))

    def graph(ops: Any, x: Any, weights: Any) -> Any:
        for row in rows:
            if isinstance(row, tuple):
                x = _apply(ops, row, x, weights)
                continue
            parts = []
            for chain, ends in row:
                t = x
                for step in chain:
                    t = _apply(ops, step, t, weights)
                parts += [_apply(ops, step, t, weights) for step in ends]
            x = ops.concat(parts)
        return ops.linear(ops.mean(x), weights["fc.weight"], weights["fc.bias"])

    return graph


def _branches(block: Mixed, name: str) -> list[Any]:
    """(chain, its last steps) of every branch."""
    found = []
    for i, fork in enumerate(block.forks, 1):
        layers = getattr(block, f"branch{i}").children()
        steps = [_step(layer, f"{name}.branch{i}.{child}") for child, layer in layers]
        found.append((steps[:-fork], steps[-fork:]))
    return found


def _step(layer: Module, name: str) -> tuple[Any, ...]:
    """A convolution or a pool: its kind, its name, its numbers."""
    if isinstance(layer, Conv2d):
        _, r, s, _ = layer.weight.shape
        stride = pair("bench", "stride", layer.stride, 1)
        return "conv", name, stride, padding_pair("bench", layer.padding, (r, s)), layer.relu
    assert isinstance(layer, MaxPool2d | AvgPool2d), type(layer)
    kernel, stride, padding, ceil_mode, include_pad = layer.window
    kernel, stride = pair("bench", "kernel", kernel, 1), pair("bench", "stride", stride, 1)
    flag = ceil_mode if layer.kind == "max" else include_pad
    return layer.kind, name, kernel, stride, padding_pair("bench", padding, kernel), flag


def _apply(ops: Any, step: tuple[Any, ...], x: Any, weights: Any) -> Any:
    kind, name, *numbers = step
    if kind == "conv":
        return ops.conv(x, weights[f"{name}.weight"], weights[f"{name}.bias"], *numbers)
    return (ops.max_pool if kind == "max" else ops.avg_pool)(x, *numbers)


def logits_float64(net: Module, x: Array) -> Array:
    """The logits of the reference in float64."""
    truth = copy.deepcopy(net).astype(np.float64).eval()
    with config.using(backend="reference"):
        return np.asarray(truth(x.astype(np.float64)).data)
