"""Softmax cross-entropy: loss_n = log sum_k exp(l_nk) - sum_k q_nk l_nk; glogits = g (probs - q).

q is the label's one-hot row, or smoothed: (1 - eps) onehot + eps / K (arXiv 1512.00567, section 7).
"""

from typing import Any

import numpy as np

from pyinception import workspace
from pyinception.dispatch import Array, beside, check, launch, wide
from pyinception.op import Op
from pyinception.spec import SoftmaxCrossEntropySpec


def check_labels(function: str, labels: Any, n: int, classes: int) -> Array:
    """``labels`` as C-contiguous int64 of shape (N,), every one in [0, classes)."""
    if not hasattr(labels, "dtype") or labels.dtype.kind not in "iu":
        kind = getattr(labels, "dtype", type(labels).__name__)
        raise TypeError(f"{function}: labels is {kind}, expected an array of integers")
    if tuple(labels.shape) != (n,):
        text = f"labels has shape {tuple(labels.shape)}, expected (N,) = {(n,)}"
        raise ValueError(f"{function}: {text}")
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        place = int(wrong.argmax())
        text = f"labels[{place}] is {int(labels[place])}, expected 0 ... {classes - 1}"
        raise ValueError(f"{function}: {text}")
    return labels.astype(np.int64, order="C")


class SoftmaxCrossEntropy(Op):
    """logits (N, K) -> loss (N,); ``probabilities`` holds softmax(logits) after forward."""

    def __init__(self, labels: Any, smoothing: float = 0.0) -> None:
        self.labels, self.smoothing = labels, smoothing
        self.probabilities: Array | None = None

    def forward(self, logits: Array) -> Array:
        check("cross_entropy", "logits", logits, "N K")
        n, k = logits.shape
        self.spec = SoftmaxCrossEntropySpec(n, k, "cross_entropy")
        # Labels come from the data, in host memory, and follow the logits.
        labels = beside(check_labels("cross_entropy", self.labels, n, k), logits)
        loss = workspace.empty((self.spec.N,), logits, wide(logits))
        probs = workspace.empty(tuple(logits.shape), logits, wide(logits))
        launch("softmax_cross_entropy", "fprop", self.spec, logits, labels, loss, probs)
        if self.smoothing:  # the kernel's loss, moved from the label's logit towards their mean
            rows = logits.astype(loss.dtype)
            chosen = rows[workspace.arange(n, rows), labels]
            loss += loss.dtype.type(self.smoothing) * (chosen - rows.mean(axis=1))
        self.probabilities = probs
        if self.recording:
            self.saved = (probs, labels, logits.dtype)
        return loss

    def backward(self, gy: Array) -> Array:
        probs, labels, dtype = self.saved
        glogits = workspace.empty(tuple(probs.shape), gy, dtype)
        launch("softmax_cross_entropy", "dgrad", self.spec, probs, labels, gy, glogits)
        if self.smoothing:
            n, k = probs.shape
            share = gy * gy.dtype.type(self.smoothing)
            rows = glogits.astype(gy.dtype)  # sums in the precision of the loss
            rows[workspace.arange(n, gy), labels] += share
            rows -= (share / gy.dtype.type(k))[:, None]
            glogits[...] = rows.astype(dtype)
        return glogits
