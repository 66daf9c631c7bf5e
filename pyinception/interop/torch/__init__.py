"""PyTorch: convolution, the fused branch and the whole module on CPU tensors, differentiable.

Shapes are PyTorch's own, NCHW and KCRS, always. A channels_last tensor is NHWC in memory and is
read where it lies; a contiguous map is copied once (`pyinception.workspace.copies` counts it).
Results are NCHW in shape and channels_last in memory. Threads follow ``torch.get_num_threads()``.

Functions (`conv2d`, `reduce_conv2d`, `inception`) and modules (`ReduceConv2d`, `Inception`) stand
on ops registered as ``torch.ops.pyinception``: `torch.compile` takes them with ``fullgraph=True``.
`replace_inception` puts modules in place of the blocks of a network that exists already, and
`replace_layers` does so with its other convolutions and its local response normalisation.
"""

try:
    import torch as torch
except ImportError as error:
    message = "pyinception.interop.torch needs PyTorch: pip install 'pyinception[torch]'"
    raise ImportError(message) from error

from pyinception.interop.torch.functions import conv2d, inception, prepack, reduce_conv2d
from pyinception.interop.torch.layers import Conv2dReLU, LocalResponseNorm, replace_layers
from pyinception.interop.torch.modules import Inception, ReduceConv2d
from pyinception.interop.torch.replace import replace_inception

__all__ = [
    "Conv2dReLU",
    "Inception",
    "LocalResponseNorm",
    "ReduceConv2d",
    "conv2d",
    "inception",
    "prepack",
    "reduce_conv2d",
    "replace_inception",
    "replace_layers",
]
