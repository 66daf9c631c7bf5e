"""A small Inception in JAX on scikit-learn's digits: JAX's gradients, our convolutions.

    pip install 'pyinception[jax,train]'
    python -m pyinception.interop.jax build      # once: compiles the XLA handlers
    python examples/jax_train.py

Every convolution is a kernel of pyinception: a plain one, GoogLeNet's module as one call, and the
fused branch 1x1 -> 3x3. The rest, pooling, the head, the loss, momentum, is ordinary JAX, and the
whole step is one `jax.jit`.

Seeds 1, 2, 3 name 98.9, 98.6 and 97.2 % of the 360 digits held out, in less than 20 s on one core
of a busy AMD EPYC.
"""

import argparse
import math
import os
import time
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from sklearn.datasets import load_digits

from pyinception.interop import jax as pyi

Params = dict[str, Any]


def filters(draw: np.random.Generator, r: int, c: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """A filter (R, S, C, K) and its bias; He's scale keeps the variance through a ReLU."""
    w = draw.standard_normal((r, r, c, k)) * math.sqrt(2 / (r * r * c))
    return w.astype(np.float32), np.zeros(k, np.float32)


def init(seed: int) -> Params:
    draw = np.random.default_rng(seed)
    module = [  # 1x1; 1x1 -> 3x3; 1x1 -> 5x5; pool -> 1x1: 48 channels together
        filters(draw, 1, 16, 16),
        filters(draw, 1, 16, 12), filters(draw, 3, 12, 16),
        filters(draw, 1, 16, 4), filters(draw, 5, 4, 8),
        filters(draw, 1, 16, 8),
    ]  # fmt: skip
    return {
        "stem": filters(draw, 3, 1, 16),
        "module": tuple(array for pair in module for array in pair),
        "branch": (*filters(draw, 1, 48, 24), *filters(draw, 3, 24, 64)),
        "head": ((draw.standard_normal((64, 10)) / 8).astype(np.float32), np.zeros(10, np.float32)),
    }


def logits(params: Params, x: jax.Array) -> jax.Array:
    """(N, 8, 8, 1) -> (N, 10)."""
    x = pyi.conv2d(x, *params["stem"], padding="same", relu=True)
    x = pyi.inception(x, params["module"])
    x = x.reshape(x.shape[0], 4, 2, 4, 2, 48).max((2, 4))  # 2x2 max pool: 4x4 is left
    x = pyi.reduce_conv2d(x, *params["branch"])
    w, b = params["head"]
    return x.mean((1, 2)) @ w + b


def loss(params: Params, x: jax.Array, labels: jax.Array) -> jax.Array:
    chosen = jax.nn.log_softmax(logits(params, x))[jnp.arange(len(labels)), labels]
    return -chosen.mean()


@jax.jit
def step(params: Params, velocity: Params, x: jax.Array, labels: jax.Array, rate: float) -> Any:
    value, grads = jax.value_and_grad(loss)(params, x, labels)
    velocity = jax.tree.map(lambda v, g: 0.9 * v - rate * g, velocity, grads)
    return jax.tree.map(jnp.add, params, velocity), velocity, value


def train(epochs: int = 12, batch: int = 32, seed: int = 1) -> tuple[float, list[float]]:
    """Accuracy on the digits held out, and the mean loss of every epoch."""
    images, labels = load_digits(return_X_y=True)
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(images))
    x, y = (images[order].reshape(-1, 8, 8, 1) / 16).astype(np.float32), labels[order]
    x, y, held_x, held_y = x[360:], y[360:], x[:360], y[:360]
    params = init(seed)
    velocity = jax.tree.map(np.zeros_like, params)
    steps, losses = len(x) // batch, []
    for epoch in range(epochs):
        shuffled, values = draw.permutation(len(x)), []
        for i in range(steps):
            rate = 0.02 * (1 + math.cos(math.pi * (epoch + i / steps) / epochs))
            some = shuffled[i * batch : (i + 1) * batch]
            params, velocity, value = step(params, velocity, x[some], y[some], rate)
            values.append(value)
        losses.append(float(np.mean(values)))
        print(f"epoch {epoch + 1:2}  loss {losses[-1]:.4f}")
    right = np.asarray(jax.jit(logits)(params, held_x)).argmax(1) == held_y
    return float(right.mean()), losses


def main() -> None:
    parser = argparse.ArgumentParser(description="A small Inception in JAX on our kernels.")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    os.environ.setdefault("PYINCEPTION_THREADS", "1")  # maps of 8x8 are too small to share out
    start = time.perf_counter()
    pyi.build()  # does nothing where the handlers are there
    accuracy, _ = train(arguments.epochs, seed=arguments.seed)
    seconds = time.perf_counter() - start
    print(f"{accuracy:.1%} of 360 digits it has never seen, in {seconds:.1f} s")


if __name__ == "__main__":
    main()
