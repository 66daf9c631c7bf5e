"""Records of depthwise convolution and of the residual sum; conventions as in `records`."""

from typing import Any

from pyinception.cuda.executor import Executor
from pyinception.cuda.records import Call, extents, storage_of, window
from pyinception.kernels import cuda_args
from pyinception.spec import AddScaledSpec, DepthwiseConvSpec


def depthwise(
    on: Executor, plan: str, spec: DepthwiseConvSpec, *, x: Any = None, w: Any = None,
    b: Any = None, y: Any = None, gy: Any = None, gx: Any = None, gw: Any = None, gb: Any = None,
    accumulate: bool = False,
) -> None:  # fmt: skip
    """depthwise_fprop, depthwise_dgrad or depthwise_wgrad; in the last two y is the mask."""
    call = Call(
        on, cuda_args.DEPTHWISE_CUDA_ARGS, storage=storage_of(x if gy is None else gy), K=spec.K,
        relu=spec.relu, accumulate=accumulate, **extents(spec.x_shape), **window(spec),
    )  # fmt: skip
    call.map("x", x)
    call.array("w", w)
    call.array("b", b)
    call.map("y", y, output=gy is None)
    call.map("gy", gy)
    call.map("gx", gx, output=True, keeps=accumulate)
    call.array("gw", gw, output=True)
    call.array("gb", gb, output=True)
    call.run(plan, sized=plan == "depthwise_wgrad")


def add_scaled(
    on: Executor, plan: str, spec: AddScaledSpec, *, a: Any, b: Any, y: Any, gy: Any = None
) -> None:
    """add_scaled_fprop, or add_scaled_dgrad, whose a and b are the gradients and y the mask."""
    call = Call(
        on, cuda_args.ADD_SCALED_CUDA_ARGS, storage=storage_of(a if gy is None else gy),
        relu=spec.relu, scale=spec.scale, **extents(spec.shape),
    )  # fmt: skip
    call.map("a", a, output=gy is not None)
    call.map("b", b, output=gy is not None)
    call.map("y", y, output=gy is None)
    call.map("gy", gy)
    call.run(plan)
