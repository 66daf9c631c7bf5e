"""Losses: scalars to call ``backward`` on."""

from collections.abc import Sequence
from typing import Any

from pyinception import ops
from pyinception.extents import real
from pyinception.tensor import Tensor


def cross_entropy(
    logits: Tensor | Sequence[Tensor],
    labels: Any,
    *,
    aux_weight: float = 0.3,
    label_smoothing: float = 0.0,
) -> Tensor:
    """loss = mean_n (log sum_k exp(logits_nk) - sum_k q_nk logits_nk); 0 for an empty batch.

    q is 1 at the label and 0 elsewhere; with label smoothing (1 - eps) of that plus eps / K, and
    then the loss can't fall below the entropy of q: 1.0148 for K = 1000, eps = 0.1.

    Given (logits, aux1, aux2, ...), as GoogLeNet returns them in training, the loss is
    L(logits) + aux_weight (L(aux1) + L(aux2) + ...): Szegedy et al., section 5.

    Parameters
    ----------
    logits : tensor (N, K), or a sequence of them. An array records nothing.
    labels : (N,) integers in [0, K).
    aux_weight : of every tensor after the first (0.3 in GoogLeNet, 0.4 in Inception-v3).
    label_smoothing : eps, from 0 to below 1; applied to every tensor.

    Raises
    ------
    TypeError, ValueError
        For labels that are no integers, of another length, or out of range (the place is named);
        for weights that are no numbers, negative or not finite.
    """
    real("cross_entropy", "label_smoothing", label_smoothing, below=1)
    real("cross_entropy", "aux_weight", aux_weight)
    if not isinstance(logits, (tuple, list)):
        return ops.Mean()(ops.SoftmaxCrossEntropy(labels, label_smoothing)(logits))
    main, *auxiliary = logits
    loss = cross_entropy(main, labels, label_smoothing=label_smoothing)
    for part in auxiliary:
        loss = loss + aux_weight * cross_entropy(part, labels, label_smoothing=label_smoothing)
    return loss
