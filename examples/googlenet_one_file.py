"""A small Inception network, trained from scratch, in one file: Python and NumPy, nothing else.

    python examples/googlenet_one_file.py              # generated shapes, nothing to download
    python examples/googlenet_one_file.py --digits     # scikit-learn's 8x8 digits, enlarged

Read it from top to bottom: 1 convolution, 2 pooling, head and loss, 3 the Inception module, 4 the
network, 5 the gradient check, 6 data, 7 training, 8 main. Each backward stands next to its forward.

A map is an array (N, H, W, C): image, row, column, channel. Channels come last because convolution
mixes channels: a pixel's channels lie side by side, so a map *is* a matrix of pixels x channels and
a 1x1 convolution is one matrix product. Filters are (K, R, S, C): output channel, row, column,
input channel. An output map is (N, P, Q, K). `g` before a name means "derivative of the loss with
respect to": gx has the shape of x, gw the shape of w.

Seeds 1, 2, 3 name 98.0, 96.1 and 96.2 % of 1,000 new shapes (chance: 20 %), in 22 s on one core of
an idle AMD EPYC with two; digits: 98.3, 98.9 and 98.3 % of 360. One seed, one result.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence

# The matrix products below are small. A second BLAS thread gains a few per cent on an idle machine,
# loses a factor of several on a busy one, and changes the order of sums, hence the last digits.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import numpy as np

Rng = np.random.Generator

# ---- 1. Convolution: a sum of shifted matrix products ----------------------------------------
#
#   y[n,p,q,k] = relu(b[k] + sum over r,s,c of w[k,r,s,c] x[n, p*stride+r-pad, q*stride+s-pad, c])
#
# Hold one tap (r, s) of the filter still. What is left is (pixels x C) times (C x K): a matrix
# product of the *shifted* map with one slab of the filter. So a 3x3 convolution is nine matrix
# products added up. The usual trick, im2col, first copies all nine shifted maps side by side, to
# make it one big product; that costs R*S times the memory of x and hides what happens.


class Parameter:
    """One learned array with its gradient and its momentum."""

    def __init__(self, value: np.ndarray) -> None:
        self.value = value.astype(np.float32)
        self.grad, self.velocity = np.zeros_like(self.value), np.zeros_like(self.value)


def xavier(rng: Rng, *shape: int) -> Parameter:
    """U(-s, s), s = sqrt(3 / fan_in), Caffe's form: sums of fan_in terms keep a variance near 1."""
    limit = math.sqrt(3.0 / math.prod(shape[1:]))
    return Parameter(rng.uniform(-limit, limit, shape))


class Layer:
    """forward(x) -> y keeps what backward(gy) -> gx will need; backward also fills .grad."""

    decisions: np.ndarray | None = None  # what forward chose and backward must follow

    def __init__(self, name: str, *parameters: Parameter) -> None:
        self.name, self.parameters, self.parts = name, parameters, [self]


class Window(Layer):
    """What convolution and pooling share: a size x size window moved over a padded map."""

    def __init__(self, name: str, size: int, stride: int, *parameters: Parameter) -> None:
        super().__init__(name, *parameters)
        # With this padding stride 1 keeps the map's size, whatever the window's.
        self.size, self.stride, self.pad = size, stride, size // 2

    def padded(self, x: np.ndarray, border: float) -> np.ndarray:
        """x with a border on all four sides; remembers P, Q: how many places the window fits."""
        (N, H, W, C), pad = x.shape, self.pad
        self.P, self.Q = ((e + 2 * pad - self.size) // self.stride + 1 for e in (H, W))
        out = np.full((N, H + 2 * pad, W + 2 * pad, C), border, x.dtype)
        self.inside = (slice(None), slice(pad, pad + H), slice(pad, pad + W))
        out[self.inside] = x
        return out

    def taps(self, padded: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
        """(r, s, the pixels that tap (r, s) meets, one for each place of the window): views."""
        for r in range(self.size):
            for s in range(self.size):
                rows = slice(r, r + self.stride * (self.P - 1) + 1, self.stride)
                columns = slice(s, s + self.stride * (self.Q - 1) + 1, self.stride)
                yield r, s, padded[:, rows, columns]


class Conv(Window):
    """y = relu(conv(x, w) + b)."""

    def __init__(self, name: str, C: int, K: int, size: int, rng: Rng, stride: int = 1) -> None:
        # A bias of 0.2, not 0: pushed a little to the positive side, few units start out dead.
        self.w, self.b = xavier(rng, K, size, size, C), Parameter(np.full(K, 0.2))
        super().__init__(name, size, stride, self.w, self.b)

    def forward(self, x: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
        """Write into the caller's y, if there is one: section 3 hands out slices of channels."""
        self.x_padded = self.padded(x, 0.0)
        K, C, pixels = len(self.b.value), x.shape[3], len(x) * self.P * self.Q
        total = np.zeros((pixels, K), x.dtype)
        for r, s, window in self.taps(self.x_padded):
            total += window.reshape(pixels, C) @ self.w.value[:, r, s].T
        total += self.b.value
        self.y = np.maximum(total.reshape(-1, self.P, self.Q, K), 0, out=y)
        self.decisions = self.y > 0
        return self.y

    def backward(self, gy: np.ndarray) -> np.ndarray:
        """The loop of forward again, with the matrix product Y = X W^T differentiated.

        That is gX = gY W and gW = gY^T X. Where forward *read* a window of the padded map, backward
        *adds into* it: a pixel that nine taps read collects nine contributions.
        """
        K, C = len(self.b.value), self.w.value.shape[3]
        g = (gy * self.decisions).reshape(-1, K)  # the ReLU passes gy where it passed the value
        gpadded, gw = np.zeros_like(self.x_padded), np.empty_like(self.w.value)
        pairs = zip(self.taps(self.x_padded), self.taps(gpadded), strict=True)
        for (r, s, window), (_, _, gwindow) in pairs:
            gw[:, r, s] = g.T @ window.reshape(-1, C)
            gwindow += (g @ self.w.value[:, r, s]).reshape(gwindow.shape)
        self.w.grad, self.b.grad = gw, g.sum(axis=0)
        return gpadded[self.inside]


# ---- 2. The parts without filters, and the loss ----------------------------------------------


class MaxPool(Window):
    """y[p, q] = the largest x in a window. GoogLeNet pools 3x3 windows, two apart: they overlap."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Go through the taps; keep the largest value so far and the number of its tap."""
        # Minus infinity, not zero: padding must never win, even if all of the window is negative.
        self.x_padded = self.padded(x, -np.inf)
        y = np.full((len(x), self.P, self.Q, x.shape[3]), -np.inf, x.dtype)
        argmax = np.zeros(y.shape, np.uint8)
        for r, s, candidate in self.taps(self.x_padded):
            # Strictly larger: of equals the first wins. As taps rise, the last to set a record is
            # the largest that ever did.
            np.maximum(argmax, (candidate > y) * np.uint8(r * self.size + s), out=argmax)
            np.maximum(y, candidate, out=y)
        self.y, self.decisions = y, argmax
        return y

    def backward(self, gy: np.ndarray) -> np.ndarray:
        """The winner takes all: gy goes to the pixel that was the maximum, to no other."""
        gpadded = np.zeros_like(self.x_padded)
        for r, s, gwindow in self.taps(gpadded):
            gwindow += gy * (self.decisions == r * self.size + s)
        return gpadded[self.inside]


class Head(Layer):
    """y = w mean(x over its pixels) + b: the logits.

    GoogLeNet's cheapest idea: averaging each channel over the map leaves C numbers, where older
    networks flattened the whole map into a linear layer that held most of their parameters.
    """

    def __init__(self, name: str, C: int, K: int, rng: Rng) -> None:
        self.w, self.b = xavier(rng, K, C), Parameter(np.zeros(K))
        super().__init__(name, self.w, self.b)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """(N, H, W, C) -> (N, K)."""
        self.x_shape, self.mean = x.shape, x.mean(axis=(1, 2))
        self.y = self.mean @ self.w.value.T + self.b.value
        return self.y

    def backward(self, gy: np.ndarray) -> np.ndarray:
        """Every pixel had the same share in the mean, so every pixel gets the same gradient."""
        self.w.grad, self.b.grad = gy.T @ self.mean, gy.sum(axis=0)
        gmean = gy @ self.w.value / math.prod(self.x_shape[1:3])
        return np.broadcast_to(gmean[:, None, None, :], self.x_shape)


def softmax_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """loss = mean of -log softmax(logits)[label];  glogits = (softmax(logits) - onehot) / N.

    The gradient is this short only if softmax and logarithm are differentiated as one. Subtracting
    the largest logit changes nothing in the result and keeps exp from overflowing.
    """
    picked = np.arange(len(labels)), labels
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    glogits = np.exp(log_probability)
    glogits[picked] -= 1
    return float(-log_probability[picked].mean()), glogits / len(labels)


# ---- 3. The Inception module -----------------------------------------------------------------
#
#              +-- 1x1 -------------------+
#              +-- 1x1 reduce --> 3x3 ----+
#        x ----+                          +--> y, channels [ 1x1 | 3x3 | 5x5 | pool ]
#              +-- 1x1 reduce --> 5x5 ----+
#              +-- max 3x3 -----> 1x1 ----+
#
# Which filter size suits an image depends on how large the thing in it is, and that is not known
# beforehand: so offer several and let the next layer choose. Taken literally that is dear: a 5x5
# from 56 to 16 channels costs 25*56*16 = 22,400 multiply-adds per pixel. A 1x1 that first *reduces*
# 56 channels to 8 makes it 56*8 + 25*8*16 = 3,648: six times cheaper.


class Inception(Layer):
    """Four branches over the same x, each writing its own slice of one output's channels."""

    def __init__(self, name: str, C: int, widths: tuple[int, ...], rng: Rng) -> None:
        k1, reduce3, k3, reduce5, k5, kp = widths  # one row of GoogLeNet's table
        self.conv1 = Conv(f"{name}.conv1x1", C, k1, 1, rng)
        self.reduce3 = Conv(f"{name}.reduce3x3", C, reduce3, 1, rng)
        self.conv3 = Conv(f"{name}.conv3x3", reduce3, k3, 3, rng)
        self.reduce5 = Conv(f"{name}.reduce5x5", C, reduce5, 1, rng)
        self.conv5 = Conv(f"{name}.conv5x5", reduce5, k5, 5, rng)
        self.pool = MaxPool(f"{name}.pool", 3, 1)
        self.proj = Conv(f"{name}.pool_proj", C, kp, 1, rng)
        self.ends, self.K = (k1, k1 + k3, k1 + k3 + k5), k1 + k3 + k5 + kp
        super().__init__(name)
        convs = [self.conv1, self.reduce3, self.conv3, self.reduce5, self.conv5]
        self.parts = [*convs, self.pool, self.proj, self]

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Concatenation is an address, not an operation: allocate y once, hand out its slices."""
        self.y = np.empty((*x.shape[:3], self.K), x.dtype)
        y1, y3, y5, yp = np.split(self.y, self.ends, axis=3)  # views: nothing is copied
        self.conv1.forward(x, y1)
        self.conv3.forward(self.reduce3.forward(x), y3)
        self.conv5.forward(self.reduce5.forward(x), y5)
        self.proj.forward(self.pool.forward(x), yp)
        return self.y

    def backward(self, gy: np.ndarray) -> np.ndarray:
        """The same slices of gy go back. x went four ways, so its gradient is a sum of four."""
        g1, g3, g5, gp = np.split(gy, self.ends, axis=3)
        gx = self.conv1.backward(g1)
        gx += self.reduce3.backward(self.conv3.backward(g3))
        gx += self.reduce5.backward(self.conv5.backward(g5))
        gx += self.pool.backward(self.proj.backward(gp))
        return gx


# ---- 4. The network: a stem that halves the map, two modules, a mean, a linear ----------------


class Network:
    """Layers run in order forward, in reverse order backward: that is all back-propagation is."""

    def __init__(self, classes: int, rng: Rng) -> None:
        self.layers = [
            Conv("conv1", 1, 16, 5, rng, stride=2),
            Inception("inception_a", 16, (16, 12, 24, 4, 8, 8), rng),
            MaxPool("pool_a", 3, 2),
            Inception("inception_b", 56, (24, 24, 48, 8, 16, 16), rng),
            Head("mean + linear", 104, classes, rng),
        ]
        self.parts = [part for layer in self.layers for part in layer.parts]
        self.parameters = [p for part in self.parts for p in part.parameters]

    def forward(self, x: np.ndarray) -> np.ndarray:
        """(N, H, W, 1) -> logits (N, classes), for any H and W: the mean does not mind."""
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, glogits: np.ndarray) -> None:
        """Fill every parameter's .grad."""
        g = glogits
        for layer in reversed(self.layers):
            g = layer.backward(g)

    def print_table(self, image: np.ndarray) -> int:
        """Print shapes, parameters and multiply-adds of each layer; return the sum of the last."""
        self.forward(image[None])
        print(f"{'layer':<24}{'output':>14}{'parameters':>12}{'multiply-adds':>15}")
        total = total_macs = 0
        for part in self.parts:
            numbers, shape = "", part.y.shape[1:]
            if part.parameters:  # each weight is used once for each pixel of the output
                count = sum(p.value.size for p in part.parameters)
                macs = part.parameters[0].value.size * math.prod(shape[:-1])
                numbers = f"{count:>12,}{macs:>15,}"
                total, total_macs = total + count, total_macs + macs
            print(f"{part.name:<24}{'x'.join(map(str, shape)):>14}{numbers}")
        print(f"{'total':<38}{total:>12,}{total_macs:>15,}\n")
        return total_macs


def sgd_step(parameters: list[Parameter], rate: float, momentum: float, decay: float) -> None:
    """v = momentum v + rate (g + decay w);  w = w - v.

    The velocity is a running sum of gradients: in a direction that keeps its sign it grows to
    1 / (1 - momentum) = 10 single steps; across a ravine, where the sign alternates, it cancels.
    """
    for p in parameters:
        # Caffe's GoogLeNet lets biases learn twice as fast as weights, and does not decay them.
        is_bias = p.value.ndim == 1
        step = 2 * rate * p.grad if is_bias else rate * (p.grad + decay * p.value)
        p.velocity = momentum * p.velocity + step
        p.value -= p.velocity


# ---- 5. Is the gradient right? ---------------------------------------------------------------
#
# A wrong gradient seldom crashes; it trains a little worse, and one blames the learning rate. So
# ask: along a random direction v in the space of all parameters, is the slope that backward claims,
# <grad, v>, the slope one measures, (loss(w + h v) - loss(w - h v)) / 2h? One number checks all
# layers. It takes float64: the difference of two float32 losses has too few correct digits.


def gradient_check(seed: int, h: float = 1e-4) -> float:
    """|claimed - measured| / max(|claimed|, |measured|) along one random direction of length 1."""
    rng = np.random.default_rng([seed, 3])
    net = Network(5, rng)
    labels = rng.integers(0, 5, 3)
    start = [p.value.astype(np.float64) for p in net.parameters]

    def loss_at(step: float) -> tuple[float, np.ndarray]:
        for p, w, a in zip(net.parameters, start, v, strict=True):
            p.value = w + step * a
        return softmax_cross_entropy(net.forward(x), labels)

    for _ in range(100):
        x = rng.standard_normal((3, 14, 11, 1))  # odd and unequal: swapped axes and borders show
        v = [rng.standard_normal(w.shape) for w in start]
        length = math.sqrt(sum(float((a * a).sum()) for a in v))
        v = [a / length for a in v]
        above, decisions = loss_at(h)[0], [part.decisions for part in net.parts]
        below = loss_at(-h)[0]
        # If a ReLU or a maximum decides differently at the two points, a kink lies between them and
        # the measured slope mixes two. It says nothing about backward then: draw x and v again.
        if all(np.array_equal(d, p.decisions) for d, p in zip(decisions, net.parts, strict=True)):
            break
    net.backward(loss_at(0.0)[1])
    claimed = sum(float((p.grad * a).sum()) for p, a in zip(net.parameters, v, strict=True))
    measured = (above - below) / (2 * h)
    return abs(claimed - measured) / max(abs(claimed), abs(measured))


# ---- 6. Data: one shape per image, up to four times larger in one than in the next ------------

SHAPES = ("disc", "square", "triangle", "cross", "ring")


def draw_shapes(count: int, rng: Rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images (count, 32, 32, 1), labels (count,) and radii in pixels (count,).

    Each shape is a signed distance: negative inside, positive outside; clipping 0.5 - distance to
    [0, 1] paints it with a soft edge. Place, turn, size and contrast are random, bright on dark or
    dark on bright, so that no single pixel gives the class away.
    """
    labels = rng.integers(0, len(SHAPES), count)
    radius = np.exp(rng.uniform(np.log(3.5), np.log(14), count))
    centre = rng.uniform(-1, 1, (2, count)) * (15.5 - radius)  # keeps all of it on the image
    turn = rng.uniform(0, 2 * np.pi, count)
    contrast = rng.uniform(0.6, 1.2, count) * rng.choice([-1.0, 1.0], count)
    labels_, size, cy, cx, angle = (a[:, None, None] for a in (labels, radius, *centre, turn))
    grid = np.arange(32) - 15.5
    dy, dx = np.broadcast_arrays(grid[:, None] - cy, grid[None, :] - cx)
    # Coordinates turned with the shape. All five are mirror-symmetric in u: its sign is not needed.
    u, v = np.abs(np.cos(angle) * dx + np.sin(angle) * dy), np.cos(angle) * dy - np.sin(angle) * dx
    far, v_abs, bar = np.hypot(u, v), np.abs(v), size / 4
    disc, ring = far - size, np.abs(far - 0.8 * size) - 0.2 * size
    square = np.maximum(u, v_abs) - size / math.sqrt(2)
    triangle = np.maximum(u * math.sqrt(0.75) + v / 2, -v) - size / 2
    cross = np.minimum(np.maximum(u - bar, v_abs - size), np.maximum(v_abs - bar, u - size))
    distance = np.choose(labels_, [disc, square, triangle, cross, ring])  # the order of SHAPES
    images = np.clip(0.5 - distance, 0, 1) * contrast[:, None, None]
    images += rng.normal(0, 0.1, images.shape)
    return images[..., None].astype(np.float32), labels, radius


def load_digits(rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Return 1,797 handwritten digits, each pixel of 8x8 enlarged to 4x4, to fit the network."""
    try:
        from sklearn import datasets
    except ImportError:
        raise SystemExit("--digits needs scikit-learn: pip install scikit-learn") from None
    bunch = datasets.load_digits()
    order = rng.permutation(len(bunch.target))
    images = (bunch.images[order] / 8 - 1).repeat(4, axis=1).repeat(4, axis=2)
    return images[..., None].astype(np.float32), bunch.target[order]


def ascii_pictures(pictures: np.ndarray) -> str:
    """Text for pictures (count, rows, columns) side by side; zero is the middle of the ramp."""
    ramp = np.array(list(" .:-=+*#%@"))  # ten letters from dark to bright
    extreme = np.abs(pictures).max(axis=(1, 2), keepdims=True) + 1e-12
    letters = ramp[np.minimum(((pictures / extreme + 1) * 5).astype(int), 9)]
    lines = ("   ".join("".join(row) for row in rows) for rows in letters.transpose(1, 0, 2))
    return "\n".join(("    " + line).rstrip() for line in lines)


# ---- 7. Training -----------------------------------------------------------------------------


def train(net: Network, batches: Iterator, options: argparse.Namespace) -> float:
    """Take a step of stochastic gradient descent per batch; return the median seconds of one."""
    seconds, losses, correct = [], [], []
    print(f"{'step':>6}{'rate':>9}{'loss':>9}{'accuracy':>10}   (means since the line before)")
    began = time.perf_counter()
    for step, (images, labels) in enumerate(batches):
        logits = net.forward(images)
        loss, glogits = softmax_cross_entropy(logits, labels)
        if not math.isfinite(loss):
            raise SystemExit(f"the loss is {loss} at step {step + 1}: try a smaller --lr")
        net.backward(glogits)
        # Large steps while far away, small ones to settle: the "poly" policy of Caffe's GoogLeNet.
        rate = options.lr * (1 - step / options.steps) ** 0.5
        sgd_step(net.parameters, rate, momentum=0.9, decay=2e-4)
        losses.append(loss)
        correct.append(float((logits.argmax(axis=1) == labels).mean()))
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()  # here, so that drawing the next batch counts
        if (step + 1) * 12 // options.steps > step * 12 // options.steps:  # twelve lines in all
            means = f"{np.mean(losses):>9.4f}{np.mean(correct):>10.1%}"
            print(f"{step + 1:>6}{rate:>9.4f}{means}   {1000 * np.median(seconds):6.1f} ms/step")
            losses, correct = [], []
    return float(np.median(seconds))


def evaluate(net: Network, images: np.ndarray, labels: np.ndarray, names: Sequence) -> np.ndarray:
    """Print the accuracy and the confusion matrix; return which of the images were right."""
    guesses = net.forward(images).argmax(axis=1)
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (labels, guesses), 1)
    right = guesses == labels
    print(f"test accuracy {right.mean():.1%} (chance: {1 / len(names):.0%})\n")
    print(f"{'was / said':<12}" + "".join(f"{name:>9}" for name in names))
    for name, row in zip(names, counts, strict=True):
        print(f"{name:<12}" + "".join(f"{n or '.':>9}" for n in row))
    return right


# ---- 8. Main ---------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Check the gradient, train, evaluate; print everything."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=1000, help="default %(default)s")
    parser.add_argument("--batch", type=int, default=32, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same numbers")
    parser.add_argument("--lr", type=float, default=0.06, help="default %(default)s")
    parser.add_argument("--data", choices=("shapes", "digits"), default="shapes")
    parser.add_argument("--digits", dest="data", action="store_const", const="digits")
    options = parser.parse_args(arguments)
    if options.steps < 1 or options.batch < 1 or options.seed < 0 or not 0 < options.lr < math.inf:
        parser.error("--steps and --batch take 1 or more, --seed 0 or more, --lr a positive number")
    sys.stdout.reconfigure(line_buffering=True)  # so that a pipe sees each line as it comes

    error = gradient_check(options.seed)
    print(f"gradient check, float64, one random direction: relative error {error:.1e}\n")
    if not error < 1e-6:
        raise SystemExit("backward is wrong: the claimed slope is not the measured one")

    # One generator per purpose, all from one seed: more training never changes the test images.
    weights, training, testing = (np.random.default_rng([options.seed, i]) for i in range(3))
    if options.data == "shapes":
        names, (test_images, test_labels, radii) = SHAPES, draw_shapes(1000, testing)
        # Drawn when asked for, new ones every time: there is nothing to learn by heart.
        batches = (draw_shapes(options.batch, training)[:2] for _ in range(options.steps))
    else:
        names, (images, labels) = "0123456789", load_digits(testing)
        test_images, test_labels, radii = images[:360], labels[:360], None
        chosen = (training.integers(360, len(labels), options.batch) for _ in range(options.steps))
        batches = ((images[i], labels[i]) for i in chosen)

    print(f"data: {options.data}, {len(names)} classes, {len(test_labels)} test images, such as")
    print(ascii_pictures(test_images[:5, ..., 0].reshape(5, 8, 4, 16, 2).mean(axis=(2, 4))))
    print("    " + "   ".join(f"{names[label]:<16}" for label in test_labels[:5]) + "\n")
    net = Network(len(names), weights)
    macs = net.print_table(test_images[0])

    print(f"training: {options.steps} steps of {options.batch} images, seed {options.seed}")
    seconds = train(net, batches, options)
    # Backward is two products (gx and gw) where forward is one; a multiply-add is two operations.
    flops = 3 * 2 * macs * options.batch
    print(f"median {seconds:.4f} seconds per step, {flops / seconds / 1e9:.1f} GFLOP/s\n")

    right = evaluate(net, test_images, test_labels, names)
    if radii is not None:
        print("\nthe same by size, for an object's size is what the branches differ in:")
        for low, high in ((3.5, 5.5), (5.5, 9), (9, 14)):
            some = right[(radii >= low) & (radii < high)]
            print(f"    radius {low:>3} to {high:>3} pixels: {some.mean():.1%} of {len(some)}")
    print("\nthe 16 filters of conv1, 5x5 each (blank: most negative, @: most positive)")
    filters = net.layers[0].w.value[..., 0].repeat(2, axis=2)  # letters are twice as tall as wide
    print(ascii_pictures(filters[:8]), ascii_pictures(filters[8:]), sep="\n\n")


if __name__ == "__main__":
    main()
