"""A training step of GoogLeNet beside the same step in other libraries.

Every library has a process of its own (`training_step.py`), so that no team of threads and no
allocator meets another's; steps are taken in turns, through pipes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from figures_record import Figure, Unavailable

import pyinception as pyi
from pyinception.bench.timing import Timing

TIMES, MEMORY = 1.3, 0.7  # promised: the fastest's time over ours, our memory over torch's
SCRIPT = Path(__file__).with_name("training_step.py")
OURS, EAGER = "pyinception", "torch"
# glibc gives large blocks back to the system, and faults on their pages in every step again.
WARM = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
RIVALS = (EAGER, "torch, warm allocator", "torch.compile", "tensorflow")

interpreters: dict[str, str] = {}  # library -> a Python that has it, where this one has not


class Turns:
    """One library's process: the first loss, memory of two steps in MB, and a step when asked."""

    def __init__(self, name: str, count: int, weights: str) -> None:
        python = interpreters.get(name, sys.executable)
        environment = os.environ | (WARM if name.endswith("warm allocator") else {})
        self.process = subprocess.Popen(
            [python, str(SCRIPT), name, str(count), weights],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment | {"TF_CPP_MIN_LOG_LEVEL": "2", "OMP_NUM_THREADS": "2"},
        )
        self.loss, self.megabytes = map(float, self._line().split())

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{SCRIPT.name} ended with {self.process.wait()}")
        return line

    def step(self) -> float:
        """Seconds of one step."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self._line())

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


@contextmanager
def _opened(names: list[str], count: int) -> Iterator[dict[str, Turns]]:
    found: dict[str, Turns] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/weights.npz"
        np.savez(path, **pyi.models.googlenet(seed=1).state_dict())
        try:
            for name in names:
                found[name] = Turns(name, count, path)
            yield found
        finally:
            for turns in found.values():
                turns.end()


def training(quick: bool = False) -> Figure:
    """All sides in turns; each round begins with the next one, and a step before the timed one."""
    if find_spec("torch") is None:
        raise Unavailable("torch is not installed (extra 'rivals')")
    text = f"a training step: the fastest other takes at least {TIMES} times our time, memory at"
    figure = Figure("training", f"{text} most {MEMORY} of torch's at batch 32")
    names = [OURS, *RIVALS]
    if quick:  # what takes long to start, and what is compiled for long
        names = [OURS, EAGER]
    elif find_spec("tensorflow") is None and "tensorflow" not in interpreters:
        names.remove("tensorflow")
        figure.notes.append("TensorFlow: not installed; --tensorflow names a Python that has it")
    for count, rounds in ((2, 2),) if quick else ((8, 7), (32, 3)):
        with _opened(names, count) as sides:
            samples: dict[str, list[float]] = {name: [] for name in names}
            for turn in range(rounds):
                first = turn % len(names)
                for name in names[first:] + names[:first]:
                    sides[name].step()  # cores and caches are its own again
                    samples[name].append(sides[name].step())
        times = {name: Timing.of(found) for name, found in samples.items()}
        ours = times[OURS].median
        for name, timing in times.items():
            spans = {"ms": timing.median * 1e3, "p20": timing.p20 * 1e3, "p80": timing.p80 * 1e3}
            more = {"MB": sides[name].megabytes, "ratio": timing.median / ours}
            figure.add(batch=count, what=name, **spans, **more)
            error = abs(sides[name].loss - sides[OURS].loss) / sides[OURS].loss
            figure.at_most(f"batch {count}: first loss of {name}, difference", error, 1e-4)
        share = ours / min(timing.median for name, timing in times.items() if name != OURS)
        limit = 9 if quick else 1 / TIMES
        figure.at_most(f"batch {count}: our time over the fastest's", share, limit)
    if not quick:
        memory = sides[OURS].megabytes / sides[EAGER].megabytes
        figure.at_most("memory of two steps, ours over torch's", memory, MEMORY)
    figure.notes.append("MB: by which two steps raise the peak of memory; with a compiler's own")
    return figure
