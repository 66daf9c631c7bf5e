"""What a network looks like inside: layers by name, branches, outputs of modules, first filters.

rms(y) = sqrt(mean y^2),   dead(y) = share of channels that are nowhere positive
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyinception.backend import Array, to_host
from pyinception.dispatch import Plan
from pyinception.layers import ConvBatchNorm
from pyinception.module import Module
from pyinception.tensor import Parameter, Tensor, no_grad
from pyinception.train.networks import branches, placed

Floats = NDArray[np.floating[Any]]


def norm(array: Array) -> float:
    """sqrt(sum a^2); not through BLAS, whose order of sums depends on the number of threads."""
    values = to_host(array).astype(np.float32, copy=False)
    axes = list(range(values.ndim))
    return sqrt(float(np.einsum(values, axes, values, axes, [])))


def rms(array: Array) -> float:
    """sqrt(mean a^2)."""
    return norm(array) / sqrt(max(array.size, 1))


def dead(y: Array) -> float:
    """The share of channels that are positive nowhere in y (N, P, Q, K) or (N, K)."""
    if not y.size:
        return 0.0
    values = to_host(y)
    return float(np.mean(~(values.max(axis=tuple(range(y.ndim - 1))) > 0)))


def layers(net: Module) -> dict[int, str]:
    """id of a weight's array -> its layer's name; a convolution and its batch norm are one."""
    units = {path for path, module in net.named_modules() if isinstance(module, ConvBatchNorm)}
    found = {}
    for path, module in net.named_modules():
        above = path.rpartition(".")[0]
        for name, part in module.children():
            if isinstance(part, Parameter) and name in ("weight", "gamma"):
                found[id(part.data)] = above if above in units else path
    return found


def weights(net: Module) -> Iterator[tuple[str, Parameter]]:
    """(layer, weight) of every convolution and linear layer, as `layers` names them."""
    names = layers(net)
    for parameter in net.parameters():
        if len(parameter.shape) > 1 and id(parameter.data) in names:
            yield names[id(parameter.data)], parameter


def rectified(plan: Plan, arguments: tuple[Any, ...]) -> Iterator[tuple[Array, Array]]:
    """(weight, map) of every ReLU in a forward call of the tape, inside fused kernels too."""
    if plan.direction != "fprop":
        return
    if plan.op == "inception":
        _, parts, y, saved = arguments
        w1, wr3, w3, wr5, w5, wp = parts[0::2]
        start = 0
        for w in (w1, w3, w5, wp):
            yield w, y[..., start : start + len(w)]
            start += len(w)
        if saved is not None:
            yield wr3, saved[0]
            yield wr5, saved[1]
    elif plan.op == "reduce_conv":
        _, wr, _, w, _, y, r = arguments
        yield w, y
        if r is not None:
            yield wr, r
    elif plan.op == "add_scaled":
        return  # a sum has no weights
    elif getattr(plan.spec, "relu", False):
        yield arguments[1], arguments[3]


def branches_of(net: Module) -> dict[str, list[tuple[str, slice]]]:
    """Name -> (label, channels of the output) of each branch, for every module that has some."""
    found = {name: branches(module) for name, module in net.named_modules()}
    return {name: rows for name, rows in found.items() if rows}


@contextmanager
def listening(
    net: Module, names: Iterable[str], tell: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Inside the ``with`` block ``tell(name, output)`` follows each call of the modules named."""
    wanted = set(names)
    heard = [(name, module) for name, module in net.named_modules() if name in wanted]

    def forward_of(name: str, inside: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def forward(*inputs: Tensor, **options: Any) -> Tensor:
            y = inside(*inputs, **options)
            tell(name, y)
            return y

        return forward

    for name, module in heard:  # these instances alone
        module.__dict__["forward"] = forward_of(name, module.forward)
    try:
        yield
    finally:
        for _, module in heard:
            del module.__dict__["forward"]


def outputs_of(net: Module, images: Floats, names: Iterable[str]) -> dict[str, Floats]:
    """What the modules named give for ``images`` (N, H, W, C), in evaluation mode; copies."""
    found: dict[str, Floats] = {}

    def keep(name: str, y: Tensor) -> None:
        found[name] = to_host(y.data).astype(np.float32)

    training = net.training
    net.eval()
    try:
        with listening(net, names, keep), no_grad():
            net(placed(net, images))
    finally:
        net.train(training)
    return found


def first_filters(net: Module) -> Floats | None:
    """The first convolution's weights larger than 1x1, (K, R, S, C), or None."""
    for parameter in net.parameters():
        if len(parameter.shape) == 4 and parameter.shape[1] * parameter.shape[2] > 1:
            return np.asarray(to_host(parameter.values))
    return None
