"""Norms, linear layers, losses and dropout of the NumPy reference; every backward's derivative.

The same formulas in loops, published vectors, central differences along a random direction.
"""

import math

import numpy as np
import pytest
from pyinception.kernels import reference
from reference_cases import close, inner, module_weights, real, same_bits, whole

NAN = math.nan


# ------------------------------------------------------------------- normalisation, linear, loss


@pytest.mark.parametrize(("C", "size"), [(1, 5), (3, 5), (8, 1), (9, 3), (4, 11)])
def test_lrn_equals_loops(C, size):
    x = np.random.default_rng(7).normal(size=(2, 2, 3, C))
    expected = np.zeros_like(x)
    for n, h, w, c in np.ndindex(x.shape):
        window = range(max(0, c - size // 2), min(C, c + size // 2 + 1))
        scale = 1.5 + 0.3 / size * math.fsum(x[n, h, w, i] ** 2 for i in window)
        expected[n, h, w, c] = x[n, h, w, c] / scale**0.6
    close(reference.lrn_fprop(x, size, 0.3, 0.6, 1.5), expected)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1, 1, 2), (7, 3)])
def test_batch_norm_equals_loops(shape):
    rng = np.random.default_rng(8)
    x, gamma, beta = real(rng, *shape) + 3, real(rng, shape[-1]), real(rng, shape[-1])
    y, mean, var = reference.batch_norm_fprop(x, gamma, beta, eps=1e-3)
    for c in range(shape[-1]):
        values = x[..., c].ravel().tolist()
        m = math.fsum(values) / len(values)
        v = math.fsum((a - m) ** 2 for a in values) / len(values)
        assert (mean[c], var[c]) == (pytest.approx(m, 1e-12), pytest.approx(v, 1e-12))
        expected = [gamma[c] * (a - m) / math.sqrt(v + 1e-3) + beta[c] for a in values]
        close(y[..., c].ravel(), np.array(expected))
    given = reference.batch_norm_inference(x, gamma, beta, mean, var, eps=1e-3, relu=True)
    np.testing.assert_array_equal(given, np.maximum(y, 0))


def test_linear_and_its_adjoints():
    rng = np.random.default_rng(9)
    x, w, b, g = whole(rng, 3, 5), whole(rng, 4, 5), whole(rng, 4), whole(rng, 3, 4)
    np.testing.assert_array_equal(reference.linear_fprop(x, w, b), np.einsum("nc,kc->nk", x, w) + b)
    gw, gb = reference.linear_wgrad(x, g)
    y = reference.linear_fprop(x, w)
    assert inner(y, g) == inner(x, reference.linear_dgrad(g, w)) == inner(w, gw)
    np.testing.assert_array_equal(gb, g[0] + g[1] + g[2])


def test_softmax_cross_entropy_equals_the_textbook_and_survives_large_logits():
    logits = np.random.default_rng(10).normal(size=(4, 6)) * 3
    labels = np.array([0, 5, 2, 2], np.int32)
    loss, probs = reference.softmax_cross_entropy_fprop(logits, labels)
    for n, k in enumerate(labels):
        total = math.fsum(math.exp(z) for z in logits[n])
        assert loss[n] == pytest.approx(math.log(total) - logits[n, k], 1e-12)
        close(probs[n], np.array([math.exp(z) / total for z in logits[n]]))
    far, _ = reference.softmax_cross_entropy_fprop(np.array([[1e4, -1e4]]), np.array([1]))
    assert far.item() == 2e4
    g = np.array([1.0, -2.0, 0.0, 0.5])
    glogits = reference.softmax_cross_entropy_dgrad(probs, labels, g)
    close(glogits, g[:, None] * (probs - (np.arange(6) == labels[:, None])))


# --------------------------------------------------------------------------------------- dropout


def naive_philox(counter, key):
    for i in range(10):
        a, b = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        k = [(key[0] + i * 0x9E3779B9) % 2**32, (key[1] + i * 0xBB67AE85) % 2**32]
        counter = [
            b // 2**32 ^ counter[1] ^ k[0],
            b % 2**32,
            a // 2**32 ^ counter[3] ^ k[1],
            a % 2**32,
        ]
    return counter


@pytest.mark.parametrize(
    ("counter", "key", "words"),  # Random123, tests/kat_vectors: philox4x32 10
    [
        ("0" * 32, "0" * 16, "6627e8d5e169c58dbc57ac4c9b00dbd8"),
        ("f" * 32, "f" * 16, "408f276d41c83b0ea20bc7c66d5451fd"),
        (
            "243f6a8885a308d313198a2e03707344",
            "a4093822299f31d0",
            "d16cfe0994fdcceb5001e42024126ea1",
        ),
    ],
)
def test_philox_gives_the_published_words(counter, key, words):
    counter, key, words = (
        [int(text[i : i + 8], 16) for i in range(0, len(text), 8)] for text in (counter, key, words)
    )
    assert reference.philox4x32(counter, key).tolist() == words == naive_philox(counter, key)
    both = reference.philox4x32([[counter], [[1, 2, 3, 4]]], [key, [5, 6]])
    assert both.shape == (2, 2, 4) and both.dtype == np.uint32 and both[0, 0].tolist() == words
    assert both[1, 1].tolist() == naive_philox([1, 2, 3, 4], [5, 6])


@pytest.mark.parametrize(("shape", "p"), [((3, 1, 1, 1), 0.4), ((2, 3, 3, 3), 0.7), ((4, 9), 0.5)])
def test_dropout_mask_is_its_formula(shape, p):
    where = {"seed": 2**63 + 12345, "step": 7, "layer": 0xDEADBEEF}
    keep = reference.dropout_mask(shape, p, **where, first_sample=5)
    for n, sample in enumerate(keep.reshape(shape[0], -1)):
        for e, kept in enumerate(sample):
            counter = [e // 4, 5 + n, where["step"], where["layer"]]
            word = naive_philox(counter, [where["seed"] % 2**32, where["seed"] >> 32])[e % 4]
            assert kept == (word >= round(p * 2**32))
    later = reference.dropout_mask((1, *shape[1:]), p, **where, first_sample=4 + shape[0])
    np.testing.assert_array_equal(later, keep[-1:])  # a sample's mask is its slot's alone


def test_dropout_scales_what_it_keeps():
    where = {"seed": 1, "step": 0, "layer": 3}
    x = np.full((20, 1000), NAN, np.float32)
    keep = reference.dropout_mask(x.shape, 0.4, **where)
    assert abs(keep.mean() - 0.6) < 5 * math.sqrt(0.24 / keep.size)
    x[keep] = 3
    same_bits(
        reference.dropout(x, 0.4, **where), np.where(keep, np.float32(3) / np.float32(0.6), 0)
    )
    assert reference.dropout_mask(x.shape, 0, **where).all()
    assert reference.dropout_mask(x.shape, 1 - 2**-40, **where).sum() == 0
    for name in where:
        other = reference.dropout_mask(x.shape, 0.5, **{**where, name: 99})
        assert 0.4 < np.mean(other == reference.dropout_mask(x.shape, 0.5, **where)) < 0.6


# ------------------------------------------------------------- gradients along a random direction


def conv_gradients(g, x, w, b, **options):
    y = reference.conv2d_fprop(x, w, b, relu=True, **options)
    gx = reference.conv2d_dgrad(g, w, x.shape, y=y, **options)
    return gx, *reference.conv2d_wgrad(x, g, w.shape, y=y, **options)


def reduce_conv_gradients(g, x, wr, br, w, b):
    y, r = reference.reduce_conv_fprop(x, wr, br, w, b, padding=(1, 1))
    return reference.reduce_conv_backward(g, x, wr, w, r, y, padding=(1, 1))


def inception_gradients(g, x, *weights):
    y, saved = reference.inception_fprop(x, weights)
    gx, grads = reference.inception_backward(g, x, weights, y, saved)
    return gx, *grads


def batch_norm_gradients(g, x, gamma, beta):
    y, mean, var = reference.batch_norm_fprop(x, gamma, beta, eps=1e-2, relu=True)
    return reference.batch_norm_dgrad(g, x, gamma, mean, var, eps=1e-2, y=y)


def linear_gradients(g, x, w, b):
    y = reference.linear_fprop(x, w, b, relu=True)
    return reference.linear_dgrad(g, w, y=y), *reference.linear_wgrad(x, g, y=y)


LABELS = np.array([2, 0, 3])
LRN = {"size": 3, "alpha": 0.7, "beta": 0.6, "k": 1.2}
STRIDED = {"stride": (2, 1), "padding": (2, 1)}
GRADIENTS = {  # function, its gradients by backward functions, shapes of what it depends on
    "conv2d": (
        lambda x, w, b: reference.conv2d_fprop(x, w, b, relu=True, **STRIDED),
        lambda g, *a: conv_gradients(g, *a, **STRIDED),
        [(2, 5, 4, 3), (4, 3, 2, 3), (4,)],
    ),
    "reduce_conv": (
        lambda *a: reference.reduce_conv_fprop(*a, padding=(1, 1))[0],
        reduce_conv_gradients,
        [(2, 4, 5, 3), (4, 1, 1, 3), (4,), (5, 3, 3, 4), (5,)],
    ),
    "inception": (
        lambda x, *w: reference.inception_fprop(x, w)[0],
        inception_gradients,
        [(2, 4, 3, 3), *(w.shape for w in module_weights(np.random.default_rng(0), real))],
    ),
    "batch_norm": (
        lambda *a: reference.batch_norm_fprop(*a, eps=1e-2, relu=True)[0],
        batch_norm_gradients,
        [(3, 2, 2, 4), (4,), (4,)],
    ),
    "batch_norm of rows": (
        lambda *a: reference.batch_norm_fprop(*a, eps=1e-2, relu=True)[0],
        batch_norm_gradients,
        [(6, 3), (3,), (3,)],
    ),
    "linear": (
        lambda *a: reference.linear_fprop(*a, relu=True),
        linear_gradients,
        [(3, 4), (5, 4), (5,)],
    ),
    "lrn": (
        lambda x: reference.lrn_fprop(x, **LRN),
        lambda g, x: [reference.lrn_dgrad(g, x, **LRN)],
        [(2, 2, 3, 7)],
    ),
    "lrn wider than C": (
        lambda x: reference.lrn_fprop(x, 9, 0.7),
        lambda g, x: [reference.lrn_dgrad(g, x, 9, 0.7)],
        [(2, 2, 3, 3)],
    ),
    "softmax_cross_entropy": (
        lambda z: reference.softmax_cross_entropy_fprop(z, LABELS)[0],
        lambda g, z: [
            reference.softmax_cross_entropy_dgrad(
                reference.softmax_cross_entropy_fprop(z, LABELS)[1], LABELS, g
            )
        ],
        [(3, 4)],
    ),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", GRADIENTS)
def test_backward_is_the_derivative(name, seed):
    function, gradients, shapes = GRADIENTS[name]
    rng = np.random.default_rng(seed)
    inputs = [real(rng, *shape) for shape in shapes]
    direction = [real(rng, *shape) for shape in shapes]
    y, step = function(*inputs), 1e-6
    g = real(rng, *y.shape)
    ends = [
        function(*(a + sign * step * d for a, d in zip(inputs, direction, strict=True)))
        for sign in (1, -1)
    ]
    if name.split()[0] in ("conv2d", "reduce_conv", "inception", "batch_norm", "linear"):
        assert 0.1 < np.mean(y > 0) < 0.9
        for end in ends:  # no kink between the ends
            np.testing.assert_array_equal(end > 0, y > 0)
    numeric = (inner(g, ends[0]) - inner(g, ends[1])) / (2 * step)
    exact = gradients(g, *inputs)
    assert [e.shape for e in exact] == [tuple(shape) for shape in shapes]
    analytic = sum(inner(e, d) for e, d in zip(exact, direction, strict=True))
    assert numeric == pytest.approx(analytic, rel=1e-6, abs=1e-6) and abs(analytic) > 1e-3
