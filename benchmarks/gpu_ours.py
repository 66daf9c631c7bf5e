"""Our own kernels as rows of a GPU session: checked, sanitized, timed; rehearsed on the emulator.

    python benchmarks/gpu_ours.py conv/fprop/mma lrn/fprop/direct   # what compute-sanitizer runs

On a GPU arrays are CuPy's on backend "cuda"; in a rehearsal they are NumPy's on "emulated", with
the same plans and launch lists, small, and timed by nobody but the host's clock.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from math import ceil
from typing import Any

import gpu_checkout
import gpu_fused
import numpy as np
from gpu_checks import CHECKS
from gpu_predicted import predicted
from gpu_sanitizer import sanitized
from gpu_timing import (
    MODULES,
    NET_MACS,
    Module,
    compare,
    error_limit,
    host_timer,
    module_truth,
    module_weights,
    rates,
    sample,
    summarize,
)

sys.path.append(str(gpu_checkout.ROOT / "tests"))

import pyinception as pyi
from pyinception import backend, emulator, losses, optim, rng, session, table, tracing
from pyinception.cuda import runs
from pyinception.layers import Conv2d, Inception, MaxPool2d
from pyinception.module import Module as Layer
from pyinception.ops import concat
from pyinception.tensor import Tensor
from pyinception.workspace import empty

STORAGE = {"bf16": "bfloat16", "fp16": "float16", "tf32": "float32", "fp32": "float32"}
RUNG = {"bf16": "mma", "fp16": "mma", "tf32": "tf32", "fp32": "direct"}
SESSION = RUNG | {"bf16": "auto", "fp16": "auto"}  # "mma" forces fused kernels that plans decline
REHEARSED_SECONDS = 60.0  # no further call is timed then: nobody asks how long an emulator takes
SMALL = ("conv", "reduce_conv", "inception", "max_pool", "batch_norm", "softmax_cross_entropy",
         *gpu_fused.STORAGES)  # fmt: skip


def reason(rehearsal: bool) -> str | None:
    """Why our kernels cannot run here; None where they can."""
    why = backend.why_not("emulated" if rehearsal else "cuda")
    if rehearsal or why:
        return why
    return None if find_spec("cupy") else "CuPy is not installed; pip install cupy-cuda13x"


class Ours:
    """The kernels on this machine: where arrays go, how a call is timed."""

    def __init__(self, rehearsal: bool) -> None:
        self.rehearsal = rehearsal
        self.backend = "emulated" if rehearsal else "cuda"

    def put(self, array: np.ndarray, precision: str) -> Any:
        stored = array.astype(backend.dtype_of(STORAGE[precision]))
        return stored if self.rehearsal else backend.moved(stored, "cuda")

    def net(self, net: Layer, precision: str) -> Layer:
        """The network where its arrays belong, stored as the precision says."""
        return net.store_as(STORAGE[precision]).to("host" if self.rehearsal else "cuda")

    def _stream(self) -> int:
        """The handle that a session is replayed on: CuPy's current stream."""
        if self.rehearsal:
            return 0
        import cupy

        return int(cupy.cuda.get_current_stream().ptr)

    def within(self, precision: str) -> Any:
        """The switches of a row."""
        return _Within(self.backend, RUNG[precision])

    def times(self, **calls: Callable[[], Any]) -> dict[str, Any]:
        """Median, p20, p80 of each call: by events on the GPU, L2 warm and flushed before each.

        A graph is replayed several times between two events where L2 is warm, as a rival's is.
        """
        if self.rehearsal:
            end, found = time.monotonic() + REHEARSED_SECONDS, {}
            for name, call in calls.items():
                if not found or time.monotonic() < end:
                    timer = partial(host_timer, call)
                    found[f"host_{name}"] = summarize(sample(timer, least=1, most=1))
            return found
        import cupy

        flush = cupy.empty(2 * cupy.cuda.Device().attributes["L2CacheSize"], np.uint8)
        found = {}
        for name, call in calls.items():

            def once(call: Callable[[], Any] = call, calls: int = 1, cold: bool = False) -> float:
                if cold:
                    flush.fill(0)
                start, end = cupy.cuda.Event(), cupy.cuda.Event()
                start.record()
                for _ in range(calls):
                    call()
                end.record()
                end.synchronize()
                return float(cupy.cuda.get_elapsed_time(start, end)) * 1e-3

            once()
            calls = max(1, min(20, ceil(5e-4 / max(once(), 1e-6)))) if name == "graph" else 1
            warm = sample(lambda once=once, calls=calls: once(calls=calls))
            found[f"{name}_warm"] = summarize(warm, calls=calls)
            found[f"{name}_cold"] = summarize(sample(lambda once=once: once(cold=True)))
        return found

    # ---------------------------------------------------------------------------------- checks

    def check_row(self, op: str, direction: str, rung: str) -> dict[str, Any]:
        """Every small case of an op against the reference: integers, so most to the bit."""
        if op in gpu_fused.STORAGES:
            return gpu_fused.check_row(op, rung, self.rehearsal)
        from op_cases import arrays, cases, wide_cases

        storage = "bfloat16" if rung == "mma" else "float32"
        (row,) = [r for r in table.rows(op, direction) if r.name == f"{self.backend}/{rung}"]
        (truth,) = [r for r in table.rows(op, direction) if r.backend == "reference"]
        ran, declined, worst, exact = 0, [], 0.0, True
        for case in wide_cases() if rung != "direct" else cases():
            if (case.op, case.direction) != (op, direction):
                continue
            spec, given = case.spec, case.fresh()
            if why := runs.why_not(rung, (op, direction), spec, storage):
                declined.append(why)
                continue
            like = runs.operands((op, direction), spec, storage)
            placed = _each(lambda a, b: self._placed(a, b), given, like)
            wanted = case.fresh()
            row.run(spec, *placed)
            truth.run(spec, *wanted)
            ran += 1
            results = _each(lambda a, _: backend.to_host(a), placed, placed)
            for got, expected in zip(arrays(results), arrays(wanted), strict=True):
                scale = max(float(np.abs(expected).max(initial=0)), 1.0)
                difference = float(np.abs(got.astype(np.float64) - expected).max(initial=0))
                worst = max(worst, difference / scale if np.isfinite(difference) else np.inf)
            exact = exact and case.exact
        limit = 2.0**-6 if rung == "mma" else 0.0 if exact else 1e-5
        if ran == 0:
            why = "; ".join(sorted(set(declined))) or "no small case"
            return {"status": "skipped", "reason": why, "times": None}
        row_of = {"cases": ran, "declined": len(declined), "error": {"max_rel": worst}}
        status = "ok" if worst <= limit else "wrong"
        return row_of | {"error_limit": limit, "status": status, "times": None, "rates": None}

    def _placed(self, array: np.ndarray, like: Any) -> Any:
        """An array of the cases in the dtype of ``like`` and where the kernels want it."""
        stored = array.astype(like.dtype) if hasattr(like, "dtype") else array
        return stored if self.rehearsal else backend.moved(stored, "cuda")

    def sanitizer_row(self, tool: str) -> dict[str, Any]:
        """The small cases under compute-sanitizer; in a rehearsal under the emulator's checker."""
        wanted = [c for c in CHECKS if c[0] in SMALL and c[2] != "tf32"]
        if self.rehearsal:
            order = {"memcheck": "fair", "racecheck": "greedy"}[tool]
            with emulator.using(checked=True, order=order, seed=7):
                for each in wanted:
                    self.check_row(*each)
            return {"status": "ok", "tool": f"the emulator's checker, {order}", "times": None}
        program = shutil.which("compute-sanitizer") or shutil.which(
            "/usr/local/cuda/bin/compute-sanitizer"
        )
        if program is None:
            return {"status": "skipped", "reason": "no compute-sanitizer found", "times": None}
        command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, __file__]
        return sanitized(command, ["/".join(each) for each in wanted]) | {"tool": tool}

    # ------------------------------------------------------------------------------ benchmarks

    def module_row(self, case: str, N: int, precision: str) -> dict[str, Any]:
        """One module fused, as a session replays it and as a call from Python."""
        shape = _shrunk(MODULES[case]) if self.rehearsal else MODULES[case]
        fused, x, truth = self._fused(shape, N, precision)
        return self._inference(fused, x, truth, precision, 2, shape.flops(N), {
            "bytes_min": shape.bytes_min(N, 2 if precision == "bf16" else 4)})  # fmt: skip

    def fusion_row(self, case: str, N: int, precision: str) -> dict[str, Any]:
        """What fusing the module buys: seven ops into slices of one map, the same precision."""
        shape = _shrunk(MODULES[case]) if self.rehearsal else MODULES[case]
        fused, x, truth = self._fused(shape, N, precision)
        plain = Unfused(shape.C)
        for name, part in plain.children():
            if isinstance(part, Conv2d):
                setattr(plain, name, getattr(fused, name))
        row: dict[str, Any] = {"status": "ok", "error": {}, "times": {}, "sides": {}}
        for name, net in (("fused", fused), ("unfused", plain)):
            side = self._inference(net, x, truth, precision, 2, shape.flops(N), {})
            with self.within(precision):
                specs = [spec for _, _, spec in tracing.specs(net, tuple(x.shape))]
            scale = x.dtype.itemsize / 4
            row["sides"][name] = {
                "launches": side["launches"], "bytes": int(scale * sum(s.bytes for s in specs)),
                "memory_bytes": side["memory_bytes"], "error": side["error"],
            }  # fmt: skip
            row["times"] |= {f"{name} {mode}": t for mode, t in side["times"].items()}
            row["times"] |= {
                f"{name} training {mode}": t
                for mode, t in self.times(step=self._backward(net, x, precision)).items()
            }
            row["error"][name] = side["error"]["max_rel"]
            if side["status"] != "ok":
                row["status"] = side["status"]
        return row | {"rates": rates(row["times"], shape.flops(N), 0)}

    def _fused(self, shape: Module, N: int, precision: str) -> tuple[Inception, Any, np.ndarray]:
        draw = np.random.default_rng(3)
        weights = module_weights(shape, precision, draw)
        parts = shape.c1, shape.r3, shape.c3, shape.r5, shape.c5, shape.proj
        net = Inception(shape.C, *parts)
        names = dict(zip(("c1", "r3", "c3", "r5", "c5", "proj"), _PARTS, strict=True))
        for name, (w, b) in weights.items():
            layer = getattr(net, names[name])
            layer.weight.data[...], layer.bias.data[...] = w, b
        x = self.put(draw.standard_normal((N, shape.H, shape.H, shape.C), np.float32), precision)
        few = backend.to_host(x)[:2].astype(np.float32)
        self.net(net, precision)
        return net, x, module_truth(few, weights)

    def _inference(
        self, net: Layer, x: Any, truth: np.ndarray, precision: str, depth: int, flops: int,
        more: dict[str, Any],
    ) -> dict[str, Any]:  # fmt: skip
        net.eval()
        with self.within(precision):
            made = session.Session(net, tuple(x.shape), self.backend, SESSION[precision])
            y = backend.to_host(made(x)).astype(np.float64)[: len(truth)]
            error = compare(y, truth)
            # The graph alone; with its copies of input and result; op by op from Python.
            replay = partial(made._run, self._stream())
            times = self.times(graph=replay, call=lambda: made(x), eager=lambda: net(x))
        limit = error_limit(precision, depth)
        memory = made.arena_bytes + (made._scratch.nbytes if made._launches is not None else 0)
        return more | {
            "status": "ok" if error["max_rel"] <= limit else "wrong", "error": error,
            "error_limit": limit, "times": times, "rates": rates(times, flops, 0), "flops": flops,
            "launches": 0 if made._launches is None else len(made._launches),
            "memory_bytes": int(memory), "captured": made.captured, "predicted": predicted(made),
        }  # fmt: skip

    def _backward(self, net: Layer, x: Any, precision: str) -> Callable[[], None]:
        def step() -> None:
            net.train()
            with self.within(precision):
                y = net(x)
                y.backward(backend.array_module(y.data).ones_like(y.data))

        return step

    def net_row(self, N: int, precision: str) -> dict[str, Any]:
        """GoogLeNet forward; the truth are two images by our CPU kernels in float32."""
        net = pyi.models.googlenet(aux=False, seed=1).eval()
        images = np.random.default_rng(4).standard_normal((N, 224, 224, 3), np.float32)
        truth = np.array(net(images[:2]).data).astype(np.float64)
        x = self.put(images, precision)
        self.net(net, precision)
        return self._inference(net, x, truth, precision, 22, 2 * N * NET_MACS, {})

    def train_row(self, N: int, precision: str) -> dict[str, Any]:
        """A training step of GoogLeNet with both heads; gradients of one image beside the CPU's."""
        few = np.random.default_rng(5).standard_normal((1, 224, 224, 3), np.float32)
        wide = pyi.models.googlenet(10, seed=2).train()
        with rng.at(2, 0), pyi.using(backend="cpu", algorithm="direct"):
            losses.cross_entropy(wide(few), np.array([3])).backward()
        wanted = {name: np.array(p.grad) for name, p in wide.named_parameters()}
        net = self.net(pyi.models.googlenet(10, seed=2).train(), precision)
        sgd = optim.SGD(net, 0.01)

        def step(x: Any, labels: np.ndarray) -> None:
            with self.within(precision), rng.at(2, 0):
                losses.cross_entropy(net(x), labels).backward()

        step(self.put(few, precision), np.array([3]))
        differences = {
            n: backend.to_host(p.grad).astype(np.float64) - wanted[n]
            for n, p in net.named_parameters()
        }
        norm = np.sqrt(sum(float(np.square(g, dtype=np.float64).sum()) for g in wanted.values()))
        error = np.sqrt(sum(float(np.square(d).sum()) for d in differences.values())) / norm
        limit = error_limit(precision, 22, gradient=True)
        sgd.zero_grad()
        x = self.put(np.repeat(few, N, axis=0), precision)
        labels = np.arange(N) % 10

        def whole() -> None:
            step(x, labels)
            sgd.step()

        times = self.times(step=whole)
        status = "ok" if error <= limit else "wrong"
        row = {"status": status, "error": {"l2_rel": float(error)}, "error_limit": limit}
        return row | {"times": times, "rates": rates(times, 6 * N * NET_MACS, 0)}

    def kernelbench_row(self, problem: str) -> dict[str, Any]:
        """KernelBench level 3, problem 6 (a module at 224x224) and 7 (GoogLeNet), batch 10: NCHW
        float32 in and out, layout conversion in the time, tf32. Their modules have no ReLU."""
        import gpu_kernelbench

        N = 1 if self.rehearsal else 10
        with self.within("tf32"):
            call, error, flops = gpu_kernelbench.problem(problem, N, self)
            times = self.times(events=call)
        limit = error_limit("tf32", 2 if problem == "6" else 22)
        status = "ok" if error["max_rel"] <= limit else "wrong"
        row = {"status": status, "error": error, "error_limit": limit, "times": times}
        return row | {"rates": rates(times, flops, 0), "batch": N}


_PARTS = ("conv1x1", "reduce3x3", "conv3x3", "reduce5x5", "conv5x5", "pool_proj")


class Unfused(Layer):
    """GoogLeNet's module as seven ops that land in slices of one map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in _PARTS:
            setattr(self, name, Conv2d(channels, 1, 1))
        self.pool = MaxPool2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        ends = [getattr(self, name) for name in ("conv1x1", "conv3x3", "conv5x5", "pool_proj")]
        widths = np.cumsum([0, *(end.weight.shape[0] for end in ends)])
        y = empty((*x.shape[:3], int(widths[-1])), x.data)
        inputs = x, self.reduce3x3(x), self.reduce5x5(x), self.pool(x)
        parts = []
        for end, source, first, last in zip(ends, inputs, widths, widths[1:], strict=False):
            parts.append(end(source, out=y[..., int(first) : int(last)]))
        return concat(parts, out=y)


class _Within:
    """The backend, and the rung for float32; unchecked where it is emulated."""

    def __init__(self, name: str, rung: str) -> None:
        self.contexts = pyi.using(backend=name, algorithm=rung), emulator.using(checked=False)

    def __enter__(self) -> None:
        for context in self.contexts:
            context.__enter__()

    def __exit__(self, *error: Any) -> None:
        for context in reversed(self.contexts):
            context.__exit__(*error)


def _each(function: Callable[[Any, Any], Any], value: Any, like: Any) -> Any:
    """The arrays of nested tuples, each with its like, as ``function`` makes them."""
    if isinstance(value, tuple):
        others = like if isinstance(like, tuple) else (None,) * len(value)
        return tuple(_each(function, v, other) for v, other in zip(value, others, strict=True))
    return function(value, like) if hasattr(value, "dtype") else value


def _shrunk(module: Module) -> Module:
    """The module on a map that the emulator is through with in seconds."""
    return Module(module.name, min(module.H, 7), *list(vars(module).values())[2:])


def main(arguments: list[str]) -> int:
    """Check ops on the GPU, telling of each; 0 if all are right."""
    import cupy

    cupy.cuda.set_allocator(None)  # every array ends where its memory does
    ours, wrong = Ours(rehearsal=False), 0
    for name in arguments:
        try:
            row = ours.check_row(*name.split("/"))
        except Exception as error:
            row = {"status": "failed", "reason": repr(error)}
        wrong += row["status"] not in ("ok", "skipped")
        print("CHECKED", name, row["status"], row, flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
