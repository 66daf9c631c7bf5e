"""The steps around the ops, by the CUDA kernels: finite check, rounding to 16 bits, SGD.

Arrays are contiguous. Those in CUDA memory are worked on where they lie, NumPy arrays on the
emulator.
"""

from typing import Any

import numpy as np

from pyinception import config, workspace
from pyinception.backend import Array, memory_of, to_host
from pyinception.cuda.executor import Emulated, Runtime
from pyinception.cuda.records import Call, storage_of
from pyinception.kernels import cuda_args


def serves(array: Array) -> bool:
    """Whether kernels of these steps are to run on ``array``: on CUDA always, emulated if asked."""
    return memory_of(array) == "cuda" or config.get("backend") == "emulated"


def _on(array: Array) -> Any:
    return Runtime(array) if memory_of(array) == "cuda" else Emulated()


def all_finite(arrays: list[Array]) -> bool:
    """Whether no element of any array is infinite or NaN: one kernel an array, one wait."""
    if not arrays:
        return True
    verdicts = workspace.empty((len(arrays),), arrays[0], np.float32)
    on = _on(arrays[0])
    for i, x in enumerate(arrays):
        fields = {"storage": storage_of(x), "count": x.size}
        call = Call(on, cuda_args.FINITE_CUDA_ARGS, **fields)
        call.array("x", x)
        call.array("verdict", verdicts[i : i + 1], output=True)
        call.run("check_finite", sized=True)
    on.finish()
    return not to_host(verdicts).any()


def cast(x: Array, y: Array) -> None:
    """y = x in the storage of y, to nearest, ties to even."""
    on = _on(x)
    call = Call(
        on, cuda_args.CAST_CUDA_ARGS, count=x.size, **{"from": storage_of(x), "to": storage_of(y)}
    )
    call.array("x", x)
    call.array("y", y, output=True)
    call.run("cast")
    on.finish()


def sgd(
    w: Array, v: Array, g: Array, copy: Array | None, *, rate: float, momentum: float, decay: float
) -> None:
    """v = momentum v + rate (g + decay w); w = w - v; copy = w in its storage, if there is one.

    w, v and g are float32; each product and sum is rounded by itself, as NumPy does it.
    """
    on = _on(w)
    call = Call(
        on, cuda_args.SGD_CUDA_ARGS, rate=rate, momentum=momentum, decay=decay, scale=1.0,
        count=w.size, storage=0 if copy is None else storage_of(copy),
    )  # fmt: skip
    call.array("w", w, output=True, keeps=True)
    call.array("v", v, output=True, keeps=True)
    call.array("g", g)
    call.array("copy", copy, output=True)
    call.run("sgd")
    on.finish()
