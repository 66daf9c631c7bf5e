"""The functions a user calls on arrays: each forward has its backward.

Arrays are NumPy, CuPy or anything with ``__dlpack__`` (float32; float64 with backend="reference"),
results are of the caller's type. Common arguments: ``layout`` "NHWC" (default: x NHWC, w KRSC) or
"NCHW" (x NCHW, w KCRS, results NCHW); ``out`` an array to write, such as a channel slice;
``backend`` and ``algorithm`` as in `config`; ``stream`` for arrays in CUDA memory: an object with
``__cuda_stream__`` or a handle, by default the current stream of the arrays' library. Errors are
TypeError (kind, dtype) or ValueError (shape, range, overlap, read-only ``out``), raised before
anything is written.
"""

from dataclasses import replace
from typing import Any

from pyinception.border import Border, documented
from pyinception.dispatch import check
from pyinception.ops import conv, reduce_conv
from pyinception.ops import inception as module
from pyinception.ops.weights import NAMES, InceptionWeights


@documented
def conv2d(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    relu: bool = False,
    layout: str | None = None,
    out: Any = None,
    stream: Any = None,
    backend: str | None = None,
    algorithm: str | None = None,
) -> Any:
    """y[n,p,q,k] = [relu](b[k] + sum_rsc w[k,r,s,c] x[n, p sh - ph + r, q sw - pw + s, c]).

    Parameters
    ----------
    x : (N, H, W, C).
    w : (K, R, S, C), or a `Packed` of that shape.
    b : (K,) or None.
    stride, padding : int or pair (rows, columns); padding also "same" or "valid".
    relu : whether negative results become 0 (NaN stays NaN).

    Returns
    -------
    y : (N, P, Q, K), P = floor((H + 2 ph - R) / sh) + 1, Q likewise.
    """

    def spec_of(x: Any, w: Any, b: Any) -> Any:
        return conv.conv_spec("conv2d", x, w, b, stride, padding, relu)

    with Border("conv2d", layout, x, w, stream) as border:
        spec, (x, w, b), target, how = border.call(
            ("x", "w", "b"), (x, w, b), (stride, padding, relu), spec_of, out, "N P Q K",
            backend, algorithm,
        )  # fmt: skip
        return border.back(conv.conv_fprop(spec, x, w, b, target, **how), out)


@documented
def conv2d_backward(
    gy: Any,
    x: Any,
    w: Any,
    *,
    y: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    layout: str | None = None,
    stream: Any = None,
    backend: str | None = None,
    algorithm: str | None = None,
) -> tuple[Any, Any, Any]:
    """(gx, gw, gb): gradients of sum(gy y) with y = conv2d(x, w, b).

    Parameters
    ----------
    gy : (N, P, Q, K).
    x, w : as the forward had them.
    y : the forward's result if it had relu=True: gy then counts only where y > 0.
    stride, padding : as the forward had them.

    Returns
    -------
    (gx, gw, gb) in the shapes of x (N, H, W, C), w (K, R, S, C) and b (K,).
    """
    function = "conv2d_backward"

    def spec_of(gy: Any, x: Any, w: Any, y: Any) -> Any:
        spec = conv.conv_spec(function, x, w, None, stride, padding, False)
        check(function, "gy", gy, "N P Q K", spec.y_shape, like=x)
        if y is not None:
            check(function, "y", y, "N P Q K", spec.y_shape, like=x)
        return replace(spec, bias=True)

    with Border(function, layout, x, w, stream) as border:
        spec, (gy, x, w, y), _, how = border.call(
            ("gy", "x", "w", "y"), (gy, x, w, y), (stride, padding), spec_of,
            backend=backend, algorithm=algorithm,
        )  # fmt: skip
        gx = conv.conv_dgrad(spec, gy, w, y, **how)
        gw, gb = conv.conv_wgrad(spec, x, gy, y, **how)
        return border.back(gx), border.back(gw), border.back(gb)


@documented
def reduce_conv2d(
    x: Any,
    w_reduce: Any,
    b_reduce: Any,
    w: Any,
    b: Any,
    *,
    stride: Any = 1,
    padding: Any = "same",
    relu: bool = True,
    return_reduced: bool = False,
    layout: str | None = None,
    out: Any = None,
    stream: Any = None,
    backend: str | None = None,
    algorithm: str | None = None,
) -> Any:
    """y = relu(conv(r, w) + b), r = relu(conv1x1(x, w_reduce) + b_reduce): the fused branch.

    The halo of r is zero. r never reaches memory unless ``return_reduced``, which gives (y, r).

    Parameters
    ----------
    x : (N, H, W, C).
    w_reduce, b_reduce : (Cr, 1, 1, C) and (Cr,) or None.
    w, b : (K, R, S, Cr) and (K,) or None.
    stride, padding : of the second convolution.
    relu : True; without ReLU the two convolutions are one, or two calls of `conv2d`.
    return_reduced : also return r (N, H, W, Cr), which `reduce_conv2d_backward` takes.

    Returns
    -------
    y : (N, P, Q, K), or (y, r).
    """
    if relu is not True:
        text = f"relu is {relu!r}, expected True (for other chains call conv2d twice)"
        raise ValueError(f"reduce_conv2d: {text}")

    def spec_of(x: Any, wr: Any, br: Any, w: Any, b: Any) -> Any:
        return reduce_conv.reduce_conv_spec("reduce_conv2d", x, wr, br, w, b, stride, padding)

    with Border("reduce_conv2d", layout, x, w_reduce, stream) as border:
        spec, arrays, target, how = border.call(
            ("x", "w_reduce", "b_reduce", "w", "b"), (x, w_reduce, b_reduce, w, b),
            (stride, padding), spec_of, out, "N P Q K", backend, algorithm,
        )  # fmt: skip
        y, r = reduce_conv.reduce_conv_fprop(
            spec, *arrays, save=return_reduced, out=target, **how
        )  # fmt: skip
        result = border.back(y, out)
        return (result, border.back(r)) if return_reduced else result


@documented
def reduce_conv2d_backward(
    gy: Any,
    x: Any,
    w_reduce: Any,
    w: Any,
    *,
    r: Any,
    y: Any,
    stride: Any = 1,
    padding: Any = "same",
    layout: str | None = None,
    stream: Any = None,
    backend: str | None = None,
    algorithm: str | None = None,
) -> tuple[Any, Any, Any, Any, Any]:
    """(gx, gw_reduce, gb_reduce, gw, gb): gradients of sum(gy y), y and r as the forward gave them.

    Parameters
    ----------
    gy, y : (N, P, Q, K).
    r : (N, H, W, Cr), from ``reduce_conv2d(..., return_reduced=True)``; r and y are the ReLU masks.
    x, w_reduce, w, stride, padding : as the forward had them.
    """
    function = "reduce_conv2d_backward"

    def spec_of(gy: Any, x: Any, wr: Any, w: Any, r: Any, y: Any) -> Any:
        spec = reduce_conv.reduce_conv_spec(function, x, wr, None, w, None, stride, padding)
        check(function, "r", r, "N H W Cr", (*x.shape[:3], wr.shape[0]), like=x)
        check(function, "y", y, "N P Q K", spec.y_shape, like=x)
        check(function, "gy", gy, "N P Q K", spec.y_shape, like=x)
        return spec

    with Border(function, layout, x, w_reduce, stream) as border:
        spec, arrays, _, how = border.call(
            ("gy", "x", "w_reduce", "w", "r", "y"), (gy, x, w_reduce, w, r, y),
            (stride, padding), spec_of, backend=backend, algorithm=algorithm,
        )  # fmt: skip
        grads = reduce_conv.reduce_conv_backward(spec, *arrays, **how)
        gx, gwr, gbr, gw, gb = (border.back(g) for g in grads)
        return gx, gwr, gbr, gw, gb


@documented
def inception(
    x: Any,
    weights: InceptionWeights | tuple[Any, ...],
    *,
    return_saved: bool = False,
    layout: str | None = None,
    out: Any = None,
    stream: Any = None,
    backend: str | None = None,
    algorithm: str | None = None,
) -> Any:
    """y = [1x1 | 1x1 -> 3x3 | 1x1 -> 5x5 | max pool 3x3 -> 1x1], ReLU after every convolution.

    Parameters
    ----------
    x : (N, H, W, C).
    weights : `InceptionWeights`, or its twelve arrays in order.
    return_saved : also return (r3, r5, pooled, argmax), which `inception_backward` takes.

    Returns
    -------
    y : (N, H, W, K1 + K3 + K5 + Kp), the branches in their own channels.
    """
    function, weights = "inception", tuple(weights)
    module.check_count(function, weights)

    def spec_of(x: Any, *weights: Any) -> Any:
        return module.inception_spec(function, x, weights)

    with Border(function, layout, x, weights[0], stream) as border:
        spec, (x, *filters), target, how = border.call(
            ("x", *NAMES), (x, *weights), (), spec_of, out, "N H W K",
            backend=backend, algorithm=algorithm,
        )  # fmt: skip
        y, saved = module.inception_fprop(spec, x, filters, save=return_saved, out=target, **how)
        result = border.back(y, out)
        return (result, tuple(border.back(s) for s in saved or ())) if return_saved else result


@documented
def inception_backward(
    gy: Any,
    x: Any,
    weights: InceptionWeights | tuple[Any, ...],
    *,
    y: Any,
    saved: tuple[Any, ...],
    layout: str | None = None,
    stream: Any = None,
    backend: str | None = None,
    algorithm: str | None = None,
) -> tuple[Any, InceptionWeights]:
    """(gx, gradients of the twelve weights): gradients of sum(gy y) with y = inception(x, weights).

    Parameters
    ----------
    gy, y : (N, H, W, K1 + K3 + K5 + Kp), y as the forward gave it.
    x, weights : as the forward had them.
    saved : what ``inception(..., return_saved=True)`` gave beside y.
    """
    function = "inception_backward"
    weights = tuple(weights)
    module.check_count(function, weights)

    def spec_of(gy: Any, x: Any, y: Any, *rest: Any) -> Any:
        spec = module.inception_spec(function, x, rest[: len(NAMES)])
        for name, array in (("gy", gy), ("y", y)):
            check(function, name, array, "N H W K", spec.y_shape, like=x)
        module.check_saved(function, spec, x, rest[len(NAMES) :])
        return spec

    names = "gy", "x", "y", *NAMES, *(f"saved[{i}]" for i in range(len(saved)))
    with Border(function, layout, x, weights[0], stream) as border:
        spec, (gy, x, y, *rest), _, how = border.call(
            names, (gy, x, y, *weights, *saved), (), spec_of, backend=backend, algorithm=algorithm
        )
        filters, maps = rest[: len(NAMES)], rest[len(NAMES) :]
        gx, grads = module.inception_backward(spec, gy, x, filters, y, maps, **how)
        return border.back(gx), InceptionWeights(*(border.back(g) for g in grads))
