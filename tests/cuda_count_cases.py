"""Every convolution kernel at a layer of GoogLeNet, launched on a device that counts.

`cases` are the layers, at a share of their shape if asked for; `Case.count` runs one and returns a
`Counted` per kernel. Used by test_cuda_counters.py and benchmarks/cuda_counters.py.
"""

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cuda_run
import numpy as np
from cuda_counts import Counted, Device
from cuda_run import CUDA, CXX, STORAGES
from mma_problems import Conv, Inception, ReduceConv
from mma_runs import KB, Planned
from pyinception.kernels import cuda_args

from pyinception.cuda import executor, records_stem
from pyinception.spec import ConvSpec, LrnSpec, PoolSpec

WRAPPERS = """
#include "traffic.h"
#define SIMT(NAME, PLAN, ARGS, CALL, BYTES)                   \\
  extern "C" int NAME(const ARGS* asked, double* bytes) {     \\
    static thread_local PLAN plan;                            \\
    const CudaStatus status = CALL;                           \\
    for (int i = 0; i < plan.count; i++) bytes[i] = BYTES;    \\
    return status.code;                                       \\
  }
SIMT(conv_fprop, ConvPlan, ConvCudaArgs, plan_conv_fprop(*asked, plan), conv_fprop_traffic(plan))
SIMT(conv_dgrad, ConvPlan, ConvCudaArgs, plan_conv_dgrad(*asked, plan), conv_dgrad_traffic(plan))
SIMT(conv_wgrad, ConvPlan, ConvCudaArgs, plan_conv_wgrad(*asked, false, plan),
     conv_wgrad_traffic(plan, i))
SIMT(reduce_conv_fprop, ReduceConvPlan, ReduceConvCudaArgs, plan_reduce_conv_fprop(*asked, plan),
     reduce_conv_traffic(plan, i))
SIMT(reduce_conv_backward, ReduceConvPlan, ReduceConvCudaArgs,
     plan_reduce_conv_backward(*asked, false, plan), reduce_conv_traffic(plan, i))
SIMT(lrn_pool, LrnPoolPlan, LrnPoolCudaArgs, plan_lrn_pool(*asked, plan), lrn_pool_traffic(plan))
extern "C" {
double reduce_conv_mma(const ReduceConvMmaArgs* a, int shape) {
  return reduce_conv_mma_traffic(*a, kMmaShapes[shape]);
}
double conv_mma(const ConvMmaArgs* a, int shape) { return conv_mma_traffic(*a, kMmaShapes[shape]); }
double conv_lrn_pool_mma(const ConvLrnPoolMmaArgs* a) { return conv_lrn_pool_mma_traffic(*a); }
double inception_mma(const InceptionMmaArgs* a, int) { return inception_mma_traffic(*a); }
void wgrad_mma(const ConvWgradMmaArgs* asked, double* bytes) {
  static thread_local ConvWgradMmaPlan plan;
  plan_conv_wgrad_mma(*asked, false, plan);
  for (int i = 0; i < plan.count; i++) bytes[i] = conv_wgrad_mma_traffic(plan, i);
}
}
"""
# map, C, then 1x1, (Cr, K) of the 3x3, (Cr, K) of the 5x5, projection
MODULES = {
    "3a": (28, 192, 64, (96, 128), (16, 32), 32),
    "4a": (14, 480, 192, (96, 208), (16, 48), 64),
    "5a": (7, 832, 256, (160, 320), (32, 128), 128),
}


@cache
def traffic() -> ctypes.CDLL:
    """The byte models as a shared library, warnings being errors."""
    folder = Path(tempfile.mkdtemp(prefix="pyinception-traffic-"))
    (folder / "traffic.cpp").write_text(WRAPPERS)
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{CUDA}"]
    command = [str(CXX), *flags, str(folder / "traffic.cpp"), "-o", str(folder / "traffic.so")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    library = ctypes.CDLL(str(folder / "traffic.so"))
    for name in ("reduce_conv_mma", "conv_mma", "conv_lrn_pool_mma", "inception_mma"):
        getattr(library, name).restype = ctypes.c_double
    shutil.rmtree(folder)
    return library


# ---- problems -----------------------------------------------------------------------------------
def dense(*shape: int) -> tuple[int, ...]:
    return tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape) - 1))


def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Half of them positive, so that masks let gradients through."""
    return rng.standard_normal(shape).astype(dtype)


def simt_conv(
    device: Device, extents: tuple[int, int, int, int], channels: tuple[int, ...], filter_: int,
    storage: str, direction: str,
) -> None:  # fmt: skip
    """Launch one direction of a convolution over dense maps, stride 1, same padding."""
    n, h, w, c = extents
    rng, dtype, a = (
        np.random.default_rng(0),
        STORAGES[storage],
        np.zeros((), cuda_args.CONV_CUDA_ARGS),
    )
    for name, value in zip("NHWC", extents, strict=True):
        a[name] = value
    a["R"] = a["S"] = filter_
    a["stride_h"] = a["stride_w"] = 1
    a["pad_h"] = a["pad_w"] = filter_ // 2
    a["storage"], a["panel_count"] = list(STORAGES).index(storage), len(channels)
    for name in ("x", "gx"):
        a[name] = device.buffer(name, values(rng, extents, dtype))
        a[f"{name}_strides"] = dense(*extents)
    row = filter_ * filter_ * c
    a["gw"] = device.buffer("gw", np.zeros((channels[0], row), np.float32))
    a["gb"] = device.buffer("gb", np.zeros(channels[0], np.float32))
    for i, k in enumerate(channels):
        p, y = a["panels"][i], (n, h, w, k)
        p["w"] = device.buffer(f"w{i}", values(rng, (k, row), dtype))
        p["b"] = device.buffer(f"b{i}", values(rng, (k,), np.float32))
        p["y"] = device.buffer(f"y{i}", values(rng, y, dtype))
        p["gy"] = device.buffer(f"gy{i}", values(rng, y, dtype))
        p["y_strides"], p["gy_strides"], p["K"], p["relu"] = dense(*y), dense(*y), k, 1
    size = cuda_run.plan("conv_wgrad_size", a)[1]
    a["workspace"] = device.buffer("workspace", np.zeros(max(size, 4) // 4, np.float32))
    a["workspace_bytes"] = size
    launches, _ = cuda_run.plan(f"conv_{direction}", a)
    bytes_ = (ctypes.c_double * 8)()
    assert getattr(traffic(), f"conv_{direction}")(a.tobytes(), bytes_) == 0
    for launch, modelled in zip(launches, bytes_, strict=False):
        device.launch(launch)
        device.model(launch.entry, modelled)


def simt_reduce_conv(
    device: Device, extents: tuple[int, int, int, int], cr: int, k: int, filter_: int,
    direction: str,
) -> None:  # fmt: skip
    """Launch fprop (r kept on chip) or backward (everything) over dense fp32 maps."""
    n, h, w, c = extents
    rng, a = np.random.default_rng(0), np.zeros((), cuda_args.REDUCE_CONV_CUDA_ARGS)
    given = {"N": n, "H": h, "W": w, "C": c, "Cr": cr, "K": k, "R": filter_, "S": filter_,
             "stride_h": 1, "stride_w": 1, "pad_h": filter_ // 2, "pad_w": filter_ // 2,
             "shared_limit": 163 * KB}  # fmt: skip
    for name, value in given.items():
        a[name] = value
    shapes: dict[str, tuple[int, ...]] = {
        "x": extents, "wr": (cr, c), "br": (cr,), "w": (k, filter_ * filter_ * cr), "b": (k,),
        "y": (n, h, w, k), "r": (n, h, w, cr), "gy": (n, h, w, k), "gx": extents,
        "gwr": (cr, c), "gbr": (cr,), "gw": (k, filter_ * filter_ * cr), "gb": (k,),
    }  # fmt: skip
    backward = direction == "backward"
    forward_only, backward_only = ("br", "b"), ("r", "gy", "gx", "gwr", "gbr", "gw", "gb")
    for name, shape in shapes.items():
        if name not in (forward_only if backward else backward_only):
            a[name] = device.buffer(name, values(rng, shape, np.float32))
        if len(shape) == 4:
            a[f"{name}_strides"] = dense(*shape)
    if backward:
        size = cuda_run.plan("reduce_conv_backward_size", a)[1]
        a["workspace"] = device.buffer("workspace", np.zeros(size // 4, np.float32))
        a["workspace_bytes"] = size
    launches, _ = cuda_run.plan(f"reduce_conv_{direction}", a)
    bytes_ = (ctypes.c_double * 8)()
    assert getattr(traffic(), f"reduce_conv_{direction}")(a.tobytes(), bytes_) == 0
    for launch, modelled in zip(launches, bytes_, strict=False):
        device.launch(launch)
        device.model(launch.entry, modelled)


def lrn_pool(
    device: Device, extents: tuple[int, int, int, int], pool_first: bool, storage: str
) -> None:
    """Launch GoogLeNet's normalisation and 3x3 pool with stride 2 over dense maps."""
    n, h, w, c = extents
    rng, dtype, a = (
        np.random.default_rng(0),
        STORAGES[storage],
        np.zeros((), cuda_args.LRN_POOL_CUDA_ARGS),
    )
    given = {"N": n, "H": h, "W": w, "C": c, "R": 3, "S": 3, "stride_h": 2, "stride_w": 2,
             "ceil_mode": 1, "pool_first": pool_first, "size": 5, "alpha": 1e-4, "beta": 0.75,
             "k": 1, "storage": list(STORAGES).index(storage)}  # fmt: skip
    for name, value in given.items():
        a[name] = value
    for name, shape in {"x": extents, "y": (n, h // 2, w // 2, c)}.items():
        a[name] = device.buffer(name, values(rng, shape, dtype))
        a[f"{name}_strides"] = dense(*shape)
    [launch], _ = cuda_run.plan("lrn_pool", a)
    bytes_ = ctypes.c_double()
    assert traffic().lrn_pool(a.tobytes(), ctypes.byref(bytes_)) == 0
    device.launch(launch)
    device.model(launch.entry, bytes_.value)


class Placed(executor.Dry):
    """Operands in the device's buffers; a plan of one launch is run, beside its model."""

    multiprocessors = 1

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = device

    def put(self, name: str, array: np.ndarray, **how) -> tuple[int, tuple[int, ...]]:
        return self.device.buffer(name, array), (*dense(*array.shape), 1)

    def run(self, plan: str, record: np.ndarray) -> None:
        [launch] = (planned := Planned(plan, record)).launches
        self.device.launch(launch)
        modelled = getattr(traffic(), plan)(planned.record.tobytes())
        self.device.model(launch.entry, modelled)


def conv_lrn_pool(device: Device, conv: ConvSpec, pool_first: bool, storage: str = "bf16") -> None:
    """Launch a convolution with GoogLeNet's normalisation and pool."""
    rng, dtype = np.random.default_rng(0), STORAGES[storage]
    pool = PoolSpec("max", conv.N, conv.P, conv.Q, conv.K, (3, 3), (2, 2), ceil_mode=True)
    lrn = LrnSpec(*(pool.y_shape if pool_first else conv.y_shape))
    x, w, y = (values(rng, s, dtype) for s in (conv.x_shape, conv.w_shape, pool.y_shape))
    stages = (conv, pool, lrn) if pool_first else (conv, lrn, pool)
    b = np.ones(conv.K, np.float32)
    records_stem.conv_lrn_pool(Placed(device), stages, x, w, b, y)


MMA_PLANS = {"reduce_conv": "reduce_conv_mma", "conv": "conv_mma", "inception": "inception_mma",
             "wgrad": "conv_wgrad_mma"}  # fmt: skip


def mma_launch(device: Device, op: str, asked: np.ndarray) -> Planned:
    planned = Planned(MMA_PLANS[op], asked)
    assert not planned.reason and planned.launches, planned.reason
    bytes_ = (ctypes.c_double * 2)()
    if op == "wgrad":
        traffic().wgrad_mma(asked.tobytes(), bytes_)
    else:
        tile = (
            ("wide", "tall", "flat").index(planned.launches[0].entry.split("_")[-1])
            if op != "inception"
            else 0
        )
        bytes_[0] = getattr(traffic(), f"{op}_mma")(planned.record.tobytes(), tile)
    for launch, modelled in zip(planned.launches, bytes_, strict=False):
        device.launch(launch)
        device.model(launch.entry, modelled)
    return planned


MMA_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def mma_reduce_conv(device, extents, cr, k, filter_, storage, multiprocessors=132) -> None:
    case = ReduceConv((*extents, cr, k, filter_, filter_), padding=(filter_ // 2,) * 2,
                      storage=MMA_NAMES[storage], multiprocessors=multiprocessors)  # fmt: skip
    mma_launch(device, "reduce_conv", case.place(device.buffer))


def mma_conv(device, extents, channels, filter_, storage, direction, multiprocessors=132) -> None:
    case = Conv((*extents, sum(channels), filter_, filter_), padding=(filter_ // 2,) * 2,
                outputs=channels, storage=MMA_NAMES[storage],
                multiprocessors=multiprocessors)  # fmt: skip
    if direction == "fprop":
        mma_launch(device, "conv", case.forward(device.buffer)[0])
        return
    c, k = extents[3], sum(channels)
    addresses = {
        "gm": device.buffer("gm", case.gy.astype(case.storage)),
        "flipped": device.buffer("flipped", np.zeros((c, filter_, filter_, k), case.storage)),
    }
    if direction == "wgrad":
        mma_launch(device, "wgrad", case.wgrad(addresses, device.buffer))
    else:
        forward = case.forward(device.buffer)[0]
        a, _ = case.dgrad(forward, addresses, device.buffer)
        mma_launch(device, "conv", a)


def mma_inception(device, extents, widths, storage, multiprocessors=132) -> None:
    n, extent, _, c = extents
    case = Inception(n, extent, c, widths, storage=MMA_NAMES[storage],
                     multiprocessors=multiprocessors, frames=((0, 0), (0, 0)))  # fmt: skip
    mma_launch(device, "inception", case.place(device.buffer))


STEM = {"pool1, norm1": (112, 64, True), "norm2, pool2": (56, 192, False)}  # map, C, pool first
# map, C, K, filter, stride, padding, pool first; conv1 the way it is padded, as pairs of pixels of
# four channels (and with a column more)
STEM_CONVS = {
    "conv1, pool1, norm1": ((224, 112), 8, 64, (7, 4), (2, 1), (3, 2), True),
    "conv2, norm2, pool2": ((56, 56), 64, 192, (3, 3), (1, 1), (1, 1), False),
}


# ---- cases --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Case:
    """One call: ``layer`` names the shape, ``op`` the kernel, ``run`` launches it on a device."""

    layer: str
    op: str
    run: Callable[[Device], None]

    def count(self) -> list[Counted]:
        device = Device()
        self.run(device)
        return list(device.results(self.layer))


def stem_cases(channels: int = 1, rows: int = 1) -> Iterator[Case]:
    """What follows the stem's convolutions, alone and fused with them; divided as in `cases`."""
    for layer, (extent, c, pool_first) in STEM.items():
        x = (1, extent // rows // 2 * 2, extent // rows // 2 * 2, c // channels)
        for storage in STORAGES:
            yield Case(layer, f"lrn_pool {storage}",
                       lambda d, x=x, first=pool_first, s=storage:
                       lrn_pool(d, x, first, s))  # fmt: skip
    for layer, (map_, c, k, filter_, stride, padding, pool_first) in STEM_CONVS.items():
        extents = (1, *(side // rows // 2 * 2 for side in map_), max(8, c // channels // 8 * 8))
        conv = ConvSpec(*extents, k // channels, *filter_, stride, padding, relu=True)
        for storage in ("bf16", "fp16"):
            yield Case(layer, f"conv_lrn_pool_mma {storage}",
                       lambda d, conv=conv, first=pool_first, s=storage:
                       conv_lrn_pool(d, conv, first, s))  # fmt: skip


def cases(module: str, channels: int = 1, rows: int = 1) -> Iterator[Case]:
    """Every kernel at the shapes of a module; C and K divided by ``channels``, maps by ``rows``."""
    if module == "stem":
        yield from stem_cases(channels, rows)
        return
    extent, c, c1, (cr3, k3), (cr5, k5), cp = MODULES[module]
    reduced = lambda k: max(16, k // channels // 16 * 16)  # noqa: E731
    h = extent // rows if rows > 1 else extent
    x = (1, h, h, reduced(c))
    ones = tuple(reduced(k) for k in (c1, cr3, cr5))
    for name, cr, k, f in (("3x3", reduced(cr3), reduced(k3), 3), ("5x5", cr5, reduced(k5), 5)):
        layer = f"{module}/{name}"
        for way in ("fprop", "backward"):
            yield Case(layer, f"reduce_conv {way}",
                       lambda d, cr=cr, k=k, f=f, way=way:
                       simt_reduce_conv(d, x, cr, k, f, way))  # fmt: skip
        for storage in STORAGES:
            for way in ("fprop", "dgrad", "wgrad"):
                yield Case(layer, f"conv {way} {storage}",
                           lambda d, cr=cr, k=k, f=f, s=storage, way=way:
                           simt_conv(d, (1, h, h, cr), (k,), f, s, way))  # fmt: skip
                yield Case(layer, f"conv_mma {way} {storage}",
                           lambda d, cr=cr, k=k, f=f, s=storage, way=way:
                           mma_conv(d, (1, h, h, cr), (k,), f, s, way))  # fmt: skip
            for mps in (132, 1):
                yield Case(layer, f"reduce_conv_mma {storage} on {mps}",
                           lambda d, cr=cr, k=k, f=f, s=storage, m=mps:
                           mma_reduce_conv(d, x, cr, k, f, s, m))  # fmt: skip
    for storage in STORAGES:
        for way in ("fprop", "dgrad"):
            yield Case(f"{module}/1x1s", f"conv {way} {storage}",
                       lambda d, s=storage, way=way: simt_conv(d, x, ones, 1, s, way))  # fmt: skip
        yield Case(f"{module}/1x1s", f"conv_mma fprop {storage}",
                   lambda d, s=storage: mma_conv(d, x, ones, 1, s, "fprop"))  # fmt: skip
        widths = (reduced(c1), reduced(cr3), reduced(k3), cr5, reduced(k5), reduced(cp))
        yield Case(module, f"inception_mma {storage}",
                   lambda d, s=storage, widths=widths: mma_inception(d, x, widths, s))  # fmt: skip
