"""Depthwise convolution on arrays, as `functional` does the others."""

from dataclasses import replace
from typing import Any

from pyinception.border import Border, documented
from pyinception.dispatch import check
from pyinception.ops import depthwise_conv as depthwise


@documented
def depthwise_conv2d(
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
    """y[n,p,q,k] = [relu](b[k] + sum_rs w[k,r,s] x[n, p sh - ph + r, q sw - pw + s, k // M]).

    Parameters
    ----------
    x : (N, H, W, C).
    w : (K, R, S, 1), K = C M; with layout="NCHW" (K, 1, R, S).
    b : (K,) or None.
    stride, padding : int or pair (rows, columns); padding also "same" or "valid".
    relu : whether negative results become 0 (NaN stays NaN).

    Returns
    -------
    y : (N, P, Q, K), P = floor((H + 2 ph - R) / sh) + 1, Q likewise.
    """
    window = stride, padding, relu

    def spec_of(x: Any, w: Any, b: Any) -> Any:
        return depthwise.depthwise_conv_spec("depthwise_conv2d", x, w, b, *window)

    with Border("depthwise_conv2d", layout, x, stream=stream) as border:
        spec, (x, w, b), target, how = border.call(
            ("x", "w", "b"), (x, w, b), window, spec_of, out, "N P Q K",
            backend=backend, algorithm=algorithm,
        )  # fmt: skip
        return border.back(depthwise.depthwise_conv_fprop(spec, x, w, b, target, **how), out)


@documented
def depthwise_conv2d_backward(
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
    """(gx, gw, gb): gradients of sum(gy y) with y = depthwise_conv2d(x, w, b).

    Parameters
    ----------
    gy : (N, P, Q, K).
    x, w : as the forward had them.
    y : the forward's result if it had relu=True: gy then counts only where y > 0.
    stride, padding : as the forward had them.

    Returns
    -------
    (gx, gw, gb) in the shapes of x (N, H, W, C), w (K, R, S, 1) and b (K,).
    """
    function = "depthwise_conv2d_backward"

    def spec_of(gy: Any, x: Any, w: Any, y: Any) -> Any:
        spec = depthwise.depthwise_conv_spec(function, x, w, None, stride, padding, False)
        check(function, "gy", gy, "N P Q K", spec.y_shape, like=x)
        if y is not None:
            check(function, "y", y, "N P Q K", spec.y_shape, like=x)
        return replace(spec, bias=True)

    with Border(function, layout, x, stream=stream) as border:
        spec, (gy, x, w, y), _, how = border.call(
            ("gy", "x", "w", "y"), (gy, x, w, y), (stride, padding), spec_of,
            backend=backend, algorithm=algorithm,
        )  # fmt: skip
        gx = depthwise.depthwise_conv_dgrad(spec, gy, w, y, **how)
        gw, gb = depthwise.depthwise_conv_wgrad(spec, x, gy, y, **how)
        return border.back(gx), border.back(gw), border.back(gb)
