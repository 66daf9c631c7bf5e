"""One step of the tape: forward and backward side by side in one class."""

from typing import Any

import numpy as np

from pyinception.backend import Array
from pyinception.overlap import share
from pyinception.tensor import OPERATORS, Parameter, Tensor, grad_enabled

__all__ = ["OPERATORS", "Op", "Tensor", "as_tensor"]  # all that ops need of the tape


def as_tensor(value: Any) -> Tensor:
    """``value`` as a tensor: tensors as they are, arrays as constants."""
    return value if isinstance(value, Tensor) else Tensor(value)


class Op:
    """y = op(x, ...): subclasses write ``forward`` and ``backward`` on arrays.

    ``forward(*arrays)`` returns one array and leaves in ``self.saved`` what backward needs, if
    ``self.recording``. ``backward(gy)`` returns one gradient (or None) per input; inputs that want
    none are False in ``self.needs``. An instance runs once.
    """

    # True where backward hands out gy itself or views of it, which nobody may write to.
    shares_gradient = False
    # True where ``out`` may be the very buffer that the inputs lie in.
    fills_out = False

    recording = False
    needs: tuple[bool, ...] = ()
    saved: tuple[Any, ...] = ()
    inputs: tuple[Tensor | None, ...] = ()
    _versions: tuple[int, ...] = ()
    _freed = False

    def forward(self, *arrays: Any) -> Array:
        """The result, from the inputs' arrays."""
        raise NotImplementedError(f"{type(self).__name__}.forward")

    def backward(self, gy: Array) -> Any:
        """The gradient of every input, from the gradient of the result."""
        raise NotImplementedError(f"{type(self).__name__}.backward")

    def __call__(self, *inputs: Any) -> Tensor:
        """Run forward; record it if gradients are on and an input wants one. None stays None."""
        tensors = tuple(None if value is None else as_tensor(value) for value in inputs)
        self.needs = tuple(t is not None and t.requires_grad for t in tensors)
        self.recording = grad_enabled() and any(self.needs)
        arrays = tuple(None if t is None else t.data for t in tensors)
        out = getattr(self, "out", None)
        if (
            out is not None
            and not self.fills_out
            and any(a is not None and share(out, a) for a in arrays)
        ):
            text = "out overlaps an input, expected memory apart"
            raise ValueError(f"{type(self).__name__}: {text}")
        result = self.forward(*arrays)
        tensor = Tensor(result, requires_grad=self.recording)
        if self.recording:
            self.inputs = tensors
            self._versions = _versions(tensors)
            tensor.node = self
        return tensor

    def ready(self) -> None:
        """Raise unless backward can still be run."""
        name = type(self).__name__
        if self._freed:
            raise RuntimeError(f"backward: {name} was used already, its saved data is freed")
        if _versions(self.inputs) != self._versions:
            raise RuntimeError(f"backward: a parameter of {name} changed since forward")

    def gradients(self, gy: Array) -> tuple[Array | None, ...]:
        """Run backward once and free what forward saved."""
        result = self.backward(gy)
        self.saved, self.inputs, self._freed = (), (), True
        parts = result if isinstance(result, tuple) else (result,)
        # NumPy turns results of rank 0 into scalars.
        return tuple(np.asarray(g) if isinstance(g, np.generic) else g for g in parts)


def _versions(tensors: tuple[Tensor | None, ...]) -> tuple[int, ...]:
    return tuple(t.version for t in tensors if isinstance(t, Parameter))
