"""The nine modules of GoogLeNet by the CUDA kernels on the emulator: errors, not times."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from figures_record import Figure, Unavailable

import pyinception as pyi

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # the problems the tests run

STORAGES = ("fp32", "bf16", "fp16")
FP32_LIMIT, TIMES_PLAIN = 1e-5, 2.0
QUICK = ("5a",)


def modules(tensor_cores: bool, quick: bool = False) -> Figure:
    """Forward and backward of whole modules in every storage, against float64."""
    from pyinception.emulator import compile as compilers

    if reason := compilers.why_not():
        raise Unavailable(reason)
    from pyinception.bench.shapes import MODULES

    first = "tf32 within its bound" if tensor_cores else "fp32 within 1e-5 of the CPU backend"
    figure = Figure(
        "modules_tensor" if tensor_cores else "modules_cores",
        "nine modules, batch 1 (7x7: 2), forward and backward on the emulator: "
        f"{first}, 16 bits within twice a plain run's error",
    )
    for storage in STORAGES[:1] if quick else STORAGES:
        for name in QUICK if quick else MODULES:
            _add(figure, name, tensor_cores, storage)
    figure.notes.append("error: fp32 max |a - b| / max |b| over all arrays; 16 bits the largest "
                        "ratio to a plain run; tf32 the largest share of its bound. seconds are "
                        "the emulator's, on two host threads, kernels unchecked")  # fmt: skip
    return figure


def _add(figure: Figure, name: str, tensor_cores: bool, storage: str) -> None:
    from cuda_run import Memory
    from module_device import Device
    from module_problems import Module

    from pyinception.bench.shapes import MODULES

    extent, c, widths = MODULES[name]
    n = 2 if extent == 7 else 1
    case = Module(n, extent, c, widths, storage=storage, tensor_cores=tensor_cores, real=True)
    device, plain = Device(checked=False), case.forward()
    y, forward = _timed(lambda: case.run_forward(device, Memory(device), save=False))
    got, saving = _timed(lambda: case.run_forward(device, Memory(device)))
    assert np.array_equal(y, got.y), "saving r3 and r5 changes no bit"
    grads, backward = _timed(lambda: case.run_backward(device, Memory(device), plain))
    found = grads.named() | {"y": got.y}
    if tensor_cores and storage == "fp32":
        worst, value, limit = *_share_of_bound(case, plain, found), 1.0
    elif storage == "fp32":
        worst, value, limit = *_beside_cpu(case, plain, found), FP32_LIMIT
    else:
        worst, value, limit = *_ratio(case, plain, found), TIMES_PLAIN
    rung = "tensor cores" if tensor_cores else "CUDA cores"
    kind = "tf32" if tensor_cores and storage == "fp32" else storage
    figure.add(module=name, rung=rung, storage=kind, batch=n, launches=len(device.entries),
               forward_s=forward, saving_s=saving, backward_s=backward, worst=worst, error=value,
               limit=limit)  # fmt: skip
    figure.at_most(f"{name} {rung} {kind}: {worst}", value, limit)


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.perf_counter()
    return run(), round(time.perf_counter() - begun, 2)


def _beside_cpu(case: Any, plain: Any, found: dict[str, np.ndarray]) -> tuple[str, float]:
    weights = tuple(v for pair in zip(case.w, case.b, strict=True) for v in pair)
    saved = plain.r3, plain.r5, plain.pooled, plain.argmax
    how: Any = {"backend": "cpu", "algorithm": "direct"}
    theirs = {"y": pyi.inception(case.x, weights, **how)}
    gx, grads = pyi.inception_backward(case.gy, case.x, weights, y=plain.y, saved=saved, **how)
    names = [f"g{kind}{i}" for i in range(6) for kind in "wb"]
    theirs |= {"gx": gx} | dict(zip(names, grads, strict=True))
    return _largest({k: np.abs(found[k] - v).max() / np.abs(v).max() for k, v in theirs.items()})


def _ratio(case: Any, plain: Any, found: dict[str, np.ndarray]) -> tuple[str, float]:
    import module_bounds as bounds

    ours, truth = bounds.plain_and_truth(case, plain)
    return bounds.worst_ratio(found, ours.named() | {"y": plain.y},
                              truth.named() | {"y": case.forward(np.float64).y})  # fmt: skip


def _share_of_bound(case: Any, plain: Any, found: dict[str, np.ndarray]) -> tuple[str, float]:
    import module_bounds as bounds

    _, truth = bounds.plain_and_truth(case, plain)
    limit = bounds.backward_bound(case, plain) | {"y": bounds.forward_bound(case)}
    exact = truth.named() | {"y": case.forward(np.float64).y}
    # a bound of zero (nothing reaches the entry) asks for zero
    tiny = np.finfo(np.float64).tiny
    return _largest({k: (np.abs(found[k] - v) / (limit[k] + tiny)).max() for k, v in exact.items()})


def _largest(values: dict[str, Any]) -> tuple[str, float]:
    name = max(values, key=values.__getitem__)
    return name, float(values[name])
