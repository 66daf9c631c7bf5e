"""Where arrays live and what can run here: array modules, the compiled core, the reference.

A backend that is missing has a cause and a remedy, in one sentence each; nothing here raises at
import. The array decides the device: NumPy arrays run on cpu, emulated or reference, CuPy arrays
on cuda.
"""

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from pyinception import config

Array: TypeAlias = Any  # numpy.ndarray or cupy.ndarray: CuPy is optional, so no type can name both

NAMES = ("auto", "cpu", "cuda", "emulated", "reference")
OLDEST_SM = 75
HOST = ("cpu", "emulated", "reference")


class BackendError(RuntimeError):
    """A backend was asked for that cannot run here; the message gives the cause and the remedy."""


@dataclass(frozen=True)
class Target:
    """Where a plan is to run: memory of the arrays, dtype, CPU level ("" = the host's best)."""

    memory: str  # "host" or "cuda"
    dtype: str
    level: str = ""


def is_cupy(value: Any) -> bool:
    """Whether ``value`` is an array of CuPy, which need not be installed."""
    return type(value).__module__.partition(".")[0] == "cupy"


def array_module(array: Array) -> ModuleType:
    """NumPy, or CuPy for one of its arrays."""
    if isinstance(array, np.ndarray):
        return np
    if is_cupy(array):
        return sys.modules["cupy"]
    raise TypeError(f"an array of NumPy or CuPy was expected, not a {type(array).__name__}")


def memory_of(array: Array) -> str:
    """ "host" for NumPy arrays, "cuda" for CuPy arrays."""
    return "host" if array_module(array) is np else "cuda"


def to_host(array: Array) -> Array:
    """``array`` as NumPy's; what lies in CUDA memory is copied, and waited for."""
    return array if array_module(array) is np else array.get()


def beside(array: Array, like: Array) -> Array:
    """``array`` in the memory of ``like``, copied if it lies elsewhere."""
    module = array_module(like)
    return to_host(array) if module is np else module.asarray(array)


def moved(array: Array, memory: str) -> Array:
    """``array`` in ``memory``, "host", "cuda" or "cuda:N"; itself if it lies there.

    "cuda" is any device: an array of the host goes to the current one.

    Raises
    ------
    ValueError
        For another name.
    BackendError
        Where there is no CUDA to move to, or no such device: cause and remedy.
    """
    if memory == "host":
        return to_host(array)
    device = cuda_device("moved", memory)
    with device:
        if memory != "cuda" and is_cupy(array) and array.device.id != device.id:
            return array.copy()
        return importlib.import_module("cupy").asarray(array)


def cuda_device(function: str, memory: str) -> Any:
    """CuPy's device that "cuda" (the current one) or "cuda:N" names, to be current in a ``with``.

    Raises
    ------
    ValueError, BackendError
        As `moved` does.
    """
    name, colon, number = memory.partition(":")
    if name != "cuda" or number.isdecimal() != bool(colon):
        text = f'memory is {memory!r}, expected "host", "cuda" or "cuda:N"'
        raise ValueError(f"{function}: {text}")
    if reason := why_not("cuda") or cupy_reason():
        raise BackendError(f"{function}: nothing can be put into CUDA memory: {reason}")
    cuda = importlib.import_module("cupy").cuda
    count = int(cuda.runtime.getDeviceCount())
    if number and int(number) >= count:
        text = f"there is no CUDA device {number}, expected a number below {count}"
        raise BackendError(f"{function}: {text}")
    return cuda.Device(int(number)) if number else cuda.Device()


def dtype_of(name: str) -> Any:
    """The NumPy dtype of a storage's name; bfloat16 is ml_dtypes', imported where it is met."""
    if name != "bfloat16":
        return np.dtype(name)
    return np.dtype(importlib.import_module("ml_dtypes").bfloat16)


def rounded(source: Array, out: Array) -> None:
    """out = source in the dtype of ``out``, to nearest; both contiguous."""
    if memory_of(out) == "cuda":  # CuPy need not know bfloat16
        importlib.import_module("pyinception.cuda.steps").cast(source, out)
    else:
        out[...] = source.astype(out.dtype)


NARROW = ("float16", "bfloat16")  # storage of maps and filters of the CUDA kernels
# What the compiled core does with bfloat16 in host memory, inference, and by which algorithms.
BFLOAT16 = {
    **{(op, "fprop"): ("auto", "winograd", "direct", "plain") for op in ("conv", "reduce_conv")},
    ("linear", "fprop"): ("auto", "direct", "plain"),
    ("inception", "fprop"): ("auto", "winograd", "direct"),
    **{(op, "fprop"): ("auto",) for op in ("max_pool", "avg_pool", "lrn")},
}


def wide(array: Array) -> Any:
    """The dtype of biases, vectors, losses and parameter gradients beside ``array``.

    float32 beside 16-bit maps, else the dtype of ``array``.
    """
    return np.dtype(np.float32) if array.dtype.name in NARROW else array.dtype


@cache
def _load_core() -> tuple[Any, str | None]:
    try:
        return importlib.import_module("pyinception._C"), None
    except ImportError as error:
        built = importlib.util.find_spec("pyinception._C") is not None
        cause = f"failed to load ({error})" if built else "is not built here"
        remedy = 'install from the repository (pip install .) or use backend="reference"'
        return None, f"the compiled core pyinception._C {cause}; {remedy}"


def core(switches: config.Values | None = None) -> Any:
    """The module ``pyinception._C``; BackendError with cause and remedy where it is missing.

    ``switches``: as the caller has just read them.
    """
    module, reason = _load_core()
    if module is None:
        raise BackendError(f'backend "cpu": {reason}')
    switches = switches or config.values()
    if switches.jit:
        _compile_live(switches.cpu_level or module.host_level())
    return module


def built_core() -> Any:
    """The module ``pyinception._C`` or None, whatever the switches say."""
    return _load_core()[0]


@cache
def _compile_live(level: str) -> None:
    """Exchange the linked tile programs of one level for ones compiled now."""
    if importlib.util.find_spec("numba") is None:
        raise BackendError(
            "jit is on, but Numba is not installed; pip install 'pyinception[jit]' or switch it off"
        )
    live = importlib.import_module("pyinception.kernels.cpu.live")
    live.install(_load_core()[0], level)


@cache
def reference() -> Any:
    """The NumPy reference of every op (``pyinception.kernels.reference``)."""
    return importlib.import_module("pyinception.kernels.reference")


@cache
def cupy_reason() -> str | None:
    """None where arrays of other libraries in CUDA memory can be taken over, as CuPy's."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed; pip install 'pyinception[cuda13]' or [cuda12]"
    return None


def why_not(name: str) -> str | None:
    """None where backend ``name`` can run, else the cause and the remedy."""
    if name == "cpu":
        return _load_core()[1]
    if name == "cuda":
        return _core_lacks("cuda_device", "the CUDA kernels") or _cuda_reason()
    if name == "emulated":
        return _core_lacks("cuda_plan", "the CUDA kernels") or _emulator_reason()
    return None


@cache
def _cuda_reason() -> str | None:
    try:
        module = _load_core()[0]
        module.cuda_device()
        if (sm := module.cuda_capability()) < OLDEST_SM:
            text = f"this GPU is sm_{sm}, the kernels need sm_{OLDEST_SM} or later"
            return f'{text}; use backend="cpu" or "reference"'
    except NotImplementedError as error:
        return f'{str(error).partition(": ")[2]}; use backend="cpu" or "reference"'
    return None


@cache
def _emulator_reason() -> str | None:
    try:
        importlib.import_module("pyinception.emulator.device").library()
    except RuntimeError as error:
        return f"{error}; install from the repository (pip install .)"
    return importlib.import_module("pyinception.emulator.compile").why_not()


def _core_lacks(attribute: str, what: str) -> str | None:
    module, reason = _load_core()
    if module is None:
        return reason
    if not hasattr(module, attribute):
        return f'this version of the core cannot launch {what}; use backend="cpu" or "reference"'
    return None


def level_reason(level: str) -> str | None:
    """None where the core has kernels for CPU level ``level`` that this host can run."""
    levels = core().levels()
    if level and level not in levels:
        return f"CPU level {level} cannot run here; levels that can: {', '.join(levels)}"
    return None
