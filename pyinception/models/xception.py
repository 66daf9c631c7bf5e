"""Xception of Chollet, arXiv 1610.02357: separable convolutions with shortcuts, figure 5.

Between depthwise and 1x1 stands neither a norm nor a ReLU (section 4.7); every 1x1 has its batch
norm. The pools pad by one on either side, as PyTorch's ports do: windows of TensorFlow's "SAME" on
an even map begin one pixel later, which is the 74x74 map alone at 299x299.
"""

from pyinception import init
from pyinception.models.rows import Network, batch_norm_unit

MIDDLE = "x + relu > sep 3x3 728 > sep 3x3 728 > sep 3x3 728 linear"

XCEPTION = (                                                    # at 299 x 299: output
    ("conv1", "3x3/2v 32"),                                     # 149 x 149 x   32
    ("conv2", "3x3v 64"),                                       # 147 x 147 x   64
    ("block2", "1x1/2 128 linear + sep 3x3 128 > sep 3x3 128 linear > max 3x3/2"),         # 74
    ("block3", "1x1/2 256 linear + relu > sep 3x3 256 > sep 3x3 256 linear > max 3x3/2"),  # 37
    ("block4", "1x1/2 728 linear + relu > sep 3x3 728 > sep 3x3 728 linear > max 3x3/2"),  # 19
    *((f"block{i}", MIDDLE) for i in range(5, 13)),             #  19 x  19 x  728
    ("block13", "1x1/2 1024 linear + relu > sep 3x3 728 > sep 3x3 1024 linear > max 3x3/2"),  # 10
    ("block14a", "sep 3x3 1536"),                               #  10 x  10 x 1536
    ("block14b", "sep 3x3 2048"),                               #  10 x  10 x 2048
)  # fmt: skip


def xception(num_classes: int = 1000, *, in_channels: int = 3, seed: int = 0) -> Network:
    """Xception: 22,855,952 parameters, 8.36 G multiply-adds at 299x299.

    Parameters
    ----------
    num_classes : outputs.
    in_channels : of the images.
    seed : of the initial weights.
    """
    net = Network(XCEPTION, num_classes, in_channels, batch_norm_unit(), drop=0.5)
    init.initialise(net, seed)
    return net
