"""NumPy on the same problem: im2col and one matrix product by BLAS a convolution, NHWC, float32."""

from typing import Any

import numpy as np

from pyinception.backend import Array
from pyinception.bench.rivals import Graph, Opponent, each
from pyinception.bench.timing import once


class NumPy:
    """What one writes without a library: every window a row, then ``rows @ filters``."""

    name, version = "numpy", np.__version__

    def __init__(self, threads: int) -> None:
        from threadpoolctl import ThreadpoolController

        self.threads, self.controller = threads, ThreadpoolController()

    def prepare(self, graph: Graph, x: Array, weights: Any) -> Opponent:
        """``weights``: a list or a dict of arrays, filters KRSC or (K, C)."""
        shared: dict[str, Any] = {}

        def build() -> None:
            shared["weights"] = each(self.weight, weights)
            call()

        def call() -> None:
            with self.controller.limit(limits=self.threads, user_api="blas"):
                shared["y"] = graph(self, x, shared["weights"])

        return Opponent(call, lambda: np.asarray(shared["y"]), lambda: x, once(build))

    def weight(self, array: Array) -> Array:
        """KRSC under the shape (R, S, C, K), a filter's terms down a column; others as they are."""
        if array.ndim != 4:
            return array
        return np.ascontiguousarray(array.reshape(len(array), -1).T).reshape(
            *array.shape[1:], len(array)
        )

    def conv(self, x: Array, w: Array, b: Array, stride: Any, padding: Any, relu: bool) -> Array:
        r, s, c, k = w.shape
        windows = self._windows(x, (r, s), stride, padding, 0.0, ceil=False)
        n, p, q = windows.shape[:3]
        # (N, P, Q, C, R, S) -> (N, P, Q, R, S, C): a copy, but for a 1x1 of stride 1
        rows = windows.transpose(0, 1, 2, 4, 5, 3).reshape(n * p * q, r * s * c)
        y = rows @ w.reshape(r * s * c, k)
        y += b
        return (np.maximum(y, 0, out=y) if relu else y).reshape(n, p, q, k)

    @staticmethod
    def _windows(
        x: Array, kernel: Any, stride: Any, padding: Any, border: float, ceil: bool
    ) -> Array:
        """(N, P, Q, C, R, S), a view of x inside its border; ``ceil``: Caffe's rule."""
        pads = []
        for extent, size, step, pad in zip(x.shape[1:3], kernel, stride, padding, strict=True):
            count = (extent + 2 * pad - size + (step - 1) * ceil) // step + 1
            if ceil and (count - 1) * step >= extent + pad:
                count -= 1  # a window begins inside the map or its left border
            pads.append((pad, max(0, (count - 1) * step + size - extent - pad)))
        if any(map(any, pads)):
            x = np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=border)
        view = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(1, 2))
        return view[:, :: stride[0], :: stride[1]]

    def max_pool(self, x: Array, kernel: Any, stride: Any, padding: Any, ceil: bool) -> Array:
        windows = self._windows(x, kernel, stride, padding, -np.inf, ceil)
        y = windows[..., 0, 0].copy()
        for i in range(kernel[0]):
            for j in range(kernel[1]):
                np.maximum(y, windows[..., i, j], out=y)
        return y

    def avg_pool(
        self, x: Array, kernel: Any, stride: Any, padding: Any, include_pad: bool
    ) -> Array:
        total = self._windows(x, kernel, stride, padding, 0.0, ceil=False).sum((-2, -1))
        if include_pad:
            return np.asarray(total / np.float32(kernel[0] * kernel[1]))
        ones = np.ones((1, *x.shape[1:3], 1), np.float32)
        inside = self._windows(ones, kernel, stride, padding, 0.0, ceil=False).sum((-2, -1))
        return np.asarray(total / inside)

    def mean(self, x: Array) -> Array:
        return x.mean((1, 2), keepdims=True)

    def lrn(self, x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
        half = size // 2
        squares = np.pad(x * x, ((0, 0), (0, 0), (0, 0), (half, half)))
        total = np.zeros_like(x)
        for i in range(size):
            total += squares[..., i : i + x.shape[3]]
        return x * (np.float32(k) + np.float32(alpha / size) * total) ** np.float32(-beta)

    def concat(self, parts: list[Array]) -> Array:
        return np.concatenate(parts, axis=3)

    def linear(self, x: Array, w: Array, b: Array) -> Array:
        # Filters over (C, H, W) would be another order; here every map that comes is 1x1.
        return x.reshape(len(x), -1) @ w.T + b
