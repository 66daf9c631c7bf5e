"""What the compiled core says about wrong operands of its pools, norms, linear, loss, dropout."""

import math

import numpy as np
import pytest

core = pytest.importorskip("pyinception._C")


def _errors():
    """(name, function of an output-maker, exception, text): outputs must stay as they were."""
    f = lambda *shape: np.ones(shape, np.float32)  # noqa: E731
    x, v, labels = f(2, 6, 6, 5), f(5), np.array([0, 4])
    pool = (3, 3), (2, 2), (0, 0)
    wide = f(2, 6, 6, 8)
    V, T = ValueError, TypeError
    max_pool, max_dgrad, avg_dgrad = core.max_pool_fprop, core.max_pool_dgrad, core.avg_pool_dgrad
    lrn, lrn_dgrad, four = core.lrn_fprop, core.lrn_dgrad, (5, 1e-4, 0.75, 1.0)
    linear, linear_dgrad, linear_wgrad = core.linear_fprop, core.linear_dgrad, core.linear_wgrad
    loss, dgrad = core.softmax_cross_entropy_fprop, core.softmax_cross_entropy_dgrad
    norm, drop, five = core.batch_norm_fprop, core.dropout, (0.5, 1, 2, 3, 0)
    argmax = np.zeros((2, 2, 2, 5), np.uint8)
    return [
        (lambda o: max_pool("x", o(2, 2, 2, 5), None, *pool), T, "x is a str"),
        (lambda o: max_pool(x.astype("f8"), o(2, 2, 2, 5), None, *pool), T, "float64"),
        (lambda o: max_pool(x[0], o(2, 2, 2, 5), None, *pool), V, "rank 4"),
        (lambda o: max_pool(x, o(2, 4, 2, 5), None, *pool), V, r"y has shape \(2, 4, 2, 5\)"),
        (lambda o: max_pool(x, o(2, 3, 2, 5), None, *pool), V, "ceil rule"),
        (lambda o: max_pool(x[..., ::2], o(2, 2, 2, 3), None, *pool), V, "channel stride"),
        (lambda o: max_pool(x, o(2, 2, 2, 5), argmax[:1], *pool), V, "argmax has shape"),
        (lambda o: max_pool(x, x[:, :2, :2], None, *pool), V, "y overlaps x"),
        (lambda o: max_pool(x, o(1, 1, 1, 5), None, (16, 16), *pool[1:]), V, "255 taps"),
        (lambda o: max_pool(x, o(1, 1, 1, 5), None, (7, 1), *pool[1:]), V, "kernel is 7x1"),
        (lambda o: max_pool(x, o(2, 2, 2, 5), None, (3, 3), (0, 1), (0, 0)), V, "stride"),
        (lambda o: max_pool(x, o(2, 2, 2, 5), None, (2, 2), (2, 2), (2, 0)), V, "padding"),
        (lambda o: max_dgrad(f(2, 2, 2, 5), None, o(2, 6, 6, 5), *pool), T, "argmax"),
        (lambda o: avg_dgrad(f(2, 3, 3, 5), o(1, 6, 6, 5), *pool, True), V, "gy has"),
        (lambda o: lrn(x, o(2, 6, 6, 5), 4, *four[1:]), V, "size is 4"),
        (lambda o: lrn(x, o(2, 6, 6, 4), *four), V, "y has shape"),
        (lambda o: lrn(wide[..., :5], wide[..., 3:], *four), V, "overlaps"),
        (lambda o: lrn_dgrad(x, x[:1], o(2, 6, 6, 5), *four), V, "gy has shape"),
        (lambda o: linear(f(2, 3), f(4, 5), None, o(2, 4), False), V, "x has shape"),
        (lambda o: linear(f(2, 3), f(4, 3), f(3), o(2, 4), False), V, "b has shape"),
        (lambda o: linear(f(2, 3), f(7), None, o(2, 4), False), V, "packed w has 7"),
        (lambda o: linear(f(2, 3), f(4, 3, 1), None, o(2, 4), False), V, "w has shape"),
        (lambda o: linear(f(2, 3), None, None, o(2, 4), False), T, "w is missing"),
        (lambda o: linear_dgrad(f(2, 4), f(4, 3), f(2, 3), o(2, 3)), V, "y has shape"),
        (lambda o: linear_wgrad(f(2, 3), f(2, 4), None, o(4, 2), None), V, "gw has shape"),
        (lambda o: loss(f(2, 4), labels, o(2), o(2, 4)), V, r"labels\[1\] is 4"),
        (lambda o: loss(f(2, 5), labels.astype("i4"), o(2), o(2, 5)), T, "int32"),
        (lambda o: loss(f(2, 5), labels, None, o(2, 5)), T, "loss is missing"),
        (lambda o: loss(f(2, 5), labels, o(2), o(2, 6)), V, "probs has shape"),
        (lambda o: dgrad(f(2, 5), labels, f(3), o(2, 5)), V, "g has shape"),
        (lambda o: norm(x, f(4), v, o(2, 6, 6, 5), o(5), o(5), 1e-3, False), V, "gamma has"),
        (lambda o: norm(x, v, None, o(2, 6, 6, 5), o(5), o(5), 1e-3, False), T, "beta is missing"),
        (lambda o: norm(x, v, v, o(2, 6, 6, 5), o(5), o(5), -1.0, False), V, "eps is -1"),
        (lambda o: norm(x, v, v, o(2, 6, 6, 4), o(5), o(5), 1e-3, False), V, "y has shape"),
        (lambda o: drop(x, o(2, 6, 6, 4), *five), V, "y has shape"),
        (lambda o: drop(x, x[::-1], *five), V, "stride|overlap"),
        (lambda o: drop(x, o(2, 6, 6, 5), 1.0, *five[1:]), V, r"p is 1, expected"),
        (lambda o: drop(x, o(2, 6, 6, 5), math.nan, *five[1:]), V, "p is"),
        (lambda o: drop(x, o(2, 6, 6, 5), *five[:4], 2**32 - 1), V, "first_sample"),
        (lambda o: drop(x, o(2, 6, 6, 5), *five, "fast"), V, "algorithm is 'fast'"),
        (lambda o: drop(x, o(2, 6, 6, 5), *five, "auto", "z80"), V, "level is 'z80'"),
    ]  # fmt: skip


@pytest.mark.parametrize("case", range(len(_errors())))
def test_errors_name_the_argument_and_write_nothing(case):
    attempt, error, text = _errors()[case]
    made = []

    def output(*shape):
        made.append(np.full(shape, 7, np.float32))
        return made[-1]

    with pytest.raises(error, match=text):
        attempt(output)
    assert all((o == 7).all() for o in made)
