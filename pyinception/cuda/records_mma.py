"""Records of the convolutions on tensor cores; conventions as in `records`."""

from typing import Any

from pyinception.cuda.executor import Executor
from pyinception.cuda.records import Call, extents, mma_type, window
from pyinception.cuda.records_narrow import crop, pad, padded_gradient, widened
from pyinception.kernels import cuda_mma_args
from pyinception.spec import BranchSpec, ConvSpec


def _unit(array: Any) -> int:
    """Elements of 16 bytes."""
    return 16 // int(array.dtype.itemsize)


def mask_mma(on: Executor, spec: ConvSpec, gy: Any, y: Any) -> Any:
    """gy [y > 0], contiguous; gy itself without a mask."""
    if y is None:
        return gy
    n, p, q, k = spec.y_shape
    call = Call(
        on, cuda_mma_args.MASK_MMA_ARGS, _unit(gy), N=n, P=p, Q=q, K=k, type=mma_type(on, gy)
    )  # fmt: skip
    call.map("gy", gy)
    call.map("y", y)
    out = on.scratch("masked", spec.y_shape, gy.dtype)
    call.array("out", out)
    call.run("mask_mma")
    return out


def _outputs(call: Call, arrays: list[Any], accumulate: bool = False) -> None:
    first = 0
    for i, array in enumerate(arrays):
        into = call.record["outputs"][i]
        how = {"output": True, "keeps": accumulate, "unit": call.unit}
        address, strides = call.on.put("y", array, **how)  # type: ignore[arg-type]
        into["y"], into["first"], into["count"] = address, first, array.shape[-1]
        into["strides"] = strides[:3] if len(strides) == 4 else (strides[0],) * 3
        first += array.shape[-1]
    call.fill(output_count=len(arrays))


def _conv_mma(on: Executor, like: Any, **fields: Any) -> Call:
    return Call(
        on, cuda_mma_args.CONV_MMA_ARGS, _unit(like), type=mma_type(on, like),
        shared_limit=on.shared_limit, multiprocessors=on.multiprocessors, **fields,
    )  # fmt: skip


def conv_mma_fprop(on: Executor, spec: ConvSpec, x: Any, w: Any, b: Any, y: Any) -> None:
    """y = [relu](conv(x, w) + b)."""
    units = spec
    if wide := widened(on, spec, x):
        units, (x, w) = wide.spec, pad(on, spec, wide, x, w)
    fields = {**extents(units.x_shape), **window(units), "K": spec.K, "P": spec.P, "Q": spec.Q}
    call = _conv_mma(on, x, step_h=1, step_w=1, relu=spec.relu, **fields)
    call.map("x", x)
    call.array("w", w)
    call.array("b", b)
    _outputs(call, [y])
    call.run("conv_mma")


def conv_mma_dgrad(
    on: Executor, spec: ConvSpec, gy: Any, w: Any, gx: Any, *, mask: Any = None,
    accumulate: bool = False,
) -> None:  # fmt: skip
    """gx = or += conv^T(gy, w) [mask > 0], gy masked already: w flipped, gy dilated."""
    flip = Call(on, cuda_mma_args.FLIP_FILTERS_MMA_ARGS, filter_count=1)
    into, fields = flip.record["filters"][0], dict(zip("KRSC", spec.w_shape, strict=True))
    for name, value in (fields | {"type": mma_type(on, gy)}).items():
        into[name] = value
    flip.array("w", w, into)
    flipped = on.scratch("flipped", (spec.C, spec.R, spec.S, spec.K), gy.dtype)
    flip.array("out", flipped, into)
    flip.run("flip_filters_mma")
    call = _conv_mma(
        on, gy, N=spec.N, H=spec.P, W=spec.Q, C=spec.K, K=spec.C, R=spec.R, S=spec.S,
        P=spec.H, Q=spec.W, stride_h=1, stride_w=1, pad_h=spec.R - 1 - spec.padding[0],
        pad_w=spec.S - 1 - spec.padding[1], step_h=spec.stride[0], step_w=spec.stride[1],
        accumulate=accumulate,
    )  # fmt: skip
    call.map("x", gy)
    call.array("w", flipped)
    call.map("mask", mask)
    _outputs(call, [gx], accumulate)
    call.run("conv_mma")


def conv_mma_wgrad(on: Executor, spec: ConvSpec, x: Any, gy: Any, gw: Any, gb: Any) -> None:
    """gw, gb = the sums over pixels, gy masked already."""
    units, whole = spec, gw
    if wide := widened(on, spec, x):
        units, (x,), gw = wide.spec, pad(on, spec, wide, x), padded_gradient(on, wide)
    fields = {**extents(units.x_shape), **window(units), "K": spec.K, "P": spec.P, "Q": spec.Q}
    call = Call(
        on, cuda_mma_args.CONV_WGRAD_MMA_ARGS, _unit(x), type=mma_type(on, x),
        shared_limit=on.shared_limit, **fields,
    )  # fmt: skip
    call.map("gy", gy)
    call.map("x", x)
    call.array("gw", gw, output=True)
    call.array("gb", gb, output=True)
    call.run("conv_wgrad_mma", sized=True)
    if wide:
        crop(on, spec, wide, gw, whole)


def reduce_conv_mma_fields(
    call: Call, spec: BranchSpec, into: Any, x: Any, wr: Any, br: Any, w: Any, b: Any, y: Any,
    r: Any,
) -> None:  # fmt: skip
    """The record of the fused branch, alone or within a module's."""
    reduce, last = spec.stages
    assert isinstance(reduce, ConvSpec) and isinstance(last, ConvSpec)
    on, more = call.on, {"Cr": reduce.K, "K": last.K, "type": mma_type(call.on, x)}
    limits = {"shared_limit": on.shared_limit, "multiprocessors": on.multiprocessors}
    for name, value in {**extents(reduce.x_shape), **window(last), **more, **limits}.items():
        into[name] = value
    call.map("x", x, into)
    for name, array in (("wr", wr), ("br", br), ("w", w), ("b", b)):
        call.array(name, array, into)
    call.map("y", y, into, output=True)
    call.map("r", r, into, output=True)


def reduce_conv_mma(on: Executor, spec: BranchSpec, x: Any, *arrays: Any) -> None:
    """y, r = the fused branch; arrays: wr, br, w, b, y, r."""
    call = Call(on, cuda_mma_args.REDUCE_CONV_MMA_ARGS, _unit(x))
    reduce_conv_mma_fields(call, spec, call.record, x, *arrays)
    call.run("reduce_conv_mma")
