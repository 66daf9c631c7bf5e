"""TF-slim's inception_v1 and inception_v3, by the names of their variables in an ``.npz``.

Filters are (R, S, C, K), batch norms have no gamma; class 0 is the background, which is dropped.
v1 becomes `googlenet_bn`, as torchvision ported it: TensorFlow pads 2 and 3 pixels round conv1's
image where ours pads 3 and 3, so its results are those of an image moved by one pixel. v3 has no
such layer; its average pools leave the padding out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pyinception import models
from pyinception.backend import Array
from pyinception.convert.files import ConvertError, count_classes, fill
from pyinception.module import Module

_HOW = {"scale": 255.0, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
_NORM = {"beta": "beta", "mean": "moving_mean", "var": "moving_variance"}

# Each branch in order: the names of its convolutions behind "Conv2d_"; a fork's two ends too.
_V1 = "0a_1x1 | 0a_1x1 0b_3x3 | 0a_1x1 0b_3x3 | 0b_1x1"
_A = "0a_1x1 | 0a_1x1 0b_5x5 | 0a_1x1 0b_3x3 0c_3x3 | 0b_1x1"
_C = "0a_1x1 | 0a_1x1 0b_1x7 0c_7x1 | 0a_1x1 0b_7x1 0c_1x7 0d_7x1 0e_1x7 | 0b_1x1"
_V3 = {
    "5b": _A, "5c": _A.replace("0a_1x1 0b_5x5", "0b_1x1 Conv_1_0c_5x5"), "5d": _A,
    "6a": "1a_1x1 | 0a_1x1 0b_3x3 1a_1x1", "6b": _C, "6c": _C, "6d": _C, "6e": _C,
    "7a": "0a_1x1 1a_3x3 | 0a_1x1 0b_1x7 0c_7x1 1a_3x3",
    "7b": "0a_1x1 | 0a_1x1 0b_1x3 0b_3x1 | 0a_1x1 0b_3x3 0c_1x3 0d_3x1 | 0b_1x1",
    "7c": "0a_1x1 | 0a_1x1 0b_1x3 0c_3x1 | 0a_1x1 0b_3x3 0c_1x3 0d_3x1 | 0b_1x1",
}  # fmt: skip
_V1_MODULES = dict(zip("3a 3b 4a 4b 4c 4d 4e 5a 5b".split(), "3b 3c 4b 4c 4d 4e 4f 5b 5c".split(),
                       strict=True))  # fmt: skip
_V1_STEM = {"conv1": "1a_7x7", "conv2": "2b_1x1", "conv3": "2c_3x3"}
_V3_STEM = {"conv1a": "1a_3x3", "conv2a": "2a_3x3", "conv2b": "2b_3x3", "conv3b": "3b_1x1",
            "conv4a": "4a_3x3"}  # fmt: skip
_AUX = {"aux1.conv0": "AuxLogits/Conv2d_1b_1x1", "aux1.conv1": "AuxLogits/Conv2d_2a_5x5"}
_FC = {"InceptionV1": "Logits/Conv2d_0c_1x1", "InceptionV3": "Logits/Conv2d_1c_1x1"}


def _unit_names(root: str) -> dict[str, str]:
    """Our conv + norm units -> scopes of the variables below ``root``."""
    v1 = root == "InceptionV1"
    names = {ours: f"Conv2d_{theirs}" for ours, theirs in (_V1_STEM if v1 else _V3_STEM).items()}
    names |= {} if v1 else _AUX
    modules = {f"inception_{m}": (t, _V1) for m, t in _V1_MODULES.items()} if v1 else {
        f"mixed_{m}": (m, text) for m, text in _V3.items()
    }  # fmt: skip
    for ours, (theirs, text) in modules.items():
        for i, chain in enumerate(text.split("|")):
            for place, conv in zip(
                _places(ours, i, len(chain.split())), chain.split(), strict=True
            ):
                if (ours, conv, i) == ("inception_5a", "0b_3x3", 2):
                    conv = "0a_3x3"  # the one irregular name of v1
                scope = conv if conv.startswith("Conv_") else f"Conv2d_{conv}"
                names[f"{ours}.branch{i + 1}.{place}"] = f"Mixed_{theirs}/Branch_{i}/{scope}"
    return names


def _places(module: str, branch: int, count: int) -> list[str]:
    """Where the convolutions stand in our chain: behind a pool from 1 on; forks as "1a", "1b"."""
    if branch == 3:
        return ["1"]
    if module in ("mixed_7b", "mixed_7c") and branch in (1, 2):
        last = count - 2
        return [*map(str, range(last)), f"{last}a", f"{last}b"]
    return [str(i) for i in range(count)]


def build(state: Mapping[str, Array], model: str | None) -> tuple[Module, str, dict[str, Any]]:
    """(network in evaluation, its name, preprocessing) of the variables by name."""
    roots = {name.split("/")[0] for name in state} & set(_FC)
    if len(roots) != 1:
        text = "expected names that begin with InceptionV1/ or InceptionV3/"
        raise ConvertError(f"convert: these are no variables of TF-slim's Inception: {text}")
    (root,) = roots
    name = {"InceptionV1": "googlenet_bn", "InceptionV3": "inception_v3"}[root]
    if model not in (None, name):
        raise ConvertError(f"convert: model is {model!r}, but the file holds {name}")
    take = _Taker(state, root)
    ours: dict[str, Array] = {}
    aux = f"{root}/AuxLogits/Conv2d_1b_1x1/weights" in state
    for unit, scope in _unit_names(root).items():
        if unit.startswith("aux") and not aux:
            continue
        ours[f"{unit}.conv.weight"] = np.transpose(take(scope, "weights", 4), (3, 0, 1, 2))
        for own, theirs in _NORM.items():
            ours[f"{unit}.norm.{own}"] = take(scope, f"BatchNorm/{theirs}", 1)
        ours[f"{unit}.norm.gamma"] = np.ones_like(ours[f"{unit}.norm.beta"])
    heads = {"fc": _FC[root]} | ({"aux1.fc": "AuxLogits/Conv2d_2b_1x1"} if aux else {})
    for own, scope in heads.items():
        ours[f"{own}.weight"] = take(scope, "weights", 4)[0, 0, :, 1:].T
        ours[f"{own}.bias"] = take(scope, "biases", 1)[1:]
    classes = count_classes(ours, 1024 if root == "InceptionV1" else 2048)
    if root == "InceptionV1":
        net: Module = models.googlenet_bn(classes, aux=False)
        how = {**_HOW, "crop": 224, "resize": 256}
    else:
        net = models.inception_v3(classes, aux=aux, include_pad=False)
        how = {**_HOW, "crop": 299, "resize": 342}
    return fill(net, ours, f"TF-slim's {root}"), name, how


class _Taker:
    """Variables by scope and name, with a clear error for one that is missing or misshapen."""

    def __init__(self, state: Mapping[str, Array], root: str) -> None:
        self.state, self.root = state, root

    def __call__(self, scope: str, name: str, rank: int) -> Array:
        key = f"{self.root}/{scope}/{name}"
        if key not in self.state:
            raise ConvertError(f"convert: the file has no {key}")
        array = self.state[key]
        if array.ndim != rank:
            raise ConvertError(f"convert: {key} has shape {array.shape}, expected {rank} extents")
        return array
