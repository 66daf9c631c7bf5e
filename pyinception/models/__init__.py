"""Networks of the Inception family, each a function that returns an initialised module."""

from pyinception.models.bn_inception import bn_inception, googlenet_bn
from pyinception.models.cifar import googlenet_cifar, network_in_network
from pyinception.models.googlenet import GoogLeNet, googlenet
from pyinception.models.inception_v3 import inception_v2, inception_v3
from pyinception.models.inception_v4 import inception_resnet_v2, inception_v4
from pyinception.models.rows import Network
from pyinception.models.small_inception import SmallInception, small_inception
from pyinception.models.xception import xception

__all__ = [
    "GoogLeNet",
    "Network",
    "SmallInception",
    "bn_inception",
    "googlenet",
    "googlenet_bn",
    "googlenet_cifar",
    "inception_resnet_v2",
    "inception_v2",
    "inception_v3",
    "inception_v4",
    "network_in_network",
    "small_inception",
    "xception",
]
