"""Pooling on arrays, as `functional` does the others."""

from typing import Any

from pyinception.border import Border, documented
from pyinception.dispatch import check
from pyinception.ops import pool


@documented
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
    stream: Any = None,
    backend: str | None = None,
) -> Any:
    """y[n,p,q,c] = maximum of the window's pixels inside the image; the first wins, NaN wins.

    Parameters
    ----------
    x : (N, H, W, C).
    kernel_size, stride, padding : int or pair (rows, columns); stride None is the kernel's extents.
    ceil_mode : Caffe's extents: a window that hangs over the end counts.
    return_argmax : also return the winning tap r S + s of each y, uint8 of y's shape.
    """
    window = kernel_size, stride, padding, ceil_mode

    def spec_of(x: Any) -> Any:
        check("max_pool2d", "x", x, "N H W C")
        return pool.pool_spec("max_pool2d", "max", x.shape, *window)

    with Border("max_pool2d", layout, x, stream=stream) as border:
        spec, (x,), target, how = border.call(
            ("x",), (x,), window, spec_of, out, "N P Q C", backend=backend
        )
        y, argmax = pool.max_pool_fprop(spec, x, save=return_argmax, out=target, **how)
        result = border.back(y, out)
        return (result, border.back(argmax)) if return_argmax else result


@documented
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
    stream: Any = None,
    backend: str | None = None,
) -> Any:
    """gx: every pixel gathers the gy of the windows that it won.

    Parameters
    ----------
    gy, argmax : (N, P, Q, C); argmax from ``max_pool2d(..., return_argmax=True)``.
    x_shape : of x, in ``layout``.
    kernel_size, stride, padding, ceil_mode : as the forward had them.
    """
    function, window = "max_pool2d_backward", (kernel_size, stride, padding, ceil_mode)

    def spec_of(gy: Any, argmax: Any) -> Any:
        spec = pool.pool_spec(function, "max", shape, *window)
        check(function, "gy", gy, "N P Q C", spec.y_shape)
        return spec

    with Border(function, layout, gy, stream=stream) as border:
        shape = border.shape(x_shape)
        spec, (gy, argmax), _, how = border.call(
            ("gy", "argmax"), (gy, argmax), (shape, *window), spec_of, backend=backend
        )
        pool.check_argmax(function, argmax, spec, gy)
        return border.back(pool.max_pool_dgrad(spec, gy, argmax, **how))


@documented
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
    stream: Any = None,
    backend: str | None = None,
) -> Any:
    """y[n,p,q,c] = sum of the window's pixels inside the image / cells.

    Parameters
    ----------
    x, kernel_size, stride, padding, ceil_mode : as in `max_pool2d`.
    count_include_pad : cells counts padding up to H + p, as Caffe does; False: pixels alone.
    """
    window = kernel_size, stride, padding, ceil_mode, count_include_pad

    def spec_of(x: Any) -> Any:
        check("avg_pool2d", "x", x, "N H W C")
        return pool.pool_spec("avg_pool2d", "avg", x.shape, *window)

    with Border("avg_pool2d", layout, x, stream=stream) as border:
        spec, (x,), target, how = border.call(
            ("x",), (x,), window, spec_of, out, "N P Q C", backend=backend
        )
        return border.back(pool.avg_pool_fprop(spec, x, target, **how), out)


@documented
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
    stream: Any = None,
    backend: str | None = None,
) -> Any:
    """gx = sum of gy / cells over the windows that hold the pixel.

    Parameters
    ----------
    gy, x_shape : (N, P, Q, C); the shape of x in ``layout``.
    kernel_size, stride, padding, ceil_mode, count_include_pad : as the forward had them.
    """
    window = kernel_size, stride, padding, ceil_mode, count_include_pad

    def spec_of(gy: Any) -> Any:
        spec = pool.pool_spec("avg_pool2d_backward", "avg", shape, *window)
        check("avg_pool2d_backward", "gy", gy, "N P Q C", spec.y_shape)
        return spec

    with Border("avg_pool2d_backward", layout, gy, stream=stream) as border:
        shape = border.shape(x_shape)
        spec, arrays, _, how = border.call(
            ("gy",), (gy,), (shape, *window), spec_of, backend=backend
        )
        return border.back(pool.avg_pool_dgrad(spec, *arrays, **how))
