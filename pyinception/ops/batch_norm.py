"""Batch normalisation with its ReLU: y = [relu](gamma (x - mean) / sqrt(var + eps) + beta).

Training takes mean and (biased) variance from the batch, over all axes but the last; inference
takes the running ones. Ioffe and Szegedy, arXiv 1502.03167, algorithm 1.
"""

from typing import Any

from pyinception import workspace
from pyinception.dispatch import Array, check, launch, wide
from pyinception.op import Op
from pyinception.spec import BatchNormSpec

_AXES = {2: "N C", 4: "N H W C"}


def batch_norm_spec(
    function: str, x: Array, vectors: dict[str, Array], eps: float, relu: bool
) -> BatchNormSpec:
    """The spec that x, (N, H, W, C) or (N, C), and vectors (C,) imply, all checked."""
    check(function, "x", x, _AXES.get(getattr(x, "ndim", 4), "N H W C"))
    for name, vector in vectors.items():
        check(function, name, vector, "C", (x.shape[-1],), like=x, dtype=wide(x))
    return BatchNormSpec(tuple(x.shape), float(eps), relu, function)


class BatchNorm(Op):
    """Training: normalises by the batch; ``statistics`` then holds (mean, biased variance)."""

    def __init__(self, eps: float = 1e-5, relu: bool = False, out: Array | None = None) -> None:
        self.eps, self.relu, self.out = eps, relu, out
        self.statistics: tuple[Array, Array] | None = None

    def forward(self, x: Array, gamma: Array, beta: Array) -> Array:
        vectors = {"gamma": gamma, "beta": beta}
        self.spec = batch_norm_spec("batch_norm", x, vectors, self.eps, self.relu)
        y = _output(self.spec, x, self.out)
        mean, var = (workspace.empty(gamma.shape, x, wide(x)) for _ in range(2))
        launch("batch_norm", "fprop", self.spec, x, gamma, beta, y, mean, var)
        self.statistics = mean, var
        if self.recording:
            self.saved = (x, gamma, mean, var, y if self.relu else None)
        return y

    def backward(self, gy: Array) -> tuple[Array, ...]:
        x, gamma, mean, var, y = self.saved
        gx = workspace.empty(self.spec.shape, gy)
        ggamma, gbeta = (workspace.empty(gamma.shape, gy, wide(gy)) for _ in range(2))
        arrays = gy, x, gamma, mean, var, y, gx, ggamma, gbeta
        launch("batch_norm", "dgrad", self.spec, *arrays)
        return gx, ggamma, gbeta


class FrozenBatchNorm(Op):
    """Inference: normalises by given (mean, var), which are constants to the tape."""

    def __init__(
        self,
        mean: Array,
        var: Array,
        eps: float = 1e-5,
        relu: bool = False,
        out: Array | None = None,
    ) -> None:
        self.mean, self.var, self.eps, self.relu, self.out = mean, var, eps, relu, out

    def forward(self, x: Array, gamma: Array, beta: Array) -> Array:
        vectors = {"gamma": gamma, "beta": beta, "mean": self.mean, "var": self.var}
        self.spec = batch_norm_spec("batch_norm", x, vectors, self.eps, self.relu)
        y = _output(self.spec, x, self.out)
        arrays = x, gamma, beta, self.mean, self.var, y
        launch("batch_norm", "inference", self.spec, *arrays)
        if self.recording:
            # Running statistics may move on before backward: these are the forward's.
            self.saved = (x, gamma, self.mean.copy(), self.var.copy(), y if self.relu else None)
        return y

    def backward(self, gy: Array) -> tuple[Array, ...]:
        x, gamma, mean, var, y = self.saved
        if y is not None:
            gy = gy * (y > 0)
        gy = gy.astype(var.dtype)  # sums of 16-bit maps are float32
        axes = tuple(range(gy.ndim - 1))
        scale = (var + var.dtype.type(self.eps)) ** -0.5
        ggamma = (gy * ((x - mean) * scale)).sum(axis=axes)
        return (gy * (gamma * scale)).astype(x.dtype), ggamma, gy.sum(axis=axes)


def _output(spec: BatchNormSpec, x: Array, out: Any) -> Array:
    if out is None:
        return workspace.empty(spec.shape, x)
    check("batch_norm", "out", out, _AXES[len(spec.shape)], spec.shape, like=x)
    return out
