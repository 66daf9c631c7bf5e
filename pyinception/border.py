"""The border: arrays of any library come in here and results leave in the caller's own type.

``layout`` names the order of the axes in the *shape*; strides describe memory; neither is guessed.
An input that does not fit (channel stride other than 1, stride 0 or negative, misaligned) is
copied once and counted; an output that does not fit raises. Nothing is written here.
"""

import inspect
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

import numpy as np

from pyinception import backend, workspace
from pyinception.backend import Array, array_module
from pyinception.cuda import stream as streams
from pyinception.dispatch import Known, check
from pyinception.known import find, note
from pyinception.overlap import overlaps_itself, share
from pyinception.prepack import Packed
from pyinception.tensor import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])

_CPU_DEVICES = (1, 3)  # kDLCPU, kDLCUDAHost
_IMMUTABLE = ("jax", "tensorflow")
_ADAPTERS = {
    "torch": "pyinception.interop.torch, which is always NCHW",
    "jax": "pyinception.interop.jax, which is always NHWC and HWIO",
}
_TO_NHWC, _TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


def library_of(value: Any) -> str:
    """The top-level package that the type of ``value`` comes from."""
    library = type(value).__module__.partition(".")[0]
    return "jax" if library == "jaxlib" else library


def intake(function: str, argument: str, value: Any) -> Array:
    """``value`` as a NumPy or CuPy array without a copy; TypeError if it is neither nor DLPack."""
    if type(value) is np.ndarray or backend.is_cupy(value):
        return value
    name = type(value).__name__
    if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        return np.asarray(value)
    if isinstance(value, Tensor):
        text = "is a Tensor; pass tensor.data, or use layers and ops, which record gradients"
        raise TypeError(f"{function}: {argument} {text}")
    if isinstance(value, np.ma.MaskedArray) or not (
        hasattr(value, "__dlpack__") or hasattr(value, "__cuda_array_interface__")
    ):
        text = "expected an array (NumPy, CuPy or anything with __dlpack__)"
        raise TypeError(f"{function}: {argument} is a {name}, {text}")
    if not hasattr(value, "__dlpack__"):
        return _from_cuda(function, argument, value)
    device = int(_ask(function, argument, value, lambda: value.__dlpack_device__()[0]))
    if device in streams.CUDA_DEVICES:
        return _from_cuda(function, argument, value)
    if device not in _CPU_DEVICES:
        text = f"is on DLPack device type {device}, expected host or CUDA memory"
        raise TypeError(f"{function}: {argument} {text}")
    if getattr(value, "is_neg", bool)():  # PyTorch's memory of such a view has the other sign
        workspace.count_copy(function, argument, value.nbytes)
        value = value.resolve_neg()
    core = backend.built_core()
    if core is None:  # NumPy opens capsules too, but takes those of before 1.0 as read-only
        return _ask(function, argument, value, lambda: np.from_dlpack(value))
    capsule = _ask(function, argument, value, lambda: _export(value))
    array: Array = core.from_dlpack(function, argument, capsule)
    if library_of(value) in _IMMUTABLE:  # whatever an old capsule cannot say
        array.flags.writeable = False
    return array


def _ask(function: str, argument: str, value: Any, question: Callable[[], Any]) -> Any:
    """The answer of the value's own library, its errors in one sentence of ours."""
    try:
        return question()
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        text = f"is a {type(value).__name__} that does not export its memory ({said})"
        if library_of(value) == "jax":
            text += "; inside jax.jit and jax.grad call pyinception.interop.jax"
        raise TypeError(f"{function}: {argument} {text}") from error


def _export(value: Any) -> Any:
    """A fresh DLPack capsule of ``value``, versioned where its library can."""
    try:
        return value.__dlpack__(max_version=(1, 0))
    except TypeError:  # a producer of before DLPack 1.0
        return value.__dlpack__()


def _from_cuda(function: str, argument: str, value: Any) -> Array:
    """An array in CUDA memory as one of CuPy, which is where kernels take it from."""
    if reason := backend.why_not("cuda") or backend.cupy_reason():
        text = f"is a {type(value).__name__} in CUDA memory, which cannot be used here"
        raise TypeError(f"{function}: {argument} {text}: {reason}")
    return _ask(function, argument, value, lambda: streams.taken(value))


def give_back(array: Array, caller: Any) -> Any:
    """``array`` in the type of ``caller``, sharing its memory.

    A library takes it through ``from_dlpack``; one that has none gets the NumPy array. TensorFlow
    knows compact memory only, so what is not is copied for it.
    """
    if isinstance(caller, np.ndarray) or type(caller) is type(array):
        return array
    library = library_of(caller)
    if library == "tensorflow":  # takes capsules of before 1.0
        compact = np.ascontiguousarray(array)
        return sys.modules[library].experimental.dlpack.from_dlpack(compact.__dlpack__())
    module = sys.modules.get("jax.numpy" if library == "jax" else library)
    if not hasattr(module, "from_dlpack"):
        if not hasattr(caller, "__array_namespace__"):
            return array
        module = caller.__array_namespace__()
    return module.from_dlpack(array)  # type: ignore[union-attr]


_BYTES = ("argmax", "saved[3]")  # byte maps, which the core reads as one run


def operand(function: str, argument: str, array: Array) -> Array:
    """``array`` with unit stride along its last axis and positive ones elsewhere; argmax dense.

    One that is not so already is copied once; `workspace.copies` counts it.
    """
    if array.size == 0:
        return array_module(array).ascontiguousarray(array)
    strides = _natural(array)
    if argument in _BYTES and not array.flags.c_contiguous:
        strides = None
    if strides is None:
        workspace.count_copy(function, argument, array.nbytes)
        copy = workspace.empty(tuple(array.shape), array)
        copy[...] = array
        return copy
    if strides != array.strides:  # axes of extent 1, whose strides mean nothing
        tricks = array_module(array).lib.stride_tricks
        return tricks.as_strided(array, array.shape, strides)
    return array


def _natural(array: Array) -> tuple[int, ...] | None:
    """The strides of ``array`` with those of extent-1 axes made regular; None if it misfits."""
    item = array.itemsize
    if not getattr(array.flags, "aligned", True):
        return None
    strides: list[int] = []
    inner = item
    for axis in reversed(range(array.ndim)):
        extent, stride = array.shape[axis], array.strides[axis]
        if extent == 1:
            stride = inner
        elif stride <= 0 or stride % item or (axis == array.ndim - 1 and stride != item):
            return None
        strides.insert(0, stride)
        inner = max(inner, stride * extent)
    return tuple(strides)


class Border:
    """The arrays of one call of ``function`` on their way in and out, in a ``with`` block.

    Inside it, where x lies in CUDA memory, its device and the stream of the call are current.

    Parameters
    ----------
    layout : "NHWC" (x NHWC, w KRSC) or "NCHW" (x NCHW, w KCRS, as PyTorch has them). None means
        NHWC, but raises for another framework's tensor that could be read either way.
    x : the map whose type the results take.
    w : the filters that x meets first, None where there are none.
    stream : for arrays in CUDA memory, as `stream.handle_of` takes it.
    """

    foreign: tuple[str, str] | None = None  # the argument and library seen first
    as_given = True  # whether every input was taken as it is
    _inside: ExitStack | None = None  # device and stream of the call

    def __init__(
        self, function: str, layout: str | None, x: Any, w: Any = None, stream: Any = None
    ) -> None:
        if layout not in (None, "NHWC", "NCHW"):
            raise ValueError(f'{function}: layout is {layout!r}, expected "NHWC" or "NCHW"')
        self.function, self.caller, self.stream = function, x, stream
        self.channels_first = layout == "NCHW"
        if layout is None and type(x) is not np.ndarray and _is_foreign(x):
            self._refuse_ambiguous(tuple(x.shape), tuple(w.shape) if hasattr(w, "shape") else None)

    def __enter__(self) -> "Border":
        if type(self.caller) is np.ndarray and self.stream is None:
            return self
        if streams.on_cuda(self.caller):
            self._inside = streams.surroundings(self.function, self.caller, self.stream)
        elif self.stream is not None:
            text = "stream is given, expected None for arrays in host memory"
            raise ValueError(f"{self.function}: {text}")
        return self

    def __exit__(self, *failure: Any) -> None:
        if self._inside is not None:
            self._inside.__exit__(*failure)

    def _refuse_ambiguous(self, x: tuple[int, ...], w: tuple[int, ...] | None) -> None:
        if len(x) != 4 or (w is not None and len(w) != 4):
            return  # the rank check names it
        nhwc, nchw = (w is None or x[i] == w[i] for i in (3, 1))
        if nhwc and nchw:
            fits = "fits" if w is None else f"with w {w} fits"
            raise ValueError(
                f"{self.function}: x {x} {fits} both NHWC and NCHW; pass layout= "
                f'("NHWC" or "NCHW"), or call {self._adapter()}'
            )
        if nchw:
            raise ValueError(
                f"{self.function}: x {x} with w {w} fits NCHW only, expected NHWC; pass "
                f'layout="NCHW", or call {self._adapter()}'
            )

    def _adapter(self) -> str:
        return _ADAPTERS.get(library_of(self.caller), _ADAPTERS["torch"])

    def _intake(self, argument: str, value: Any) -> Array:
        """`intake`, for arrays of one library in a call; those of NumPy go with any."""
        array = intake(self.function, argument, value)
        if array is not value and not isinstance(value, np.ndarray):
            library = library_of(value)
            first, known = self.foreign = self.foreign or (argument, library)
            if library != known:
                text = f"{argument} is an array of {library}, expected {known} as {first} is"
                raise TypeError(f"{self.function}: {text}, or NumPy")
        return array

    def _turn(self, array: Any) -> Any:
        turned = (
            self.channels_first and type(array) is not Packed and getattr(array, "ndim", 0) == 4
        )
        return array.transpose(_TO_NHWC) if turned else array

    def shape(self, x_shape: Any) -> tuple[int, ...]:
        """A shape given in the caller's layout, as (N, H, W, C)."""
        extents = tuple(x_shape)
        turned = self.channels_first and len(extents) == 4
        return tuple(extents[axis] for axis in _TO_NHWC) if turned else extents

    def call(
        self,
        names: tuple[str, ...],
        given: tuple[Any, ...],
        options: tuple[Any, ...],
        spec_of: Callable[..., Any],
        out: Any = None,
        letters: str = "",
        backend: str | None = None,
        algorithm: str | None = None,
    ) -> tuple[Any, Any, Array | None, dict[str, Any]]:
        """(spec, operands, out, how): what a call asks for, its arrays as kernels read them.

        Parameters
        ----------
        names, given : the array arguments, for `take`; where there is an ``out``, x stands first.
        options : all else that the spec depends on.
        spec_of : the spec from the arrays as taken; raises what there is to refuse.
        out, letters : the array to write, of the spec's ``y_shape``, and its axes.
        backend, algorithm : as `config` has them; they come back in ``how``, for `dispatch.launch`.
        """
        key, known = find(
            (self.function, self.channels_first, given, out, options, backend, algorithm)
        )
        if known is None:
            operands = tuple(map(self.take, names, given))
            spec = spec_of(*operands)
            if out is not None:
                out = self._apart(self._out(out, spec.y_shape, operands[0], letters), operands)
            known = Known(spec, backend, algorithm)
            if self.as_given:
                note(key, known)
            return spec, operands, out, known.how
        operands = tuple(map(self._turn, given)) if self.channels_first else given
        if out is not None:
            out = self._apart(self._turn(out), operands)
        return known.spec, operands, out, known.how

    def take(self, argument: str, value: Any) -> Any:
        """One input, as NHWC or KRSC; None and packed weights pass."""
        if value is None or isinstance(value, Packed):
            return value
        array = self._intake(argument, value)
        if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
            text = f"has dtype {array.dtype}, expected float32"
            raise TypeError(f"{self.function}: {argument} {text}")
        turned = self._turn(array)
        taken = operand(self.function, argument, turned)
        self.as_given = self.as_given and array is value and taken is turned
        return taken

    def _out(self, value: Any, shape: tuple[int, ...], like: Array, letters: str) -> Array:
        """``out=`` as an array that may be written in place."""
        if library_of(value) in _IMMUTABLE:
            text = f"out is an array of {library_of(value)}, which is immutable; leave it out"
            raise TypeError(f"{self.function}: {text}")
        array = self._turn(self._intake("out", value))
        check(self.function, "out", array, letters, shape, like=like)
        if streams.read_only(value) or not getattr(array.flags, "writeable", True):
            raise ValueError(f"{self.function}: out is read-only, expected a writable array")
        strides = _natural(array) if array.size else tuple(array.strides)
        if strides is None or overlaps_itself(array):
            text = f"out has strides {tuple(array.strides)} bytes for shape {tuple(array.shape)}"
            wanted = "expected unit channel stride, positive others and no element twice"
            raise ValueError(f"{self.function}: {text}, {wanted}")
        return array

    def _apart(self, out: Array, operands: tuple[Any, ...]) -> Array:
        """``out``, if it shares no memory with what is read."""
        for given in operands if out.size else ():
            if given is not None and type(given) is not Packed and share(out, given):
                raise ValueError(f"{self.function}: out overlaps an input, expected memory apart")
        return out

    def back(self, array: Array, out: Any = None) -> Any:
        """A result in the caller's layout and type; ``out`` itself where it was given."""
        if out is not None:
            return out
        if not self.channels_first and type(self.caller) is np.ndarray:
            return array
        turned = self.channels_first and array.ndim == 4
        return give_back(array.transpose(_TO_NCHW) if turned else array, self.caller)


def _is_foreign(value: Any) -> bool:
    known = isinstance(value, np.ndarray) or backend.is_cupy(value)
    return not known and hasattr(value, "__dlpack__") and hasattr(value, "shape")


# ------------------------------------------------------------------------------- common arguments

_COMMON = {
    "layout": '"NHWC" (x NHWC, filters KRSC), the default, or "NCHW" (x and y NCHW, KCRS).',
    "stream": "in CUDA memory: a handle or an object with ``__cuda_stream__``; None: the current.",
    "out": "array to write the result into and return, such as a slice of channels.",
    "backend": '"auto", "cpu", "cuda", "emulated" or "reference"; None: the switch (`using`).',
    "algorithm": '"auto", "direct", "winograd", "plain", "mma" or "tf32"; None: the switch.',
}
_RAISES = """
Raises
------
TypeError
    An argument of another kind, or of another dtype than the others (float32; float64 with the
    reference; 16 bits with CUDA kernels).
ValueError
    A shape, range or layout that does not fit, an ``out`` that overlaps or is read-only.
BackendError
    A backend that cannot run this; the message says why.

Notes
-----
Errors are raised before anything is written; they name argument, actual and expected."""


def documented(function: Function) -> Function:
    """``function`` with its common arguments and its errors added to the docstring."""
    text = inspect.cleandoc(function.__doc__ or "")
    code = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    entries = "".join(f"\n{name} : {about}" for name, about in _COMMON.items() if name in names)
    head, returns, tail = text.partition("\n\nReturns\n")
    if "\nParameters\n" not in head:
        head += "\n\nParameters\n----------"
    function.__doc__ = f"{head}{entries}{returns}{tail}\n{_RAISES}\n"
    return function
