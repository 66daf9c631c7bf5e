"""Gradient check along one random direction, in float64 through the reference."""

from collections.abc import Callable

import numpy as np

from pyinception import config, rng
from pyinception.backend import Array
from pyinception.tensor import Tensor


class GradientError(AssertionError):
    """Backward and the central difference disagree."""


def gradcheck(
    function: Callable[..., Tensor],
    *arrays: Array,
    seed: int = 0,
    eps: float = 1e-6,
    tolerance: float = 1e-6,
) -> float:
    """|a - b| / max(|a|, |b|), a = sum_i <grad_i, d_i>, b = (L(eps) - L(-eps)) / 2 eps.

    L(t) = <function(x + t d), g> with random directions d of all inputs and a random g of the
    output: one inner product against one central difference, whatever the size. Where the two
    disagree, the inputs are moved one by one to find whose gradient it is.

    Parameters
    ----------
    function : tensors to one tensor, differentiable near ``arrays`` (keep away from kinks: a
        ReLU or a maximum within ``eps`` of changing sides gives a difference that means nothing).
    arrays : float64 inputs, at least one.
    seed : of directions and g.
    eps : step of the difference; rounding adds about 1e-16 / eps to it, curvature eps^2.
    tolerance : largest relative difference allowed.

    Returns
    -------
    The relative difference.

    Raises
    ------
    GradientError
        If it exceeds ``tolerance``: both sides, and the input that differs most.
    TypeError
        If an array or the result is not float64, or the result is no tensor.

    Examples
    --------
    >>> x = np.linspace(0.5, 2.0, 12).reshape(3, 4)
    >>> gradcheck(lambda a, b: a * b, x, x) < 1e-6
    True
    """
    if not arrays:
        raise TypeError("gradcheck: no arrays, expected at least one input")
    for i, array in enumerate(arrays):
        kind = getattr(array, "dtype", type(array).__name__)
        if kind != np.float64:
            raise TypeError(f"gradcheck: arrays[{i}] has dtype {kind}, expected float64")
    draw = rng.generator(seed, 0, 0, "gradcheck")
    directions = [draw.standard_normal(array.shape) for array in arrays]
    with config.using(backend="reference"):
        inputs = [Tensor(array.copy(), requires_grad=True) for array in arrays]
        y = function(*inputs)
        if not isinstance(y, Tensor):
            raise TypeError(f"gradcheck: function returned {type(y).__name__}, expected a Tensor")
        if y.dtype != np.float64:
            raise TypeError(f"gradcheck: the result has dtype {y.dtype}, expected float64")
        g = draw.standard_normal(y.shape)
        y.backward(g)
        # An input that the function does not use has no gradient, and none is due.
        slopes = [
            0.0 if x.grad is None else float((x.grad * d).sum())
            for x, d in zip(inputs, directions, strict=True)
        ]

        def difference(moved: set[int]) -> float:
            """The central difference with the inputs ``moved`` along their directions."""
            ends = []
            for t in (eps, -eps):
                steps = (t if i in moved else 0.0 for i in range(len(arrays)))
                at = (a + s * d for a, s, d in zip(arrays, steps, directions, strict=True))
                ends.append(float((function(*map(Tensor, at)).data * g).sum()))
            return (ends[0] - ends[1]) / (2 * eps)

        slope, rise = sum(slopes), difference({*range(len(arrays))})
        error = abs(slope - rise) / max(abs(slope), abs(rise), np.finfo(float).tiny)
        if not error <= tolerance:
            rises = [difference({i}) for i in range(len(arrays))]
            gaps = np.nan_to_num(np.abs(np.subtract(slopes, rises)), nan=np.inf)
            worst = int(np.argmax(gaps))
            whose = f"arrays[{worst}] of shape {arrays[worst].shape} moved alone"
            raise GradientError(
                f"gradcheck: {_sides(slope, rise)}: relative difference {error:.3g} > "
                f"{tolerance:.3g}; with {whose} {_sides(slopes[worst], rises[worst])}"
            )
    return error


def _sides(slope: float, difference: float) -> str:
    return f"backward gives {slope:.12g}, the central difference {difference:.12g}"
