"""GoogLeNet as a benchmark problem: our Session, the paper's graph for rivals, float64 logits."""

import copy
from typing import Any

import numpy as np

from pyinception import config, models, session
from pyinception.backend import Array, core
from pyinception.bench.problems import TimedSpec, aligned, macs_inside
from pyinception.bench.timing import once
from pyinception.models.googlenet import TRUNK
from pyinception.module import Module

# What the library promises for the logits with algorithm="auto", relative to the largest.
LOGIT_LIMIT = 2e-5
_PARTS = ("conv1x1", "reduce3x3", "conv3x3", "reduce5x5", "conv5x5", "pool_proj")


class Net:
    """One forward pass of GoogLeNet on ``batch`` random images of 224x224, prepared."""

    def __init__(self, batch: int, algorithm: str | None = None) -> None:
        net = models.googlenet(aux=False, seed=1).eval()
        x = aligned((batch, 224, 224, 3))
        x[...] = np.random.default_rng(0).standard_normal(x.shape, np.float32)
        self.net, self.x = net, x
        # Copies: torch refuses to share memory that our own parameters may later write.
        self.weights = {name: array.copy() for name, array in net.state_dict().items()}
        specs: list[Any] = [spec for _, _, spec in session.specs(net, x.shape)]
        self.macs = sum(spec.macs for spec in specs)
        self.macs_inside = sum(
            macs_inside(spec) if isinstance(spec, TimedSpec) else spec.macs for spec in specs
        )
        self.bytes = sum(spec.bytes for spec in specs)
        self.first = once(lambda: self._open(algorithm))
        level = config.get("cpu_level") or core().host_level()
        self.kernel = f"Session/{algorithm or 'auto'} {level}"
        self.expected = logits_float64(net, x)

    def _open(self, algorithm: str | None) -> None:
        how = {"backend": "cpu", "algorithm": algorithm}
        self.session = session.Session(self.net, self.x.shape, **how)
        self.call()

    def call(self) -> None:
        """One forward pass."""
        self.y = self.session(self.x)

    def check(self) -> dict[str, Any]:
        """Errors of the logits computed last."""
        return self.judge(self.y)

    def judge(self, y: Array) -> dict[str, Any]:
        """A cell's error against float64, or its failure."""
        error = float(np.abs(y - self.expected).max() / np.abs(self.expected).max())
        if error <= LOGIT_LIMIT:
            return {"error": error, "error_of_bound": error / LOGIT_LIMIT}
        return {"failed": f"error of the logits is {error:.2g}, expected at most {LOGIT_LIMIT:g}"}

    @staticmethod
    def graph(ops: Any, x: Any, weights: Any) -> Any:
        """The paper's trunk over a rival's operations; weights by name."""

        def conv(x: Any, name: str, stride: int = 1, padding: int = 0) -> Any:
            w, b = weights[f"{name}.weight"], weights[f"{name}.bias"]
            return ops.conv(x, w, b, (stride, stride), (padding, padding), True)

        def module(x: Any, name: str) -> Any:
            one, reduce3, three, reduce5, five, proj = (f"{name}.{part}" for part in _PARTS)
            pooled = ops.max_pool(x, (3, 3), (1, 1), (1, 1), False)
            branches = [
                conv(x, one),
                conv(conv(x, reduce3), three, 1, 1),
                conv(conv(x, reduce5), five, 1, 2),
                conv(pooled, proj),
            ]
            return ops.concat(branches)

        for name, kind, *numbers in TRUNK:
            if kind == "conv":
                _, _, stride, padding = numbers
                x = conv(x, name, stride, padding)
            elif kind == "inception":
                x = module(x, name)
            elif kind == "max":
                kernel, stride = numbers
                x = ops.max_pool(x, (kernel, kernel), (stride, stride), (0, 0), True)
            elif kind == "avg":
                kernel, stride = numbers
                x = ops.avg_pool(x, (kernel, kernel), (stride, stride))
            elif kind == "lrn":
                x = ops.lrn(x, 5, 1e-4, 0.75, 1.0)
            else:
                assert kind == "dropout", kind  # the identity in evaluation
        return ops.linear(x, weights["fc.weight"], weights["fc.bias"])


def logits_float64(net: Module, x: Array) -> Array:
    """The logits of the reference in float64."""
    truth = copy.deepcopy(net).astype(np.float64).eval()
    with config.using(backend="reference"):
        return np.asarray(truth(x.astype(np.float64)).data)
