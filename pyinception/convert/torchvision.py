"""torchvision's googlenet and inception_v3, by the names of their state dicts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pyinception import models
from pyinception.backend import Array
from pyinception.convert.files import ConvertError, count_classes, fill, hwc_columns, krsc
from pyinception.module import Module

_NORM = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"}
# Both networks were ported from TensorFlow: with transform_input, as every published weight is
# used, the images go to [-1, 1].
_HOW = {"scale": 255.0, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

# Ours -> torchvision's, by kind of block: branch, place -> name.
_A = {"1.0": "branch1x1", "2.0": "branch5x5_1", "2.1": "branch5x5_2", "3.0": "branch3x3dbl_1",
      "3.1": "branch3x3dbl_2", "3.2": "branch3x3dbl_3", "4.1": "branch_pool"}  # fmt: skip
_B = {"1.0": "branch3x3", "2.0": "branch3x3dbl_1", "2.1": "branch3x3dbl_2", "2.2": "branch3x3dbl_3"}
_C = {"1.0": "branch1x1", "4.1": "branch_pool"}
_C |= {f"2.{i}": f"branch7x7_{i + 1}" for i in range(3)}
_C |= {f"3.{i}": f"branch7x7dbl_{i + 1}" for i in range(5)}
_D = {"1.0": "branch3x3_1", "1.1": "branch3x3_2"}
_D |= {f"2.{i}": f"branch7x7x3_{i + 1}" for i in range(4)}
_E = {"1.0": "branch1x1", "2.0": "branch3x3_1", "2.1a": "branch3x3_2a", "2.1b": "branch3x3_2b",
      "3.0": "branch3x3dbl_1", "3.1": "branch3x3dbl_2", "3.2a": "branch3x3dbl_3a",
      "3.2b": "branch3x3dbl_3b", "4.1": "branch_pool"}  # fmt: skip
_BLOCKS = {"5b": _A, "5c": _A, "5d": _A, "6a": _B, "6b": _C, "6c": _C, "6d": _C, "6e": _C,
           "7a": _D, "7b": _E, "7c": _E}  # fmt: skip
_STEM = {"conv1a": "Conv2d_1a_3x3", "conv2a": "Conv2d_2a_3x3", "conv2b": "Conv2d_2b_3x3",
         "conv3b": "Conv2d_3b_1x1", "conv4a": "Conv2d_4a_3x3", "aux1": "AuxLogits"}  # fmt: skip


def _unit(name: str) -> str:
    """The tail of a name: our conv and norm are torchvision's conv and bn."""
    head, _, last = name.rpartition(".")
    if head.endswith(".norm") or head == "norm":
        return f"{head.removesuffix('norm')}bn.{_NORM[last]}"
    return name


def googlenet_name(name: str) -> str:
    """inception_3a.branch1.0.norm.gamma -> inception3a.branch1.bn.weight, and so on."""
    name = re.sub(r"^inception_", "inception", _unit(name))
    return name.replace(".branch1.0.", ".branch1.")


def inception_v3_name(name: str) -> str:
    """mixed_6b.branch2.1.norm.beta -> Mixed_6b.branch7x7_2.bn.bias, and so on."""
    name = _unit(name)
    if found := re.fullmatch(r"mixed_(\w+)\.branch(\d)\.(\w+)\.(.+)", name):
        block, branch, place, rest = found.groups()
        return f"Mixed_{block}.{_BLOCKS[block][f'{branch}.{place}']}.{rest}"
    head, _, rest = name.partition(".")
    return f"{_STEM.get(head, head)}.{rest}"


def build(state: Mapping[str, Array], model: str | None) -> tuple[Module, str, dict[str, Any]]:
    """(network in evaluation, its name, preprocessing) of a state dict."""
    name = model or (
        "inception_v3" if "Mixed_7c.branch1x1.conv.weight" in state else "googlenet_bn"
    )
    kinds = {"googlenet_bn": (models.googlenet_bn, googlenet_name, 224, 256, 1024),
             "inception_v3": (models.inception_v3, inception_v3_name, 299, 342, 2048)}  # fmt: skip
    if name not in kinds:
        text = f"expected one of {', '.join(kinds)}"
        raise ConvertError(f"convert: model {name!r} is not in torchvision, {text}")
    make, rename, crop, resize, columns = kinds[name]
    aux = any(key.lower().startswith("aux") for key in state)
    net = make(count_classes(state, columns), aux=aux)
    ours, used = {}, set()
    for own in net.state_dict():
        key = rename(own)
        used.add(key)
        if key in state:
            ours[own] = as_ours(own, state[key])
    extra = [k for k in state if k not in used and not k.endswith("num_batches_tracked")]
    if extra:
        raise ConvertError(f"convert: {name} has no place for {', '.join(sorted(extra)[:4])}")
    return fill(net, ours, f"torchvision's {name}"), name, {**_HOW, "crop": crop, "resize": resize}


def as_ours(name: str, array: Array) -> Array:
    """An array of torchvision's order in ours: filters K R S C, columns of heads in H, W, C."""
    if array.ndim == 4:
        return krsc(array)
    if name.endswith("fc1.weight") and array.shape[1] % 16 == 0:
        return hwc_columns(array, (4, 4))
    return array
