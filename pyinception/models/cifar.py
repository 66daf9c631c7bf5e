"""Full-width Inception networks for 32x32 images, and Network in Network.

Two public adaptations of GoogLeNet keep the map large, as 32x32 images need: every layer before the
first modules has stride 1. `network_in_network` is arXiv 1312.4400 as it is run on 224x224 images.
"""

from functools import partial

from pyinception import init
from pyinception.layers import ConvBatchNorm
from pyinception.models.googlenet import WIDTHS
from pyinception.models.rows import Network, plain_unit


def _rows(stem: tuple[tuple[str, str], ...], fives: str) -> tuple[tuple[str, str], ...]:
    """Stem, then the nine modules with a pool before 4a and 5a; ``fives`` makes 5x5 branches."""
    rows = list(stem)
    for name, (n1, r3, n3, r5, n5, proj) in WIDTHS.items():
        if name in ("4a", "5a"):
            rows.append((f"pool{name[0]}", "max 3x3/2"))
        five = fives.format(r5=r5, n5=n5)
        text = f"1x1 {n1} | 1x1 {r3} > 3x3 {n3} | {five} | max 3x3 > 1x1 {proj}"
        rows.append((f"inception_{name}", text))
    return tuple(rows)


PAIRS = _rows((("conv1", "3x3 192"),), "1x1 {r5} > 3x3 {n5} > 3x3 {n5}")
FIVES = _rows(
    (("conv1", "7x7 64"), ("conv2_reduce", "1x1 64"), ("conv2", "3x3 192")),
    "1x1 {r5} > 5x5 {n5}",
)
NETWORK_IN_NETWORK = (             # at 224 x 224: output
    ("conv1", "11x11/4v 96"),      #  54 x  54 x   96
    ("mlp1a", "1x1 96"),
    ("mlp1b", "1x1 96"),
    ("pool1", "max 3x3/2c"),       #  27 x  27 x   96
    ("conv2", "5x5 256"),
    ("mlp2a", "1x1 256"),
    ("mlp2b", "1x1 256"),
    ("pool2", "max 3x3/2c"),       #  13 x  13 x  256
    ("conv3", "3x3 384"),
    ("mlp3a", "1x1 384"),
    ("mlp3b", "1x1 384"),
    ("pool3", "max 3x3/2c"),       #   6 x   6 x  384
    ("conv4", "3x3 1024"),
    ("mlp4a", "1x1 1024"),
    ("mlp4b", "1x1 {classes}"),    #   6 x   6 x classes
)  # fmt: skip


def googlenet_cifar(
    num_classes: int = 10, *, in_channels: int = 3, pairs: bool = True, seed: int = 0
) -> Network:
    """GoogLeNet's nine modules on 32x32 images, batch norm after every biased convolution.

    Parameters
    ----------
    num_classes, in_channels : outputs; channels of the images.
    pairs : True: two 3x3 for each 5x5 behind one 3x3 (6,166,250 parameters); False: real 5x5 behind
        the three-layer stem at stride 1 (5,998,362).
    seed : of the initial weights.
    """
    unit = partial(_biased, eps=1e-5)
    net = Network(
        PAIRS if pairs else FIVES, num_classes, in_channels, unit, drop=0.0 if pairs else 0.6
    )
    init.initialise(net, seed)
    return net


def _biased(c: int, k: int, kernel, stride, padding, *, relu: bool, eps: float) -> ConvBatchNorm:
    return ConvBatchNorm(c, k, kernel, stride, padding, bias=0.0, eps=eps, relu=relu)


def network_in_network(num_classes: int = 1000, *, in_channels: int = 3, seed: int = 0) -> Network:
    """Network in Network: each convolution is followed by two 1x1, the class maps are averaged."""
    rows = [(name, text.format(classes=num_classes)) for name, text in NETWORK_IN_NETWORK]
    net = Network(rows, num_classes, in_channels, plain_unit, classifier=False)
    init.initialise(net, seed)
    return net
