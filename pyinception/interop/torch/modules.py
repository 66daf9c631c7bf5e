"""Modules that stand in for PyTorch's own layers: the fused branch and GoogLeNet's block.

Outside training they keep their filters packed, and pack again when a parameter's version has
changed: optimizers and ``load_state_dict`` are seen. A change through ``.data`` is not, since
PyTorch does not count it; call ``repack()`` after one.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from pyinception.extents import integer, padding_pair, pair
from pyinception.interop.torch import filters
from pyinception.interop.torch.functions import branch, module
from pyinception.ops.weights import NAMES, weight_shapes


class _Fused(nn.Module):
    """Parameters, their first values, and packed filters that follow them."""

    def _create(self, name: str, shape: Sequence[int], kind: dict[str, Any]) -> None:
        """A filter (K, C, R, S), laid channels last, or a bias (K,)."""
        value = torch.empty(tuple(shape), **kind)
        if value.ndim == 4:
            value = value.contiguous(memory_format=torch.channels_last)
        self.register_parameter(name, nn.Parameter(value))

    def _pairs(self) -> list[tuple[Any, Any]]:
        """(filter, bias) of every convolution."""
        weights: list[Any] = list(self._parameters.values())
        return list(zip(weights[::2], weights[1::2], strict=True))

    def reset_parameters(self) -> None:
        """He's initialisation for the ReLU that follows every convolution; biases are 0."""
        for weight, bias in self._pairs():
            nn.init.kaiming_normal_(weight, nonlinearity="relu")
            if bias is not None:
                nn.init.zeros_(bias)

    def repack(self) -> None:
        """Pack again at the next call: after changes that go through ``.data``."""
        filters.forget(*self.parameters())


class ReduceConv2d(_Fused):
    """y = relu(conv2d(r, w) + b), r = relu(conv2d(x, w_reduce) + b_reduce): `reduce_conv2d`.

    x (N, C, H, W) to y (N, K, P, Q). Parameters: w_reduce (Cr, C, 1, 1), b_reduce (Cr,),
    w (K, Cr, R, S), b (K,).

    Parameters
    ----------
    in_channels, reduced_channels, out_channels : C, Cr, K.
    kernel_size, stride, padding : of the second convolution; padding also "same" or "valid".
    bias : whether both convolutions have one.
    """

    def __init__(
        self,
        in_channels: int,
        reduced_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = "same",
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        counts = (in_channels, reduced_channels, out_channels)
        names = ("in_channels", "reduced_channels", "out_channels")
        c, cr, k = (integer("ReduceConv2d", n, v, 1) for n, v in zip(names, counts, strict=True))
        kernel = pair("ReduceConv2d", "kernel_size", kernel_size, 1)
        paddings = padding_pair("ReduceConv2d", padding, kernel)
        self.window = pair("ReduceConv2d", "stride", stride, 1), paddings
        kind = {"device": device, "dtype": dtype}
        shapes = {"w_reduce": (cr, c, 1, 1), "b_reduce": (cr,), "w": (k, cr, *kernel), "b": (k,)}
        for name, shape in shapes.items():
            if bias or len(shape) == 4:
                self._create(name, shape, kind)
            else:
                self.register_parameter(name, None)
        self.reset_parameters()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        own = self._parameters
        tensors = x, own["w_reduce"], own["b_reduce"], own["w"], own["b"]
        return branch(tensors, *self.window, keep=True)

    def extra_repr(self) -> str:
        (w_reduce, _), (w, _) = self._pairs()
        (cr, c), (k, _, r, s) = w_reduce.shape[:2], w.shape
        stride, padding = self.window
        return f"{c} -> {cr} -> {k}, kernel_size={(r, s)}, stride={stride}, padding={padding}"


class Inception(_Fused):
    """y = [1x1 | 1x1 -> 3x3 | 1x1 -> 5x5 | max pool 3x3 -> 1x1] along channels: `inception`.

    x (N, C, H, W) to y (N, K1 + K3 + K5 + Kp, H, W), ReLU after every convolution. Parameters:
    those of `pyinception.InceptionWeights`, filters (K, C, R, S).

    Parameters
    ----------
    in_channels : C.
    widths : output channels (1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection).
    third : extent of the third branch's filter, 5 as in the paper or 3 as in torchvision.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        third: int = 5,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if len(widths) != 6:
            raise ValueError(f"Inception: widths is {tuple(widths)}, expected six numbers")
        if third not in (3, 5):
            raise ValueError(f"Inception: third is {third!r}, expected 3 or 5")
        counts = [integer("Inception", f"widths[{i}]", n, 1) for i, n in enumerate(widths)]
        channels = integer("Inception", "in_channels", in_channels, 1)
        kind = {"device": device, "dtype": dtype}
        for name, shape in zip(NAMES, weight_shapes(channels, counts, third), strict=True):
            self._create(
                name, shape if len(shape) == 1 else (shape[0], shape[3], *shape[1:3]), kind
            )
        self.reset_parameters()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        own = self._parameters
        return module((x, *[own[name] for name in NAMES]), keep=True)

    def extra_repr(self) -> str:
        weights = [weight for weight, _ in self._pairs()]
        third = weights[4].shape[2]
        return f"{weights[0].shape[1]} -> {tuple(map(len, weights))}, third={third}"
