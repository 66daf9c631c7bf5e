"""Put `Inception` modules in place of the blocks of a network that exists already.

A block is recognised by its structure, never by its class: four children ``branch1`` ...
``branch4`` with 1x1 | 1x1 -> 3x3 | 1x1 -> 5x5 (or 3x3) | max pool 3x3 -> 1x1, ReLU after every
convolution. A convolution is an ``nn.Conv2d`` followed by ``nn.ReLU``, or a module with ``conv``
and maybe ``bn``, as torchvision's BasicConv2d, whose forward ends in a ReLU. Batch norms are folded
with their running statistics, so such blocks serve inference.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pyinception.interop.torch.modules import Inception
from pyinception.ops.weights import NAMES

BRANCHES = ("branch1", "branch2", "branch3", "branch4")


class _Unlike(Exception):
    """Why something is not a block that `Inception` can stand for."""


@dataclass(frozen=True)
class _Stage:
    """One convolution with its ReLU, and the batch norm between them, if any."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None

    def weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(filter, bias), the batch norm folded in: w g / s and (b - mean) g / s + beta."""
        conv, norm = self.conv, self.norm
        w, b = conv.weight.detach(), conv.bias
        bias = w.new_zeros(len(w)) if b is None else b.detach()
        if norm is None:
            return w, bias
        mean, variance = norm.running_mean, norm.running_var
        if mean is None or variance is None:
            raise _Unlike("its batch norm has no running statistics")
        # In double precision: folding then costs one rounding of each weight.
        scale = (variance.double() + norm.eps).rsqrt()
        beta = w.new_zeros(len(w), dtype=torch.float64)
        if norm.weight is not None:
            scale = scale * norm.weight.detach().double()
        if norm.bias is not None:
            beta = norm.bias.detach().double()
        folded = (bias.double() - mean.double()) * scale + beta
        return (w.double() * scale[:, None, None, None]).to(w.dtype), folded.to(w.dtype)


def replace_inception(model: nn.Module, *, strict: bool = True) -> int:
    """Replace every block of ``model`` by an `Inception` with its weights; returns how many.

    Parameters
    ----------
    model : changed in place; NCHW or channels_last, float32, on the cpu also float64.
    strict : whether a block with four branches that does not fit raises; else it stays as it is.

    Raises
    ------
    ValueError
        If ``strict`` and a block differs from what `Inception` computes (the reason is named), if
        the block has batch norms and is in training mode, or if the model has no block at all.

    Examples
    --------
    >>> replace_inception(googlenet.eval())
    9
    """
    found = 0
    for path, parent, name, block in list(_blocks(model)):
        try:
            new = _stand_in(block)
        except _Unlike as reason:
            if strict:
                text = f"{path} is not a block that Inception computes: {reason}"
                raise ValueError(f"replace_inception: {text}") from None
            continue
        new.train(block.training)
        setattr(parent, name, new)
        found += 1
    if strict and not found:
        text = f"model has no block with {', '.join(BRANCHES)}"
        raise ValueError(f"replace_inception: {text}")
    return found


def _blocks(model: nn.Module, path: str = "model") -> Iterator[tuple[str, Any, str, nn.Module]]:
    """(path, parent, name, block) of every module with four branches below ``model``."""
    for name, child in model.named_children():
        where = f"{path}.{name}"
        if all(isinstance(getattr(child, branch, None), nn.Module) for branch in BRANCHES):
            yield where, model, name, child
        else:
            yield from _blocks(child, where)


def _stand_in(block: nn.Module) -> Inception:
    """An `Inception` with the weights of ``block``."""
    extra = {name for name, _ in block.named_children()} - set(BRANCHES)
    if extra:
        raise _Unlike(f"it also has {', '.join(sorted(extra))}")
    parts = [_flat(getattr(block, name)) for name in BRANCHES]
    stages = (
        _convolutions(parts[0], "branch1", (1,)),
        _convolutions(parts[1], "branch2", (1, 3)),
        _convolutions(parts[2], "branch3", (1, (3, 5))),
        _convolutions(_after_pool(parts[3]), "branch4", (1,)),
    )
    convs = list(itertools.chain(*stages))
    if block.training and any(stage.norm is not None for stage in convs):
        raise _Unlike("it has batch norms and is in training mode; call model.eval() first")
    pairs = [stage.weights() for stage in convs]
    widths, (w1, _), (w5, _) = [len(w) for w, _ in pairs], pairs[0], pairs[4]
    kind = {"dtype": w1.dtype, "device": w1.device}
    new = Inception(w1.shape[1], widths, int(w5.shape[2]), **kind)
    state = dict(zip(NAMES, itertools.chain(*pairs), strict=True))
    try:
        new.load_state_dict(state)
    except RuntimeError as error:
        raise _Unlike(f"its filters do not fit each other ({error})") from None
    trained = all(parameter.requires_grad for parameter in block.parameters())
    new.requires_grad_(trained and all(stage.norm is None for stage in convs))
    return new


def _flat(module: nn.Module) -> list[nn.Module]:
    """The steps of a branch: nested Sequentials in order, nn.Identity left out."""
    if isinstance(module, nn.Sequential):
        return [step for child in module for step in _flat(child)]
    return [] if isinstance(module, nn.Identity) else [module]


def _after_pool(steps: list[nn.Module]) -> list[nn.Module]:
    pool = steps[0] if steps else None
    if not isinstance(pool, nn.MaxPool2d):
        raise _Unlike("branch4 does not begin with nn.MaxPool2d")
    names = ("kernel_size", "stride", "padding", "dilation")
    actual = tuple(_pair(getattr(pool, name)) for name in names)
    if actual != ((3, 3), (1, 1), (1, 1), (1, 1)) or pool.return_indices:
        raise _Unlike(f"branch4 has {pool}, expected 3x3 with stride 1 and padding 1")
    return steps[1:]  # with stride 1 and padding 1, ceil_mode changes nothing


def _convolutions(steps: list[nn.Module], branch: str, kernels: Any) -> list[_Stage]:
    """The convolutions of a branch, each with its ReLU; `_Unlike` for anything else."""
    stages: list[_Stage] = []
    rest = list(steps)
    while rest:
        stages.append(_stage(rest, branch))
    found = [stage.conv.kernel_size for stage in stages]
    wanted = [k if isinstance(k, tuple) else (k,) for k in kernels]
    if len(found) != len(wanted) or any(
        r != s or r not in allowed for (r, s), allowed in zip(found, wanted, strict=True)
    ):
        text = " -> ".join(" or ".join(f"{k}x{k}" for k in allowed) for allowed in wanted)
        raise _Unlike(f"{branch} has convolutions of {found}, expected {text}")
    for stage in stages:
        _check_conv(stage.conv, branch)
    return stages


def _stage(rest: list[nn.Module], branch: str) -> _Stage:
    """Take one convolution, its batch norm and its ReLU off ``rest``."""
    first = rest.pop(0)
    if isinstance(first, nn.Conv2d):
        after = rest.pop(0) if rest else None
        norm = after if isinstance(after, nn.BatchNorm2d) else None
        if norm is not None:
            after = rest.pop(0) if rest else None
        if not isinstance(after, nn.ReLU):
            raise _Unlike(f"{branch} has a convolution without nn.ReLU after it")
        return _Stage(first, norm)
    conv, norm = getattr(first, "conv", None), getattr(first, "bn", None)
    children = {name for name, _ in first.named_children()}
    if not isinstance(conv, nn.Conv2d) or not children <= {"conv", "bn", "relu"}:
        raise _Unlike(f"{branch} has a {type(first).__name__}, expected convolutions with ReLU")
    if not isinstance(norm, nn.BatchNorm2d | None):
        raise _Unlike(f"{branch} has a {type(norm).__name__} as bn, expected nn.BatchNorm2d")
    _check_forward(first, branch)
    return _Stage(conv, norm)


def _check_forward(unit: nn.Module, branch: str) -> None:
    """Raise unless ``unit`` computes relu([bn](conv(x))): its class is not ours, so try it."""
    conv: Any = unit.conv
    norm: Callable[[Any], Any] = getattr(unit, "bn", None) or nn.Identity()
    x = torch.linspace(-1, 1, conv.in_channels * 25, dtype=conv.weight.dtype)
    x = x.reshape(1, conv.in_channels, 5, 5).to(conv.weight.device)
    training = unit.training
    unit.eval()
    try:
        with torch.no_grad():
            same = torch.equal(unit(x), torch.relu(norm(conv(x))))
    finally:
        unit.train(training)
    if not same:
        raise _Unlike(f"{branch} has a {type(unit).__name__} that is not relu(bn(conv(x)))")


def _check_conv(conv: nn.Conv2d, branch: str) -> None:
    same = (conv.kernel_size[0] // 2, conv.kernel_size[1] // 2)
    padding = (
        same if conv.padding == "same" else (0, 0) if conv.padding == "valid" else conv.padding
    )
    actual = conv.stride, padding, conv.dilation, conv.groups
    if actual != ((1, 1), same, (1, 1), 1) or conv.padding_mode != "zeros":
        raise _Unlike(f"{branch} has {conv}, expected stride 1, padding {same}, no groups")
    weight = conv.weight
    served = weight.device.type in ("cpu", "cuda")
    if not served or weight.dtype not in (torch.float32, torch.float64):
        text = f"on {weight.device} in {weight.dtype}, expected the cpu or CUDA, torch.float32"
        raise _Unlike(f"{branch} has its filters {text}")


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
