"""Checks of the kernels that a session fuses and the table of kernels has no row for.

Normalisation and max pool, alone (`lrn_pool`) or behind a convolution (`conv_lrn_pool`), in every
storage that the kernel has, beside the reference of the stages in turn.
"""

from __future__ import annotations

from typing import Any

import gpu_checkout  # noqa: F401
import numpy as np

from pyinception import backend
from pyinception.cuda import runs
from pyinception.spec import BranchSpec, ConvSpec, LrnSpec, PoolSpec

# What one rounding to the storage may differ by, a unit in the last place of the largest value.
LIMITS = {"float32": 1e-5, "bfloat16": 2.0**-7, "float16": 2.0**-10}
STORAGES = {"lrn_pool": tuple(LIMITS), "conv_lrn_pool": ("bfloat16", "float16")}
# GoogLeNet's conv1 and conv2 with fewer pixels: N, H, W, C, K, filter, stride, padding, pool first
STEMS = {
    "conv1": (2, 37, 34, 3, 64, 7, 2, 3, True),
    "conv2": (1, 17, 20, 64, 192, 3, 1, 1, False),
}


def stages(name: str) -> tuple[ConvSpec, Any, Any]:
    """Convolution, then max pool and normalisation in the stem's order."""
    n, h, w, c, k, f, stride, pad, pool_first = STEMS[name]
    conv = ConvSpec(n, h, w, c, k, f, f, (stride, stride), (pad, pad), relu=True)
    pool = PoolSpec("max", n, conv.P, conv.Q, k, (3, 3), (2, 2), ceil_mode=True)
    lrn = LrnSpec(*(pool.y_shape if pool_first else conv.y_shape), 5, 0.5)  # far from 1
    return (conv, pool, lrn) if pool_first else (conv, lrn, pool)


def expected(chain: tuple[Any, ...], x: np.ndarray, weights: tuple[np.ndarray, ...]) -> np.ndarray:
    """The stages one by one in float32, each result rounded to the dtype of ``x``."""
    reference, y = backend.reference(), x.astype(np.float32)
    for stage in chain:
        if isinstance(stage, ConvSpec):
            w, b = (a.astype(np.float32) for a in weights)
            how = {"stride": stage.stride, "padding": stage.padding}
            y = reference.conv2d_fprop(y, w, b, relu=True, **how)
        elif isinstance(stage, LrnSpec):
            y = reference.lrn_fprop(y, stage.size, stage.alpha, stage.beta, stage.k)
        else:
            how = {"stride": stage.stride, "ceil_mode": True}
            y, _ = reference.max_pool_fprop(y, stage.kernel, **how)
        y = y.astype(x.dtype).astype(np.float32)
    return y


def check_row(op: str, rung: str, rehearsal: bool) -> dict[str, Any]:
    """The row of a check; ``status`` is wrong where an error is above the storage's limit."""
    run = (runs.emulated if rehearsal else runs.runtime)(rung, (op, "fprop"))
    errors: dict[str, float] = {}
    for storage in STORAGES[op]:
        for name in STEMS:
            chain = stages(name)[0 if op == "conv_lrn_pool" else 1 :]
            rng, kind = np.random.default_rng(len(name)), backend.dtype_of(storage)
            x = rng.integers(-3, 4, chain[0].x_shape).astype(kind)
            weights: tuple[np.ndarray, ...] = ()
            if op == "conv_lrn_pool":
                w = rng.integers(-2, 3, chain[0].w_shape).astype(kind)
                weights = w, rng.integers(-3, 4, chain[0].K).astype(np.float32)
            y = np.full(BranchSpec(chain).y_shape, np.nan, kind)
            placed = [a if rehearsal else backend.moved(a, "cuda") for a in (x, *weights, y)]
            run(BranchSpec(chain), *placed)
            got = backend.to_host(placed[-1]).astype(np.float64)
            wanted = expected(chain, x, weights)
            error = float(np.abs(got - wanted).max()) / max(float(np.abs(wanted).max()), 1.0)
            errors[f"{name} {storage}"] = error if np.isfinite(error) else np.inf
    wrong = [name for name, error in errors.items() if error > LIMITS[name.split()[1]]]
    row = {"cases": len(errors), "error": {"max_rel": max(errors.values())}, "errors": errors}
    status = "wrong" if wrong else "ok"
    return row | {"error_limit": LIMITS, "status": status, "times": None, "rates": None}
