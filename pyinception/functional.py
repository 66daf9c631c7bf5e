"""The functions a user calls on arrays: each forward has its backward.

Arrays are NumPy, CuPy or anything with ``__dlpack__`` (float32; float64 with backend="reference"),
results are of the caller's type. Common arguments: ``layout`` "NHWC" (default: x NHWC, w KRSC) or
"NCHW" (x NCHW, w KCRS, results NCHW); ``out`` an array to write, such as a channel slice;
``backend`` and ``algorithm`` as in `config`. Errors are TypeError (kind, dtype) or ValueError
(shape, range, overlap, read-only ``out``), raised before anything is written.
"""

from dataclasses import replace
from typing import Any

from pyinception import known
from pyinception.border import Border
from pyinception.dispatch import check
from pyinception.ops import conv, pool, reduce_conv
from pyinception.ops import inception as module
from pyinception.ops import lrn as response
from pyinception.ops.weights import NAMES, InceptionWeights


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
    options = stride, padding, relu, layout, backend, algorithm
    key, y = known.call("conv2d", (x, w, b), options, out is not None)
    if y is not None:
        return y
    border = Border("conv2d", layout, x, w)
    x, w, b = border.take("x", x), border.take("w", w), border.take("b", b)
    spec = conv.conv_spec("conv2d", x, w, b, stride, padding, relu)
    target = border.out(out, spec.y_shape, x, "N P Q K")
    how = {"backend": backend, "algorithm": algorithm}
    y = conv.conv_fprop(spec, x, w, b, target, **how)
    if border.as_given:
        known.learn(key, "conv", "fprop", spec, x, **how)
    return border.back(y, out)


def conv2d_backward(
    gy: Any,
    x: Any,
    w: Any,
    *,
    y: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    layout: str | None = None,
    backend: str | None = None,
    algorithm: str | None = None,
) -> tuple[Any, Any, Any]:
    """(gx, gw, gb): gradients of sum(gy y) with y = conv2d(x, w, b).

    ``y`` is the forward's result if it had relu=True: gy then counts only where y > 0. Shapes are
    those of x (N, H, W, C), w (K, R, S, C) and b (K,); gy and y are (N, P, Q, K).
    """
    border = Border("conv2d_backward", layout, x, w)
    gy, x, w = border.take("gy", gy), border.take("x", x), border.take("w", w)
    y = border.take("y", y)
    spec = conv.conv_spec("conv2d_backward", x, w, None, stride, padding, False)
    spec = replace(spec, bias=True)
    check("conv2d_backward", "gy", gy, "N P Q K", spec.y_shape, like=x)
    if y is not None:
        check("conv2d_backward", "y", y, "N P Q K", spec.y_shape, like=x)
    how = {"backend": backend, "algorithm": algorithm}
    gx = conv.conv_dgrad(spec, gy, w, y, **how)
    gw, gb = conv.conv_wgrad(spec, x, gy, y, **how)
    return border.back(gx), border.back(gw), border.back(gb)


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
    """
    if relu is not True:
        text = f"relu is {relu!r}, expected True (for other chains call conv2d twice)"
        raise ValueError(f"reduce_conv2d: {text}")
    arrays = x, w_reduce, b_reduce, w, b
    options = stride, padding, layout, backend, algorithm
    key, y = known.call("reduce_conv2d", arrays, options, out is not None or return_reduced)
    if y is not None:
        return y
    border = Border("reduce_conv2d", layout, x, w_reduce)
    x = border.take("x", x)
    first = border.take("w_reduce", w_reduce), border.take("b_reduce", b_reduce)
    last = border.take("w", w), border.take("b", b)
    spec = reduce_conv.reduce_conv_spec("reduce_conv2d", x, *first, *last, stride, padding)
    target = border.out(out, spec.y_shape, x, "N P Q K")
    how = {"backend": backend, "algorithm": algorithm}
    y, r = reduce_conv.reduce_conv_fprop(
        spec, x, *first, *last, save=return_reduced, out=target, **how
    )
    if border.as_given:
        known.learn(key, "reduce_conv", "fprop", spec, x, **how)
    result = border.back(y, out)
    return (result, border.back(r)) if return_reduced else result


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
    backend: str | None = None,
    algorithm: str | None = None,
) -> tuple[Any, Any, Any, Any, Any]:
    """(gx, gw_reduce, gb_reduce, gw, gb): gradients of sum(gy y), y and r as the forward gave them.

    gy, y (N, P, Q, K); r (N, H, W, Cr), from ``reduce_conv2d(..., return_reduced=True)``; the
    others as in `reduce_conv2d`. r and y carry the ReLU masks.
    """
    function = "reduce_conv2d_backward"
    border = Border(function, layout, x, w_reduce)
    named = ("gy", gy), ("x", x), ("w_reduce", w_reduce), ("w", w), ("r", r), ("y", y)
    gy, x, w_reduce, w, r, y = (border.take(name, value) for name, value in named)
    spec = reduce_conv.reduce_conv_spec(function, x, w_reduce, None, w, None, stride, padding)
    check(function, "r", r, "N H W Cr", (*x.shape[:3], w_reduce.shape[0]), like=x)
    check(function, "y", y, "N P Q K", spec.y_shape, like=x)
    check(function, "gy", gy, "N P Q K", spec.y_shape, like=x)
    how = {"backend": backend, "algorithm": algorithm}
    grads = reduce_conv.reduce_conv_backward(spec, gy, x, w_reduce, w, r, y, **how)
    gx, gwr, gbr, gw, gb = (border.back(g) for g in grads)
    return gx, gwr, gbr, gw, gb


def inception(
    x: Any,
    weights: InceptionWeights | tuple[Any, ...],
    *,
    return_saved: bool = False,
    layout: str | None = None,
    out: Any = None,
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
    options = layout, backend, algorithm
    key, y = known.call(function, (x, weights), options, out is not None or return_saved)
    if y is not None:
        return y
    border = Border(function, layout, x, weights[0])
    x = border.take("x", x)
    arrays = tuple(map(border.take, NAMES, weights))
    spec = module.inception_spec(function, x, arrays)
    target = border.out(out, spec.y_shape, x, "N H W K")
    how = {"backend": backend, "algorithm": algorithm}
    y, saved = module.inception_fprop(spec, x, arrays, save=return_saved, out=target, **how)
    if border.as_given:
        known.learn(key, "inception", "fprop", spec, x, **how)
    result = border.back(y, out)
    return (result, tuple(border.back(s) for s in saved or ())) if return_saved else result


def inception_backward(
    gy: Any,
    x: Any,
    weights: InceptionWeights | tuple[Any, ...],
    *,
    y: Any,
    saved: tuple[Any, ...],
    layout: str | None = None,
    backend: str | None = None,
    algorithm: str | None = None,
) -> tuple[Any, InceptionWeights]:
    """(gx, gradients of the twelve weights); y and saved as `inception` gave them."""
    function = "inception_backward"
    weights = tuple(weights)
    module.check_count(function, weights)
    border = Border(function, layout, x, weights[0])
    gy, x, y = border.take("gy", gy), border.take("x", x), border.take("y", y)
    arrays = tuple(map(border.take, NAMES, weights))
    spec = module.inception_spec(function, x, arrays)
    for name, array in (("gy", gy), ("y", y)):
        check(function, name, array, "N H W K", spec.y_shape, like=x)
    maps = tuple(border.take(f"saved[{i}]", s) for i, s in enumerate(saved))
    module.check_saved(function, spec, x, maps)
    how = {"backend": backend, "algorithm": algorithm}
    gx, grads = module.inception_backward(spec, gy, x, arrays, y, maps, **how)
    return border.back(gx), InceptionWeights(*(border.back(g) for g in grads))


def max_pool2d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    *,
    return_argmax: bool = False,
    layout: str | None = None,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """y[n,p,q,c] = maximum of the window's pixels inside the image; the first wins, NaN wins.

    ``stride`` None means the kernel's extents. ``return_argmax`` also gives the winning tap r S + s
    of each y, uint8 of y's shape, which `max_pool2d_backward` takes. x (N, H, W, C).
    """
    border = Border("max_pool2d", layout, x)
    x = border.take("x", x)
    check("max_pool2d", "x", x, "N H W C")
    window = kernel_size, stride, padding, ceil_mode
    spec = pool.pool_spec("max_pool2d", "max", x.shape, *window)
    target = border.out(out, spec.y_shape, x, "N P Q C")
    y, argmax = pool.max_pool_fprop(spec, x, save=return_argmax, out=target, backend=backend)
    result = border.back(y, out)
    return (result, border.back(argmax)) if return_argmax else result


def max_pool2d_backward(
    gy: Any,
    argmax: Any,
    x_shape: tuple[int, ...],
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    *,
    layout: str | None = None,
    backend: str | None = None,
) -> Any:
    """gx: every pixel gathers the gy of the windows that it won; ``x_shape`` in ``layout``."""
    border = Border("max_pool2d_backward", layout, gy)
    gy, argmax = border.take("gy", gy), border.take("argmax", argmax)
    shape = border.shape(x_shape)
    window = kernel_size, stride, padding, ceil_mode
    spec = pool.pool_spec("max_pool2d_backward", "max", shape, *window)
    check("max_pool2d_backward", "gy", gy, "N P Q C", spec.y_shape)
    pool.check_argmax("max_pool2d_backward", argmax, spec, gy)
    return border.back(pool.max_pool_dgrad(spec, gy, argmax, backend=backend))


def avg_pool2d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    layout: str | None = None,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """y[n,p,q,c] = sum of the window's pixels inside the image / cells; x (N, H, W, C).

    cells counts padding up to H + p as Caffe does, or pixels alone without ``count_include_pad``.
    """
    border = Border("avg_pool2d", layout, x)
    x = border.take("x", x)
    window = kernel_size, stride, padding, ceil_mode, count_include_pad
    check("avg_pool2d", "x", x, "N H W C")
    spec = pool.pool_spec("avg_pool2d", "avg", x.shape, *window)
    target = border.out(out, spec.y_shape, x, "N P Q C")
    return border.back(pool.avg_pool_fprop(spec, x, target, backend=backend), out)


def avg_pool2d_backward(
    gy: Any,
    x_shape: tuple[int, ...],
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    layout: str | None = None,
    backend: str | None = None,
) -> Any:
    """gx = sum of gy / cells over the windows that hold the pixel; ``x_shape`` in ``layout``."""
    border = Border("avg_pool2d_backward", layout, gy)
    gy = border.take("gy", gy)
    window = kernel_size, stride, padding, ceil_mode, count_include_pad
    spec = pool.pool_spec("avg_pool2d_backward", "avg", border.shape(x_shape), *window)
    check("avg_pool2d_backward", "gy", gy, "N P Q C", spec.y_shape)
    return border.back(pool.avg_pool_dgrad(spec, gy, backend=backend))


def lrn(
    x: Any,
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    layout: str | None = None,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """y_c = x_c (k + alpha/size sum_{c' in window} x_c'^2)^-beta; x (N, H, W, C), size odd."""
    border = Border("lrn", layout, x)
    x = border.take("x", x)
    spec = response.lrn_spec("lrn", x, size, alpha, beta, k)
    target = border.out(out, spec.x_shape, x, "N H W C")
    return border.back(response.lrn_fprop(spec, x, target, backend=backend), out)


def lrn_backward(
    gy: Any,
    x: Any,
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    layout: str | None = None,
    backend: str | None = None,
) -> Any:
    """gx of sum(gy lrn(x)); gy and x (N, H, W, C)."""
    border = Border("lrn_backward", layout, x)
    gy, x = border.take("gy", gy), border.take("x", x)
    spec = response.lrn_spec("lrn_backward", x, size, alpha, beta, k)
    check("lrn_backward", "gy", gy, "N H W C", spec.x_shape, like=x)
    return border.back(response.lrn_dgrad(spec, gy, x, backend=backend))
