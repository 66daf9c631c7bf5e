"""A kernel of the caller's own for reduce_conv: what it is launched with, and what it is run on.

    r = relu(x wr^T + br),  y = relu(conv(r, w) + b)

The kernel is an entry of a ``.cu`` file that takes one `ReduceConvCudaArgs`
(``kernels/cuda_args.h``). A comment in that file says how to launch it:

    // launch ENTRY: threads=128 tile_p=4 tile_q=7 tile_k=32 reduced=0 shared=0

======== =================================================================================
threads  of a block, a multiple of 32
tile_p   output rows of a block; ``tile_q`` output columns; cut to the map where it is smaller
tile_k   output channels of a block
reduced  dynamic shared memory holds the reduced tile with its halo, Cr + this many floats a
         pixel; left out: it does not
shared   further bytes of dynamic shared memory [0]
======== =================================================================================

grid.x is N ceil(P / tile_p) ceil(Q / tile_q), grid.y is ceil(K / tile_k). Of the record's plan
fields those of tiles and maps are filled: P, Q, tile_p, halo_h, tile_q, halo_w, image_tiles,
tiles_q, map_pixels, map_w, step_h, step_w.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import pyinception.kernels as kernels
from pyinception.backend import Array, core, reference
from pyinception.bench.executors import Executor
from pyinception.kernels.cuda_args import REDUCE_CONV_CUDA_ARGS
from pyinception.spec import BranchSpec, ConvSpec

KERNELS = Path(kernels.__file__).parent
FORM = "// launch ENTRY: threads=128 tile_p=4 tile_q=7 tile_k=32"
FRAME = 4  # channels of y's buffer on either side of the slice, which nobody may write
_LINE = re.compile(r"^[ \t]*//[ \t]*launch[ \t]+(\w+)[ \t]*:(.*)$", re.MULTILINE)
_LEAST = {"threads": 32, "tile_p": 1, "tile_q": 1, "tile_k": 1, "reduced": 0, "shared": 0}
_MOST = {"threads": 1024, "shared": 232448}


class KernelError(ValueError):
    """A kernel that cannot be run: its file, its entry or its launch line."""


# entry, grid, block, record, dynamic shared bytes: what `Executor.launch` takes
Launch = tuple[str, tuple[int, ...], tuple[int, ...], bytes, int]


@dataclass(frozen=True)
class Geometry:
    """The launch line of an entry; ``reduced`` is None where it is left out."""

    threads: int
    tile_p: int
    tile_q: int
    tile_k: int
    reduced: int | None = None
    shared: int = 0

    @classmethod
    def of(cls, text: str, entry: str, name: str) -> "Geometry":
        """The line for ``entry`` in a source; KernelError where there is none, or a wrong one."""
        found = dict(_LINE.findall(text))
        if entry not in found:
            raise KernelError(f'{name}: no launch line for {entry}, expected "{FORM}"')
        values: dict[str, int] = {}
        for word in found[entry].split():
            key, _, number = word.partition("=")
            if key not in _LEAST or not re.fullmatch(r"\d{1,9}", number) or key in values:
                known = ", ".join(_LEAST)
                raise KernelError(f"{name}: launch {entry} has {word!r}, expected one of {known}=N")
            values[key] = int(number)
            most = _MOST.get(key, 1 << 20)
            if not _LEAST[key] <= values[key] <= most or (key == "threads" and values[key] % 32):
                steps = " in steps of 32" if key == "threads" else ""
                wanted = f"{_LEAST[key]}..{most}{steps}"
                raise KernelError(f"{name}: launch {entry} has {word}, expected {wanted}")
        missing = {"threads", "tile_p", "tile_q", "tile_k"} - values.keys()
        if missing:
            raise KernelError(f"{name}: launch {entry} does not say {', '.join(sorted(missing))}")
        return cls(**values)

    def launch(self, entry: str, record: Array, limit: int) -> Launch:
        """One launch; writes the plan fields of the record."""
        a = record
        tile_p, tile_q = min(self.tile_p, int(a["P"])), min(self.tile_q, int(a["Q"]))
        halo_h = (tile_p - 1) * int(a["stride_h"]) + max(int(a["R"]), int(a["stride_h"]))
        halo_w = (tile_q - 1) * int(a["stride_w"]) + max(int(a["S"]), int(a["stride_w"]))
        rows, columns = -(-int(a["P"]) // tile_p), -(-int(a["Q"]) // tile_q)
        a["tile_p"], a["halo_h"] = tile_p, halo_h
        for name, value in {
            "tile_q": tile_q, "halo_w": halo_w, "image_tiles": rows * columns, "tiles_q": columns,
            "map_pixels": a["H"] * a["W"], "map_w": a["W"], "step_h": a["stride_h"],
            "step_w": a["stride_w"],
        }.items():  # fmt: skip
            a[name] = divisor(int(value))
        shared = self.shared
        if self.reduced is not None:
            shared += 4 * halo_h * halo_w * (int(a["Cr"]) + self.reduced)
        if shared > limit:
            raise KernelError(
                f"{entry}: a block needs {shared} bytes of shared memory, expected at most "
                f"{limit}: smaller tile_p or tile_q"
            )
        grid = int(a["N"]) * rows * columns, -(-int(a["K"]) // self.tile_k)
        return entry, grid, (self.threads,), a.tobytes(), shared


def divisor(value: int) -> tuple[int, int, int]:
    """The `CudaDivisor` of ``value``: see ``kernels/cuda/index.cuh``."""
    shift = (value - 1).bit_length()
    return value, ((1 << (31 + shift)) + value - 1) // value, shift


# ---- contenders ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Contender:
    """A kernel file with its entries, and the launch that a filled record asks for."""

    name: str
    source: Path
    launch: Callable[[Array, int], Launch]


def own(kernel: str, executor: Executor) -> Contender:
    """The contender "FILE.cu:ENTRY", compiled once.

    Raises
    ------
    KernelError
        There is no such file, entry or launch line.
    CompileError
        The file does not compile; the compiler's words follow.
    """
    file, colon, entry = kernel.rpartition(":")
    if not colon or not re.fullmatch(r"\w+", entry):
        raise KernelError(f"kernel is {kernel!r}, expected FILE.cu:ENTRY")
    source = Path(file)
    if not source.is_file():
        raise KernelError(f"kernel: there is no file {file}")
    entries = executor.compile(source, [KERNELS])
    if entry not in entries:
        there = ", ".join(entries) or 'none (extern "C" __global__ makes one)'
        raise KernelError(f"{source.name} has no entry {entry}; its entries: {there}")
    geometry = Geometry.of(source.read_text("utf-8", errors="replace"), entry, source.name)
    return Contender(entry, source, lambda record, limit: geometry.launch(entry, record, limit))


def ours() -> Contender:
    """The library's kernel in float32, launched as its plan says."""

    def launch(record: Array, limit: int) -> Launch:
        asked = record.copy()
        asked["shared_limit"] = limit
        launches, _ = core().cuda_plan("reduce_conv_fprop", asked.tobytes())
        ((_, entry, grid, block, shared, params, _),) = launches
        return entry, grid, (block,), params, shared

    return Contender("ours", KERNELS / "cuda" / "reduce_conv.cu", launch)


# ---- problems on a device ------------------------------------------------------------------------
def integers(spec: BranchSpec, seed: int) -> tuple[Array, list[Array]]:
    """x and (wr, br, w, b) of small integers: every sum is exact in float32 in any order."""
    rng = np.random.default_rng(seed)

    def draw(shape: tuple[int, ...], top: int, kept: float = 1.0) -> Array:
        values = rng.integers(-top, top + 1, shape) * (rng.random(shape) < kept)
        return values.astype(np.float32)

    first, last = stages(spec)
    weights = [draw(first.w_shape, 1, min(1.0, 24 / first.C)), draw((first.K,), 8)]
    terms = last.R * last.S * last.C
    weights += [draw(last.w_shape, 2, min(1.0, 200 / terms)), draw((last.K,), 8)]
    return draw(first.x_shape, 3), weights


def stages(spec: BranchSpec) -> tuple[ConvSpec, ConvSpec]:
    """The 1x1 and the convolution after it."""
    first, last = spec.stages
    assert isinstance(first, ConvSpec) and isinstance(last, ConvSpec)
    return first, last


def expected(spec: BranchSpec, x: Array, weights: list[Array]) -> Array:
    """y by the reference."""
    last = stages(spec)[1]
    window = {"stride": last.stride, "padding": last.padding}
    y: Array = reference().reduce_conv_fprop(x, *weights, **window)[0]
    return y


def place(executor: Executor, spec: BranchSpec, x: Array, weights: list[Array]) -> Array:
    """A record over buffers of ``executor``: x dense, y a slice of a wider map, NaN before."""
    first, last = stages(spec)
    record = np.zeros((), REDUCE_CONV_CUDA_ARGS)
    values = {
        "N": first.N, "H": first.H, "W": first.W, "C": first.C, "Cr": first.K, "K": last.K,
        "R": last.R, "S": last.S, "stride_h": last.stride[0], "stride_w": last.stride[1],
        "pad_h": last.padding[0], "pad_w": last.padding[1], "P": last.P, "Q": last.Q,
    }  # fmt: skip
    for name, value in values.items():
        record[name] = value
    for name, array in zip(("x", "wr", "br", "w", "b"), (x, *weights), strict=True):
        record[name] = executor.buffer(name, array)
    wide = last.K + 2 * FRAME
    record["y"] = executor.empty("y", (last.N, last.P, last.Q, wide), np.float32) + 4 * FRAME
    record["x_strides"] = (first.H * first.W * first.C, first.W * first.C, first.C)
    record["y_strides"] = (last.P * last.Q * wide, last.Q * wide, wide)
    return record


def result(executor: Executor) -> Array:
    """y, once nothing was written beside its slice; KernelError names the first such element."""
    whole = executor.read("y")
    y = whole[..., FRAME:-FRAME]
    beside = np.concatenate([whole[..., :FRAME], whole[..., -FRAME:]], axis=-1).view(np.uint32)
    touched = np.argwhere(beside != 0xFFFFFFFF)
    if len(touched):
        n, p, q, i = (int(v) for v in touched[0])
        k = i - FRAME if i < FRAME else y.shape[3] + i - FRAME
        raise KernelError(f"y[{n}, {p}, {q}, {k}] was written, which lies beside its slice")
    return y


def difference(y: Array, wanted: Array, near: Array | float = 0.0) -> str | None:
    """The first output that is further from ``wanted`` than ``near``, in words; None: none is."""
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(y.astype(np.float64) - wanted) <= near)
    if not wrong.any():
        return None
    at = tuple(int(v) for v in np.argwhere(wrong)[0])
    bits = int(np.ascontiguousarray(y).view(np.uint32)[at])
    found = "was not written" if bits == 0xFFFFFFFF else f"is {float(y[at]):.9g}"
    place = ", ".join(f"{axis}={v}" for axis, v in zip("npqk", at, strict=True))
    total = f"{int(wrong.sum())} of {wrong.size} outputs are wrong"
    return f"y[{place}] {found}, expected {float(wanted[at]):.9g}; {total}"
