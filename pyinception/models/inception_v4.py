"""Inception-v4 and Inception-ResNet-v2 of Szegedy et al., arXiv 1602.07261, as released.

The figures of the paper print other widths for the residual network (1154, 2048 channels; 5, 10, 5
blocks); these are the ones that published weights have.
"""

from pyinception import init
from pyinception.models.inception_v3 import STEM
from pyinception.models.rows import Network, batch_norm_unit

A = "1x1 96 | 1x1 64 > 3x3 96 | 1x1 64 > 3x3 96 > 3x3 96 | avg 3x3 > 1x1 96"
REDUCTION_A = "3x3/2v 384 | 1x1 192 > 3x3 224 > 3x3/2v 256 | max 3x3/2v"
B = (
    "1x1 384 | 1x1 192 > 1x7 224 > 7x1 256"
    " | 1x1 192 > 7x1 192 > 1x7 224 > 7x1 224 > 1x7 256 | avg 3x3 > 1x1 128"
)
REDUCTION_B = "1x1 192 > 3x3/2v 192 | 1x1 256 > 1x7 256 > 7x1 320 > 3x3/2v 320 | max 3x3/2v"
C = (
    "1x1 256 | 1x1 384 > 1x3 256 & 3x1 256"
    " | 1x1 384 > 3x1 448 > 1x3 512 > 1x3 256 & 3x1 256 | avg 3x3 > 1x1 256"
)


def _times(count: int, name: str, text: str) -> tuple[tuple[str, str], ...]:
    return tuple((f"{name}{i}", text) for i in range(1, count + 1))


V4 = (                                                          # at 299 x 299: output
    ("conv1", "3x3/2v 32"),                                     # 149 x 149 x   32
    ("conv2", "3x3v 32"),                                       # 147 x 147 x   32
    ("conv3", "3x3 64"),                                        # 147 x 147 x   64
    ("stem_3a", "max 3x3/2v | 3x3/2v 96"),                      #  73 x  73 x  160
    ("stem_4a", "1x1 64 > 3x3v 96 | 1x1 64 > 1x7 64 > 7x1 64 > 3x3v 96"),  # 71 x 71 x 192
    ("stem_5a", "3x3/2v 192 | max 3x3/2v"),                     #  35 x  35 x  384
    *_times(4, "a", A),                                         #  35 x  35 x  384
    ("reduction_a", REDUCTION_A),                               #  17 x  17 x 1024
    *_times(7, "b", B),                                         #  17 x  17 x 1024
    ("reduction_b", REDUCTION_B),                               #   8 x   8 x 1536
    *_times(3, "c", C),                                         #   8 x   8 x 1536
)  # fmt: skip

BLOCK35 = "1x1 32 | 1x1 32 > 3x3 32 | 1x1 32 > 3x3 48 > 3x3 64"
BLOCK17 = "1x1 192 | 1x1 128 > 1x7 160 > 7x1 192"
BLOCK8 = "1x1 192 | 1x1 192 > 1x3 224 > 3x1 256"

RESNET_V2 = (
    *STEM,                                                      #  35 x  35 x  192
    ("mixed_5b", "1x1 96 | 1x1 48 > 5x5 64 | 1x1 64 > 3x3 96 > 3x3 96 | avg 3x3 > 1x1 64"),
    *_times(10, "block35_", f"res 0.17 {BLOCK35}"),             #  35 x  35 x  320
    ("mixed_6a", "3x3/2v 384 | 1x1 256 > 3x3 256 > 3x3/2v 384 | max 3x3/2v"),
    *_times(20, "block17_", f"res 0.1 {BLOCK17}"),              #  17 x  17 x 1088
    ("mixed_7a",
     "1x1 256 > 3x3/2v 384 | 1x1 256 > 3x3/2v 288 | 1x1 256 > 3x3 288 > 3x3/2v 320 | max 3x3/2v"),
    *_times(9, "block8_", f"res 0.2 {BLOCK8}"),                 #   8 x   8 x 2080
    ("block8_10", f"res 1.0 linear {BLOCK8}"),                  #   8 x   8 x 2080
    ("conv7b", "1x1 1536"),                                     #   8 x   8 x 1536
)  # fmt: skip


def inception_v4(num_classes: int = 1000, *, in_channels: int = 3, seed: int = 0) -> Network:
    """Inception-v4: 42,679,816 parameters, 12.25 G multiply-adds at 299x299.

    Parameters
    ----------
    num_classes : outputs.
    in_channels : of the images.
    seed : of the initial weights.
    """
    return _network(V4, num_classes, in_channels, seed)


def inception_resnet_v2(num_classes: int = 1000, *, in_channels: int = 3, seed: int = 0) -> Network:
    """Inception-ResNet-v2: 55,843,464 parameters, 13.16 G multiply-adds at 299x299.

    Arguments as in `inception_v4`. A block adds 0.1 to 0.2 of its own result to its input: residual
    networks of more than a thousand filters die otherwise (section 3.3).
    """
    return _network(RESNET_V2, num_classes, in_channels, seed)


def _network(rows: tuple[tuple[str, str], ...], n: int, c: int, seed: int) -> Network:
    net = Network(rows, n, c, batch_norm_unit(), drop=0.2, include_pad=False)
    init.initialise(net, seed)
    return net
