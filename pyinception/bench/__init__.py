"""Benchmarks: the fused kernels against the unfused ones and against other libraries.

`run_reduce_conv`, `run_module`, `run_conv` and `run_net` measure and return a `Report` (``rows``,
``table()``, ``to_json()``); `compare` sets two reports side by side; `run_own_kernel` judges a CUDA
kernel of the caller's own; `run_quick` is done within a minute.
"""

from pyinception.bench.own_runs import run_own_kernel
from pyinception.bench.quick import run_quick
from pyinception.bench.report import Report, compare
from pyinception.bench.runs import run_conv, run_module, run_net, run_reduce_conv

__all__ = [
    "Report",
    "compare",
    "run_conv",
    "run_module",
    "run_net",
    "run_own_kernel",
    "run_quick",
    "run_reduce_conv",
]
