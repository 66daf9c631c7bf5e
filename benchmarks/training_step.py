"""A training step of GoogLeNet with both heads in one library, in a process of its own.

    python benchmarks/training_step.py NAME BATCH WEIGHTS.npz

Forward, three losses, backward, SGD with momentum, in two threads, dropout left out. Two steps are
run and one line printed: the first loss, and the MB by which they raised the peak of memory. After
that, one step for every line of standard input; the answer is its seconds.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

# An interpreter that has one library alone finds ours in the checkout: the graph, nothing compiled.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import conftest  # noqa: F401

RATE, MOMENTUM, DECAY, THREADS = 0.01, 0.9, 2e-4, 2
SHARE = 0.3  # of each head in the loss
Step = Callable[[], float]
Weights = Mapping[str, np.ndarray]


def batch(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(images NHWC, labels)."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((count, 224, 224, 3)).astype(np.float32)
    return x, draw.integers(0, 1000, count)


def ours(count: int, weights: Weights) -> Step:
    import pyinception as pyi
    from pyinception import losses

    x, labels = batch(count)
    net = pyi.models.GoogLeNet()
    net.load_state_dict(weights)
    net.drop.p = net.aux1.drop.p = net.aux2.drop.p = 0.0
    sgd = pyi.optim.SGD(net, RATE, momentum=MOMENTUM, weight_decay=DECAY)

    def step() -> float:
        with pyi.using(threads=THREADS):
            loss = losses.cross_entropy(net(x), labels)
            loss.backward()
            sgd.step()
        return float(loss.item())

    return step


def torch(count: int, weights: Weights, compiled: bool = False) -> Step:
    """channels_last, eager; or compiled forward and backward, the same optimiser."""
    import torch as library

    from pyinception.bench.net import googlenet_graph
    from pyinception.bench.rivals import Torch

    functional = library.nn.functional

    class Training(Torch):
        def relu(self, x: Any) -> Any:
            return functional.relu_(x)

        def linear(self, x: Any, w: Any, b: Any) -> Any:
            flat = x.permute(0, 2, 3, 1).flatten(1) if x.ndim == 4 else x  # weights are ours: NHWC
            return functional.linear(flat, w, b)

    ops = Training(THREADS)
    x, labels = batch(count)
    parameters = {name: ops.weight(a.copy()).requires_grad_() for name, a in weights.items()}
    sgd = library.optim.SGD(parameters.values(), RATE, MOMENTUM, weight_decay=DECAY, foreach=True)
    images, target = ops.weight(x), library.tensor(labels)

    def loss_of(images: Any, parameters: Any) -> Any:
        main, *heads = (
            functional.cross_entropy(y, target) for y in googlenet_graph(ops, images, parameters)
        )
        return main + SHARE * sum(heads)

    forward = library.compile(loss_of, dynamic=False) if compiled else loss_of

    def step() -> float:
        sgd.zero_grad(set_to_none=True)
        loss = forward(images, parameters)
        loss.backward()
        sgd.step()
        return float(loss.detach())

    return step


def tensorflow(count: int, weights: Weights) -> Step:
    """One `tf.function` with oneDNN's kernels, NHWC; the fused momentum op."""
    import tensorflow as tf

    from pyinception.bench.net import googlenet_graph

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)

    class Ops:
        relu = staticmethod(tf.nn.relu)

        def conv(self, x: Any, w: Any, b: Any, stride: Any, padding: Any, relu: bool) -> Any:
            pads = [[0, 0], *([pad, pad] for pad in padding), [0, 0]]
            y = tf.nn.bias_add(tf.nn.conv2d(x, w, stride, pads), b)
            return tf.nn.relu(y) if relu else y

        def max_pool(self, x: Any, kernel: Any, stride: Any, padding: Any, ceil: bool) -> Any:
            # 3x3 with stride 2 and Caffe's ceil rule on even maps, or with stride 1 and padding 1
            assert kernel == (3, 3) and ceil == (stride == (2, 2)) and padding[0] == 2 - stride[0]
            return tf.nn.max_pool2d(x, kernel, stride, "SAME")

        def avg_pool(self, x: Any, kernel: Any, stride: Any, padding: Any, include: bool) -> Any:
            assert padding == (0, 0)
            return tf.nn.avg_pool2d(x, kernel, stride, "VALID")

        def lrn(self, x: Any, size: int, alpha: float, beta: float, k: float) -> Any:
            return tf.nn.local_response_normalization(x, size // 2, k, alpha / size, beta)

        def concat(self, parts: list[Any]) -> Any:
            return tf.concat(parts, 3)

        def linear(self, x: Any, w: Any, b: Any) -> Any:
            flat = tf.reshape(x, (count, -1)) if x.shape.rank == 4 else x
            return tf.nn.bias_add(tf.linalg.matmul(flat, w, transpose_b=True), b)

    ops = Ops()
    images, labels = batch(count)
    x, target = tf.constant(images), tf.constant(labels)
    parameters = {
        name: tf.Variable(a.transpose(1, 2, 3, 0) if a.ndim == 4 else a, name=name)
        for name, a in weights.items()
    }
    moments = [tf.Variable(tf.zeros_like(p)) for p in parameters.values()]

    @tf.function
    def whole() -> Any:
        variables = list(parameters.values())
        with tf.GradientTape() as tape:
            outputs = googlenet_graph(ops, x, parameters)
            main, *heads = (
                tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(target, y))
                for y in outputs
            )
            loss = main + SHARE * sum(heads)
        for p, m, g in zip(variables, moments, tape.gradient(loss, variables), strict=True):
            how = {"lr": RATE, "momentum": MOMENTUM, "grad": g + DECAY * p}
            tf.raw_ops.ResourceApplyMomentum(var=p.handle, accum=m.handle, **how)
        return loss

    return lambda: float(whole())


STEPS: dict[str, Callable[[int, Weights], Step]] = {
    "pyinception": ours,
    "torch": torch,
    "torch, warm allocator": torch,
    "torch.compile": lambda count, weights: torch(count, weights, compiled=True),
    "tensorflow": tensorflow,
}


def _peak() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def main(name: str, count: str, path: str) -> None:
    with np.load(path) as file:
        step = STEPS[name](int(count), dict(file))
    before = _peak()
    loss, _ = step(), step()
    print(loss, _peak() - before, flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        step()
        print(time.perf_counter() - begun, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
