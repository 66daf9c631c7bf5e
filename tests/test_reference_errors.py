"""Every op of the NumPy reference: dtype, inputs left alone, an empty batch, errors by name."""

import inspect
import math

import numpy as np
import pytest
from pyinception.kernels import reference
from reference_cases import module_weights, real

INF = math.inf


# -------------------------------------------------------------- every op: dtype, batch 0, inputs


def calls(n, dtype, seed=11):
    """name -> (function, arguments, options) for every op, on a batch of n."""
    rng = np.random.default_rng(seed)

    def a(*shape):
        return rng.normal(size=shape).astype(dtype)

    x, w, b, wr = a(n, 5, 6, 3), a(4, 3, 3, 3), a(4), a(3, 1, 1, 3)
    gy, pad = a(n, 5, 6, 4), {"padding": (1, 1)}
    y, r = reference.reduce_conv_fprop(x, wr, None, w, b, **pad)
    pool = ((3, 2), (2, 2), (1, 1))
    pooled, argmax = reference.max_pool_fprop(x, *pool)
    gpool, labels = a(*pooled.shape), rng.integers(0, 4, n)
    v, m = gy.reshape(n * 30, 4), a(4, 7)
    probs = reference.softmax_cross_entropy_fprop(gy[:, 0, 0], labels)[1]
    weights = tuple(u.astype(dtype) for u in module_weights(rng, real))
    ym, saved = reference.inception_fprop(x, weights)
    eps, where = {"eps": 1e-3}, {"seed": 3, "step": 4, "layer": 5}
    table = {
        "conv2d_fprop": ((x, w, b), {"relu": True, **pad}),
        "conv2d_dgrad": ((gy, w, x.shape), {"y": y, **pad}),
        "conv2d_wgrad": ((x, gy, w.shape), {"y": y, **pad}),
        "reduce_conv_fprop": ((x, wr, a(3), w, b), pad),
        "reduce_conv_backward": ((gy, x, wr, w, r, y), pad),
        "max_pool_fprop": ((x, *pool), {}),
        "max_pool_dgrad": ((gpool, argmax, x.shape, *pool), {}),
        "avg_pool_fprop": ((x, *pool), {}),
        "avg_pool_dgrad": ((gpool, x.shape, *pool), {"count_include_pad": False}),
        "lrn_fprop": ((x, np.int64(3), np.float64(0.1), np.float64(0.75), np.float64(2)), {}),
        "lrn_dgrad": ((gy, gy, np.int64(3), np.float64(0.1), np.float64(0.75)), {}),
        "linear_fprop": ((v, m.T.copy(), a(7)), {"relu": True}),
        "linear_dgrad": ((v, m), {"y": v}),
        "linear_wgrad": ((v, v), {}),
        "softmax_cross_entropy_fprop": ((gy[:, 0, 0], labels), {}),
        "softmax_cross_entropy_dgrad": ((probs, labels, a(n)), {}),
        "batch_norm_fprop": ((gy, b, b), {"eps": np.float64(1e-3)}),
        "batch_norm_inference": ((gy, b, b, b, b * b), {"relu": True, **eps}),
        "batch_norm_dgrad": ((gy, gy, b, b, b * b), {"y": y, **eps}),
        "dropout": ((x, np.float64(0.5)), where),
        "dropout_mask": ((x.shape, 0.5), where),
        "inception_fprop": ((x, weights), {}),
        "inception_backward": ((a(*ym.shape), x, weights, ym, saved), {}),
    }
    return {name: (getattr(reference, name), *rest) for name, rest in table.items()}


def arrays(value):
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, (tuple, list)):
        return [array for part in value for array in arrays(part)]
    return arrays(list(value.values())) if isinstance(value, dict) else []


OPS = list(calls(1, np.float64))


def test_the_table_of_calls_names_every_public_function():
    """Those of reference_separable.py have a table of their own."""
    files = {reference.__name__, f"{reference.__name__}_dropout"}
    public = {
        name
        for name, value in vars(reference).items()
        if inspect.isfunction(value) and value.__module__ in files and name[0] != "_"
    }
    assert public == {*OPS, "philox4x32"}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", OPS)
def test_every_op_keeps_dtype_and_inputs_and_takes_an_empty_batch(name, dtype):
    function, args, options = calls(2, dtype)[name]
    given = arrays([args, options])
    before = [array.tobytes() for array in given]
    results = arrays(function(*args, **options))
    assert [array.tobytes() for array in given] == before
    for result in results:
        assert result.dtype in (dtype, np.uint8, bool) and np.isfinite(result).all()
        assert np.count_nonzero(result) > 0.1 * result.size and result.flags.c_contiguous
        assert not any(np.shares_memory(result, array) for array in given)
    function, args, options = calls(0, dtype)[name]
    for empty, result in zip(arrays(function(*args, **options)), results, strict=True):
        assert empty.dtype == result.dtype and empty.ndim == result.ndim
        if empty.shape == result.shape:  # a weight's gradient, or a statistic
            assert not empty.any()
        else:
            assert empty.shape == (0, *result.shape[1:])


def test_float32_sums_in_float32():
    big = np.array([2.0**24, 1, 1], np.float32)  # float64 would add the ones
    row, ones = big.reshape(1, 1, 3, 1), np.ones((1, 1, 3, 1), np.float32)
    assert reference.conv2d_fprop(row, ones).item() == 2**24
    assert reference.conv2d_fprop(row.astype(float), ones.astype(float)).item() == 2**24 + 2
    average = reference.avg_pool_fprop(row, (1, 3), (1, 1)).item()
    assert average == np.float32(2**24) / np.float32(3) != np.float32(2**24 + 2) / np.float32(3)
    with np.errstate(over="ignore"):  # squares overflow
        assert reference.lrn_fprop(np.full((1, 1, 1, 1), 1e30, np.float32)).item() == 0
        x, one = np.array([[-1e30], [1e30]], np.float32), np.ones(1, np.float32)
        assert reference.batch_norm_fprop(x, one, one, eps=1e-5)[2].item() == INF


# ---------------------------------------------------------------------------------------- errors


def Z(*shape):
    return np.zeros(shape)


X, W, WR, GY, X4 = Z(2, 5, 5, 3), Z(4, 3, 3, 3), Z(6, 1, 1, 3), Z(2, 3, 3, 4), (2, 5, 5, 4)
TAPS, LABELS_3 = np.full(GY.shape, 9, np.uint8), np.array([0, 3])
MODULE = module_weights(np.random.default_rng(0), real)
PAIR, WHERE = ", expected a pair of ints in [", {"seed": 0, "step": 0, "layer": 0}
ERRORS = [  # function, the message after its name, arguments, options
    (
        "conv2d_fprop",
        "w has shape (4, 3, 3, 2), expected (K, R, S, C) = (4, 3, 3, 3)",
        X,
        Z(4, 3, 3, 2),
    ),
    ("conv2d_fprop", "b has shape (5,), expected (K) = (4,)", X, W, Z(5)),
    ("conv2d_fprop", "x has shape (5, 5, 3), expected (N, H, W, C)", X[0], W),
    ("conv2d_fprop", "w has shape (4, 0, 3, 3), expected (K, R, S, C)", X, Z(4, 0, 3, 3)),
    ("conv2d_fprop", "x has shape (2, 0, 5, 3), expected (N, H, W, C)", Z(2, 0, 5, 3), W),
    ("conv2d_fprop", "filter extent is 7, expected at most 5", X, Z(4, 7, 1, 3)),
    (
        "conv2d_fprop",
        "filter extent is 8, expected at most 7",
        X,
        Z(4, 1, 8, 3),
        {"padding": (9, 1)},
    ),
    ("conv2d_fprop", f"stride is (0, 1){PAIR}1,", X, W, {"stride": (0, 1)}),
    ("conv2d_fprop", f"stride is 1{PAIR}1,", X, W, {"stride": 1}),
    ("conv2d_fprop", f"padding is (1, -1){PAIR}0,", X, W, {"padding": (1, -1)}),
    ("conv2d_fprop", f"padding is (1.0, 1){PAIR}0,", X, W, {"padding": (1.0, 1)}),
    ("conv2d_fprop", "w is float32, expected an array of float64", X, W.astype("f4")),
    ("conv2d_fprop", "x is int64, expected an array of float32 or float64", X.astype(int), W),
    ("conv2d_fprop", "x is list, expected an array of float32 or float64", X.tolist(), W),
    ("conv2d_fprop", "x is NoneType, expected an array of float32 or float64", None, W),
    (
        "conv2d_dgrad",
        "gy has shape (2, 3, 3, 4), expected (N, P, Q, K) = (2, 3, 4, 4)",
        GY,
        W,
        (2, 5, 6, 3),
    ),
    ("conv2d_dgrad", "x_shape has shape (2, 5, -5, 3), expected", GY, W, (2, 5, -5, 3)),
    ("conv2d_dgrad", "y has shape (1, 3, 3, 4), expected", GY, W, X.shape, {"y": GY[:1]}),
    ("conv2d_wgrad", "w_shape has shape (4, 3, 3), expected (K, R, S, C)", X, GY, (4, 3, 3)),
    ("reduce_conv_fprop", "expected (K, R, S, Cr) = (4, 3, 3, 6)", X, WR, None, W, None),
    ("reduce_conv_fprop", "expected (Cr, 1, 1, C) = (4, 1, 1, 3)", X, W, None, W, None),
    ("reduce_conv_backward", "r has shape (2, 3, 3, 4)", GY, X, WR, Z(4, 3, 3, 6), GY, GY),
    ("max_pool_fprop", "filter extent is 6, expected at most 5", X, (6, 3), (1, 1)),
    ("max_pool_fprop", "padding is 2, expected less than the kernel", X, (2, 2), (1, 1), (2, 1)),
    ("max_pool_dgrad", "argmax spans [9, 9], expected [0, 9)", GY, TAPS, X4, (3, 3), (1, 1)),
    ("max_pool_dgrad", "argmax is float64, expected an array of uint8", GY, GY, X4, (3, 3), (1, 1)),
    ("avg_pool_dgrad", "expected (N, P, Q, C) = (2, 4, 4, 4)", GY, X4, (2, 2), (1, 1)),
    ("lrn_fprop", "size is 4, expected an odd int in [1,", X, 4),
    ("lrn_dgrad", "size is -1, expected an odd int in [1,", X, X, -1),
    ("linear_fprop", "w has shape (4, 5), expected (K, C) = (4, 3)", Z(2, 3), Z(4, 5)),
    ("softmax_cross_entropy_fprop", "labels spans [0, 3], expected [0, 3)", Z(2, 3), LABELS_3),
    ("softmax_cross_entropy_fprop", "labels spans [-3, 0], expected [0, 3)", Z(2, 3), -LABELS_3),
    ("softmax_cross_entropy_fprop", "labels is float64, expected an array of int8", Z(2, 3), Z(2)),
    (
        "softmax_cross_entropy_dgrad",
        "g has shape (3,), expected (N) = (2,)",
        Z(2, 4),
        LABELS_3,
        Z(3),
    ),
    ("batch_norm_fprop", "beta has shape (4,), expected (C) = (3,)", X, Z(3), Z(4), {"eps": 0.1}),
    ("batch_norm_fprop", "eps is -0.1, expected a number", X, Z(3), Z(3), {"eps": -0.1}),
    ("batch_norm_dgrad", "gy has shape (5, 3)", X[0, 0], X, Z(3), Z(3), Z(3), {"eps": 0.1}),
    ("dropout", "p is 1.0, expected a number in [0, 1)", X, 1.0, WHERE),
    ("dropout", "seed is 18446744073709551616, expected", X, 0.5, WHERE | {"seed": 2**64}),
    ("dropout", "step is -1, expected a number in [0, 4294967296)", X, 0.5, WHERE | {"step": -1}),
    (
        "dropout_mask",
        "first_sample is 4294967295",
        (2, 3),
        0.5,
        WHERE | {"first_sample": 2**32 - 1},
    ),
    ("dropout_mask", "shape has shape (2, 0), expected (N, D1)", (2, 0), 0.5, WHERE),
    ("inception_fprop", "weights has 11 arrays, expected 12", X, MODULE[:11]),
    (
        "inception_fprop",
        "w1 has shape (2, 1, 1, 3), expected (K1, 1, 1, C) = (2, 1, 1, 4)",
        GY,
        MODULE,
    ),
    ("philox4x32", "key has shape (3,), expected (..., 2)", [0] * 4, [0] * 3),
]


@pytest.mark.parametrize("row", ERRORS, ids=lambda row: f"{row[0]}: {row[1]}")
def test_errors_name_function_argument_expected_and_actual(row):
    name, message, *args = row
    options = args.pop() if isinstance(args[-1], dict) else {}
    error = TypeError if "expected an array of" in message else ValueError
    with pytest.raises(error) as caught:
        getattr(reference, name)(*args, **options)
    text = str(caught.value)
    assert text.startswith(f"{name}: ") and message in text and "expected" in text


def test_inception_backward_refuses_another_modules_results():
    y, saved = reference.inception_fprop(X, MODULE)
    with pytest.raises(ValueError, match="inception_backward: y has 13 channels, expected 14"):
        reference.inception_backward(y[..., 1:], X, MODULE, y[..., 1:], saved)
    with pytest.raises(ValueError, match="inception_backward: r3 has shape"):
        reference.inception_backward(y, X, MODULE, y, (saved[1], saved[0], *saved[2:]))
