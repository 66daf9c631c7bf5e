"""A GoogLeNet module for the CUDA plans: inputs, its record over a device, references.

The references follow the arithmetic of the kernels: float32 sums, rounded to the storage type where
a kernel stores a map. With ``np.float64`` and no rounding they are the truth. Backward takes what
forward saved as given, so masks and argmax are the same on both sides.
"""

from dataclasses import dataclass, field

import numpy as np
from cuda_run import STORAGES, assert_only_slice_written, integers, plan, sliced, strides_of
from pyinception.kernels import cuda_args, reference

KB = 1024
PLAIN, REDUCE3, FILTER3, REDUCE5, FILTER5, PROJECTION = range(6)
SAVED = ("r3", "r5", "pooled", "argmax")


@dataclass
class Forward:
    """What a forward leaves: the map and the saved maps."""

    y: np.ndarray
    r3: np.ndarray
    r5: np.ndarray
    pooled: np.ndarray
    argmax: np.ndarray


@dataclass
class Gradients:
    """gx and the twelve gradients of the filters and biases."""

    gx: np.ndarray
    gw: list[np.ndarray] = field(default_factory=list)
    gb: list[np.ndarray] = field(default_factory=list)

    def named(self) -> dict[str, np.ndarray]:
        """Every array with its name."""
        named = {"gx": self.gx}
        for i, (gw, gb) in enumerate(zip(self.gw, self.gb, strict=True)):
            named |= {f"gw{i}": gw, f"gb{i}": gb}
        return named


class Module:
    """Integers or real numbers, each map a slice of a wider buffer of NaN.

    Integers are sparse and small: every sum is exact in fp32, every map a kernel rounds to tf32
    stays within 2,048.
    """

    def __init__(self, n, extent, c, widths, *, filter_=5, storage="fp32", tensor_cores=False,
                 real=False, frame=(8, 16), seed=0, limit=227 * KB,
                 multiprocessors=132) -> None:  # fmt: skip
        self.shape, self.widths, self.filter = (n, extent, extent, c), widths, filter_
        self.tensor_cores, self.frame = tensor_cores, frame
        self.limit, self.multiprocessors = limit, multiprocessors
        self.storage, self.dtype = list(STORAGES).index(storage), STORAGES[storage]
        rng = np.random.default_rng(seed)

        def draw(shape, top: int, terms: int) -> np.ndarray:
            if real:
                scale = 1.0 if terms == 0 else (2 / terms) ** 0.5
                return (scale * rng.standard_normal(shape)).astype(self.dtype)
            density = min(1.0, 24 / terms) if terms else 1.0
            return integers(rng, shape, np.float32, top) * (rng.random(shape) < density)

        self.x = draw(self.shape, 3, 0).astype(self.dtype)
        inputs = (c, c, widths[REDUCE3], c, widths[REDUCE5], c)
        taps = (1, 1, 3, 1, filter_, 1)
        self.w = [
            draw((k, t, t, cin), 1, t * t * cin).astype(self.dtype)
            for k, t, cin in zip(widths, taps, inputs, strict=True)
        ]
        self.b = [
            (0.3 * rng.standard_normal(k)).astype(np.float32) if real else integers(rng, k)
            for k in widths
        ]
        self.channels = sum(widths[i] for i in (PLAIN, FILTER3, FILTER5, PROJECTION))
        shape = (*self.shape[:3], self.channels)
        self.gy = draw(shape, 1, 0 if real else 60).astype(self.dtype)
        self.cuts = np.cumsum([widths[PLAIN], widths[FILTER3], widths[FILTER5]])

    # ---- references ------------------------------------------------------------------------------
    def stored(self, kind=np.float32):
        """What storing does to a map of float32; nothing to a map of float64."""
        if kind == np.float64:
            return lambda v: v
        return lambda v: v.astype(self.dtype).astype(np.float32)

    def forward(self, kind=np.float32) -> Forward:
        """y and the saved maps, in arithmetic of ``kind``."""
        store, x = self.stored(kind), self.x.astype(kind)
        w, b = [v.astype(kind) for v in self.w], [v.astype(kind) for v in self.b]

        def conv(v, i):
            half = (w[i].shape[1] // 2,) * 2
            return store(reference.conv2d_fprop(v, w[i], b[i], padding=half, relu=True))

        r3, r5 = conv(x, REDUCE3), conv(x, REDUCE5)
        pooled, argmax = reference.max_pool_fprop(x, (3, 3), (1, 1), (1, 1))
        parts = [conv(x, PLAIN), conv(r3, FILTER3), conv(r5, FILTER5), conv(pooled, PROJECTION)]
        return Forward(np.concatenate(parts, axis=3), r3, r5, pooled, argmax)

    def backward(self, done: Forward, kind=np.float32) -> Gradients:
        """The gradients after ``done``, in arithmetic of ``kind``."""
        store, w = self.stored(kind), [v.astype(kind) for v in self.w]
        x, gy = self.x.astype(kind), self.gy.astype(kind)
        y, r3, r5, pooled = (v.astype(kind) for v in (done.y, done.r3, done.r5, done.pooled))
        g1, g3, g5, gp = np.split(np.where(y > 0, gy, 0), self.cuts, axis=3)

        def dgrad(g, i, shape):
            return reference.conv2d_dgrad(g, w[i], shape, padding=(w[i].shape[1] // 2,) * 2)

        gr3 = np.where(r3 > 0, store(dgrad(g3, FILTER3, r3.shape)), 0)
        gr5 = np.where(r5 > 0, store(dgrad(g5, FILTER5, r5.shape)), 0)
        gpooled = store(dgrad(gp, PROJECTION, x.shape))
        gx = store(reference.max_pool_dgrad(gpooled, done.argmax, x.shape, (3, 3), (1, 1), (1, 1)))
        stacked = zip((g1, gr3, gr5), (PLAIN, REDUCE3, REDUCE5), strict=True)
        gx = store(gx + sum(dgrad(g, i, x.shape) for g, i in stacked))
        result = Gradients(gx)
        sources = zip((x, x, r3, x, r5, pooled), (g1, gr3, g3, gr5, g5, gp), w, strict=True)
        for v, g, filter_ in sources:
            half = (filter_.shape[1] // 2,) * 2
            gw, gb = reference.conv2d_wgrad(v, g, filter_.shape, padding=half)
            result.gw.append(gw)
            result.gb.append(gb)
        return result

    # ---- on a device -----------------------------------------------------------------------------
    def record(self, memory) -> np.ndarray:
        """Extents, filters and the maps that both directions read."""
        a = np.zeros((), cuda_args.INCEPTION_CUDA_ARGS)
        a["N"], a["H"], a["W"], a["C"] = self.shape
        a["K"], a["filter"], a["storage"] = self.widths, self.filter, self.storage
        a["tensor_cores"], a["shared_limit"] = self.tensor_cores, self.limit
        a["multiprocessors"] = self.multiprocessors
        self.put(a, memory, x=sliced(self.x, *self.frame))
        for i in range(6):
            a["w"][i] = memory.put(self.w[i], f"w{i}")
            a["b"][i] = memory.put(self.b[i], f"b{i}")
        return a

    def put(self, a: np.ndarray, memory, **maps: np.ndarray) -> None:
        """Maps into the record by name; argmax has no strides of its own."""
        for name, view in maps.items():
            a[name] = memory.put(view, name)
            if name != "argmax":
                a[f"{name}_strides"] = strides_of(view)

    def output(self, channels: int) -> np.ndarray:
        """A map to be written: NaN, in a buffer of NaN."""
        return sliced(np.full((*self.shape[:3], channels), np.nan, self.dtype), *self.frame)

    def run_forward(self, device, memory, *, save: bool = True) -> Forward | np.ndarray:
        """Plan, launch, read back; y alone unless ``save``. Beside a slice all stays NaN."""
        a = self.record(memory)
        maps = {"y": self.output(self.channels)}
        if save:
            maps["r3"] = self.output(self.widths[REDUCE3])
            maps["r5"] = self.output(self.widths[REDUCE5])
            maps["pooled"] = self.output(self.shape[3])
            maps["argmax"] = np.full(self.shape, 99, np.uint8)
        self.put(a, memory, **maps)
        launch("inception_fprop", a, device, memory)
        for name, view in maps.items():
            if name != "argmax":
                assert_only_slice_written(view)
        got = {n: v if n == "argmax" else v.astype(np.float32) for n, v in maps.items()}
        return Forward(**got) if save else got["y"]

    def placed(self) -> np.ndarray:
        """The record of either direction over made-up addresses, for plans that are not run."""
        a = self.record(_Nowhere())
        for name in ("y", "gy", "r3", "r5", "pooled", "gx"):
            channels = {"y": self.channels, "gy": self.channels, "r3": self.widths[REDUCE3],
                        "r5": self.widths[REDUCE5]}  # fmt: skip
            self.put(a, _Nowhere(), **{name: self.output(channels.get(name, self.shape[3]))})
        a["argmax"], a["gw"], a["gb"] = 1 << 32, 1 << 32, 1 << 32
        return a

    def run_backward(self, device, memory, done: Forward,
                     skip: frozenset | set = frozenset()) -> Gradients:  # fmt: skip
        """The gradients after ``done``; those named in ``skip`` are not asked for."""
        a = self.record(memory)
        maps = {
            "y": sliced(done.y.astype(self.dtype), *self.frame),
            "gy": sliced(self.gy, *self.frame),
            "r3": sliced(done.r3.astype(self.dtype), *self.frame),
            "r5": sliced(done.r5.astype(self.dtype), *self.frame),
            "pooled": sliced(done.pooled.astype(self.dtype), *self.frame),
            "argmax": np.ascontiguousarray(done.argmax, np.uint8),
            "gx": self.output(self.shape[3]),
        }
        self.put(a, memory, **maps)
        gw = [np.full(w.shape, np.nan, np.float32) for w in self.w]
        gb = [np.full(b.shape, np.nan, np.float32) for b in self.b]
        for i in range(6):
            a["gw"][i] = 0 if f"gw{i}" in skip else memory.put(gw[i], f"gw{i}")
            a["gb"][i] = 0 if f"gw{i}" in skip else memory.put(gb[i], f"gb{i}")
        if "gx" in skip:
            a["gx"] = 0
        launch("inception_backward", a, device, memory)
        assert_only_slice_written(maps["gx"])
        return Gradients(maps["gx"].astype(np.float32), gw, gb)


class _Nowhere:
    """Addresses of nothing."""

    def put(self, view: np.ndarray, name: str) -> int:
        return 1 << 32


def launch(name: str, a: np.ndarray, device, memory) -> None:
    """Size the workspace by the dry run, run the plan, read all buffers back."""
    _, size = plan(f"{name}_size", a)
    workspace = np.full(size // 4, np.nan, np.float32)
    a["workspace"] = memory.put(workspace, "workspace") if size else 0
    a["workspace_bytes"] = size
    launches, _ = plan(name, a)
    for one in launches:
        device.launch(one)
    memory.take_back()
