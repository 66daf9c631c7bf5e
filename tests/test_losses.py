"""Losses against written-out formulas, and the labels they refuse."""

from typing import Any

import numpy as np
import pytest

from pyinception import losses
from pyinception.tensor import Tensor

LOGITS = np.array([[1, 2, 3], [-50, 60, 0], [0, 0, 0]], np.float32)
LABELS = np.array([2, 0, 1])


def formula(logits: np.ndarray, labels: np.ndarray) -> float:
    l64 = logits.astype(np.float64)
    logsum = np.log(np.exp(l64 - l64.max(1, keepdims=True)).sum(1)) + l64.max(1)
    return float((logsum - l64[np.arange(len(labels)), labels]).mean())


def test_cross_entropy() -> None:
    logits = Tensor(LOGITS, requires_grad=True)
    loss = losses.cross_entropy(logits, LABELS)
    assert loss.item() == pytest.approx(formula(LOGITS, LABELS), rel=1e-6)
    loss.backward()
    e = np.exp(LOGITS - LOGITS.max(1, keepdims=True))
    expected = (e / e.sum(1, keepdims=True) - np.eye(3)[LABELS]) / 3
    np.testing.assert_allclose(logits.grad, expected, rtol=1e-5, atol=1e-7)


def test_auxiliary_heads_weigh_three_tenths() -> None:
    parts = [Tensor(LOGITS * s, requires_grad=True) for s in (1, 0.5, 0.25)]
    loss = losses.cross_entropy(parts, LABELS)
    values = [formula(p.data, LABELS) for p in parts]
    assert loss.item() == pytest.approx(values[0] + 0.3 * (values[1] + values[2]), rel=1e-6)
    loss.backward()
    alone = Tensor(parts[1].data, requires_grad=True)
    losses.cross_entropy(alone, LABELS).backward()
    np.testing.assert_allclose(parts[1].grad, 0.3 * alone.grad, rtol=1e-5)
    single = losses.cross_entropy(parts[0], LABELS)
    assert single.item() == pytest.approx(values[0], rel=1e-6)


def test_empty_batch_costs_nothing() -> None:
    logits = Tensor(np.zeros((0, 3), np.float32), requires_grad=True)
    loss = losses.cross_entropy(logits, np.zeros(0, np.int64))
    assert loss.item() == 0.0
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.shape == (0, 3)


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        ([2, 0, 1], TypeError, "labels is list, expected an array of integers"),
        (LABELS.astype(np.float32), TypeError, "labels is float32"),
        (LABELS[:2], ValueError, r"labels has shape \(2,\), expected \(N,\) = \(3,\)"),
        (LABELS[:, None], ValueError, r"labels has shape \(3, 1\)"),
        (np.array([0, 3, 1]), ValueError, r"labels\[1\] is 3, expected 0 ... 2"),
        (np.array([0, 1, -1]), ValueError, r"labels\[2\] is -1"),
        (np.array([0, 200, 1], np.uint8), ValueError, r"labels\[1\] is 200"),
    ],
)
def test_labels(labels: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        losses.cross_entropy(Tensor(LOGITS), labels)


def test_any_integer_dtype_and_stride() -> None:
    wide = np.zeros((3, 2), np.uint8)
    wide[:, 1] = LABELS
    loss = losses.cross_entropy(Tensor(LOGITS), wide[:, 1])
    assert loss.item() == pytest.approx(formula(LOGITS, LABELS), rel=1e-6)


@pytest.mark.parametrize("eps", [0.1, 0.7])
def test_label_smoothing(eps: float) -> None:
    logits = Tensor(LOGITS, requires_grad=True)
    q = (1 - eps) * np.eye(3)[LABELS] + eps / 3
    shifted = LOGITS.astype(np.float64) - LOGITS.max(1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    loss = losses.cross_entropy(logits, LABELS, label_smoothing=eps)
    assert loss.item() == pytest.approx(float(-(q * logp).sum(1).mean()), rel=1e-6)
    loss.backward()
    np.testing.assert_allclose(logits.grad, (np.exp(logp) - q) / 3, rtol=1e-5, atol=1e-7)
    pair = losses.cross_entropy([logits, logits], LABELS, aux_weight=0.4, label_smoothing=eps)
    assert pair.item() == pytest.approx(1.4 * loss.item(), rel=1e-6)


def test_a_smoothed_loss_has_a_floor() -> None:
    """K = 1000, eps = 0.1: the entropy of q, 1.0148 nats, reached by logits = log q."""
    q = np.full((1, 1000), 0.1 / 1000)
    q[0, 7] += 0.9
    logits = np.log(q).astype(np.float32)
    loss = losses.cross_entropy(Tensor(logits), np.array([7]), label_smoothing=0.1)
    assert loss.item() == pytest.approx(1.0148, abs=5e-5)
    with pytest.raises(ValueError, match=r"label_smoothing is 1\.0, expected at least 0, below 1"):
        losses.cross_entropy(Tensor(logits), np.array([7]), label_smoothing=1.0)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (
            {"label_smoothing": 1},
            "label_smoothing is 1, expected at least 0, below 1",
        ),
        ({"label_smoothing": "0.1"}, r"label_smoothing is '0.1' \(str\), expected a number"),
        ({"aux_weight": -0.3}, "cross_entropy: aux_weight is -0.3, expected at least 0"),
        ({"aux_weight": float("nan")}, "cross_entropy: aux_weight is nan, expected at least 0"),
        ({"aux_weight": None}, r"aux_weight is None \(NoneType\), expected a number"),
    ],
)
def test_strange_weights_are_named(how: dict[str, Any], words: str) -> None:
    logits = [Tensor(np.zeros((2, 3)))] * 2
    with pytest.raises((TypeError, ValueError), match=words):
        losses.cross_entropy(logits, [0, 1], **how)
