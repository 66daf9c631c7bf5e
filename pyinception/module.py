"""A tree of layers: parameters and buffers by dotted name, train and eval, saving and loading."""

import os
import weakref
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np

from pyinception import checkpoint, workspace
from pyinception.backend import NARROW, Array, beside, dtype_of, moved
from pyinception.border import intake, operand
from pyinception.extents import flag
from pyinception.tensor import Buffer, Parameter, Tensor, no_grad


class Module:
    """Base of layers and networks: subclasses set parts as attributes and write ``forward``.

    Calling a module takes tensors or arrays (NHWC) and returns tensors. In evaluation nothing is
    recorded unless an input tensor asks for its gradient.
    """

    def __init__(self) -> None:
        self.training, self.frozen = True, False
        self._parent: weakref.ref[Module] | None = None
        self._name = ""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Module):
            value._parent, value._name = weakref.ref(self), name
        object.__setattr__(self, name, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():  # a copy's parts belong to the copy
            setattr(self, name, value)

    @property
    def path(self) -> str:
        """The dotted name of this module from the root of its tree, "" for the root itself."""
        parent = self._parent() if self._parent is not None else None
        if parent is None:
            return ""
        return f"{parent.path}.{self._name}" if parent.path else self._name

    def forward(self, *inputs: Any) -> Any:
        """The module's result, from tensors."""
        raise NotImplementedError(f"{type(self).__name__}.forward")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        tensors = tuple(self._intake(i, value) for i, value in enumerate(inputs))
        wanted = self.training or any(tensor.requires_grad for tensor in tensors)
        try:
            with nullcontext() if wanted else no_grad():
                return self.forward(*tensors, **options)
        except (TypeError, ValueError) as error:
            if not hasattr(error, "__notes__"):  # the innermost layer's name says most
                error.add_note(f"in layer {self.path or type(self).__name__}")
            raise

    def _intake(self, place: int, value: Any) -> Tensor:
        if isinstance(value, Tensor):
            return value
        name = type(self).__name__
        argument = "x" if place == 0 else f"input {place}"
        return Tensor(operand(name, argument, intake(name, argument, value)))

    def children(self) -> Iterator[tuple[str, Any]]:
        """(name, part) of every parameter, buffer and module set on this one, in order."""
        for name, value in vars(self).items():
            if isinstance(value, (Parameter, Buffer, Module)):
                yield name, value

    def _walk(self, prefix: str = "") -> Iterator[tuple[str, Any]]:
        yield prefix, self
        for name, value in self.children():
            dotted = f"{prefix}.{name}" if prefix else name
            if isinstance(value, Module):
                yield from value._walk(dotted)
            else:
                yield dotted, value

    def named_modules(self) -> Iterator[tuple[str, "Module"]]:
        """(dotted name, module) of this module, "", and every one below it."""
        return ((name, part) for name, part in self._walk() if isinstance(part, Module))

    def modules(self) -> Iterator["Module"]:
        """This module and every one below it."""
        return (module for _, module in self.named_modules())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter), in the order of definition."""
        return ((name, part) for name, part in self._walk() if isinstance(part, Parameter))

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter, in the order of definition."""
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """(dotted name, buffer): running statistics and the like."""
        return ((name, part) for name, part in self._walk() if isinstance(part, Buffer))

    def count_parameters(self) -> int:
        """Numbers in all parameters."""
        return sum(parameter.data.size for parameter in self.parameters())

    def train(self, mode: bool = True) -> "Module":
        """Switch to training (dropout on, batch statistics), but for frozen parts; returns it."""
        for module in self.modules():
            module.training = mode and not module.frozen
        return self

    def eval(self) -> "Module":
        """Switch to evaluation (dropout off, running statistics); returns the module."""
        return self.train(False)

    def freeze(self, mode: bool = True) -> "Module":
        """Keep what is below as it is, for fine-tuning what stands above; returns the module.

        Its parameters get no gradient, so optimisers leave them alone, and it stays in evaluation
        whatever `train` says, so running statistics keep too. ``freeze(False)`` undoes it.
        """
        flag("freeze", "mode", mode)
        for module in self.modules():
            module.frozen, module.training = mode, not mode
        for parameter in self.parameters():
            parameter.requires_grad = not mode
            parameter.grad = None
        return self

    def state_dict(self) -> dict[str, Array]:
        """Dotted name -> array (no copy) of every parameter and buffer; the float32 values of what
        is stored in 16 bits (`store_as`)."""
        return {n: _values(p) for n, p in self._walk() if isinstance(p, (Parameter, Buffer))}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Copy arrays in by name, after every name, shape and dtype has been checked.

        Raises
        ------
        ValueError
            Naming what is missing, unexpected or of another shape or dtype; nothing is written.
        """
        parts = {n: p for n, p in self._walk() if isinstance(p, (Parameter, Buffer))}
        checkpoint.check_state("load_state_dict", {n: _values(p) for n, p in parts.items()}, state)
        for name, part in parts.items():
            values = _values(part)
            values[...] = beside(state[name], values)
            part.changed()

    def _adopt(self, state: Mapping[str, Array]) -> None:
        """`load_state_dict` for arrays that nobody else holds: they become the values themselves
        where there are none yet, so that nothing is copied into a network just made."""
        parts = {n: p for n, p in self._walk() if isinstance(p, (Parameter, Buffer))}
        if not all(_untouched(part) for part in parts.values()):
            self.load_state_dict(state)
            return
        checkpoint.check_state("load_state_dict", {n: p.data for n, p in parts.items()}, state)
        for name, part in parts.items():
            part.data = state[name]
            part.changed()

    def save(self, path: str | os.PathLike[str], record: Any = None) -> None:
        """Write parameters and buffers to a safetensors file; see `checkpoint.save`."""
        checkpoint.save(path, self.state_dict(), record=record)

    def load(self, path: str | os.PathLike[str]) -> Any:
        """Read parameters and buffers from a file of `save`; returns the record saved with it."""
        loaded = checkpoint.load(path)
        self._adopt(loaded.model)
        return loaded.record

    def to(self, memory: str) -> "Module":
        """Move parameters, gradients and buffers to "host" (NumPy arrays), "cuda" (CuPy arrays on
        the current device) or "cuda:N", where the module then computes; returns the module.

        An optimiser made before keeps its state where it was: move first.
        """
        for part in [p for _, p in self._walk() if isinstance(p, (Parameter, Buffer))]:
            part.data = moved(part.data, memory)
            if isinstance(part, Parameter):
                part.grad = None if part.grad is None else moved(part.grad, memory)
                part.master = None if part.master is None else moved(part.master, memory)
            part.version += 1
        return self

    def store_as(self, dtype: str) -> "Module":
        """Store filters in "bfloat16" or "float16", as maps are then, or in "float32" again.

        Vectors (biases, batch normalisation) stay float32. The float32 values of a filter are kept
        beside it (`Parameter.master`): optimisers update those, and files hold them.
        """
        if dtype not in ("float32", *NARROW):
            raise ValueError(f'store_as: dtype is {dtype!r}, expected "float32" or one of {NARROW}')
        for parameter in self.parameters():
            if parameter.data.ndim < 2:
                continue
            values = parameter.values
            parameter.data, parameter.master = values, None
            if dtype != "float32":
                parameter.data = workspace.empty(values.shape, values, dtype_of(dtype))
                parameter.master = values
            parameter.changed()
        return self

    def astype(self, dtype: Any) -> "Module":
        """Turn parameters and buffers into ``dtype`` (float64 for checks); returns the module."""
        try:
            kind = np.dtype(dtype).name
        except TypeError:  # a name that NumPy does not know
            kind = str(dtype)
        if kind not in ("float32", "float64"):
            raise TypeError(f"astype: dtype is {kind!r}, expected float32 or float64")
        for _, part in self._walk():
            if isinstance(part, (Parameter, Buffer)):
                part.data = _values(part).astype(kind)
                if isinstance(part, Parameter):
                    part.master = None
                part.version += 1
        return self


def _values(part: Parameter | Buffer) -> Array:
    return part.values if isinstance(part, Parameter) else part.data


def _untouched(part: Parameter | Buffer) -> bool:
    """Whether its array is NumPy's own and as it was made."""
    owned = type(part.data) is np.ndarray and part.data.base is None
    return owned and part.version == 0 and _values(part) is part.data


class Sequential(Module):
    """Layers one after another; they are called "0", "1", ... unless named by keywords."""

    def __init__(self, *layers: Module, **named: Module) -> None:
        super().__init__()
        for name, layer in [*((str(i), layer) for i, layer in enumerate(layers)), *named.items()]:
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        for _, layer in self.children():
            x = layer(x)
        return x
