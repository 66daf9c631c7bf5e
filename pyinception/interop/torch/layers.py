"""The layers between the blocks: convolution with its ReLU, and local response normalisation.

Each is a subclass of PyTorch's own layer with the same parameters, so names, ``state_dict`` and
optimizers stay as they are. Where one of our kernels does not fit (other dtypes and devices,
torch.compile, torch.func, autocast; for the normalisation also gradients) the layer computes as
PyTorch's does.
"""

import itertools
from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pyinception.interop.torch import kernels, watch
from pyinception.interop.torch.functions import convolve, is_direct
from pyinception.interop.torch.replace import BRANCHES


class Conv2dReLU(nn.Conv2d):
    """y = relu(conv2d(x, weight) + bias): stride and padding free, no groups, no dilation.

    x (N, C, H, W) to y (N, K, P, Q) in channels_last memory. Outside training the filter is kept
    packed, as `Inception` keeps its own.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if _elsewhere() or not _fits(x, self.weight):
            return F.relu(super().forward(x))
        return convolve((x, self.weight, self.bias), self.stride, self.padding, True, keep=True)


class LocalResponseNorm(nn.LocalResponseNorm):
    """y_c = x_c (k + alpha/size sum_{c' in window} x_c'^2)^-beta, ``size`` odd; x (N, C, H, W)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if _elsewhere() or not (_fits(x) and is_direct("lrn", (x,))):
            return super().forward(x)
        return kernels.lrn(x, self.size, float(self.alpha), float(self.beta), float(self.k))


def _elsewhere() -> bool:
    """Whether a compiler, a transform, forward mode or autocast wants PyTorch's own ops."""
    return (
        torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cpu")
        or watch.in_transform()
        or watch.in_forward_mode()
    )


def _fits(*tensors: torch.Tensor) -> bool:
    """Whether these are maps and filters that our kernels read: dense, float32, on the cpu."""
    return all(
        t.dim() == 4 and t.dtype is torch.float32 and t.is_cpu and t.layout is torch.strided
        for t in tensors
    )


def replace_layers(model: nn.Module) -> int:
    """Put `Conv2dReLU` and `LocalResponseNorm` in place of PyTorch's layers; returns how many.

    An ``nn.Conv2d`` with an ``nn.ReLU`` right behind it in an ``nn.Sequential`` takes the ReLU in,
    which becomes an ``nn.Identity``; parameters are the same tensors under the same names. What
    does not fit stays, and so do blocks with four branches: call `replace_inception` first.

    Parameters
    ----------
    model : changed in place. Fastest in channels_last memory: ``model.to(memory_format=...)``.

    Examples
    --------
    >>> replace_inception(googlenet), replace_layers(googlenet)
    (9, 4)
    """
    uses = Counter(id(layer) for _, layer in model.named_modules(remove_duplicate=False))
    return _replace_in(model, {key for key, count in uses.items() if count > 1})


def _replace_in(model: nn.Module, shared: set[int]) -> int:
    if all(hasattr(model, branch) for branch in BRANCHES):
        return 0
    found = 0
    children = [*model._modules.items(), ("", None)]
    for (_, layer), (after, behind) in itertools.pairwise(children):
        if type(layer) is nn.LocalResponseNorm and _is_lrn(layer):
            layer.__class__ = LocalResponseNorm
            found += 1
        elif (
            isinstance(model, nn.Sequential)
            and type(behind) is nn.ReLU
            and not _hooked(behind)  # an Identity would call them with other results, or never
            and _is_conv(layer)
            and id(layer) not in shared  # elsewhere it may have no ReLU behind it
        ):
            layer.__class__ = Conv2dReLU
            setattr(model, after, nn.Identity())
            found += 1
        elif layer is not None:
            found += _replace_in(layer, shared)
    return found


def _hooked(layer: nn.Module) -> bool:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(layer, name) for name in names)


def _is_lrn(layer: nn.LocalResponseNorm) -> bool:
    return layer.size % 2 == 1 and layer.alpha >= 0 and layer.beta >= 0 and layer.k > 0


def _is_conv(layer: Any) -> bool:
    if type(layer) is not nn.Conv2d or _hooked(layer):
        return False
    if layer.padding == "same" and any(extent % 2 == 0 for extent in layer.kernel_size):
        return False  # PyTorch pads such a filter by more on one side
    return (layer.groups, layer.dilation, layer.padding_mode) == (1, (1, 1), "zeros")
