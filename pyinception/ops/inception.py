"""GoogLeNet's module as one op: y = [1x1 | 1x1 -> 3x3 | 1x1 -> 5x5 | pool 3x3 -> 1x1].

ReLU follows every convolution; the four branches land in their own channels of one output.
"""

from typing import Any

import numpy as np

from pyinception import workspace
from pyinception.dispatch import Array, check, launch, wide
from pyinception.op import Op
from pyinception.ops.weights import NAMES, weight_shapes
from pyinception.spec import InceptionSpec


def check_count(function: str, weights: tuple[Array, ...]) -> None:
    """Raise unless there are twelve weights."""
    if len(weights) != len(NAMES):
        text = f"weights has {len(weights)} arrays, expected {len(NAMES)}: {', '.join(NAMES)}"
        raise ValueError(f"{function}: {text}")


def inception_spec(function: str, x: Array, weights: tuple[Array, ...]) -> InceptionSpec:
    """The spec that these arrays imply, every shape and dtype checked; x (N, H, W, C)."""
    check(function, "x", x, "N H W C")
    check_count(function, weights)
    kinds = {"w": x.dtype, "b": wide(x)}
    for name, w in zip(NAMES, weights, strict=True):
        letters = "K R S C" if name[0] == "w" else "K"
        check(function, name, w, letters, like=x, dtype=kinds[name[0]])
    widths = tuple(w.shape[0] for w in weights[::2])
    third = 3 if weights[NAMES.index("w5")].shape[1] == 3 else 5
    shapes = weight_shapes(x.shape[3], widths, third)
    for name, w, shape in zip(NAMES, weights, shapes, strict=True):
        letters = "K R S C" if name[0] == "w" else "K"
        check(function, name, w, letters, shape, like=x, dtype=kinds[name[0]])
    return InceptionSpec.of_widths(x.shape, widths, function, third)


def inception_fprop(
    spec: InceptionSpec, x: Array, weights: Any, *, save: bool, out: Array | None, **how: Any
) -> tuple[Array, tuple[Array, ...] | None]:
    """(y, saved): saved = (r3, r5, pooled, argmax) if ``save``, else None."""
    y = workspace.empty(spec.y_shape, x) if out is None else out
    saved = None
    if save:
        kinds = (None, None, None, np.uint8)
        shapes = _saved_shapes(spec)
        saved = tuple(map(workspace.empty, shapes, (x,) * 4, kinds))
    launch("inception", "fprop", spec, x, tuple(weights), y, saved, **how)
    return y, saved


def _saved_shapes(spec: InceptionSpec) -> tuple[tuple[int, ...], ...]:
    """r3, r5 (the reduced maps), pooled and its argmax."""
    reduced = tuple(spec.branches[i].stages[0].y_shape for i in (1, 2))  # type: ignore[union-attr]
    return *reduced, spec.x_shape, spec.x_shape


def check_saved(function: str, spec: InceptionSpec, x: Array, saved: tuple[Array, ...]) -> None:
    """Raise unless ``saved`` is (r3, r5, pooled, argmax) of this module."""
    names = ("r3", "r5", "pooled", "argmax")
    if len(saved) != len(names):
        text = f"saved has {len(saved)} arrays, expected 4: {', '.join(names)}"
        raise ValueError(f"{function}: {text}")
    for name, array, shape in zip(names, saved, _saved_shapes(spec), strict=True):
        dtype = np.uint8 if name == "argmax" else None
        check(function, name, array, "N H W C", shape, like=x, dtype=dtype)


def inception_backward(
    spec: InceptionSpec, gy: Array, x: Array, weights: Any, y: Array, saved: Any, **how: Any
) -> tuple[Array, tuple[Array, ...]]:
    """(gx, grads): grads are twelve arrays in the order of `InceptionWeights`."""
    gx = workspace.empty(spec.x_shape, x)
    grads = tuple(workspace.empty(tuple(w.shape), x, wide(x)) for w in weights)
    arrays = gy, x, tuple(weights), y, tuple(saved), gx, grads
    launch("inception", "backward", spec, *arrays, **how)
    return gx, grads


class Inception(Op):
    """The module as one step of the tape: x and twelve weights in, one map out."""

    def forward(self, x: Array, *weights: Array) -> Array:
        self.spec = inception_spec("inception", x, weights)
        y, saved = inception_fprop(self.spec, x, weights, save=self.recording, out=None)
        if self.recording:
            self.saved = (x, weights, y, saved)
        return y

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        gx, grads = inception_backward(self.spec, gy, *self.saved)
        return gx, *grads
