"""Public functions and ops: layouts, views, ``out=``, refusals, gradients, special values."""

from typing import Any

import numpy as np
import pytest
from built import BACKENDS
from core_contract import bits
from producer import Produced
from pyinception.kernels import reference

import pyinception as pyi
from pyinception import ops, workspace
from pyinception.tensor import Tensor

DRAW = np.random.default_rng(11)


def ints(*shape: int, low: int = -3, high: int = 4) -> np.ndarray:
    return DRAW.integers(low, high, shape).astype(np.float32)


def kcrs(w: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(w.transpose(0, 3, 1, 2))


def nchw(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


X, W, B = ints(2, 6, 5, 3), ints(4, 3, 3, 3), ints(4)
WR, BR = ints(2, 1, 1, 3), ints(2)
W2 = ints(4, 3, 3, 2)
WD, BD = ints(6, 3, 3, 1), ints(6)
MODULE = tuple(
    a
    for k, s, c in ((2, 1, 3), (2, 1, 3), (3, 3, 2), (1, 1, 3), (2, 5, 1), (2, 1, 3))
    for a in (ints(k, s, s, c, low=-1, high=2), ints(k))
)

# name: (function of x and keywords, a map of its result's shape)
FORWARD: dict[str, Any] = {
    "conv2d": lambda x, **k: pyi.conv2d(x, _turn(W, k), B, padding=1, relu=True, **k),
    "depthwise_conv2d": lambda x, **k: pyi.depthwise_conv2d(
        x, _turn(WD, k), BD, padding=1, relu=True, **k
    ),
    "reduce_conv2d": lambda x, **k: pyi.reduce_conv2d(x, _turn(WR, k), BR, _turn(W2, k), B, **k),
    "inception": lambda x, **k: pyi.inception(x, [_turn(w, k) for w in MODULE], **k),
    "max_pool2d": lambda x, **k: pyi.max_pool2d(x, 3, 2, 1, True, **k),
    "avg_pool2d": lambda x, **k: pyi.avg_pool2d(x, 2, 2, ceil_mode=True, **k),
    "lrn": lambda x, **k: pyi.lrn(x, **k),
}


def _turn(w: np.ndarray, keywords: dict[str, Any]) -> np.ndarray:
    return kcrs(w) if keywords.get("layout") == "NCHW" and w.ndim == 4 else w


EXPECTED: dict[str, Any] = {
    "conv2d": lambda x: reference.conv2d_fprop(x, W, B, padding=(1, 1), relu=True),
    "depthwise_conv2d": lambda x: reference.depthwise_conv2d_fprop(
        x, WD, BD, padding=(1, 1), relu=True
    ),
    "reduce_conv2d": lambda x: reference.reduce_conv_fprop(x, WR, BR, W2, B, padding=(1, 1))[0],
    "inception": lambda x: reference.inception_fprop(x, MODULE)[0],
    "max_pool2d": lambda x: reference.max_pool_fprop(x, (3, 3), (2, 2), (1, 1), True)[0],
    "avg_pool2d": lambda x: reference.avg_pool_fprop(x, (2, 2), (2, 2), ceil_mode=True),
    "lrn": lambda x: reference.lrn_fprop(x),
}
NAMES = list(FORWARD)


def same(name: str, actual: np.ndarray, expected: np.ndarray) -> None:
    """Bit equality on integers; LRN has powers, so a few units in the last place."""
    if name == "lrn":
        np.testing.assert_allclose(actual, expected, rtol=3e-6)
    else:
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("where", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
class TestForward:
    def test_result(self, name: str, where: str) -> None:
        y = FORWARD[name](X, backend=where)
        assert np.count_nonzero(y) > y.size // 8
        same(name, y, EXPECTED[name](X))

    def test_nchw_names_the_axes_and_strides_the_memory(self, name: str, where: str) -> None:
        expected = EXPECTED[name](X)
        counted = workspace.copies[f"{name}: x"]
        y = FORWARD[name](X.transpose(0, 3, 1, 2), layout="NCHW", backend=where)
        assert workspace.copies[f"{name}: x"] == counted  # NHWC memory under an NCHW shape
        same(name, y.transpose(0, 2, 3, 1), expected)
        y = FORWARD[name](nchw(X), layout="NCHW", backend=where)
        assert workspace.copies[f"{name}: x"] == counted + 1
        same(name, y.transpose(0, 2, 3, 1), expected)

    def test_views_need_no_copy(self, name: str, where: str) -> None:
        wide = np.full((2, 8, 9, 7), np.nan, np.float32)
        x = wide[:, 1:7, 2:7, 3:6]
        x[...] = X
        counted = workspace.copies[f"{name}: x"]
        same(name, FORWARD[name](x, backend=where), EXPECTED[name](X))
        assert workspace.copies[f"{name}: x"] == counted

    @pytest.mark.parametrize("kind", ["negative", "channels", "zero", "misaligned"])
    def test_other_inputs_are_copied_once(self, name: str, where: str, kind: str) -> None:
        x = X
        if kind == "negative":
            x = X[:, ::-1].copy()[:, ::-1]
        elif kind == "channels":
            x = np.repeat(X, 2, axis=3)[..., ::2]
        elif kind == "zero":
            x = np.broadcast_to(X[:, :1], X.shape)
        else:
            raw = np.zeros(X.nbytes + 1, np.uint8)
            x = raw[1:].view(np.float32).reshape(X.shape)
            x[...] = X
        counted = workspace.copies[f"{name}: x"]
        same(name, FORWARD[name](x, backend=where), EXPECTED[name](np.ascontiguousarray(x)))
        assert workspace.copies[f"{name}: x"] == counted + 1

    def test_strides_of_single_elements_mean_nothing(self, name: str, where: str) -> None:
        x = np.lib.stride_tricks.as_strided(X[:1], (1, 6, 5, 3), (-4, *X.strides[1:]))
        counted = workspace.copies[f"{name}: x"]
        same(name, FORWARD[name](x, backend=where), EXPECTED[name](X[:1]))
        assert workspace.copies[f"{name}: x"] == counted

    def test_out_slice_and_guard_band(self, name: str, where: str) -> None:
        expected = EXPECTED[name](X)
        n, p, q, k = expected.shape
        wide = np.full((n, p, q, k + 5), np.nan, np.float32)
        out = wide[..., 2 : 2 + k]
        assert FORWARD[name](X, out=out, backend=where) is out
        same(name, out, expected)
        assert np.isnan(wide[..., :2]).all()
        assert np.isnan(wide[..., 2 + k :]).all()

    def test_empty_batch(self, name: str, where: str) -> None:
        y = FORWARD[name](X[:0], backend=where)
        assert y.shape == (0, *EXPECTED[name](X).shape[1:])

    def test_inputs_stay_as_they_were(self, name: str, where: str) -> None:
        x = X.copy()
        x.flags.writeable = False
        y = FORWARD[name](x, backend=where)
        assert bits(x) == bits(X)
        assert y.flags.writeable
        assert not np.shares_memory(x, y)

    def test_wrong_outputs_are_refused_untouched(self, name: str, where: str) -> None:
        shape = EXPECTED[name](X).shape
        good = np.full(shape, 7, np.float32)
        locked = good.copy()
        locked.flags.writeable = False
        stepped = np.full((*shape[:3], 2 * shape[3]), 7, np.float32)[..., ::2]
        folded = np.lib.stride_tricks.as_strided(good, shape, (0, *good.strides[1:]))
        cases = {
            r"out has shape": good[:, 1:],
            r"out has dtype float64": good.astype(np.float64),
            r"out is read-only": locked,
            r"out has strides .* expected unit channel stride": stepped,
            r"out has strides .* no element twice": folded,
            r"out has strides .* positive": good[:, ::-1],
            r"out is a list": [1.0],
        }
        for message, out in cases.items():
            with pytest.raises((TypeError, ValueError), match=f"{name}: {message}"):
                FORWARD[name](X, out=out, backend=where)
            assert np.all(np.asarray(out) == 7) or isinstance(out, list)
        whole = np.zeros((*shape[:3], shape[3] + 3), np.float32)
        x = np.ascontiguousarray(X)
        memory = np.zeros(max(x.size, good.size) + 8, np.float32)
        inside = memory[: x.size].reshape(x.shape)
        out = memory[4 : 4 + good.size].reshape(shape)
        with pytest.raises(ValueError, match=f"{name}: out overlaps an input"):
            FORWARD[name](inside, out=out, backend=where)
        assert not memory.any()
        none = np.empty((0, *shape[1:]), np.float32)
        assert FORWARD[name](X[:0], out=none, backend=where) is none
        if shape[:3] == X.shape[:3]:  # neighbours in one buffer do not overlap
            whole[..., :3] = X
            same(
                name,
                FORWARD[name](whole[..., :3], out=whole[..., 3:], backend=where),
                EXPECTED[name](X),
            )
            np.testing.assert_array_equal(whole[..., :3], X)

    def test_wrong_inputs_are_refused(self, name: str, where: str) -> None:
        out = np.full(EXPECTED[name](X).shape, 7, np.float32)
        cases: list[Any] = [
            (X[0], ValueError, "x has shape"),
            (X.astype(np.int32), TypeError, "x has dtype int32, expected float32"),
            (X.astype(">f4"), TypeError, "x has dtype >f4"),
            (X.astype(object), TypeError, "x has dtype object"),
            (np.ma.masked_array(X), TypeError, "x is a MaskedArray"),
            (X.tolist(), TypeError, "x is a list"),
            (None, TypeError, "NoneType"),
            (Tensor(X), TypeError, "x is a Tensor"),
            (X[:, :0], ValueError, "H is 0, expected 1"),
        ]
        for x, kind, message in cases:
            with pytest.raises(kind, match=message):
                FORWARD[name](x, out=out, backend=where)
        with pytest.raises(ValueError, match=f"{name}: layout is 'CHWN'"):
            FORWARD[name](X, layout="CHWN", backend=where)
        assert (out == 7).all()


class Locked(Produced):
    """An array that another library will not hand out."""

    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("this one is on the tape")


def test_results_are_of_the_callers_type_and_share_memory() -> None:
    y = pyi.conv2d(Produced(X), W, B, layout="NHWC", padding=1, relu=True)
    assert isinstance(y, Produced)
    np.testing.assert_array_equal(y.array, EXPECTED["conv2d"](X))
    out = Produced(np.zeros_like(y.array))
    assert pyi.conv2d(Produced(X), W, B, layout="NHWC", padding=1, relu=True, out=out) is out
    np.testing.assert_array_equal(out.array, y.array)
    with pytest.raises(TypeError, match=r"does not export its memory.*on the tape"):
        pyi.conv2d(Locked(X), W, layout="NHWC")


def test_layout_is_never_guessed() -> None:
    square, w = ints(1, 3, 4, 3), ints(2, 3, 3, 3)
    with pytest.raises(ValueError, match=r"fits both NHWC and NCHW; pass layout=.*interop\.torch"):
        pyi.conv2d(Produced(square), w)
    with pytest.raises(ValueError, match="fits NCHW only"):
        pyi.conv2d(Produced(ints(1, 3, 6, 5)), kcrs(ints(2, 3, 3, 3))[..., :2])
    with pytest.raises(ValueError, match="fits both"):
        pyi.lrn(Produced(square))
    # One reading fits, or the caller named one: fine.
    assert pyi.conv2d(Produced(ints(1, 5, 4, 3)), w).shape == (1, 3, 2, 2)
    assert pyi.conv2d(Produced(square), w, layout="NHWC").shape == (1, 1, 2, 2)
    assert pyi.conv2d(square, w).shape == (1, 1, 2, 2)  # NumPy means NHWC


MESSAGES: list[Any] = [
    (lambda: pyi.conv2d(X, W[..., :2]), r"conv2d: w has shape \(4, 3, 3, 2\), expected .* 3\)"),
    (lambda: pyi.conv2d(X, W, B[:3]), r"conv2d: b has shape \(3,\), expected \(K\) = \(4,\)"),
    (lambda: pyi.conv2d(X, W.astype(np.float64)), "conv2d: w has dtype float64, expected float32"),
    (lambda: pyi.conv2d(X[:, :2], W), r"conv2d: kernel \(R, S\) = \(3, 3\) is larger"),
    (lambda: pyi.conv2d(X, W, stride=0), "conv2d: stride is 0"),
    (lambda: pyi.conv2d(X, W, relu="no"), "conv2d: relu is 'no', expected True or False"),
    (lambda: pyi.conv2d(X, W, relu=[]), r"conv2d: relu is \[\], expected True or False"),
    (lambda: pyi.linear(X[0, 0], W[:, 0, 0], relu=2.5), "linear: relu is 2.5"),
    (lambda: pyi.depthwise_conv2d(X, WD, relu=None), "depthwise_conv2d: relu is None"),
    (lambda: pyi.max_pool2d(X, 2, ceil_mode="no"), "max_pool2d: ceil_mode is 'no'"),
    (lambda: pyi.avg_pool2d(X, 2, count_include_pad="no"), "count_include_pad is 'no'"),
    (lambda: ops.BatchNorm(relu="no")(X, B[:3], B[:3]), "batch_norm: relu is 'no'"),
    (lambda: ops.AddScaled(1.0, "no")(X, X), "add_scaled: relu is 'no'"),
    (lambda: ops.Conv(1, 1, out=X)(X, W[:3], None), "Conv: out overlaps an input"),
    (lambda: pyi.depthwise_conv2d(X, WD[:4]), "expected K to be a multiple of C = 3"),
    (lambda: pyi.depthwise_conv2d(X, W), r"w has shape .*, expected \(K, R, S, 1\) = \(4, 3, 3, 1"),
    (lambda: pyi.depthwise_conv2d(X, WD, BD[:3]), r"depthwise_conv2d: b has shape \(3,\)"),
    (lambda: pyi.depthwise_conv2d_backward(X, X, WD), "depthwise_conv2d_backward: gy has shape"),
    (
        lambda: pyi.reduce_conv2d(X, WR, BR, W, B),
        r"reduce_conv2d: w has shape \(4, 3, 3, 3\), expected \(K, R, S, Cr\) = \(4, 3, 3, 2\)",
    ),
    (lambda: pyi.reduce_conv2d(X, W, BR, W2, B), r"w_reduce has shape .* \(4, 1, 1, 3\)"),
    (lambda: pyi.reduce_conv2d(X, WR, BR, W2, B, relu=False), "relu is False"),
    (lambda: pyi.inception(X, MODULE[:-1]), "inception: weights has 11 arrays, expected 12"),
    (lambda: pyi.inception(X, (*MODULE[:4], W, *MODULE[5:])), r"inception: w3 has shape"),
    (lambda: pyi.inception(X, (*MODULE[:-1], None)), "inception: bp is a NoneType"),
    (lambda: pyi.max_pool2d(X, 7), r"max_pool2d: kernel \(R, S\) = \(7, 7\) is larger"),
    (lambda: pyi.max_pool2d(X, 3, padding=3), "max_pool2d: padding is"),
    (lambda: pyi.lrn(X, size=2), "lrn: size is 2"),
    (lambda: pyi.linear(X[0, 0], WR[:, 0, 0, :2]), r"linear: w has shape \(2, 2\)"),
    (lambda: pyi.conv2d_backward(X, X, W), r"conv2d_backward: gy has shape"),
    (
        lambda: pyi.max_pool2d_backward(X, X, X.shape, 1),
        "argmax has dtype float32, expected uint8",
    ),
    (
        lambda: pyi.max_pool2d_backward(X, np.full(X.shape, 9, np.uint8), X.shape, 1),
        "argmax has 9, expected 0 ... 0",
    ),
    (lambda: pyi.avg_pool2d_backward(X, X.shape, 2), "avg_pool2d_backward: gy has shape"),
    (lambda: pyi.lrn_backward(X[:1], X), "lrn_backward: gy has shape"),
    (
        lambda: pyi.inception_backward(ints(2, 6, 5, 9), X, MODULE, y=ints(2, 6, 5, 9), saved=()),
        "saved has 0 arrays, expected 4",
    ),
]


@pytest.mark.parametrize(("call", "message"), MESSAGES)
def test_messages(call: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.parametrize("where", BACKENDS)
def test_backward_functions(where: str) -> None:
    """Each forward has its backward, in both layouts, with the reference's bits on integers."""
    y = EXPECTED["conv2d"](X)
    gy = ints(*y.shape)
    geometry = {"padding": (1, 1), "y": y}
    expected = (
        reference.conv2d_dgrad(gy, W, X.shape, **geometry),
        *reference.conv2d_wgrad(X, gy, W.shape, **geometry),
    )
    for a, b in zip(
        pyi.conv2d_backward(gy, X, W, y=y, padding=1, backend=where), expected, strict=True
    ):
        np.testing.assert_array_equal(a, b)
    turned = pyi.conv2d_backward(
        nchw(gy), nchw(X), kcrs(W), y=nchw(y), padding=1, layout="NCHW", backend=where
    )
    for a, b in zip(turned, expected, strict=True):
        np.testing.assert_array_equal(a, nchw(b) if b.ndim == 4 else b)
    y = EXPECTED["depthwise_conv2d"](X)
    gd = ints(*y.shape)
    expected = (
        reference.depthwise_conv2d_dgrad(gd, WD, X.shape, padding=(1, 1), y=y),
        *reference.depthwise_conv2d_wgrad(X, gd, WD.shape, padding=(1, 1), y=y),
    )
    grads = pyi.depthwise_conv2d_backward(gd, X, WD, y=y, padding=1, backend=where)
    for a, b in zip(grads, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    turned = pyi.depthwise_conv2d_backward(
        nchw(gd), nchw(X), kcrs(WD), y=nchw(y), padding=1, layout="NCHW", backend=where
    )
    for a, b in zip(turned, expected, strict=True):
        np.testing.assert_array_equal(a, nchw(b) if b.ndim == 4 else b)
    y, r = pyi.reduce_conv2d(X, WR, BR, W2, B, return_reduced=True, backend=where)
    grads = pyi.reduce_conv2d_backward(gy, X, WR, W2, r=r, y=y, backend=where)
    same_grads = reference.reduce_conv_backward(gy, X, WR, W2, r, y, padding=(1, 1))
    for a, b in zip(grads, same_grads, strict=True):
        np.testing.assert_array_equal(a, b)
    y, saved = pyi.inception(X, MODULE, return_saved=True, backend=where)
    gy = ints(*y.shape)
    gx, weights = pyi.inception_backward(gy, X, MODULE, y=y, saved=saved, backend=where)
    expected_gx, expected_grads = reference.inception_backward(gy, X, MODULE, y, saved)
    np.testing.assert_array_equal(gx, expected_gx)
    for a, b in zip(weights, expected_grads, strict=True):
        np.testing.assert_array_equal(a, b)
    y, argmax = pyi.max_pool2d(X, 3, 2, 1, return_argmax=True, backend=where)
    gy = ints(*y.shape)
    where_pool = (3, 3), (2, 2), (1, 1)
    wanted = reference.max_pool_dgrad(gy, argmax, X.shape, *where_pool)
    wide = np.concatenate([argmax, argmax], axis=3)
    for taps in (argmax, wide[..., :3], np.asfortranarray(argmax)):
        gx = pyi.max_pool2d_backward(gy, taps, X.shape, 3, 2, 1, backend=where)
        np.testing.assert_array_equal(gx, wanted)
    gy = 4 * ints(2, 3, 2, 3)
    gx = pyi.avg_pool2d_backward(gy, X.shape, 2, backend=where)
    np.testing.assert_array_equal(gx, reference.avg_pool_dgrad(gy, X.shape, (2, 2), (2, 2)))
    gx = pyi.lrn_backward(X, X, backend=where)
    np.testing.assert_allclose(gx, reference.lrn_dgrad(X, X), rtol=1e-5, atol=1e-6)
    x, w, gy = ints(3, 5), ints(4, 5), ints(3, 4)
    y = pyi.linear(x, w, relu=True, backend=where)
    grads = pyi.linear_backward(gy, x, w, y=y, backend=where)
    np.testing.assert_array_equal(grads[0], (gy * (y > 0)) @ w)
    np.testing.assert_array_equal(grads[1], (gy * (y > 0)).T @ x)
    np.testing.assert_array_equal(grads[2], (gy * (y > 0)).sum(0))


def test_flatten_keeps_hwc_order() -> None:
    np.testing.assert_array_equal(ops.flatten(Tensor(X)).data, X.reshape(2, -1))
    with pytest.raises(ValueError, match="does not fill"):
        ops.Reshape((7,))(Tensor(X))


def test_poisoned_workspace_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte that ops take from the workspace is NaN or 255 first; none may survive."""
    honest = workspace.aligned

    def poisoned(size: int) -> np.ndarray:
        memory = honest(size)
        memory[...] = 255  # float32 and float64 NaN, uint8 255
        return memory

    monkeypatch.setattr(workspace, "aligned", poisoned)
    for name in NAMES:
        same(name, FORWARD[name](X), EXPECTED[name](X))
    leaves = [Tensor(a, requires_grad=True) for a in (X, *MODULE)]
    y = ops.Inception()(*leaves)
    y.backward(ints(*y.shape))
    assert all(leaf.grad is not None and np.isfinite(leaf.grad).all() for leaf in leaves)


def test_inception_weights_is_a_documented_tuple() -> None:
    weights = pyi.InceptionWeights(*MODULE)
    assert list(map(id, weights)) == list(map(id, MODULE))
    np.testing.assert_array_equal(pyi.inception(X, weights), pyi.inception(X, MODULE))
