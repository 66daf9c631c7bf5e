"""Ops: forward and backward of one operation, side by side in one file each."""

from pyinception.ops.adaptive_pool import AdaptiveAvgPool
from pyinception.ops.add_scaled import AddScaled, Relu
from pyinception.ops.arithmetic import Add, Mean, Mul
from pyinception.ops.batch_norm import BatchNorm, FrozenBatchNorm
from pyinception.ops.conv import Conv
from pyinception.ops.depthwise_conv import DepthwiseConv
from pyinception.ops.dropout import Dropout
from pyinception.ops.inception import Inception
from pyinception.ops.linear import Linear
from pyinception.ops.lrn import Lrn
from pyinception.ops.pool import Pool
from pyinception.ops.reduce_conv import ReduceConv
from pyinception.ops.shape import Concat, Reshape, concat, flatten
from pyinception.ops.softmax_cross_entropy import SoftmaxCrossEntropy
from pyinception.ops.weights import InceptionWeights

__all__ = [
    "AdaptiveAvgPool",
    "Add",
    "AddScaled",
    "BatchNorm",
    "Concat",
    "Conv",
    "DepthwiseConv",
    "Dropout",
    "FrozenBatchNorm",
    "Inception",
    "InceptionWeights",
    "Linear",
    "Lrn",
    "Mean",
    "Mul",
    "Pool",
    "ReduceConv",
    "Relu",
    "Reshape",
    "SoftmaxCrossEntropy",
    "concat",
    "flatten",
]
