"""Dropout: y = x keep / (1 - p), with a mask that is a function of (seed, step, layer, place).

Philox4x32-10: key = seed; counter = (block of four elements in the sample, the sample's slot in the
global batch, step, CRC-32 of the layer's path); keep where the word is at least round(p 2^32). The
mask is recomputed in backward, nothing is saved. Salmon et al., SC 2011 (Random123).
"""

from pyinception import workspace
from pyinception.dispatch import Array, check, launch
from pyinception.op import Op
from pyinception.spec import DropoutSpec

_AXES = {2: "N C", 4: "N H W C"}


class Dropout(Op):
    """One dropout as a step of the tape; ``first_sample`` is the global slot of sample 0."""

    def __init__(self, p: float, *, seed: int, step: int, layer: int, first_sample: int = 0):
        self.p, self.place = p, (seed, step, layer, first_sample)

    def forward(self, x: Array) -> Array:
        check("dropout", "x", x, _AXES.get(getattr(x, "ndim", 2), "N C"))
        self.spec = DropoutSpec(tuple(x.shape), self.p, "dropout")
        y = workspace.empty(self.spec.shape, x)
        launch("dropout", "fprop", self.spec, x, y, *self.place)
        return y

    def backward(self, gy: Array) -> Array:
        gx = workspace.empty(self.spec.shape, gy)
        launch("dropout", "dgrad", self.spec, gy, gx, *self.place)
        return gx
