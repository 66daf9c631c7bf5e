"""Hand-written convolution kernels for Inception modules, and a small engine that trains them.

Functions on arrays (`conv2d`, `reduce_conv2d`, `inception`, ...), a tape (`Tensor`, `Module`,
`layers`, `losses`, `optim`), models, and `Session` for inference. `doctor()` says what runs here.
"""

import importlib
from typing import TYPE_CHECKING, Any

from pyinception.backend import BackendError
from pyinception.config import using
from pyinception.functional import (
    conv2d,
    conv2d_backward,
    inception,
    inception_backward,
    reduce_conv2d,
    reduce_conv2d_backward,
)
from pyinception.functional_depthwise import depthwise_conv2d, depthwise_conv2d_backward
from pyinception.functional_linear import linear, linear_backward
from pyinception.functional_lrn import lrn, lrn_backward
from pyinception.functional_pool import (
    avg_pool2d,
    avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
)
from pyinception.gradcheck import gradcheck
from pyinception.ops import InceptionWeights, concat
from pyinception.prepack import Format, Packed, prepack
from pyinception.tensor import Parameter, Tensor, no_grad

if TYPE_CHECKING:
    from pyinception import checkpoint, init, layers, losses, models, optim, rng, spec
    from pyinception.bench.layer import explain
    from pyinception.module import Module
    from pyinception.reports import doctor
    from pyinception.session import Session

__version__ = "0.1.0"

# Found at first use, so that `import pyinception` stays light: name -> (module, attribute).
_LAZY = {
    "Module": ("module", "Module"),
    "Session": ("session", "Session"),
    "doctor": ("reports", "doctor"),
    "explain": ("bench.layer", "explain"),
}
_MODULES = (
    "bench",
    "checkpoint",
    "cli",
    "config",
    "convert",
    "data",
    "init",
    "interop",
    "layers",
    "losses",
    "models",
    "ops",
    "optim",
    "rng",
    "spec",
    "train",
)

__all__ = [
    "BackendError",
    "Format",
    "InceptionWeights",
    "Module",
    "Packed",
    "Parameter",
    "Session",
    "Tensor",
    "avg_pool2d",
    "avg_pool2d_backward",
    "checkpoint",
    "concat",
    "conv2d",
    "conv2d_backward",
    "depthwise_conv2d",
    "depthwise_conv2d_backward",
    "doctor",
    "explain",
    "gradcheck",
    "inception",
    "inception_backward",
    "init",
    "layers",
    "linear",
    "linear_backward",
    "losses",
    "lrn",
    "lrn_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "models",
    "no_grad",
    "optim",
    "prepack",
    "reduce_conv2d",
    "reduce_conv2d_backward",
    "rng",
    "spec",
    "using",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module, attribute = _LAZY[name]
        value = getattr(importlib.import_module(f"pyinception.{module}"), attribute)
    elif name in _MODULES:
        value = importlib.import_module(f"pyinception.{name}")
    else:
        raise AttributeError(f"module 'pyinception' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_MODULES})
