"""Live statistics: what a step's kernels, gradients and maps were like, every few steps.

    share of the roofline = FLOPs of a step / (seconds of it * FMA peak of all threads)

FLOPs are nominal: two per multiply-add of the specs that a step's launches have, padding included,
whatever the algorithm (Winograd needs fewer). The statistics only read, so a run has the same bits
with and without them.

One line of metrics.jsonl ("kind": "watch") holds

    layers    name -> gradient, weight   norms, before clipping and update
                      dead               share of the channels behind the ReLU positive nowhere
    branches  module -> branch -> root mean square of its output
    clock     seconds of the step: data, update, rest, and kernels by op and direction (CPU);
              flops and peak_gflops, where a peak could be measured
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from pyinception import backend, config, workspace
from pyinception.bench.timing import Peak
from pyinception.dispatch import Plan
from pyinception.module import Module
from pyinception.tensor import Tensor
from pyinception.train import inside
from pyinception.train.update import Update

EVERY = 20  # steps from one line to the next
PEAK_SAMPLES = 20  # of half a millisecond each
# Convolutions whose gradients of input and weights come from one call.
_PRODUCTS = {"backward": 2}


def measured_peak() -> Peak | None:
    """What this machine's threads reach on registers alone; None where no CPU kernel runs."""
    if config.get("backend") not in ("auto", "cpu") or backend.why_not("cpu") is not None:
        return None
    threads = config.get("threads") or backend.core().default_threads()
    peak = Peak(threads, config.get("cpu_level"))
    peak.measure(PEAK_SAMPLES)
    return peak


class _Clock(workspace.Recording):
    """Runs every call, and tells of it with its seconds; keeps no array alive."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def array(self, array: backend.Array) -> backend.Array:
        return array

    def call(self, call: Any, arguments: tuple[Any, ...]) -> None:
        if not isinstance(call, Plan):
            call(*arguments)
            return
        begun = time.perf_counter()
        call.row.run(call.spec, *arguments)
        self._watch.ran(call, arguments, begun, time.perf_counter())


class Watch:
    """Looks into the first of every ``every`` steps; 0 looks into none.

    Parameters
    ----------
    net : whose steps.
    peak : of `measured_peak`; None tells no share of the roofline. Each step that is looked into
        adds a sample: beside other work on the machine the first ones may have been too low.
    """

    def __init__(self, net: Module, every: int = EVERY, peak: Peak | None = None) -> None:
        if every < 0:
            raise ValueError(f"train: watch is {every}, expected at least 0")
        self.net, self.every, self.peak = net, every, peak
        self._flops_per_image = 0.0
        self._names = inside.layers(net)
        self._weights = list(inside.weights(net))
        # A launch on a GPU returns before the kernel has run: its seconds would mean nothing.
        self._clocked = all(backend.memory_of(p.data) == "host" for p in net.parameters())
        self._modules = {name: dict(rows) for name, rows in inside.branches_of(net).items()}
        self._due = False

    def roofline(self, images: int, seconds: float) -> float | None:
        """The share of the peak that ``images`` in ``seconds`` mean, None where it is unknown."""
        flops = self._flops_per_image * images
        if not (flops and self.peak and seconds):
            return None
        return round(flops / seconds / self.peak.best / 1e9, 4)

    @contextmanager
    def step(self, update: Update, images: int) -> Iterator[None]:
        """Around one step; afterwards `line` tells of it, if it was looked into."""
        self._due = bool(self.every) and update.iteration % self.every == 0
        # The first step after a start is counted even where no line is due: its FLOPs are needed.
        if not (self._due or (self.every and self.peak and not self._flops_per_image)):
            yield
            return
        self._layers: dict[str, dict[str, float | None]] = defaultdict(dict)
        self._branches: dict[str, dict[str, float | None]] = {}
        self._kernels: dict[str, float] = defaultdict(float)
        self._macs, self._own, self._updating = 0, 0.0, 0.0
        update.before = self._gradients
        heard = inside.listening(self.net, self._modules, self._output)
        begun = time.perf_counter()
        try:
            with workspace.record(_Clock(self)), heard if self._due else nullcontext():
                yield
        finally:
            update.before = None
        ended = time.perf_counter()
        self._seconds = ended - begun - self._own
        self._update_seconds = ended - self._updating if self._updating else 0.0
        self._flops_per_image = 2 * self._macs / images

    def ran(self, plan: Plan, arguments: tuple[Any, ...], begun: float, ended: float) -> None:
        """A kernel ran."""
        if self._clocked:
            self._kernels[f"{plan.op} {plan.direction}"] += ended - begun
        self._macs += plan.spec.macs * _PRODUCTS.get(plan.direction, 1)
        if self._due:
            for weight, y in inside.rectified(plan, arguments):
                name = self._names.get(id(weight))
                if name is not None:
                    self._layers[name]["dead"] = _short(inside.dead(y))
        self._own += time.perf_counter() - ended

    def _output(self, name: str, y: Tensor) -> None:
        begun = time.perf_counter()
        self._branches[name] = {
            label: _short(inside.rms(y.data[..., channels]))
            for label, channels in self._modules[name].items()
        }
        self._own += time.perf_counter() - begun

    def _gradients(self) -> None:
        begun = time.perf_counter()
        for name, weight in self._weights if self._due else ():
            if weight.grad is not None:
                found = self._layers[name]
                found["gradient"] = _short(inside.norm(weight.grad))
                found["weight"] = _short(inside.norm(weight.values))
        self._updating = time.perf_counter()
        self._own += self._updating - begun

    def line(self, waited: float) -> dict[str, Any] | None:
        """What to write of the step just done, None where it was not looked into.

        Parameters
        ----------
        waited : seconds that the step waited for its images.
        """
        if not self._due:
            return None
        clock: dict[str, Any] = {
            "seconds": _short(self._seconds + waited),
            "data": _short(waited),
            "update": _short(self._update_seconds),
            "kernels": {name: _short(seconds) for name, seconds in self._kernels.items()},
        }
        known = sum(self._kernels.values()) + self._update_seconds
        clock["rest"] = _short(max(0.0, self._seconds - known))
        clock["flops"] = 2 * self._macs
        if self.peak is not None:
            self.peak()
            clock["peak_gflops"] = _short(self.peak.best)
        return {"layers": dict(self._layers), "branches": self._branches, "clock": clock}


def _short(value: float) -> float | None:
    """Five digits are enough to look at; None for what is no number."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
