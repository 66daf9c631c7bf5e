"""Every op of the library in plain NumPy: what the fast kernels must compute, forward and backward.

layout   maps NHWC, filters KRSC, outputs NPQK; ``stride``, ``padding``, ``kernel`` are pairs (rows,
         columns). An op's first line says the shapes of its arguments, an axis to a letter.
dtype    float32 or float64, one for all operands of a call; every sum is kept in that dtype.
results  new arrays; inputs are never written. N = 0 is legal: empty maps, zero gradients.
errors   TypeError for an argument's kind or dtype, ValueError for its shape or range, as
         ``function: argument has shape (actual), expected (letters) = (expected)``.
relu     +0 where v <= 0, else v: NaN stays NaN, and -0.0 becomes +0.0.
``y``    given to a backward function, the forward's output: gy counts only where y > 0 (ReLU).

A convolution is one matrix product per filter tap over x in a frame of zeros: short enough to be
checked by eye, fast enough for thousands of test cases.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from .reference_dropout import dropout as dropout
from .reference_dropout import dropout_mask as dropout_mask
from .reference_dropout import philox4x32 as philox4x32
from .reference_separable import add_scaled_dgrad as add_scaled_dgrad
from .reference_separable import add_scaled_fprop as add_scaled_fprop
from .reference_separable import depthwise_conv2d_dgrad as depthwise_conv2d_dgrad
from .reference_separable import depthwise_conv2d_fprop as depthwise_conv2d_fprop
from .reference_separable import depthwise_conv2d_wgrad as depthwise_conv2d_wgrad
from .windows import check, masked, over_pixels, rectified, require

Array = npt.NDArray[Any]
Maybe = Array | None
Pair = tuple[int, int]
Shape = Sequence[int]
_1, _0 = (1, 1), (0, 0)  # stride and padding unless given


def conv2d_fprop(
    x: Array,
    w: Array,
    b: Maybe = None,
    *,
    stride: Pair = _1,
    padding: Pair = _0,
    relu: bool = False,
) -> Array:
    """y[n,p,q,k] = relu(b[k] + sum_rsc w[k,r,s,c] x[n, p sh - ph + r, q sw - pw + s, c]).

    x is zero outside the image; P = floor((H + 2 ph - R) / sh) + 1; relu only where asked for.
    """
    windows = check(locals(), "conv2d_fprop", "x NHWC, w KRSC, b K?")
    framed = windows.framed(x)
    y = np.zeros((len(x), *windows.output, len(w)), x.dtype)
    for r, s, where in windows.taps():
        y += framed[where] @ w[:, r, s].T
    y = y if b is None else y + b
    return rectified(y) if relu else y


def conv2d_dgrad(
    gy: Array, w: Array, x_shape: Shape, *, stride: Pair = _1, padding: Pair = _0, y: Maybe = None
) -> Array:
    """gx[n, p sh - ph + r, q sw - pw + s, c] += sum_k gy[n,p,q,k] w[k,r,s,c], for all p q r s."""
    windows = check(locals(), "conv2d_dgrad", "x_shape NHWC, w KRSC, gy NPQK, y NPQK?")
    gy = masked(gy, y)
    framed, gx = windows.frame(x_shape[0], x_shape[3], gy.dtype)
    for r, s, where in windows.taps():
        framed[where] += gy @ w[:, r, s]
    return gx.copy()


def conv2d_wgrad(
    x: Array, gy: Array, w_shape: Shape, *, stride: Pair = _1, padding: Pair = _0, y: Maybe = None
) -> tuple[Array, Array]:
    """gw[k,r,s,c] = sum_npq gy[n,p,q,k] x[n, p sh - ph + r, q sw - pw + s, c]; gb = sum_npq gy."""
    windows = check(locals(), "conv2d_wgrad", "x NHWC, w_shape KRSC, gy NPQK, y NPQK?")
    gy = masked(gy, y)
    framed = windows.framed(x)
    gw = np.empty(tuple(w_shape), x.dtype)
    for r, s, where in windows.taps():
        gw[:, r, s] = np.tensordot(gy, framed[where], ((0, 1, 2), (0, 1, 2)))
    return gw, over_pixels(gy)


def reduce_conv_fprop(
    x: Array, wr: Array, br: Maybe, w: Array, b: Maybe, *, stride: Pair = _1, padding: Pair = _0
) -> tuple[Array, Array]:
    """r = relu(conv1x1(x, wr) + br), y = relu(conv(r, w) + b); returns (y, r).

    The halo of r is zero: r is padded, not x, which would make it relu(br).
    """
    check(locals(), "reduce_conv_fprop", "x NHWC, wr Cr11C, br Cr?, w KRSCr, b K?")
    r = conv2d_fprop(x, wr, br, relu=True)
    return conv2d_fprop(r, w, b, stride=stride, padding=padding, relu=True), r


def reduce_conv_backward(
    gy: Array,
    x: Array,
    wr: Array,
    w: Array,
    r: Array,
    y: Array,
    *,
    stride: Pair = _1,
    padding: Pair = _0,
) -> tuple[Array, Array, Array, Array, Array]:
    """gr = dgrad(gy where y > 0, w), gx = dgrad(gr where r > 0, wr); gives gx, gwr, gbr, gw, gb."""
    check(locals(), "reduce_conv_backward", "x NHWC, wr Cr11C, w KRSCr, r NHWCr, y NPQK, gy NPQK")
    gr = conv2d_dgrad(gy, w, r.shape, stride=stride, padding=padding, y=y)
    gw, gb = conv2d_wgrad(r, gy, w.shape, stride=stride, padding=padding, y=y)
    gwr, gbr = conv2d_wgrad(x, gr, wr.shape, y=r)
    return conv2d_dgrad(gr, wr, x.shape, y=r), gwr, gbr, gw, gb


def max_pool_fprop(
    x: Array, kernel: Pair, stride: Pair, padding: Pair = _0, ceil_mode: bool = False
) -> tuple[Array, Array]:
    """y[n,p,q,c] = max over the window's pixels inside the image; returns (y, argmax).

    argmax, uint8, is the tap r S + s that won: the first maximum in row-major order, or the first
    NaN. P = floor or ceil((H + 2 ph - R) / sh) + 1, in ceil mode less a last window that would
    start at or beyond H + ph of the padded image (Caffe, pooling_layer.cpp). R S <= 255.
    """
    windows = check(locals(), "max_pool_fprop", "x NHWC")
    require(prod(kernel) <= 255, f"max_pool_fprop: kernel is {kernel}, expected R S <= 255")
    framed, (inside, image) = windows.framed(x), windows.frame(1, 1, bool)
    image[...] = True
    y = np.zeros((len(x), *windows.output, x.shape[3]), x.dtype)
    argmax = np.full(y.shape, 255, np.uint8)  # 255: no pixel seen yet
    for r, s, where in windows.taps():
        seen = framed[where]
        better = (argmax == 255) | (seen > y) | (np.isnan(seen) & ~np.isnan(y))
        np.copyto(y, seen, where=inside[where] & better)
        np.copyto(argmax, np.uint8(r * kernel[1] + s), where=inside[where] & better)
    return y, argmax


def max_pool_dgrad(
    gy: Array, argmax: Array, x_shape: Shape, kernel: Pair, stride: Pair, padding: Pair = _0
) -> Array:
    """gx = for each pixel, the sum of gy over the windows whose argmax it is; either mode's gy."""
    windows = check(locals(), "max_pool_dgrad", "x_shape NHWC, gy NPQC, argmax NPQC")
    framed, gx = windows.frame(x_shape[0], x_shape[3], gy.dtype)
    for r, s, where in windows.taps():
        framed[where] += np.where(argmax == r * kernel[1] + s, gy, gy.dtype.type(0))
    return gx.copy()


def avg_pool_fprop(
    x: Array,
    kernel: Pair,
    stride: Pair,
    padding: Pair = _0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """y[n,p,q,c] = (sum over the window's pixels inside the image) / cells; P as in max_pool_fprop.

    cells are those pixels; with count_include_pad, the padding up to H + ph, W + pw too (Caffe).
    """
    windows = check(locals(), "avg_pool_fprop", "x NHWC")
    framed = windows.framed(x)
    total = cast(Array, sum(framed[where] for _, _, where in windows.taps()))
    return total / windows.cells(count_include_pad, x.dtype)


def avg_pool_dgrad(
    gy: Array,
    x_shape: Shape,
    kernel: Pair,
    stride: Pair,
    padding: Pair = _0,
    count_include_pad: bool = True,
) -> Array:
    """gx = for each pixel, the sum of gy / cells over the windows that see it; either mode's gy."""
    windows = check(locals(), "avg_pool_dgrad", "x_shape NHWC, gy NPQC")
    framed, gx = windows.frame(x_shape[0], x_shape[3], gy.dtype)
    share = gy / windows.cells(count_include_pad, gy.dtype)
    for _, _, where in windows.taps():
        framed[where] += share
    return gx.copy()


def _channel_sums(v: Array, size: int) -> Array:
    """Sum over the size channels centred on each, zero outside [0, C)."""
    C, reach = v.shape[-1], min(size // 2, v.shape[-1] - 1)
    framed = np.pad(v, ((0, 0),) * (v.ndim - 1) + ((reach, reach),))
    return cast(Array, sum(framed[..., c : c + C] for c in range(2 * reach + 1)))


def lrn_fprop(
    x: Array, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Array:
    """y_c = x_c s_c^-beta, s_c = k + (alpha / size) sum_{|c' - c| <= size / 2} x_c'^2.

    size is odd; the window runs across channels, zero outside [0, C) (Caffe, lrn_layer.cpp).
    """
    check(locals(), "lrn_fprop", "x NHWC")
    scale = float(k) + float(alpha / size) * _channel_sums(x * x, size)
    return x * scale ** -float(beta)


def lrn_dgrad(
    gy: Array, x: Array, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Array:
    """gx_c = gy_c s_c^-beta - (2 alpha beta / size) x_c sum_{|c' - c| <= size / 2} t_c'.

    t = gy x s^(-beta - 1), s as in lrn_fprop.
    """
    check(locals(), "lrn_dgrad", "x NHWC, gy NHWC")
    scale = float(k) + float(alpha / size) * _channel_sums(x * x, size)
    direct = gy * scale ** -float(beta)
    return direct - float(2 * alpha * beta / size) * x * _channel_sums(direct * x / scale, size)


def batch_norm_fprop(
    x: Array, gamma: Array, beta: Array, *, eps: float, relu: bool = False
) -> tuple[Array, Array, Array]:
    """y = relu(gamma (x - mean) / sqrt(var + eps) + beta); returns (y, mean, var).

    mean and var = sum (x - mean)^2 / M (biased) are over the M pixels of the batch, per channel,
    and zero for an empty batch; relu only where asked for.
    """
    check(locals(), "batch_norm_fprop", "x N*C, gamma C, beta C")
    count = max(1, prod(x.shape[:-1]))
    mean = over_pixels(x) / count
    var = over_pixels(np.square(x - mean)) / count
    return batch_norm_inference(x, gamma, beta, mean, var, eps=eps, relu=relu), mean, var


def batch_norm_inference(
    x: Array, gamma: Array, beta: Array, mean: Array, var: Array, *, eps: float, relu: bool = False
) -> Array:
    """y = relu(gamma (x - mean) / sqrt(var + eps) + beta), mean and var given."""
    check(locals(), "batch_norm_inference", "x N*C, gamma C, beta C, mean C, var C")
    y = gamma * ((x - mean) / np.sqrt(var + float(eps))) + beta
    return rectified(y) if relu else y


def batch_norm_dgrad(
    gy: Array, x: Array, gamma: Array, mean: Array, var: Array, *, eps: float, y: Maybe = None
) -> tuple[Array, Array, Array]:
    """gx = gamma / d (gy - gbeta / M - h ggamma / M); returns (gx, ggamma, gbeta).

    d = sqrt(var + eps), h = (x - mean) / d, ggamma = sum gy h, gbeta = sum gy over the M pixels;
    mean and var are those of x itself.
    """
    check(locals(), "batch_norm_dgrad", "x N*C, gy N*C, y N*C?, gamma C, mean C, var C")
    gy, count, deviation = masked(gy, y), max(1, prod(x.shape[:-1])), np.sqrt(var + float(eps))
    h = (x - mean) / deviation
    ggamma, gbeta = over_pixels(gy * h), over_pixels(gy)
    return gamma / deviation * (gy - gbeta / count - h * (ggamma / count)), ggamma, gbeta


def linear_fprop(x: Array, w: Array, b: Maybe = None, *, relu: bool = False) -> Array:
    """y = relu(x w^T + b); relu only where asked for."""
    check(locals(), "linear_fprop", "x NC, w KC, b K?")
    y = x @ w.T if b is None else x @ w.T + b
    return rectified(y) if relu else y


def linear_dgrad(gy: Array, w: Array, *, y: Maybe = None) -> Array:
    """gx = gy w."""
    check(locals(), "linear_dgrad", "gy NK, w KC, y NK?")
    return masked(gy, y) @ w


def linear_wgrad(x: Array, gy: Array, *, y: Maybe = None) -> tuple[Array, Array]:
    """gw = gy^T x, gb = sum_n gy."""
    check(locals(), "linear_wgrad", "x NC, gy NK, y NK?")
    gy = masked(gy, y)
    return gy.T @ x, over_pixels(gy)


def softmax_cross_entropy_fprop(logits: Array, labels: Array) -> tuple[Array, Array]:
    """loss_n = log sum_k e^z_nk - z_n,label in nats, probs = e^z / sum_k e^z; z = logits - max."""
    check(locals(), "softmax_cross_entropy_fprop", "logits NK, labels N")
    z = logits - logits.max(axis=1, keepdims=True)
    total = np.exp(z).sum(axis=1, keepdims=True)
    return np.log(total[:, 0]) - z[np.arange(len(z)), labels], np.exp(z) / total


def softmax_cross_entropy_dgrad(probs: Array, labels: Array, g: Array) -> Array:
    """glogits = g (probs - onehot(labels)), g the gradient of each sample's loss."""
    check(locals(), "softmax_cross_entropy_dgrad", "probs NK, labels N, g N")
    glogits = probs.copy()
    glogits[np.arange(len(glogits)), labels] -= 1
    return g[:, None] * glogits


_WEIGHTS = (
    "w1 K111C, b1 K1, wr3 C311C, br3 C3, w3 K333C3, b3 K3, wr5 C511C, br5 C5, w5 K5R5R5C5, b5 K5"
)
_WEIGHTS += ", wp Kp11C, bp Kp"
_SAVED = "r3 NHWC3, r5 NHWC5, pooled NHWC, argmax NHWC"


def _named(op: str, group: str, arguments: str, arrays: Sequence[Array]) -> dict[str, Array]:
    names = [argument.split()[0] for argument in arguments.split(", ")]
    text = f"{op}: {group} has {len(arrays)} arrays, expected {len(names)}: {', '.join(names)}"
    require(len(arrays) == len(names), text)
    return dict(zip(names, arrays, strict=True))


def _half(w5: Array) -> tuple[int, int]:
    """Padding of the third branch: its filter is 5x5, or 3x3 in torchvision's network."""
    require(len(w5[0]) in (3, 5), f"inception: w5 has shape {w5.shape}, expected 5x5 or 3x3 taps")
    return (len(w5[0]) // 2,) * 2


def inception_fprop(
    x: Array, weights: Sequence[Array]
) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    """y = [1x1(x) | 3x3(1x1(x)) | 5x5(1x1(x)) | 1x1(pool(x))], relu after each convolution.

    weights (w1, b1, wr3, br3, w3, b3, wr5, br5, w5, b5, wp, bp); pool is max, 3x3/1, padding 1.
    Returns y and saved = (r3, r5, pooled, argmax). GoogLeNet (arXiv 1409.4842), figure 2b.
    """
    given = {"x": x} | _named("inception_fprop", "weights", _WEIGHTS, weights)
    check(given, "inception_fprop", f"x NHWC, {_WEIGHTS}")
    w1, b1, wr3, br3, w3, b3, wr5, br5, w5, b5, wp, bp = weights
    y3, r3 = reduce_conv_fprop(x, wr3, br3, w3, b3, padding=(1, 1))
    y5, r5 = reduce_conv_fprop(x, wr5, br5, w5, b5, padding=_half(w5))
    pooled, argmax = max_pool_fprop(x, (3, 3), (1, 1), (1, 1))
    y1, yp = conv2d_fprop(x, w1, b1, relu=True), conv2d_fprop(pooled, wp, bp, relu=True)
    return np.concatenate([y1, y3, y5, yp], axis=3), (r3, r5, pooled, argmax)


def inception_backward(
    gy: Array, x: Array, weights: Sequence[Array], y: Array, saved: Sequence[Array]
) -> tuple[Array, tuple[Array, ...]]:
    """gx = sum over the branches of their gx, each given its channels of gy; returns (gx, grads).

    y and saved are what ``inception_fprop`` returned; grads are in the order of weights.
    """
    op, given = "inception_backward", {"gy": gy, "x": x, "y": y}
    given |= _named(op, "weights", _WEIGHTS, weights) | _named(op, "saved", _SAVED, saved)
    check(given, op, f"x NHWC, {_WEIGHTS}, {_SAVED}, y NHWK, gy NHWK")
    w1, _, wr3, _, w3, _, wr5, _, w5, _, wp, _ = weights
    r3, r5, pooled, argmax = saved
    cuts = np.cumsum([len(w1), len(w3), len(w5), len(wp)])
    require(y.shape[3] == cuts[3], f"{op}: y has {y.shape[3]} channels, expected {cuts[3]}")
    (g1, g3, g5, gp, _), (y1, y3, y5, yp, _) = np.split(gy, cuts, 3), np.split(y, cuts, 3)
    gx3, *grads3 = reduce_conv_backward(g3, x, wr3, w3, r3, y3, padding=(1, 1))
    gx5, *grads5 = reduce_conv_backward(g5, x, wr5, w5, r5, y5, padding=_half(w5))
    gpooled = conv2d_dgrad(gp, wp, x.shape, y=yp)
    gx = conv2d_dgrad(g1, w1, x.shape, y=y1) + gx3 + gx5
    gx += max_pool_dgrad(gpooled, argmax, x.shape, (3, 3), (1, 1), (1, 1))
    grads1, gradsp = conv2d_wgrad(x, g1, w1.shape, y=y1), conv2d_wgrad(pooled, gp, wp.shape, y=yp)
    return gx, (*grads1, *grads3, *grads5, *gradsp)
