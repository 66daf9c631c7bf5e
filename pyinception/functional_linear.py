"""Linear layers on arrays, as `functional` does the others."""

from dataclasses import replace
from typing import Any

from pyinception.border import Border
from pyinception.dispatch import check
from pyinception.ops import linear as dense


def linear(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    relu: bool = False,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """y[n,k] = [relu](b[k] + sum_c x[n,c] w[k,c]); x (N, C), w (K, C), b (K,) or None."""
    border = Border("linear", "NHWC", x)
    x, w, b = border.take("x", x), border.take("w", w), border.take("b", b)
    spec = dense.linear_spec("linear", x, w, b, relu)
    target = border.out(out, (spec.N, spec.K), x, "N K")
    return border.back(dense.linear_fprop(spec, x, w, b, target, backend=backend), out)


def linear_backward(
    gy: Any, x: Any, w: Any, *, y: Any = None, backend: str | None = None
) -> tuple[Any, Any, Any]:
    """(gx, gw, gb) of sum(gy y), y = linear(x, w, b); with ``y``, gy counts where y > 0."""
    border = Border("linear_backward", "NHWC", x)
    gy, x, w = border.take("gy", gy), border.take("x", x), border.take("w", w)
    y = border.take("y", y)
    spec = replace(dense.linear_spec("linear_backward", x, w, None, False), bias=True)
    check("linear_backward", "gy", gy, "N K", (spec.N, spec.K), like=x)
    if y is not None:
        check("linear_backward", "y", y, "N K", (spec.N, spec.K), like=x)
    gx = dense.linear_dgrad(spec, gy, w, y, backend=backend)
    gw, gb = dense.linear_wgrad(spec, x, gy, y, backend=backend)
    return border.back(gx), border.back(gw), border.back(gb)
