"""Layers: modules that own their weights and call one op each. Maps are NHWC, filters KRSC.

Weights are zeros until `init.initialise(net, seed)` fills them by each parameter's own rule:
Caffe's xavier for weights, a constant for biases; biases learn twice as fast and do not decay.
"""

import copy
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import numpy as np

from pyinception import ops, rng, workspace
from pyinception.backend import Array, memory_of
from pyinception.extents import integer, padding_pair, pair, real
from pyinception.module import Module
from pyinception.ops.pool import pool_spec
from pyinception.spec import ConvSpec
from pyinception.tensor import Buffer, Parameter, Tensor


def _weight(shape: tuple[int, ...], fan_in: int) -> Parameter:
    return Parameter(shape, fan_in=fan_in)


def _bias(size: int, constant: float) -> Parameter:
    return Parameter((size,), constant=constant, lr_mult=2.0, decay_mult=0.0)


class Conv2d(Module):
    """y = [relu](conv(x, weight) + bias): (N, H, W, C) -> (N, P, Q, K).

    Parameters
    ----------
    in_channels, out_channels : C and K.
    kernel_size, stride : int or pair; padding : int, pair, "same" or "valid".
    relu : fused, forward and backward.
    bias : False for none; a number for its initial value.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        *,
        relu: bool = False,
        bias: float | bool = 0.2,
    ) -> None:
        super().__init__()
        r, s = pair("Conv2d", "kernel_size", kernel_size, 1)
        c = integer("Conv2d", "in_channels", in_channels, 1)
        k = integer("Conv2d", "out_channels", out_channels, 1)
        self.weight = _weight((k, r, s, c), fan_in=r * s * c)
        self.bias = None if bias is False else _bias(k, float(bias))
        self.stride, self.padding, self.relu = stride, padding, relu

    def forward(self, x: Tensor, out: Array | None = None) -> Tensor:
        op = ops.Conv(self.stride, self.padding, self.relu, out)
        return op(x, self.weight, self.bias)

    def extents(self, x_shape: Sequence[int]) -> tuple[int, int, int]:
        """(P, Q, K) for a map of shape (N, H, W, C)."""
        k, r, s, c = self.weight.shape
        stride = pair("Conv2d", "stride", self.stride, 1)
        padding = padding_pair("Conv2d", self.padding, (r, s))
        spec = ConvSpec(1, x_shape[1], x_shape[2], c, k, r, s, stride, padding, function="Conv2d")
        return spec.P, spec.Q, k


class DepthwiseConv2d(Conv2d):
    """y[k] = [relu](conv(x[k // M], weight[k]) + bias[k]), M = out_channels / in_channels.

    Arguments as in `Conv2d`; ``weight`` is (K, R, S, 1).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = "same",
        *,
        relu: bool = False,
        bias: float | bool = False,
    ) -> None:
        super().__init__(1, out_channels, kernel_size, stride, padding, relu=relu, bias=bias)
        c = integer("DepthwiseConv2d", "in_channels", in_channels, 1)
        if out_channels % c:
            text = f"out_channels is {out_channels}, expected a multiple of in_channels = {c}"
            raise ValueError(f"DepthwiseConv2d: {text}")

    def forward(self, x: Tensor, out: Array | None = None) -> Tensor:
        op = ops.DepthwiseConv(self.stride, self.padding, self.relu, out)
        return op(x, self.weight, self.bias)


class SeparableConv2d(Module):
    """y = pointwise(depthwise(x)): `Conv2d` or `ConvBatchNorm` of a 1x1, no ReLU between."""

    def __init__(
        self,
        in_channels: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        pointwise: Any,
        *,
        multiplier: int = 1,
    ) -> None:
        super().__init__()
        channels = in_channels * integer("SeparableConv2d", "multiplier", multiplier, 1)
        self.depthwise = DepthwiseConv2d(in_channels, channels, kernel_size, stride, padding)
        self.pointwise = pointwise

    def forward(self, x: Tensor, out: Array | None = None) -> Tensor:
        y: Tensor = self.pointwise(self.depthwise(x), out=out)
        return y

    def extents(self, x_shape: Sequence[int]) -> tuple[int, int, int]:
        """(P, Q, K) for a map of shape (N, H, W, C)."""
        p, q, c = self.depthwise.extents(x_shape)
        shape: tuple[int, int, int] = self.pointwise.extents((x_shape[0], p, q, c))
        return shape


class ReduceConv2d(Module):
    """y = relu(conv(relu(conv1x1(x)))), the fused branch, as two named convolutions.

    ``reduce`` holds the 1x1 (Cr, 1, 1, C), ``conv`` the RxS (K, R, S, Cr).
    """

    def __init__(
        self,
        in_channels: int,
        reduced_channels: int,
        out_channels: int,
        kernel_size: Any = 3,
        stride: Any = 1,
        padding: Any = "same",
        *,
        bias: float = 0.2,
    ) -> None:
        super().__init__()
        self.reduce = Conv2d(in_channels, reduced_channels, 1, relu=True, bias=bias)
        self.conv = Conv2d(reduced_channels, out_channels, kernel_size, relu=True, bias=bias)
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor, out: Array | None = None) -> Tensor:
        first, last = self.reduce, self.conv
        op = ops.ReduceConv(self.stride, self.padding, out)
        return op(x, first.weight, first.bias, last.weight, last.bias)


class Inception(Module):
    """GoogLeNet's module; six convolutions in one op, named as in Caffe's model.

    Parameters
    ----------
    in_channels : C.
    widths : output channels (1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection).
    """

    def __init__(self, in_channels: int, *widths: int, bias: float = 0.2) -> None:
        super().__init__()
        if len(widths) != 6:
            raise ValueError(f"Inception: widths has {len(widths)} numbers, expected 6")
        n1, r3, n3, r5, n5, proj = widths
        self.conv1x1 = Conv2d(in_channels, n1, 1, relu=True, bias=bias)
        self.reduce3x3 = Conv2d(in_channels, r3, 1, relu=True, bias=bias)
        self.conv3x3 = Conv2d(r3, n3, 3, padding=1, relu=True, bias=bias)
        self.reduce5x5 = Conv2d(in_channels, r5, 1, relu=True, bias=bias)
        self.conv5x5 = Conv2d(r5, n5, 5, padding=2, relu=True, bias=bias)
        self.pool_proj = Conv2d(in_channels, proj, 1, relu=True, bias=bias)
        self.out_channels = n1 + n3 + n5 + proj

    def forward(self, x: Tensor) -> Tensor:
        return ops.Inception()(x, *self.parameters())


class _Pool(Module):
    kind = ""

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.window = kernel_size, stride, padding, ceil_mode, count_include_pad

    def forward(self, x: Tensor, out: Array | None = None) -> Tensor:
        return ops.Pool(self.kind, *self.window, out=out)(x)

    def extents(self, x_shape: Sequence[int]) -> tuple[int, int, int]:
        """(P, Q, C) for a map of shape (N, H, W, C)."""
        spec = pool_spec(type(self).__name__, self.kind, x_shape, *self.window)
        return spec.P, spec.Q, spec.C


class MaxPool2d(_Pool):
    """y = maximum of each window inside the image; ``ceil_mode`` gives Caffe's extents."""

    kind = "max"


class AvgPool2d(_Pool):
    """y = mean of each window; padding counts as Caffe counts it."""

    kind = "avg"


class GlobalAvgPool(Module):
    """y[n,0,0,c] = mean over the whole map."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.Pool("avg", x.shape[1:3])(x)


class Lrn(Module):
    """y_c = x_c (k + alpha/size sum x_c'^2)^-beta across channels."""

    def __init__(
        self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
    ) -> None:
        super().__init__()
        self.constants = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        return ops.Lrn(*self.constants)(x)


class Linear(Module):
    """y = [relu](x weight^T + bias); a map (N, H, W, C) is flattened in H, W, C order first."""

    def __init__(
        self, in_features: int, out_features: int, *, relu: bool = False, bias: float = 0.0
    ) -> None:
        super().__init__()
        c = integer("Linear", "in_features", in_features, 1)
        k = integer("Linear", "out_features", out_features, 1)
        self.weight = _weight((k, c), fan_in=c)
        self.bias = _bias(k, bias)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        return ops.Linear(self.relu)(ops.flatten(x), self.weight, self.bias)


class BatchNorm(Module):
    """y = [relu](gamma (x - mean) / sqrt(var + eps) + beta), the ReLU in the same op.

    Training normalises by the batch and moves ``mean`` and ``var`` (buffers, part of the state) by
    ``momentum`` towards the batch's mean and unbiased variance; evaluation uses them.
    """

    def __init__(
        self, channels: int, *, relu: bool = False, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__()
        c = integer("BatchNorm", "channels", channels, 1)
        self.gamma = Parameter((c,), constant=1.0, decay_mult=0.0)
        self.beta = Parameter((c,), decay_mult=0.0)
        self.mean, self.var = Buffer(np.zeros(c, np.float32)), Buffer(np.ones(c, np.float32))
        real("BatchNorm", "eps", eps)
        real("BatchNorm", "momentum", momentum, most=1)
        self.relu, self.eps, self.momentum = relu, eps, momentum

    def forward(self, x: Tensor, out: Array | None = None) -> Tensor:
        if not self.training:
            op = ops.FrozenBatchNorm(self.mean.data, self.var.data, self.eps, self.relu, out)
            return op(x, self.gamma, self.beta)
        if x.data.size == 0:
            raise ValueError(f"batch_norm: x has shape {x.shape}, expected at least one sample")
        batch = ops.BatchNorm(self.eps, self.relu, out)
        y = batch(x, self.gamma, self.beta)
        assert batch.statistics is not None
        count = x.data.size // x.shape[-1]
        mean, var = batch.statistics
        for buffer, value in ((self.mean, mean), (self.var, var * (count / max(count - 1, 1)))):
            workspace.host(_move(self.momentum), value, buffer.data)
            buffer.version += 1
        return y


def _move(momentum: float) -> Any:
    def move(value: Array, running: Array) -> None:
        running *= running.dtype.type(1 - momentum)
        running += value * running.dtype.type(momentum)

    return move


class Dropout(Module):
    """y = x keep / (1 - p) in training, x in evaluation; ``p`` is the share dropped.

    The mask is a function of (seed, step) of `rng.at`, this layer's path and each sample's place.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"Dropout: p is {p}, expected 0 <= p < 1")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        stream = rng.current()
        layer = crc32(self.path.encode())
        place = {"seed": stream.seed, "step": stream.step, "first_sample": stream.first_sample}
        return ops.Dropout(self.p, layer=layer, **place)(x)


class Relu(Module):
    """y = max(x, 0), NaN kept; convolutions, linear layers and batch norms have it fused."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.Relu()(x)


class Flatten(Module):
    """(N, H, W, C) -> (N, H W C), in that order of elements."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.flatten(x)


class ConvBatchNorm(Module):
    """y = [relu](batch_norm(conv(x) [+ bias])), the last step written into ``out`` if given.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding : as in `Conv2d`.
    bias : initial value of the convolution's bias; False for none, as the norm has its own.
    eps, relu : of the normalisation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = "same",
        *,
        bias: float | bool = 0.0,
        eps: float = 1e-5,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.conv = Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        self.norm = BatchNorm(out_channels, relu=relu, eps=eps)

    def forward(self, x: Tensor, out: Array | None = None) -> Tensor:
        y: Tensor = self.norm(self.conv(x), out=out)
        return y

    def extents(self, x_shape: Sequence[int]) -> tuple[int, int, int]:
        """(P, Q, K) for a map of shape (N, H, W, C)."""
        return self.conv.extents(x_shape)

    def folded(self) -> Conv2d:
        """One convolution that computes the same in evaluation: w gamma / sqrt(var + eps), ..."""
        conv, norm = self.conv, self.norm
        k, r, s, c = conv.weight.shape
        one = Conv2d(c, k, (r, s), conv.stride, conv.padding, relu=norm.relu, bias=0.0)
        one.astype(conv.weight.values.dtype).to(memory_of(conv.weight.data))
        scale = norm.gamma.data / (norm.var.data.astype(np.float64) + norm.eps) ** 0.5
        bias = -norm.mean.data if conv.bias is None else conv.bias.data - norm.mean.data
        one.weight.data[...] = conv.weight.values * scale[:, None, None, None]
        assert one.bias is not None
        one.bias.data[...] = norm.beta.data + bias * scale
        if conv.weight.master is not None:  # folded in float32, rounded once
            one.store_as(conv.weight.dtype.name)
        return one


def fold_batch_norms(net: Module) -> Module:
    """A copy of ``net`` for inference in which every convolution holds its batch norm.

    w' = w gamma / sqrt(var + eps), b' = beta + (b - mean) gamma / sqrt(var + eps), in float64 and
    rounded once. The copy is in evaluation mode; it does not follow later changes of ``net``.
    """
    if isinstance(net, ConvBatchNorm):
        return net.folded().eval()
    folded = copy.deepcopy(net)
    for module in list(folded.modules()):
        for name, part in list(module.children()):
            if isinstance(part, ConvBatchNorm):
                setattr(module, name, part.folded())
    return folded.eval()
