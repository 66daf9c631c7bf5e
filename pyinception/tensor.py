"""A tensor on the tape: an array, its gradient, and the op that made it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import numpy as np

from pyinception.backend import Array, array_module, rounded

_GRAD: ContextVar[bool] = ContextVar("pyinception_grad", default=True)

# `ops/arithmetic.py` puts the ops behind + and * here: this level may not import that one.
OPERATORS: dict[str, Callable[..., "Tensor"]] = {}


class Node(Protocol):
    """What the tape needs of an op that has run forward."""

    inputs: tuple["Tensor | None", ...]
    shares_gradient: bool

    def ready(self) -> None:
        """Raise unless `gradients` can be run."""

    def gradients(self, gy: Array) -> tuple[Array | None, ...]:
        """One gradient per input, None where none is wanted; saved data is freed."""


class Tensor:
    """An array with a gradient: ``.data``, ``.grad``, ``+``, ``*``, ``.backward()``.

    Parameters
    ----------
    data : a NumPy or CuPy array.
    requires_grad : whether `backward` should fill ``grad``; True for parameters.

    Attributes
    ----------
    grad : an array of data's shape and dtype, or None before the first `backward`. Gradients
        accumulate until set to None.
    """

    __slots__ = ("__weakref__", "data", "grad", "node", "requires_grad")

    # NumPy must leave `array * tensor` to us instead of looping over the array.
    __array_ufunc__ = None

    def __init__(self, data: Array, requires_grad: bool = False) -> None:
        array_module(data)
        self.data = data
        self.grad: Array | None = None
        self.requires_grad = requires_grad
        self.node: Node | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of the array."""
        return tuple(self.data.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Kind of the array's numbers."""
        kind: np.dtype[Any] = self.data.dtype
        return kind

    def __repr__(self) -> str:
        return f"Tensor(shape={self.shape}, dtype={self.dtype}, requires_grad={self.requires_grad})"

    def __add__(self, other: Any) -> "Tensor":
        return OPERATORS["add"](self, other)

    def __mul__(self, other: Any) -> "Tensor":
        return OPERATORS["mul"](self, other)

    __radd__ = __add__
    __rmul__ = __mul__

    def item(self) -> float:
        """The one number of a scalar tensor."""
        return float(self.data.item())

    def backward(self, gradient: Array | None = None) -> None:
        """Add d self / d leaf to ``leaf.grad`` of every leaf that requires it, freeing saved data.

        Parameters
        ----------
        gradient : of this tensor's shape and dtype; 1 for a scalar if left out.

        Raises
        ------
        RuntimeError
            If nothing was recorded, or this graph has been used already.
        ValueError
            If ``gradient`` is missing for a tensor that is no scalar, or has another shape.
        """
        if not self.requires_grad:
            raise RuntimeError("backward: nothing was recorded for this tensor (eval or no_grad?)")
        if gradient is None:
            if self.data.size != 1:
                text = f"tensor has shape {self.shape}, expected one number or a gradient="
                raise ValueError(f"backward: {text}")
            gradient = array_module(self.data).ones_like(self.data)
        if tuple(gradient.shape) != self.shape or gradient.dtype != self.data.dtype:
            actual, wanted = (tuple(gradient.shape), gradient.dtype), (self.shape, self.dtype)
            raise ValueError(f"backward: gradient is {actual}, expected {wanted}")
        gradient = array_module(self.data).asarray(gradient, order="C")
        # id -> (gradient so far, whether it is ours to add to in place)
        sums: dict[int, tuple[Array, bool]] = {id(self): (gradient, False)}
        order = _sorted(self)
        for tensor in order:  # all of them before the first gradient is stored
            if tensor.node is not None:
                tensor.node.ready()
        while order:  # popped, so that activations go as soon as they are used
            tensor = order.pop()
            if id(tensor) not in sums:  # an op had no gradient for it
                continue
            total, owned = sums.pop(id(tensor))
            if tensor.node is None:
                _store(tensor, total, owned)
                continue
            node = tensor.node
            inputs = node.inputs
            for parent, part in zip(inputs, node.gradients(total), strict=True):
                if parent is not None and parent.requires_grad and part is not None:
                    _accumulate(sums, parent, part, not node.shares_gradient)


def _sorted(root: Tensor) -> list[Tensor]:
    """Every tensor below ``root`` that requires a gradient, inputs before what they feed."""
    order: list[Tensor] = []
    seen: set[int] = set()
    stack: list[tuple[Tensor, bool]] = [(root, False)]
    while stack:  # no recursion: a tape may be longer than Python's stack
        tensor, expanded = stack.pop()
        if expanded:
            order.append(tensor)
        elif id(tensor) not in seen:
            seen.add(id(tensor))
            stack.append((tensor, True))
            if tensor.node is not None:
                wanted = (t for t in tensor.node.inputs if t is not None and t.requires_grad)
                stack.extend((t, False) for t in wanted)
    return order


def _accumulate(
    sums: dict[int, tuple[Array, bool]], tensor: Tensor, part: Array, owned: bool
) -> None:
    if tuple(part.shape) != tensor.shape:
        raise RuntimeError(f"backward: a gradient has shape {part.shape}, not {tensor.shape}")
    if id(tensor) not in sums:
        sums[id(tensor)] = part, owned
        return
    total, ours = sums[id(tensor)]
    if ours:
        total += part
    else:
        total = array_module(part).asarray(total + part)
    sums[id(tensor)] = total, True


def _store(leaf: Tensor, total: Array, owned: bool) -> None:
    if leaf.grad is None:
        leaf.grad = total if owned else total.copy()
    else:
        leaf.grad += total


def grad_enabled() -> bool:
    """Whether ops record what backward needs."""
    return _GRAD.get()


@contextmanager
def no_grad() -> Iterator[None]:
    """Record nothing inside the ``with`` block: for evaluation."""
    token = _GRAD.set(False)
    try:
        yield
    finally:
        _GRAD.reset(token)


class Parameter(Tensor):
    """A weight: a leaf with its initial rule and Caffe's two multipliers.

    Parameters
    ----------
    shape : of the float32 array, zeros until `init.initialise` fills it.
    fan_in : inputs per output for Caffe's xavier rule; 0 for a constant.
    constant : the initial value where ``fan_in`` is 0.
    lr_mult, decay_mult : factors on learning rate and weight decay.

    Attributes
    ----------
    version : grows whenever the values change, so that packed copies know they are stale.
    master : float32 values where ``data`` is their 16-bit copy, which kernels read; else None.
        The gradient is float32 then, too.
    """

    __slots__ = ("constant", "decay_mult", "fan_in", "lr_mult", "master", "version")

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        fan_in: int = 0,
        constant: float = 0.0,
        lr_mult: float = 1.0,
        decay_mult: float = 1.0,
    ) -> None:
        # zeros() leaves pages alone that are read from a file later
        values = np.full(shape, constant, np.float32) if constant else np.zeros(shape, np.float32)
        super().__init__(values, requires_grad=True)
        self.fan_in = fan_in
        self.constant = constant
        self.lr_mult = lr_mult
        self.decay_mult = decay_mult
        self.master: Array | None = None
        self.version = 0

    @property
    def values(self) -> Array:
        """What is trained, saved and averaged: ``master`` where there is one, else ``data``."""
        return self.data if self.master is None else self.master

    def changed(self) -> None:
        """Note that `values` were written: the 16-bit copy follows, packed ones know."""
        if self.master is not None:
            rounded(self.master, self.data)
        self.version += 1


class Buffer:
    """An array that belongs to a module's state but is not trained (running statistics)."""

    __slots__ = ("data", "version")

    def __init__(self, data: Array) -> None:
        self.data = data
        self.version = 0

    def changed(self) -> None:
        """Note that the values were written."""
        self.version += 1
