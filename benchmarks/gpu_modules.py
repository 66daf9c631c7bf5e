"""An Inception module as a chain of cuDNN launches: three forms, checked, then timed.

=========  =====================================================================================
form       launches
=========  =====================================================================================
chain      c1, r3, c3, r5, c5, pool, proj into packed buffers, then four copies: the concat
inplace    the same seven, c1 c3 c5 proj writing their slice of y (wide pixel stride): no concat
stacked    r3 | r5 | c1 as one 1x1 with stacked filters, all in one wide buffer
           [r3 | r5 | c1 | c3 | c5 | proj]; c3 and c5 read and write slices of it
=========  =====================================================================================

The pool is the faster of cuDNN's own and of a plain 16-byte-per-thread kernel. All buffers, the
filters among them, are rotated between calls for the cold figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gpu_timing as timing
import numpy as np
from gpu_cudnn import Cudnn
from gpu_device import CudaError
from gpu_timing import Module

FORMS = ("stacked", "inplace", "chain")
MOST_SETS = 128


@dataclass(frozen=True)
class Step:
    """One launch: `name` is a convolution, "siblings", "pool" or "copy"."""

    name: str
    source: str
    source_channel: int
    channels: int
    target: str
    target_channel: int
    outputs: int
    kernel: int


def program(module: Module, form: str) -> tuple[dict[str, int], list[Step]]:
    """Buffers (name -> channels per pixel) and the launches of a form, in order."""
    m = module
    convs = m.convs()

    def conv(name: str, source: str, at: int, target: str, to: int) -> Step:
        C, K, R = convs[name]
        return Step(name, source, at, C, target, to, K, R)

    pool = Step("pool", "x", 0, m.C, "pooled", 0, m.C, 3)
    at_c3, at_c5, at_proj = m.c1, m.c1 + m.c3, m.c1 + m.c3 + m.c5
    if form == "stacked":
        base = m.r3 + m.r5
        siblings = Step("siblings", "x", 0, m.C, "wide", 0, base + m.c1, 1)
        return {"x": m.C, "wide": base + m.K, "pooled": m.C}, [
            siblings,
            conv("c3", "wide", 0, "wide", base + at_c3),
            conv("c5", "wide", m.r3, "wide", base + at_c5),
            pool,
            conv("proj", "pooled", 0, "wide", base + at_proj),
        ]
    buffers = {"x": m.C, "r3": m.r3, "r5": m.r5, "pooled": m.C, "y": m.K}
    offsets = {"c1": 0, "c3": at_c3, "c5": at_c5, "proj": at_proj}
    reads = {"c1": "x", "r3": "x", "c3": "r3", "r5": "x", "c5": "r5", "proj": "pooled"}
    in_place = form == "inplace"
    if not in_place:
        buffers |= {name: convs[name][1] for name in offsets}
    steps = []
    for name in ("c1", "r3", "c3", "r5", "c5", "pool", "proj"):
        if name == "pool":
            steps.append(pool)
        elif in_place and name in offsets:
            steps.append(conv(name, reads[name], 0, "y", offsets[name]))
        else:
            steps.append(conv(name, reads[name], 0, name, 0))
    if not in_place:
        for name, to in offsets.items():
            K = convs[name][1]
            steps.append(Step("copy", name, 0, K, "y", to, K, 1))
    return buffers, steps


def bytes_moved(module: Module, form: str, N: int, itemsize: int) -> int:
    """Bytes that the launches of a form read and write, workspace not counted."""
    _, steps = program(module, form)
    per_pixel = sum(step.channels + step.outputs for step in steps)
    return itemsize * (N * module.H**2 * per_pixel + module.weight_elements())


def cudnn_row(library: Cudnn, module: Module, form: str, N: int, precision: str) -> dict[str, Any]:
    """Check and time one module in one form; the fields of a row."""
    return _ModuleRun(library, module, form, N, precision).row()


class _ModuleRun:
    """Buffers and launches of one row; frees what it allocated."""

    def __init__(self, library: Cudnn, module: Module, form: str, N: int, precision: str):
        self.library, self.cuda = library, library.cuda
        self.module, self.form, self.N, self.precision = module, form, N, precision
        self.itemsize = timing.ITEMSIZE[precision]
        self.pixels = N * module.H**2
        self.buffers, self.steps = program(module, form)
        self.rng = np.random.default_rng([N, module.C, FORMS.index(form)])
        self.weights = timing.module_weights(module, precision, self.rng)
        self.allocated: list[int] = []

    def row(self) -> dict[str, Any]:
        try:
            return self._row()
        finally:
            self.cuda.synchronize()
            for pointer in self.allocated:
                self.cuda.free(pointer)

    def _row(self) -> dict[str, Any]:
        images = self._images()
        sets = self._allocate(images)
        layers = self._layers(sets[0])
        for name, channels in self.buffers.items():
            if name != "x":  # every byte 0xFF is NaN: what no launch writes fails the check
                self.cuda.fill(sets[0][name], 0xFF, self.pixels * channels * self.itemsize)
        self._run(sets[0])
        error = self._check(sets[0], images)
        flops = self.module.flops(self.N)
        bytes_min = self.module.bytes_min(self.N, self.itemsize)
        l2 = self.cuda.attribute["l2_bytes"] or 0
        footprint = len(sets) * self._set_bytes()
        row: dict[str, Any] = {
            "error": error,
            "error_limit": timing.error_limit(self.precision, 2),
            "flops": flops,
            "bytes_min": bytes_min,
            "bytes_moved": bytes_moved(self.module, self.form, self.N, self.itemsize),
            "workspace_bytes": max((row.get("workspace_bytes", 0) for row in layers), default=0),
            "launches": len(self.steps),
            "layers": layers,
            "cold": {"sets": len(sets), "bytes": footprint, "over_2x_l2": footprint > 2 * l2},
            "clock": "cuda events",
        }
        if not error["max_rel"] <= row["error_limit"]:
            return row | {"status": "wrong", "times": None}
        times = self._times(sets)
        rates = timing.rates(times, flops, bytes_min)
        return row | {"status": "ok", "times": times, "rates": rates}

    def _images(self) -> np.ndarray:
        m = self.module
        unique = min(self.N, 32)
        x = self.rng.standard_normal((unique, m.H, m.H, m.C), np.float32)
        return timing.load(timing.store(x, self.precision))

    def _set_bytes(self) -> int:
        maps = self.pixels * sum(self.buffers.values())
        return self.itemsize * (maps + self.module.weight_elements())

    def _allocate(self, images: np.ndarray) -> list[dict[str, int]]:
        """Rotated buffer sets, together over twice the L2, within half of the free memory."""
        l2 = self.cuda.attribute["l2_bytes"] or 64 << 20
        wanted = max(2, math.ceil(2.1 * l2 / self._set_bytes()))
        room = max(1, int(self.cuda.free_bytes() * 0.5 / self._set_bytes()))
        stored = timing.store(images, self.precision)
        repeats = math.ceil(self.N / len(stored))
        x = np.concatenate([stored] * repeats)[: self.N]
        filters = {
            name: (timing.store(w, self.precision), timing.store(b, self.precision))
            for name, (w, b) in self.weights.items()
        }
        stack = ("r3", "r5", "c1")
        filters["siblings"] = tuple(  # type: ignore[assignment]
            np.concatenate([filters[name][i] for name in stack]) for i in (0, 1)
        )
        used = {step.name for step in self.steps}
        sets: list[dict[str, int]] = []
        for number in range(min(wanted, room, MOST_SETS)):
            one: dict[str, int] = {}
            for name, channels in self.buffers.items():
                one[name] = self._alloc(self.pixels * channels * self.itemsize)
            if number:
                self.cuda.copy(one["x"], sets[0]["x"], x.nbytes)
            else:
                self.cuda.upload(one["x"], x)
            for name, pair in filters.items():
                for letter, array in zip("wb", pair, strict=True):
                    if name in used:
                        one[f"{letter}:{name}"] = self._alloc(array.nbytes)
                        self.cuda.upload(one[f"{letter}:{name}"], array)
            sets.append(one)
        self.cuda.synchronize()
        return sets

    def _alloc(self, nbytes: int) -> int:
        pointer = self.cuda.alloc(nbytes)
        self.allocated.append(pointer)
        return pointer

    def _layers(self, one: dict[str, int]) -> list[dict[str, Any]]:
        """Build and tune every launch; leaves `self.launches` as calls on a buffer set."""
        self.launches: list[Callable[[dict[str, int]], None]] = []
        reports = []
        for step in self.steps:
            launch, report = self._launch_of(step, one)
            launch(one)  # the next step is tuned on real data, not on what the allocation held
            self.launches.append(launch)
            reports.append({"name": step.name} | report)
        return reports

    def _launch_of(
        self, step: Step, one: dict[str, int]
    ) -> tuple[Callable[[dict[str, int]], None], dict[str, Any]]:
        H, size, library = self.module.H, self.itemsize, self.library
        ldx, ldy = self.buffers[step.source], self.buffers[step.target]
        at, to = step.source_channel * size, step.target_channel * size
        if step.name == "pool":
            return self._pool(step, one)
        if step.name == "copy":

            def copy(s: dict[str, int]) -> None:
                y = s[step.target] + to
                library.copy_slice(s[step.source], ldx, y, ldy, step.outputs, self.pixels, size)

            return copy, {"us": library.time_us(lambda: copy(one)), "plan": "copy kernel"}
        key = (self.N, H, step.channels, step.outputs, step.kernel, ldx, ldy, self.precision)
        filters, bias = f"w:{step.name}", f"b:{step.name}"
        x, y = one[step.source] + at, one[step.target] + to
        layer = library.tuned(key, x, one[filters], one[bias], y)

        def conv(s: dict[str, int]) -> None:
            x, y = s[step.source] + at, s[step.target] + to
            library.execute(layer, x, s[filters], s[bias], y)

        return conv, dict(layer.report)

    def _pool(
        self, step: Step, one: dict[str, int]
    ) -> tuple[Callable[[dict[str, int]], None], dict[str, Any]]:
        """The faster of cuDNN's pooling and the plain kernel."""
        library, shape = self.library, (self.N, self.module.H, step.channels, self.precision)
        candidates = {"plain kernel": lambda x, y: library.probe_pool(x, y, *shape)}
        reason = None
        try:
            candidates["cudnnPoolingForward"] = library.library_pool(*shape)
            candidates["cudnnPoolingForward"](one[step.source], one[step.target])
            self.cuda.synchronize()
        except (CudaError, AttributeError) as error:
            candidates.pop("cudnnPoolingForward", None)
            reason = str(error)
        measured = {}
        for name, run in candidates.items():

            def once(run: Callable[[int, int], None] = run) -> None:
                run(one[step.source], one[step.target])

            try:
                measured[name] = library.time_us(once)
            except CudaError as error:
                reason = str(error)
        if not measured:
            raise CudaError(f"no 3x3 pool ran: {reason}")
        best = min(measured, key=measured.__getitem__)
        report = {"plan": best, "us": measured[best], "candidates": measured, "refused": reason}
        return lambda s: candidates[best](s[step.source], s[step.target]), report

    def _run(self, one: dict[str, int]) -> None:
        for launch in self.launches:
            launch(one)

    def _run_all(self, order: list[dict[str, int]]) -> None:
        for one in order:
            self._run(one)

    def _check(self, one: dict[str, int], images: np.ndarray) -> dict[str, Any]:
        """Error of three images (first, one in the middle, last) against float64."""
        m = self.module
        name = "wide" if self.form == "stacked" else "y"
        channels = self.buffers[name]
        dtype = timing.storage_dtype(self.precision)
        picked = sorted({0, min(self.N // 2 + 5, self.N - 1), self.N - 1})
        outs, truths = [], []
        for n in picked:
            start = one[name] + n * m.H**2 * channels * self.itemsize
            raw = self.cuda.download(start, (m.H, m.H, channels), dtype)
            outs.append(timing.load(raw)[..., channels - m.K :])
            x = images[n % len(images)][None]
            truths.append(timing.module_truth(x, self.weights)[0])
        error = timing.compare(np.stack(outs), np.stack(truths))
        return error | {"against": "float64 of the stored values", "images": picked}

    def _times(self, sets: list[dict[str, int]]) -> dict[str, dict[str, Any]]:
        cuda = self.cuda
        self._run_all(sets)
        cuda.synchronize()
        turn = iter(range(1 << 62))
        warm = timing.sample(lambda: cuda.elapsed(lambda: self._run(sets[0])))
        cold = timing.sample(lambda: cuda.elapsed(lambda: self._run(sets[next(turn) % len(sets)])))
        times = {"events_warm": timing.summarize(warm), "events_cold": timing.summarize(cold)}
        calls = max(1, min(20, math.ceil(5e-4 / max(float(np.median(warm)), 1e-6))))
        for mode, order in (("graph_warm", sets[:1] * calls), ("graph_cold", sets)):
            graph = cuda.capture(lambda order=order: self._run_all(order))
            graph.launch()
            cuda.synchronize()
            samples = timing.sample(lambda graph=graph: cuda.elapsed(graph.launch))
            times[mode] = timing.summarize(samples, calls=len(order))
            graph.close()
        return times
