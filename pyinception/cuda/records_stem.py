"""Records of what stands between a stem's convolutions, fused; conventions as in `records`.

Stages are specs in the order of the network: a normalisation and a max pool, in either order, and
before them perhaps a convolution with ReLU.
"""

from typing import Any

from pyinception.cuda.executor import Declined, Executor
from pyinception.cuda.records import Call, extents, mma_type, storage_of, window
from pyinception.cuda.records_narrow import pad, widened
from pyinception.kernels import cuda_args, cuda_mma_args
from pyinception.spec import LrnSpec, PoolSpec


def lrn_pool(on: Executor, stages: tuple[Any, ...], x: Any, y: Any) -> None:
    """y = the max pool of lrn(x), or lrn of the max pool of x."""
    call = Call(on, cuda_args.LRN_POOL_CUDA_ARGS, storage=storage_of(x), **_tail(stages))
    call.fill(**extents(stages[0].x_shape))
    call.map("x", x)
    call.map("y", y, output=True)
    call.run("lrn_pool")


def conv_lrn_pool(
    on: Executor, stages: tuple[Any, ...], x: Any, w: Any, b: Any, y: Any, *, always: bool = True
) -> None:
    """The same of relu(conv(x, w) + b), which exists on chip only.

    always: even where the plan expects a convolution and `lrn_pool` to end first; else `Declined`.
    """
    conv = stages[0]
    if not conv.relu:
        raise Declined(
            "the convolution has no ReLU, which one kernel with its pool takes for granted"
        )
    units = conv
    if wide := widened(on, conv, x):
        units, (x, w) = wide.spec, pad(on, conv, wide, x, w)
    call = Call(on, cuda_mma_args.CONV_LRN_POOL_MMA_ARGS, 16 // x.dtype.itemsize, always=always)
    into, tail = call.record["conv"], call.record["tail"]
    fields = {**extents(units.x_shape), **window(units), "K": conv.K, "P": conv.P, "Q": conv.Q}
    limits = {"shared_limit": on.shared_limit, "multiprocessors": on.multiprocessors}
    for name, value in (fields | limits | {"type": mma_type(on, x)}).items():
        into[name] = value
    for name, value in _tail(stages[1:]).items():
        tail[name] = value
    call.map("x", x, into)
    call.array("w", w, into)
    call.array("b", b, into)
    call.map("y", y, tail, output=True)
    call.run("conv_lrn_pool_mma")


def _tail(stages: tuple[Any, ...]) -> dict[str, Any]:
    """Window and constants of a normalisation and a max pool."""
    first, second = stages
    pool, lrn = (first, second) if isinstance(first, PoolSpec) else (second, first)
    assert isinstance(pool, PoolSpec) and isinstance(lrn, LrnSpec)
    constants = {name: getattr(lrn, name) for name in ("size", "alpha", "beta", "k")}
    return {
        **window(pool), **constants, "ceil_mode": pool.ceil_mode, "pool_first": pool is first
    }  # fmt: skip
