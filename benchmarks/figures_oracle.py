"""GoogLeNet and the small Inception in torch, with the kinks left free or taken from our tape.

    relu(x) = x where our y > 0, else 0;   max(window) = the tap that our argmax names

A ReLU near zero and a maximum among near equals may fall to either side in another precision, and
one such flip moves a gradient far more than rounding does. With our decisions forced into it, the
float64 run computes the very function that we differentiate, and what differs is rounding.

The nets are read from our tables of rows (`models.googlenet.TRUNK`, `models.small_inception.BODY`);
the arithmetic is torch's. Maps are NCHW and filters KCRS on this side, NHWC and KRSC on ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pyinception import ops
from pyinception.extents import padding_pair
from pyinception.layers import MaxPool2d
from pyinception.models.googlenet import HEADS, TRUNK
from pyinception.models.rows import Mixed
from pyinception.models.small_inception import BODY
from pyinception.module import Module
from pyinception.tensor import Tensor

AUX_WEIGHT = 0.3


# ------------------------------------------------------------------------------ our decisions


@dataclass
class Decisions:
    """What one forward pass of ours decided, by layer.

    Attributes
    ----------
    positive : layer -> y > 0 of its ReLU, bool (N, H, W, C) or (N, K).
    taps : layer -> argmax r S + s of its max pool, uint8 (N, P, Q, C). A module's pool has the
        module's name, the others are "pool 0", "pool 1", ... as they follow each other.
    """

    positive: dict[str, Any] = field(default_factory=dict)
    taps: dict[str, Any] = field(default_factory=dict)


def decisions(root: Tensor, net: Module) -> Decisions:
    """Read off the tape below ``root``, which must not have gone backward yet."""
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    found = Decisions()
    for op in _operations(root):
        if isinstance(op, ops.Pool):
            if op.kind == "max":
                number = sum(name.startswith("pool ") for name in found.taps)
                found.taps[f"pool {number}"] = op.saved[0]
            continue
        if isinstance(op, ops.Inception):
            _module_decisions(op, names, found)
            continue
        places = {ops.Conv: 2, ops.Linear: 2, ops.BatchNorm: 4, ops.FrozenBatchNorm: 4}
        place = places.get(type(op))
        if place is not None and op.saved[place] is not None:
            layer = names[id(op.inputs[1])].rpartition(".")[0]
            found.positive[layer] = op.saved[place] > 0
    return found


def _module_decisions(op: Any, names: Mapping[int, str], found: Decisions) -> None:
    _, weights, y, (r3, r5, _, argmax) = op.saved
    layers = [names[id(tensor)].rpartition(".")[0] for tensor in op.inputs[1::2]]
    one, reduce3, three, reduce5, five, proj = layers
    found.positive[reduce3], found.positive[reduce5] = r3 > 0, r5 > 0
    start = 0
    for layer, w in zip((one, three, five, proj), weights[0::4] + weights[10:11], strict=True):
        found.positive[layer] = y[..., start : start + w.shape[0]] > 0
        start += w.shape[0]
    found.taps[one.rpartition(".")[0]] = argmax


def _operations(root: Tensor) -> Iterator[Any]:
    """Every op below ``root``, what feeds an op before the op."""
    seen: set[int] = set()
    stack = [(root, False)]
    while stack:
        tensor, expanded = stack.pop()
        if expanded:
            yield tensor.node
        elif tensor.node is not None and id(tensor) not in seen:
            seen.add(id(tensor))
            stack.append((tensor, True))
            stack.extend((t, False) for t in tensor.node.inputs if t is not None)


# -------------------------------------------------------------------------------- torch's nets


def to_torch(a: Any, dtype: Any) -> Any:
    """NHWC or KRSC to torch's NCHW or KCRS, a copy."""
    turned = a.transpose(0, 3, 1, 2) if a.ndim == 4 else a
    return torch.tensor(np.array(turned, order="C"), dtype=dtype)


def to_numpy(t: Any) -> Any:
    """The other way round; float64, a copy."""
    a = t.detach().double().numpy().copy()
    return a.transpose(0, 2, 3, 1) if a.ndim == 4 else a


class _Stored(torch.autograd.Function):
    """x as a float32 array holds it, and its gradient likewise."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.float().to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0].float().to(gradients[0].dtype)


class Oracle:
    """One net in torch, with its own copy of the weights.

    Parameters
    ----------
    kind : "googlenet" (with both heads, dropout off), "small_inception" (batch statistics) or
        "rows": a `models.rows.Network` of batch norm units and torchvision's heads, dropout off;
        a norm in evaluation has its running statistics.
    net : whose parameters to start from; layouts turned, values exact.
    dtype : torch.float64 for the truth, torch.float32 for torch's own error.
    channels_last : torch's memory format, which decides the order of its sums.
    rounded : of "rows", round every map and its gradient to float32 once, as storing them does.

    Attributes
    ----------
    weights : name -> leaf tensor; momenta : name -> what `update` adds to.
    """

    def __init__(
        self,
        kind: str,
        net: Module,
        dtype: Any,
        channels_last: bool = False,
        rounded: bool = False,
    ) -> None:
        self.dtype, self.rounded = dtype, rounded
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        kinds = {"googlenet": self._googlenet, "small_inception": self._small, "rows": self._rows}
        self.net, self.forward = net, kinds[kind]
        self.weights = {n: self._take(p.data) for n, p in net.named_parameters()}
        self.factors = {n: (p.lr_mult, p.decay_mult) for n, p in net.named_parameters()}
        self.momenta = {name: torch.zeros_like(w) for name, w in self.weights.items()}
        self.forced: Decisions | None = None
        for w in self.weights.values():
            w.requires_grad_()

    def __call__(self, x: Any, forced: Decisions | None = None) -> tuple[Any, ...]:
        """(logits, ...) for x (N, H, W, C), as float64 NumPy arrays; with ``forced``, its kinks.

        Gradients are recorded; the torch tensors stay in ``outputs``.
        """
        self.forced = forced
        self._pools = 0
        self.outputs = self.forward(self._take(x))
        return tuple(to_numpy(y) for y in self.outputs)

    def loss(self, x: Any, labels: Any, forced: Decisions | None = None) -> float:
        """L(logits) + 0.3 (L(aux1) + L(aux2)); its gradients replace those in ``weights``."""
        self(x, forced)
        target = torch.tensor(labels)
        main, *auxiliary = (F.cross_entropy(y, target) for y in self.outputs)
        total = main + AUX_WEIGHT * sum(auxiliary)
        for w in self.weights.values():
            w.grad = None
        total.backward()
        return float(total.detach())

    def _take(self, a: Any) -> Any:
        t = to_torch(a, self.dtype)
        return t.contiguous(memory_format=self.format) if t.ndim == 4 else t

    def gradients(self) -> dict[str, Any]:
        """name -> gradient, float64 in our layout."""
        return {name: to_numpy(w.grad) for name, w in self.weights.items()}

    def update(self, rate: float, momentum: float, decay: float) -> None:
        """v = mu v + lr lr_mult (g + wd decay_mult w); w = w - v."""
        with torch.no_grad():
            for name, w in self.weights.items():
                lr_mult, decay_mult = self.factors[name]
                v = self.momenta[name]
                v *= momentum
                v += rate * lr_mult * (w.grad + decay * decay_mult * w)
                w -= v

    # ---- layers

    def _relu(self, x: Any, layer: str) -> Any:
        if self.forced is None:
            return F.relu(x)
        return x * to_torch(self.forced.positive[layer], self.dtype)

    def _max_pool(
        self, x: Any, layer: str, size: int, stride: int, padding: int, ceil: bool
    ) -> Any:
        if self.forced is None:
            return F.max_pool2d(x, size, stride, padding, ceil_mode=ceil)
        tap = to_torch(self.forced.taps[layer], torch.int64)
        p, q = tap.shape[2:]
        row = stride * torch.arange(p)[:, None] - padding + tap // size
        column = stride * torch.arange(q) - padding + tap % size
        place = (row * x.shape[3] + column).flatten(2)
        return x.flatten(2).gather(2, place).view(tap.shape)

    def _next_pool(self, x: Any, size: int, stride: int, padding: int, ceil: bool) -> Any:
        layer, self._pools = f"pool {self._pools}", self._pools + 1
        return self._max_pool(x, layer, size, stride, padding, ceil)

    def _affine(self, function: Any, x: Any, layer: str, *geometry: int) -> Any:
        return function(
            x, self.weights[f"{layer}.weight"], self.weights[f"{layer}.bias"], *geometry
        )

    def _conv(self, x: Any, layer: str, stride: int = 1, padding: int = 0) -> Any:
        return self._relu(self._affine(F.conv2d, x, layer, stride, padding), layer)

    def _conv_norm(self, x: Any, layer: str, stride: int = 1) -> Any:
        half = self.weights[f"{layer}.conv.weight"].shape[2] // 2
        x = self._affine(F.conv2d, x, f"{layer}.conv", stride, half)
        gamma, beta = (self.weights[f"{layer}.norm.{part}"] for part in ("gamma", "beta"))
        x = F.batch_norm(x, None, None, gamma, beta, True, eps=1e-5)
        return self._relu(x, f"{layer}.norm")

    def _module(self, x: Any, layer: str) -> Any:
        pooled = self._max_pool(x, layer, 3, 1, 1, False)
        branches = [
            self._conv(x, f"{layer}.conv1x1"),
            self._conv(self._conv(x, f"{layer}.reduce3x3"), f"{layer}.conv3x3", 1, 1),
            self._conv(self._conv(x, f"{layer}.reduce5x5"), f"{layer}.conv5x5", 1, 2),
            self._conv(pooled, f"{layer}.pool_proj"),
        ]
        return torch.cat(branches, 1)

    def _head(self, x: Any, layer: str) -> Any:
        x = self._conv(F.avg_pool2d(x, 5, 3), f"{layer}.conv")
        x = x.permute(0, 2, 3, 1).flatten(1)  # our linear layers read H, W, C
        x = self._relu(self._affine(F.linear, x, f"{layer}.fc1"), f"{layer}.fc1")
        return self._affine(F.linear, x, f"{layer}.fc2")

    def _googlenet(self, x: Any) -> tuple[Any, ...]:
        auxiliary = []
        for name, kind, *numbers in TRUNK:
            if kind == "conv":
                x = self._conv(x, name, *numbers[2:])
            elif kind == "inception":
                x = self._module(x, name)
            elif kind == "max":
                x = self._next_pool(x, *numbers, 0, True)
            elif kind == "avg":
                x = F.avg_pool2d(x, *numbers)
            elif kind == "lrn":
                x = F.local_response_norm(x, 5, 1e-4, 0.75, 1.0)
            if name in HEADS:
                auxiliary.append(self._head(x, HEADS[name]))
        return self._affine(F.linear, x.flatten(1), "fc"), *auxiliary

    def _small(self, x: Any) -> tuple[Any, ...]:
        x = self._conv_norm(x, "conv1")
        for name, widths in BODY:
            if len(widths) == 2:
                halves = [self._conv_norm(x, f"{name}.{part}") for part in ("conv1x1", "conv3x3")]
            else:
                pooled = self._next_pool(x, 3, 2, 1, False)
                halves = [self._conv_norm(x, f"{name}.conv3x3", 2), pooled]
            x = torch.cat(halves, 1)
        return (self._affine(F.linear, x.mean((2, 3)), "fc"),)

    # ---- a network of rows: its layers say what stands where, the arithmetic is torch's

    def _rows(self, x: Any) -> tuple[Any, ...]:
        net: Any = self.net
        auxiliary = []
        for name in net.rows:
            x = self._layer(x, name, getattr(net, name))
            if name in net.heads:
                auxiliary.append(self._family_head(x, net.heads[name]))
        return self._affine(F.linear, x.mean((2, 3)), "fc"), *auxiliary

    def _layer(self, x: Any, name: str, layer: Any) -> Any:
        if isinstance(layer, MaxPool2d):
            (size, _), stride, padding, ceil, _ = layer.window
            side = padding_pair("oracle", padding, (size, size))[0]
            return self._next_pool(x, size, stride, side, ceil)
        if isinstance(layer, Mixed):
            parts = []
            for branch, chain in layer.children():
                part = x
                for step, inner in chain.children():
                    part = self._layer(part, f"{name}.{branch}.{step}", inner)
                parts.append(part)
            return torch.cat(parts, 1)
        return self._unit(x, name, layer)

    def _unit(self, x: Any, name: str, unit: Any) -> Any:
        w = self.weights[f"{name}.conv.weight"]
        padding = padding_pair("oracle", unit.conv.padding, w.shape[2:])
        x = self._stored(F.conv2d(x, w, None, unit.conv.stride, padding))
        gamma, beta = (self.weights[f"{name}.norm.{part}"] for part in ("gamma", "beta"))
        batch = unit.norm.training
        running = (None, None) if batch else (to_torch(b.data, self.dtype) for b in (
            unit.norm.mean, unit.norm.var))  # fmt: skip
        x = F.batch_norm(x, *running, gamma, beta, batch, eps=unit.norm.eps)
        return self._stored(self._relu(x, f"{name}.norm"))

    def _stored(self, x: Any) -> Any:
        return _Stored.apply(x) if self.rounded else x  # type: ignore[no-untyped-call]

    def _family_head(self, x: Any, name: str) -> Any:
        head: Any = getattr(self.net, name)
        x = self._unit(F.adaptive_avg_pool2d(x, 4), f"{name}.conv", head.conv)
        x = x.permute(0, 2, 3, 1).flatten(1)
        x = self._relu(self._affine(F.linear, x, f"{name}.fc1"), f"{name}.fc1")
        return self._affine(F.linear, x, f"{name}.fc2")
