"""What the registered ops run: find the plan, allocate the results, launch.

Everything that is decided depends on shapes, strides, dtypes and switches: a call like one seen
before (`known`) takes its plan at once. The core reads tensors through DLPack where they lie; the
reference, which float64 takes, gets them as NumPy arrays.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from pyinception import config, known
from pyinception.dispatch import Plan, choose, target_of
from pyinception.interop.torch import cuda, operands
from pyinception.interop.torch.filters import packed_filter
from pyinception.ops import conv as convs
from pyinception.ops import inception as modules
from pyinception.ops import lrn as response
from pyinception.ops import reduce_conv as branches
from pyinception.spec import InceptionSpec

Tensors = tuple[Any, ...]
Window = tuple[int, int]
_TO_NHWC, _TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
PLAIN = torch.Tensor, torch.nn.Parameter  # nothing of their own in how they are read
_CONV, _CONV_BACKWARD = (("conv", "fprop"),), (("conv", "dgrad"), ("conv", "wgrad"))
_BRANCH, _BRANCH_BACKWARD = (("reduce_conv", "fprop"),), (("reduce_conv", "backward"),)
_MODULE, _MODULE_BACKWARD = (("inception", "fprop"),), (("inception", "backward"),)


# --------------------------------------------------------------------------------------- forward


def conv2d(
    x: Any, w: Any, b: Any, stride: Any, padding: Any, relu: bool, keep: bool = False
) -> torch.Tensor:
    """y = [relu](conv2d(x, w) + b), (N, K, P, Q)."""

    def make(x: Any, w: Any, b: Any) -> Any:
        return convs.conv_spec("conv2d", x, w, b, stride, padding, relu)

    options = stride, padding, relu
    plan, (x, w, b) = _plans("conv2d", _CONV, (x, w, b), options, make)
    y = _new(plan.spec.y_shape, x)
    if keep:
        (w,) = _kept(plan, w)
    _run(plan, (_nhwc(x), _nhwc(w), b, _nhwc(y)))
    return y


def reduce_conv2d(
    x: Any,
    w_reduce: Any,
    b_reduce: Any,
    w: Any,
    b: Any,
    stride: Any,
    padding: Any,
    keep: bool = False,
    save: bool = False,
) -> tuple[torch.Tensor, Any]:
    """(y, r) of the fused branch; r only if ``save``, else None."""

    def make(x: Any, wr: Any, br: Any, w: Any, b: Any) -> Any:
        return branches.reduce_conv_spec("reduce_conv2d", x, wr, br, w, b, stride, padding)

    tensors, options = (x, w_reduce, b_reduce, w, b), (stride, padding)
    plan, tensors = _plans("reduce_conv2d", _BRANCH, tensors, options, make)
    x, w_reduce, b_reduce, w, b = tensors
    y = _new(plan.spec.y_shape, x)
    r = _new(plan.spec.stages[0].y_shape, x) if save else None
    if keep:
        w_reduce, w = _kept(plan, w_reduce, w)
    first, last = _nhwc(w_reduce), _nhwc(w)
    out = (y, _TO_NHWC), None if r is None else (r, _TO_NHWC)
    _run(plan, ((x, _TO_NHWC), first, b_reduce, last, b, *out))
    return y, r


def inception(
    x: Any, weights: Any, keep: bool = False, save: bool = False
) -> tuple[torch.Tensor, Any]:
    """(y, (r3, r5, pooled, argmax)) of the module; the maps only if ``save``, else None."""

    def make(x: Any, *arrays: Any) -> Any:
        return modules.inception_spec("inception", x, arrays)

    plan, (x, *filters) = _plans("inception", _MODULE, (x, *weights), (), make)
    y, saved = _new(plan.spec.y_shape, x), None
    if save:
        saved = tuple(_new(shape, x) for shape in _reduced(plan.spec))
        saved += (_new(plan.spec.x_shape, x, torch.uint8),)
    if keep:
        filters[::2] = _kept(plan, *filters[::2])
    _run(plan, _turned((x, tuple(filters), y, saved)))
    return y, saved


def lrn(x: Any, size: int, alpha: float, beta: float, k: float) -> torch.Tensor:
    """y_c = x_c (k + alpha/size sum of x^2 over ``size`` channels)^-beta, without gradients."""

    def make(x: Any) -> Any:
        return response.lrn_spec("lrn", x, size, alpha, beta, k)

    plan, (x,) = _plans("lrn", (("lrn", "fprop"),), (x,), (size, alpha, beta, k), make)
    y = _new(plan.spec.y_shape, x)
    _run(plan, ((x, _TO_NHWC), (y, _TO_NHWC)))
    return y


def _reduced(spec: InceptionSpec) -> tuple[Any, ...]:
    """Shapes of r3, r5 and pooled, NHWC."""
    reduced = [spec.branches[i].stages[0].y_shape for i in (1, 2)]  # type: ignore[union-attr]
    return *reduced, spec.x_shape


# -------------------------------------------------------------------------------------- backward


def conv2d_backward(
    gy: Any, x: Any, w: Any, y: Any, stride: Window, padding: Window
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(gx, gw, gb); y only where ReLU followed: gy then counts where y > 0."""
    function, options = "conv2d_backward", (tuple(stride), tuple(padding))

    def make(gy: Any, x: Any, w: Any, y: Any) -> Any:
        window = tuple(stride), tuple(padding)
        spec = convs.conv_spec(function, x, w, None, *window, relu=False)
        return _matching(function, replace(spec, bias=True), gy)

    tensors = gy, x, w, y
    plan, wplan, (gy, x, w, y) = _plans(function, _CONV_BACKWARD, tensors, options, make)
    gx, gw, gb = _new(plan.spec.x_shape, x), _new(plan.spec.w_shape, x), _new((len(w),), x)
    _run(plan, _turned((gy, w, y, gx, False)))
    _run(wplan, _turned((x, gy, y, gw, gb)))
    return gx, gw, gb


def reduce_conv2d_backward(
    gy: Any, x: Any, w_reduce: Any, w: Any, r: Any, y: Any, stride: Window, padding: Window
) -> tuple[torch.Tensor, ...]:
    """(gx, gw_reduce, gb_reduce, gw, gb) from the maps that the forward saved."""
    function, options = "reduce_conv2d_backward", (tuple(stride), tuple(padding))

    def make(gy: Any, x: Any, wr: Any, w: Any, r: Any, y: Any) -> Any:
        window = tuple(stride), tuple(padding)
        spec = branches.reduce_conv_spec(function, x, wr, None, w, None, *window)
        return _matching(function, spec, gy)

    tensors = gy, x, w_reduce, w, r, y
    plan, tensors = _plans(function, _BRANCH_BACKWARD, tensors, options, make)
    _, x, w_reduce, w, *_ = tensors
    filters = [_new((len(f), *f.shape[2:], f.shape[1]), x) for f in (w_reduce, w)]
    gx, (gwr, gw) = _new(plan.spec.x_shape, x), filters
    gbr, gb = _new((len(gwr),), x), _new((len(gw),), x)
    _run(plan, _turned((*tensors, gx, gwr, gbr, gw, gb, False)))
    return gx, gwr, gbr, gw, gb


def inception_backward(
    gy: Any, x: Any, weights: Any, y: Any, saved: Any
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """(gx, gradients of the twelve weights) from the maps that the forward saved."""
    function = "inception_backward"

    def make(gy: Any, x: Any, *arrays: Any) -> Any:
        return _matching(function, modules.inception_spec(function, x, arrays[:12]), gy)

    tensors = gy, x, *weights, y, *saved
    plan, tensors = _plans(function, _MODULE_BACKWARD, tensors, (), make)
    gy, x, *weights = tensors[:14]
    y, *saved = tensors[14:]
    gx = _new(plan.spec.x_shape, x)
    shapes = [w.shape if w.ndim == 1 else (len(w), *w.shape[2:], w.shape[1]) for w in weights]
    grads = tuple(_new(shape, x) for shape in shapes)
    _run(plan, _turned((gy, x, tuple(weights), y, tuple(saved), gx, grads)))
    return gx, list(grads)


def _matching(function: str, spec: Any, gy: Any) -> Any:
    """``spec``, if its output has the shape of gy."""
    if tuple(gy.shape) != spec.y_shape:
        n, p, q, k = spec.y_shape
        actual = tuple(gy.shape[axis] for axis in _TO_NCHW)
        text = f"gy has shape {actual}, expected (N, K, P, Q) = {(n, k, p, q)}"
        raise ValueError(f"{function}: {text}")
    return spec


# --------------------------------------------------------------------------------- what all share


def _plans(
    function: str,
    directions: tuple[tuple[str, str], ...],
    tensors: Tensors,
    options: Tensors,
    make: Callable[..., Any],
) -> Any:
    """The plans of a call and its tensors as the plans read them: maps channels last.

    A call that is not known is checked in full; ``make`` gives its spec from NHWC arrays.
    """
    key, seen = known.find((function, *tensors, *options), PLAIN)
    if seen is None:
        operands.check(function, tensors)
        tensors = operands.lay(function, tensors)
        key, seen = known.find((function, *tensors, *options), PLAIN)
    if seen is None:
        on_cuda = _first(tensors).is_cuda
        arrays = tuple(map(cuda.shadow if on_cuda else _array, tensors))
        spec, target = make(*arrays), cuda.TARGET if on_cuda else target_of(_first(arrays))
        backend = "reference" if target.dtype == "float64" else None
        seen = known.Known(spec, backend)
        for direction in directions:
            seen.plans[direction] = choose(*direction, spec, target, backend=backend)
        known.note(key, seen)
    return *seen.plans.values(), tensors


def _first(arrays: Tensors) -> Any:
    return next(array for array in arrays if array is not None and array.ndim == 4)


def _kept(plan: Plan, *filters: Any) -> list[Any]:
    """``filters`` packed as the plan reads them, where it reads packed ones."""
    formats = plan.formats
    if not formats:
        return list(filters)
    return [packed_filter(f, format) for f, format in zip(filters, formats, strict=True)]


def _run(plan: Plan, operands: Tensors) -> None:
    """One launch on operands as `_nhwc` and `_turned` give them."""
    if plan.row.backend == "cuda":
        return cuda.run(plan, operands)
    if plan.row.backend != "cpu":
        operands = tuple(map(_array, operands))
    config.with_threads(torch.get_num_threads(), plan.row.run, plan.spec, *operands)


def _nhwc(value: Any) -> Any:
    """A map or filter with the order in which the core reads its axes; packed ones and None."""
    return (value, _TO_NHWC) if isinstance(value, torch.Tensor) else value


def _turned(values: Tensors) -> Tensors:
    """`_nhwc` of all that have four axes, in tuples too."""
    return tuple(
        [
            ((v, _TO_NHWC) if v.dim() == 4 else v)
            if isinstance(v, torch.Tensor)
            else _turned(v)
            if type(v) is tuple
            else v
            for v in values
        ]
    )


def _array(value: Any) -> Any:
    """An operand as the reference takes it: NumPy arrays, NHWC and KRSC."""
    if isinstance(value, torch.Tensor):
        array = value.detach().numpy()
        return array.transpose(_TO_NHWC) if array.ndim == 4 else array
    if type(value) is tuple:
        turned = len(value) == 2 and value[1] is _TO_NHWC
        return _array(value[0]) if turned else tuple(map(_array, value))
    return value


def _new(shape: Any, like: torch.Tensor, dtype: Any = None) -> torch.Tensor:
    """An empty map (N, P, Q, K) or filter (K, R, S, C) as PyTorch has it: NCHW, channels last."""
    if len(shape) == 1:
        return like.new_empty(shape)
    n, p, q, k = shape
    strides = p * q * k, 1, q * k, k
    if dtype is None:
        return like.new_empty_strided((n, k, p, q), strides)
    return like.new_empty_strided((n, k, p, q), strides, dtype=dtype)
