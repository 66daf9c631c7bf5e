"""Networks of the Inception family, each a function that returns an initialised module."""

from pyinception.models.googlenet import GoogLeNet, googlenet
from pyinception.models.small_inception import SmallInception, small_inception

__all__ = ["GoogLeNet", "SmallInception", "googlenet", "small_inception"]
