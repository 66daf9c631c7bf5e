"""A stand-in for ``pyinception._C``: the same functions and argument order, over the reference.

It shows that the CPU rows, prepacking and `Session` keep the core's contract where the core is not
built. Every call is noted in ``calls`` as (name, algorithm, level, threads).
"""

from contextlib import contextmanager
from typing import Any

import numpy as np
from pyinception.kernels import reference


def _filters(w: Any, k: int, kernel: tuple[int, int], c: int) -> Any:
    """KRSC filters, from KRSC or from the stand-in's packed order (R, S, C, K)."""
    if w.ndim != 1:
        return w
    return w.reshape(*kernel, c, k).transpose(3, 0, 1, 2)


class Launches:
    """Calls kept for later."""

    def __init__(self) -> None:
        self.work: list[Any] = []
        self.runs: list[int] = []

    def run(self, threads: int) -> None:
        self.runs.append(threads)
        for step in self.work:
            step()


class CoreStandIn:
    """The contract's functions, outputs given."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.launches: Launches | None = None

    def levels(self) -> list[str]:
        return ["x86-64-v3"]

    def host_level(self) -> str:
        return "x86-64-v3"

    def default_threads(self) -> int:
        return 2

    def kernels(self) -> list[dict[str, Any]]:
        tile = {"MR": 6, "NR": 16, "wgrad_MR": 4, "wgrad_NR": 16}
        return [{"name": "stand-in", "level": "x86-64-v3", "scratch": 0, **tile}]

    @contextmanager
    def record(self) -> Any:
        self.launches = Launches()
        try:
            yield self.launches
        finally:
            self.launches = None

    def looks(self, arguments: Any, kinds: Any, switches: Any) -> None:
        """No call is known: each takes the long way."""

    def packed_size(self, k, r, s, c, direction, algorithm, level) -> int:
        return k * r * s * c

    LaunchList = Launches

    def pack(self, w, out, direction, algorithm, level, threads, launches=None) -> None:
        assert w.ndim == 4, w.shape
        assert out.ndim == 1, out.shape
        out[...] = w.transpose(1, 2, 3, 0).ravel()

    def _run(self, name: str, tail: tuple[Any, ...], step: Any) -> None:
        algorithm, level, threads = tail
        self.calls.append((name, algorithm, level, threads))
        if self.launches is None:
            step()
        else:
            self.launches.work.append(step)

    def conv_fprop(self, x, w, b, y, kernel, stride, padding, relu, *tail):
        def step():
            full = _filters(w, y.shape[3], kernel, x.shape[3])
            where = {"stride": stride, "padding": padding, "relu": relu}
            y[...] = reference.conv2d_fprop(x, full, b, **where)

        self._run("conv_fprop", tail, step)

    def conv_dgrad(self, gy, w, y, gx, kernel, stride, padding, accumulate, *tail):
        def step():
            full = _filters(w, gy.shape[3], kernel, gx.shape[3])
            where = {"stride": stride, "padding": padding, "y": y}
            new = reference.conv2d_dgrad(gy, full, gx.shape, **where)
            gx[...] = gx + new if accumulate else new

        self._run("conv_dgrad", tail, step)

    def conv_wgrad(self, x, gy, y, gw, gb, kernel, stride, padding, *tail):
        def step():
            where = {"stride": stride, "padding": padding, "y": y}
            shape = (gy.shape[3], *kernel, x.shape[3])
            gw[...], bias = reference.conv2d_wgrad(x, gy, shape, **where)
            if gb is not None:
                gb[...] = bias

        self._run("conv_wgrad", tail, step)

    def reduce_conv_fprop(self, x, wr, br, w, b, y, r, kernel, stride, padding, *tail):
        *tail, cr = tail

        def step():
            first = _filters(wr, cr, (1, 1), x.shape[3])
            last = _filters(w, y.shape[3], kernel, cr)
            where = {"stride": stride, "padding": padding}
            y[...], new = reference.reduce_conv_fprop(x, first, br, last, b, **where)
            if r is not None:
                r[...] = new

        self._run("reduce_conv_fprop", tail, step)

    def reduce_conv_backward(
        self, gy, x, wr, w, r, y, gx, gwr, gbr, gw, gb, kernel, stride, padding, accumulate, *tail
    ):
        def step():
            where = {"stride": stride, "padding": padding}
            new, *rest = reference.reduce_conv_backward(gy, x, wr, w, r, y, **where)
            gx[...] = gx + new if accumulate else new
            for output, value in zip((gwr, gbr, gw, gb), rest, strict=True):
                output[...] = value

        self._run("reduce_conv_backward", tail, step)

    def inception_fprop(self, x, weights, y, saved, *tail):
        def step():
            sides = (1, 1, 3, 1, 5, 1)
            biases = weights[1::2]
            c = x.shape[3]
            inputs = (c, c, len(biases[1]), c, len(biases[3]), c)
            full = [
                _filters(w, len(b), (side, side), channels)
                for w, b, side, channels in zip(weights[::2], biases, sides, inputs, strict=True)
            ]
            pairs = zip(full, biases, strict=True)
            y[...], new = reference.inception_fprop(x, tuple(a for pair in pairs for a in pair))
            for output, value in zip(saved or (), new, strict=False):
                output[...] = value

        self._run("inception_fprop", tail, step)

    def inception_backward(self, gy, x, weights, y, saved, gx, grads, *tail):
        def step():
            gx[...], new = reference.inception_backward(gy, x, weights, y, saved)
            for output, value in zip(grads, new, strict=True):
                output[...] = value

        self._run("inception_backward", tail, step)

    def depthwise_conv_fprop(self, x, w, b, y, kernel, stride, padding, relu, *tail):
        def step():
            where = {"stride": stride, "padding": padding}
            y[...] = reference.depthwise_conv2d_fprop(x, w, b, relu=relu, **where)

        self._run("depthwise_conv_fprop", tail, step)

    def depthwise_conv_dgrad(self, gy, w, y, gx, kernel, stride, padding, accumulate, *tail):
        def step():
            where = {"stride": stride, "padding": padding}
            new = reference.depthwise_conv2d_dgrad(gy, w, gx.shape, y=y, **where)
            gx[...] = gx + new if accumulate else new

        self._run("depthwise_conv_dgrad", tail, step)

    def depthwise_conv_wgrad(self, x, gy, y, gw, gb, kernel, stride, padding, *tail):
        def step():
            where = {"stride": stride, "padding": padding}
            gw[...], new = reference.depthwise_conv2d_wgrad(x, gy, gw.shape, y=y, **where)
            if gb is not None:
                gb[...] = new

        self._run("depthwise_conv_wgrad", tail, step)

    def add_scaled_fprop(self, a, b, y, scale, relu, *tail):
        def step():
            y[...] = reference.add_scaled_fprop(a, b, scale=scale, relu=relu)

        self._run("add_scaled_fprop", tail, step)

    def add_scaled_dgrad(self, gy, y, ga, gb, scale, *tail):
        def step():
            for out, new in zip(
                (ga, gb), reference.add_scaled_dgrad(gy, scale=scale, y=y), strict=True
            ):
                if out is not None:
                    out[...] = new

        self._run("add_scaled_dgrad", tail, step)

    def max_pool_fprop(self, x, y, argmax, kernel, stride, padding, *tail):
        def step():
            floor = reference.max_pool_fprop(x, kernel, stride, padding)
            right = floor[0].shape == y.shape
            new = floor if right else reference.max_pool_fprop(x, kernel, stride, padding, True)
            y[...] = new[0]
            if argmax is not None:
                argmax[...] = new[1]

        self._run("max_pool_fprop", tail, step)

    def max_pool_dgrad(self, gy, argmax, gx, kernel, stride, padding, *tail):
        def step():
            gx[...] = reference.max_pool_dgrad(gy, argmax, gx.shape, kernel, stride, padding)

        self._run("max_pool_dgrad", tail, step)

    def avg_pool_fprop(self, x, y, kernel, stride, padding, count_include_pad, *tail):
        def step():
            for ceil in (False, True):
                new = reference.avg_pool_fprop(x, kernel, stride, padding, ceil, count_include_pad)
                if new.shape == y.shape:
                    y[...] = new

        self._run("avg_pool_fprop", tail, step)

    def avg_pool_dgrad(self, gy, gx, kernel, stride, padding, count_include_pad, *tail):
        def step():
            where = kernel, stride, padding, count_include_pad
            gx[...] = reference.avg_pool_dgrad(gy, gx.shape, *where)

        self._run("avg_pool_dgrad", tail, step)

    def lrn_fprop(self, x, y, size, alpha, beta, k, *tail):
        def step():
            y[...] = reference.lrn_fprop(x, size, alpha, beta, k)

        self._run("lrn_fprop", tail, step)

    def lrn_dgrad(self, gy, x, gx, size, alpha, beta, k, *tail):
        def step():
            gx[...] = reference.lrn_dgrad(gy, x, size, alpha, beta, k)

        self._run("lrn_dgrad", tail, step)

    def linear_fprop(self, x, w, b, y, relu, *tail):
        def step():
            full = w.reshape(x.shape[1], y.shape[1]).T if w.ndim == 1 else w
            y[...] = reference.linear_fprop(x, full, b, relu=relu)

        self._run("linear_fprop", tail, step)

    def linear_dgrad(self, gy, w, y, gx, *tail):
        def step():
            gx[...] = reference.linear_dgrad(gy, w, y=y)

        self._run("linear_dgrad", tail, step)

    def linear_wgrad(self, x, gy, y, gw, gb, *tail):
        def step():
            gw[...], bias = reference.linear_wgrad(x, gy, y=y)
            if gb is not None:
                gb[...] = bias

        self._run("linear_wgrad", tail, step)

    def softmax_cross_entropy_fprop(self, logits, labels, loss, probs, *tail):
        def step():
            loss[...], probs[...] = reference.softmax_cross_entropy_fprop(logits, labels)

        self._run("softmax_cross_entropy_fprop", tail, step)

    def softmax_cross_entropy_dgrad(self, probs, labels, g, glogits, *tail):
        def step():
            glogits[...] = reference.softmax_cross_entropy_dgrad(probs, labels, g)

        self._run("softmax_cross_entropy_dgrad", tail, step)

    def batch_norm_fprop(self, x, gamma, beta, y, mean, var, eps, relu, *tail):
        def step():
            new = reference.batch_norm_fprop(x, gamma, beta, eps=eps, relu=relu)
            y[...], mean[...], var[...] = new

        self._run("batch_norm_fprop", tail, step)

    def batch_norm_inference(self, x, gamma, beta, mean, var, y, eps, relu, *tail):
        def step():
            how = {"eps": eps, "relu": relu}
            y[...] = reference.batch_norm_inference(x, gamma, beta, mean, var, **how)

        self._run("batch_norm_inference", tail, step)

    def batch_norm_dgrad(self, gy, x, gamma, mean, var, y, gx, ggamma, gbeta, eps, *tail):
        def step():
            new = reference.batch_norm_dgrad(gy, x, gamma, mean, var, eps=eps, y=y)
            gx[...], ggamma[...], gbeta[...] = new

        self._run("batch_norm_dgrad", tail, step)

    def dropout(self, x, y, p, seed, step_number, layer, first_sample, *tail):
        def step():
            how = {"seed": seed, "step": step_number, "layer": layer}
            y[...] = reference.dropout(x, p, first_sample=first_sample, **how)

        self._run("dropout", tail, step)


@contextmanager
def standing_in(monkeypatch: Any) -> Any:
    """Put a stand-in where the core is loaded, and forget plans before and after."""
    from pyinception import backend, dispatch

    core = CoreStandIn()
    monkeypatch.setattr(backend, "_load_core", lambda: (core, None))
    dispatch.clear()
    try:
        yield core
    finally:
        monkeypatch.undo()
        dispatch.clear()


def bits(a: np.ndarray) -> bytes:
    """The bytes of an array, for comparisons in which NaN equals NaN and -0 differs from +0."""
    return np.ascontiguousarray(a).tobytes()
