"""Every op on tensors against central differences."""

from typing import Any

import numpy as np
import pytest
from reference_cases import module_weights

import pyinception as pyi
from pyinception import ops

DRAW = np.random.default_rng(11)


def away_from_kinks(*shape: int) -> np.ndarray:
    """Distinct values far from each other and from zero, so that a small step crosses no kink."""
    values = DRAW.permutation(int(np.prod(shape))).reshape(shape) + 0.5
    return (values - values.size / 2) / 8


def normal(*shape: int) -> np.ndarray:
    return DRAW.standard_normal(shape)


GRADIENTS: dict[str, Any] = {
    "conv": (lambda *a: ops.Conv(2, 1)(*a), normal(2, 6, 5, 3), normal(4, 3, 3, 3), normal(4)),
    "depthwise_conv": (
        lambda *a: ops.DepthwiseConv(2, 1)(*a),
        normal(2, 6, 5, 3),
        normal(6, 3, 3, 1),
        normal(6),
    ),
    "add_scaled": (
        lambda a, b: ops.AddScaled(-0.3, False)(a, b),
        normal(2, 3, 2, 4),
        normal(2, 3, 2, 4),
    ),
    "add_scaled, relu": (
        lambda a, b: ops.AddScaled(0.5, True)(a, b),
        away_from_kinks(3, 4),
        0.01 * normal(3, 4),
    ),
    "linear": (lambda *a: ops.Linear()(*a), normal(3, 5), normal(4, 5), normal(4)),
    "lrn": (lambda x: ops.Lrn(3, 0.3, 0.75, 2.0)(x), normal(2, 3, 3, 7)),
    "max_pool": (lambda x: ops.Pool("max", 3, 2, 1, True)(x), away_from_kinks(2, 6, 5, 3)),
    "avg_pool": (lambda x: ops.Pool("avg", 3, 2, 1, True)(x), normal(2, 6, 5, 3)),
    "batch_norm": (lambda *a: ops.BatchNorm()(*a), normal(2, 3, 4, 3), normal(3), normal(3)),
    "frozen": (
        lambda *a: ops.FrozenBatchNorm(np.array([0.5, 1]), np.array([1.0, 2]))(*a),
        normal(2, 3, 4, 2),
        normal(2),
        normal(2),
    ),
    "relu": (lambda x: ops.Relu()(x), away_from_kinks(3, 4)),
    "dropout": (lambda x: ops.Dropout(0.4, seed=1, step=2, layer=3)(x), normal(5, 9)),
    "softmax": (
        lambda x: ops.SoftmaxCrossEntropy(np.array([0, 3, 1]))(x),
        normal(3, 4),
    ),
    "concat": (lambda a, b: ops.concat([a, b]), normal(2, 3, 3, 2), normal(2, 3, 3, 5)),
    "flatten": (lambda a: ops.flatten(a), normal(2, 3, 3, 2)),
    "mean": (lambda a: ops.Mean()(a), normal(4, 5)),
    "add and mul": (lambda a, b: (a + b) * a * 0.5 + 2, normal(4, 5), normal(4, 5)),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name: str) -> None:
    function, *inputs = GRADIENTS[name]
    for seed in range(3):
        assert pyi.gradcheck(function, *inputs, seed=seed) <= 1e-6


def test_gradients_with_relu() -> None:
    """The fused ReLU of conv, linear, batch norm, branch and module, masks from the output."""
    x, w, b = normal(2, 5, 4, 3), normal(4, 3, 3, 3), normal(4)
    pyi.gradcheck(lambda *a: ops.Conv(1, 1, relu=True)(*a), x, w, b)
    pyi.gradcheck(lambda *a: ops.DepthwiseConv(1, 1, relu=True)(*a), x, normal(3, 3, 3, 1), b[:3])
    pyi.gradcheck(lambda *a: ops.Linear(relu=True)(*a), x[0, 0], w[:, 0, 0], b)
    pyi.gradcheck(lambda *a: ops.BatchNorm(relu=True)(*a), x, normal(3), normal(3))
    pyi.gradcheck(
        lambda *a: ops.ReduceConv()(*a), x, normal(2, 1, 1, 3), normal(2), normal(4, 3, 3, 2), b
    )
    weights = module_weights(DRAW, lambda _, *shape: normal(*shape))
    pyi.gradcheck(lambda *a: ops.Inception()(*a), x, *weights)
