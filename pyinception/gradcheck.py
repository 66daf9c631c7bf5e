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
    output: one inner product against one central difference, whatever the size.

    Parameters
    ----------
    function : tensors to one tensor, differentiable near ``arrays`` (keep away from kinks).
    arrays : float64 inputs.
    tolerance : largest relative difference allowed.

    Returns
    -------
    The relative difference.

    Raises
    ------
    GradientError
        If it exceeds ``tolerance``: both sides in the message.
    """
    for i, array in enumerate(arrays):
        if array.dtype != np.float64:
            text = f"arrays[{i}] has dtype {array.dtype}, expected float64"
            raise TypeError(f"gradcheck: {text}")
    draw = rng.generator(seed, 0, 0, "gradcheck")
    directions = [draw.standard_normal(array.shape) for array in arrays]
    with config.using(backend="reference"):
        inputs = [Tensor(array.copy(), requires_grad=True) for array in arrays]
        y = function(*inputs)
        g = draw.standard_normal(y.shape)
        y.backward(g)
        slope = sum(float((x.grad * d).sum()) for x, d in zip(inputs, directions, strict=True))

        def along(t: float) -> float:
            moved = (Tensor(a + t * d) for a, d in zip(arrays, directions, strict=True))
            return float((function(*moved).data * g).sum())

        difference = (along(eps) - along(-eps)) / (2 * eps)
    error = abs(slope - difference) / max(abs(slope), abs(difference), np.finfo(float).tiny)
    if not error <= tolerance:
        text = f"backward gives {slope:.12g}, the central difference {difference:.12g}"
        raise GradientError(f"gradcheck: {text}: relative difference {error:.3g} > {tolerance:.3g}")
    return error
