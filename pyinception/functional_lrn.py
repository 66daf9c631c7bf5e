"""Local response normalisation on arrays, as `functional` does the others."""

from typing import Any

from pyinception.border import Border, documented
from pyinception.dispatch import check
from pyinception.ops import lrn as response


@documented
def lrn(
    x: Any,
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    layout: str | None = None,
    out: Any = None,
    stream: Any = None,
    backend: str | None = None,
) -> Any:
    """y_c = x_c (k + alpha/size sum_{c' in window} x_c'^2)^-beta.

    Parameters
    ----------
    x : (N, H, W, C).
    size : channels of the window, odd; alpha, beta, k : as in the formula.
    """
    window = size, alpha, beta, k

    def spec_of(x: Any) -> Any:
        return response.lrn_spec("lrn", x, *window)

    with Border("lrn", layout, x, stream=stream) as border:
        spec, (x,), target, how = border.call(
            ("x",), (x,), window, spec_of, out, "N H W C", backend=backend
        )
        return border.back(response.lrn_fprop(spec, x, target, **how), out)


@documented
def lrn_backward(
    gy: Any,
    x: Any,
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    layout: str | None = None,
    stream: Any = None,
    backend: str | None = None,
) -> Any:
    """gx: gradient of sum(gy y) with y = lrn(x, size, alpha, beta, k).

    Parameters
    ----------
    gy, x : (N, H, W, C).
    """
    window = size, alpha, beta, k

    def spec_of(gy: Any, x: Any) -> Any:
        spec = response.lrn_spec("lrn_backward", x, *window)
        check("lrn_backward", "gy", gy, "N H W C", spec.x_shape, like=x)
        return spec

    with Border("lrn_backward", layout, x, stream=stream) as border:
        spec, arrays, _, how = border.call(("gy", "x"), (gy, x), window, spec_of, backend=backend)
        return border.back(response.lrn_dgrad(spec, *arrays, **how))
