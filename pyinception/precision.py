"""Loss scaling for training in 16 bits, where small gradients would round to zero.

    scale' = scale / 2 after a step with an infinite or undefined gradient, which moves nothing;
    scale' = 2 scale after ``interval`` steps without one

Filters and maps are stored in 16 bits (`Module.store_as`); sums, biases, gradients of parameters
and the values that are trained are float32. The loss is multiplied before backward, the gradients
divided after it, by powers of two, so that nothing but the range changes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pyinception import checkpoint
from pyinception.backend import Array, array_module
from pyinception.cuda import steps
from pyinception.module import Module
from pyinception.tensor import Tensor

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
SMALLEST = 2.0**-24


class LossScale:
    """The scale of a loss, halved by overflows and doubled by their absence.

    Parameters
    ----------
    scale : of the first step, a power of two.
    interval : steps without overflow before it doubles; 0 keeps it (bfloat16 has the range of
        float32 and needs no scale, but an overflow still costs no more than its step).

    Attributes
    ----------
    overflows : steps that moved nothing so far.
    """

    def __init__(self, scale: float = 2.0**16, interval: int = 2000) -> None:
        if not (scale > 0 and np.isfinite(scale) and np.frexp(scale)[0] == 0.5):
            raise ValueError(f"LossScale: scale is {scale}, expected a power of two")
        if interval < 0:
            raise ValueError(f"LossScale: interval is {interval}, expected at least 0")
        self.scale, self.interval = float(scale), interval
        self.overflows, self.calm = 0, 0

    @classmethod
    def of(cls, precision: str) -> "LossScale | None":
        """What suits "fp16" or "bf16"; None for "fp32"."""
        if precision == "fp32":
            return None
        return cls() if precision == "fp16" else cls(1.0, 0)

    def backward(self, loss: Tensor) -> None:
        """Backward of scale x loss."""
        one = array_module(loss.data).ones_like(loss.data)
        loss.backward(one * one.dtype.type(self.scale))

    def unscale(self, net: Module) -> bool:
        """Divide the gradients by the scale: True; or False after an overflow, when the step is to
        be left out. The scale is then, or was then, adapted.

        Raises
        ------
        FloatingPointError
            If overflows have brought the scale below 2^-24: it is not the scale that is wrong.
        """
        found = [p.grad for p in net.parameters() if p.grad is not None]
        if not _all_finite(found):
            self.overflows, self.calm = self.overflows + 1, 0
            self.scale /= 2 if self.interval else 1
            if self.scale < SMALLEST:
                text = f"{self.overflows} overflows have brought it to {self.scale:g}"
                raise FloatingPointError(f"loss scale: {text}; try a lower lr, or bf16")
            return False
        if self.scale != 1:
            for gradient in found:
                gradient *= gradient.dtype.type(1 / self.scale)
        self.calm += 1
        if self.interval and self.calm >= self.interval:
            self.scale, self.calm = min(2 * self.scale, 2.0**24), 0
        return True

    def state_dict(self) -> dict[str, Array]:
        """Scale and counts: all that a resume needs."""
        counts = {"overflows": self.overflows, "calm": self.calm}
        state = {name: np.array(count, np.int64) for name, count in counts.items()}
        return {"scale": np.array(self.scale), **state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a `state_dict` after every name, shape and dtype has been checked."""
        checkpoint.check_state("LossScale.load_state_dict", self.state_dict(), state)
        self.scale = float(state["scale"])
        self.overflows, self.calm = int(state["overflows"]), int(state["calm"])


def _all_finite(gradients: list[Array]) -> bool:
    if gradients and steps.serves(gradients[0]):
        return steps.all_finite(gradients)
    return all(bool(np.isfinite(gradient).all()) for gradient in gradients)
