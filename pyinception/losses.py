"""Losses: scalars to call ``backward`` on."""

from collections.abc import Sequence
from typing import Any

from pyinception import ops
from pyinception.tensor import Tensor


def cross_entropy(
    logits: Tensor | Sequence[Tensor], labels: Any, *, aux_weight: float = 0.3
) -> Tensor:
    """loss = mean_n (log sum_k exp(logits_nk) - logits_n,labels_n); 0 for an empty batch.

    Given (logits, aux1, aux2, ...), as GoogLeNet returns them in training, the loss is
    L(logits) + aux_weight (L(aux1) + L(aux2) + ...): Szegedy et al., section 5.

    Parameters
    ----------
    logits : tensor (N, K), or a sequence of them. An array records nothing.
    labels : (N,) integers in [0, K).
    aux_weight : of every tensor after the first.

    Raises
    ------
    TypeError, ValueError
        For labels that are no integers, of another length, or out of range (the place is named).
    """
    if not isinstance(logits, (tuple, list)):
        return ops.Mean()(ops.SoftmaxCrossEntropy(labels)(logits))
    main, *auxiliary = logits
    loss = cross_entropy(main, labels)
    for part in auxiliary:
        loss = loss + aux_weight * cross_entropy(part, labels)
    return loss
