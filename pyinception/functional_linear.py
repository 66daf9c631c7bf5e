"""Linear layers on arrays, as `functional` does the others."""

from dataclasses import replace
from typing import Any

from pyinception.border import Border, documented
from pyinception.dispatch import check
from pyinception.ops import linear as dense


@documented
def linear(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    relu: bool = False,
    out: Any = None,
    stream: Any = None,
    backend: str | None = None,
) -> Any:
    """y[n,k] = [relu](b[k] + sum_c x[n,c] w[k,c]).

    Parameters
    ----------
    x, w, b : (N, C), (K, C) or a `Packed` of that shape, (K,) or None.
    relu : whether negative results become 0.
    """

    def spec_of(x: Any, w: Any, b: Any) -> Any:
        return dense.linear_spec("linear", x, w, b, relu)

    with Border("linear", "NHWC", x, stream=stream) as border:
        spec, (x, w, b), target, how = border.call(
            ("x", "w", "b"), (x, w, b), (relu,), spec_of, out, "N K", backend=backend
        )
        return border.back(dense.linear_fprop(spec, x, w, b, target, **how), out)


@documented
def linear_backward(
    gy: Any, x: Any, w: Any, *, y: Any = None, stream: Any = None, backend: str | None = None
) -> tuple[Any, Any, Any]:
    """(gx, gw, gb): gradients of sum(gy y) with y = linear(x, w, b).

    Parameters
    ----------
    gy, x, w : (N, K), (N, C), (K, C).
    y : the forward's result if it had relu=True: gy then counts only where y > 0.
    """
    function = "linear_backward"

    def spec_of(gy: Any, x: Any, w: Any, y: Any) -> Any:
        spec = replace(dense.linear_spec(function, x, w, None, False), bias=True)
        check(function, "gy", gy, "N K", spec.y_shape, like=x)
        if y is not None:
            check(function, "y", y, "N K", spec.y_shape, like=x)
        return spec

    with Border(function, "NHWC", x, stream=stream) as border:
        spec, (gy, x, w, y), _, how = border.call(
            ("gy", "x", "w", "y"), (gy, x, w, y), (), spec_of, backend=backend
        )
        gx = dense.linear_dgrad(spec, gy, w, y, **how)
        gw, gb = dense.linear_wgrad(spec, x, gy, y, **how)
        return border.back(gx), border.back(gw), border.back(gb)
