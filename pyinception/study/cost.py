"""Parameters and multiply-adds, exact: nothing is computed and nothing trained.

multiply-adds = sum over convolutions of N P Q K R S C / groups, and over linear layers of N K C
"""

from __future__ import annotations

from typing import Any

from pyinception import models
from pyinception.module import Module
from pyinception.spec import ConvSpec
from pyinception.tracing import specs

# Caffe's bvlc_alexnet, at 227 x 227: kind and numbers of each layer with weights, and of each pool.
ALEXNET: tuple[tuple[Any, ...], ...] = (
    # name    kind     out  kernel stride pad groups   output
    ("conv1", "conv",    96, 11,  4,  0,  1),       # 55 x 55
    ("pool1", "max",          3,  2),               # 27 x 27
    ("conv2", "conv",   256,  5,  1,  2,  2),       # 27 x 27
    ("pool2", "max",          3,  2),               # 13 x 13
    ("conv3", "conv",   384,  3,  1,  1,  1),       # 13 x 13
    ("conv4", "conv",   384,  3,  1,  1,  2),       # 13 x 13
    ("conv5", "conv",   256,  3,  1,  1,  2),       # 13 x 13
    ("pool5", "max",          3,  2),               #  6 x  6
    ("fc6",   "linear", 4096),
    ("fc7",   "linear", 4096),
    ("fc8",   "linear", 1000),
)  # fmt: skip

# function of `models`, its arguments, image side
NETWORKS: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("googlenet", {"aux": False}, 224),
    ("googlenet_bn", {"aux": False}, 224),
    ("bn_inception", {}, 224),
    ("inception_v2", {"aux": False}, 299),
    ("inception_v3", {"aux": False}, 299),
    ("inception_v4", {}, 299),
    ("inception_resnet_v2", {}, 299),
    ("network_in_network", {}, 224),
)
CLASSIFIER = 1024 * 1000 + 1000  # parameters of GoogLeNet's linear layer


def multiply_adds(net: Module, shape: tuple[int, int, int]) -> int:
    """Of one image of ``shape`` (H, W, C) through the network in evaluation, so without heads."""
    return sum(spec.macs for _, _, spec in specs(net, (1, *shape)))


def alexnet() -> tuple[int, int]:
    """(parameters, multiply-adds) of the table: 60,965,224 and 724,406,816."""
    side, channels, parameters, macs = 227, 3, 0, 0
    for _, kind, *numbers in ALEXNET:
        if kind == "max":
            kernel, stride = numbers
            side = (side - kernel) // stride + 1
        elif kind == "conv":
            out, kernel, stride, pad, groups = numbers
            c, k = channels // groups, out // groups
            place = (stride, stride), (pad, pad)
            part = ConvSpec(1, side, side, c, k, kernel, kernel, *place)
            parameters += groups * k * (kernel * kernel * c + 1)
            macs += groups * part.macs
            side, channels = part.P, out
        else:
            (out,) = numbers
            inputs = side * side * channels
            parameters += out * (inputs + 1)
            macs += out * inputs
            side, channels = 1, out
    return parameters, macs


def rows() -> list[dict[str, Any]]:
    """One row a network, AlexNet first: name, side of the image, parameters, multiply_adds."""
    parameters, macs = alexnet()
    found: list[dict[str, Any]] = [
        {"network": "alexnet", "side": 227, "parameters": parameters, "multiply_adds": macs}
    ]
    for name, options, side in NETWORKS:
        net: Module = getattr(models, name)(**options)
        macs = multiply_adds(net, (side, side, 3))
        parameters = net.count_parameters()
        row = {"network": name, "side": side, "parameters": parameters, "multiply_adds": macs}
        found.append(row)
    return found


def sentence(table: list[dict[str, Any]]) -> str:
    """What the counts say of the paper's "12 times fewer parameters than" AlexNet."""
    counts = {row["network"]: row for row in table}
    large, small = counts["alexnet"], counts["googlenet"]
    fewer = large["parameters"] / small["parameters"]
    without = large["parameters"] / (small["parameters"] - CLASSIFIER)
    macs = small["multiply_adds"] / large["multiply_adds"]
    reached = "is reached" if fewer >= 11.5 else "is not reached by this count"
    return (
        f"GoogLeNet has {fewer:.1f} times fewer parameters than AlexNet ({without:.1f} without its "
        f"linear layer) and {macs:.1f} times the multiply-adds; the paper's 12 times {reached}."
    )
