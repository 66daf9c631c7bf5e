"""Samples of competing calls, taken in turns, and the FMA peak measured beside them.

Times are seconds of the host's clock. Caches are warm: a call's own working set is in cache as far
as it fits, because every timed block follows untimed runs of the same call.
"""

import gc
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pyinception import workspace
from pyinception.backend import core
from pyinception.bench.fma import FmaLoop

Call = Callable[[], Any]

BLOCK_SECONDS = 1e-3  # of one sample: the clock's 0.1 us and the loop around the call vanish in it
# With more than one thread a rival's idle team may spin on our core for some milliseconds after
# its last call, and two threads that woke on one core wait as long for the system to part them
# (after 5 ms rows of 60 us still took 4 ms); each block first runs its own call this long, untimed.
SETTLE_SECONDS = 3e-2
# What follows those whose idle team spins longer waits this long instead: ONNX Runtime's spun for
# 50 to 75 ms, OpenBLAS' (NumPy's) for 100, 2^28 cycles (two Zen 4 cores).
SPINNING_SECONDS = {"onnxruntime": 0.1, "numpy": 0.2}
CALM = 0.9  # of the peak: undisturbed medians of the loop stayed above 0.94 (Zen 5, 1 thread)
SPREAD = 1.3  # of p80 over p20: undisturbed rows stayed below 1.2


@dataclass(frozen=True)
class Timing:
    """Median and the 20th and 80th percentiles of ``count`` samples, seconds a call."""

    median: float
    p20: float
    p80: float
    count: int

    @classmethod
    def of(cls, samples: list[float]) -> "Timing":
        p20, median, p80 = (float(v) for v in np.percentile(samples, (20, 50, 80)))
        return cls(median, p20, p80, len(samples))

    def over(self, passes: int) -> "Timing":
        """Of one of ``passes`` equal parts of a call."""
        return Timing(self.median / passes, self.p20 / passes, self.p80 / passes, self.count)


@contextmanager
def _no_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def once(call: Call) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def repetitions(call: Call, seconds: float = BLOCK_SECONDS) -> int:
    """How many calls fill ``seconds``; the call is run four times to find out."""
    once(call)
    shortest = min(once(call) for _ in range(3))
    return max(1, math.ceil(seconds / max(shortest, 1e-9)))


def interleave(
    calls: Mapping[str, Call],
    *,
    rounds: int = 15,
    settle: float = 0.0,
    spinning: Mapping[str, float] | None = None,
) -> dict[str, Timing]:
    """Time ``calls`` in turns, A B C B C A ..., so that a change of clock or load meets all alike.

    Parameters
    ----------
    calls : name -> call without arguments.
    rounds : samples of each call; a sample is the mean of a block of about 1 ms.
    settle : seconds that a call runs untimed before each of its blocks, at least once.
    spinning : name -> seconds in place of ``settle`` for whichever call comes after this one, whose
        team of threads goes on spinning; names that are no calls are ignored.

    Returns
    -------
    name -> `Timing`, in the order of ``calls``.
    """
    if rounds < 1:
        raise ValueError(f"interleave: rounds is {rounds}, expected at least 1")
    names = list(calls)
    counts = {name: repetitions(calls[name]) for name in names}
    samples: dict[str, list[float]] = {name: [] for name in names}
    pauses = {name: seconds for name, seconds in (spinning or {}).items() if name in calls}
    pause = max(pauses.values(), default=settle)  # the calls that were counted may spin
    with _no_collection():
        for turn in range(rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                call = calls[name]
                start = time.perf_counter()
                call()
                while time.perf_counter() - start < pause:
                    call()
                pause = pauses.get(name, settle)
                start = time.perf_counter()
                for _ in range(counts[name]):
                    call()
                samples[name].append((time.perf_counter() - start) / counts[name])
    return {name: Timing.of(samples[name]) for name in names}


class Peak:
    """The FMA peak of ``threads`` threads: the best of all samples of a run, GFLOP/s.

    The best, not the median: what the cores can do when nobody disturbs them. Samples are taken in
    turns with the rows, so that peak and rows see the same clock. Where `FmaLoop` cannot run, a
    1x1 convolution stands in (512 -> 32 channels out of L1 and L2), which is 6 to 9 % lower;
    ``method`` says which it was.
    """

    def __init__(self, threads: int, level: str = "") -> None:
        self.threads, self.best = threads, 0.0
        self.rates: list[float] = []
        level = level or core().host_level()
        try:
            self._sample: Callable[[], float] = FmaLoop(threads, level)
            self.method = f"register-only FMA loop, {level}, best of all samples of the run"
        except OSError as error:
            self._sample = _convolution(threads, level)
            self.method = f"1x1 convolution out of L1, 6-9 % below the true peak ({error})"

    def __call__(self) -> None:
        """Take one sample."""
        rate = self._sample()
        self.rates.append(rate)
        self.best = max(self.best, rate)

    def measure(self, samples: int = 20) -> float:
        """Take further samples; returns the best GFLOP/s so far."""
        for _ in range(samples):
            self()
        return self.best


def unsteady(cell: Mapping[str, Any]) -> bool:
    """Whether a cell's samples spread too far for its median to say much."""
    return bool("median_us" in cell and cell["p80_us"] > SPREAD * cell["p20_us"])


def disturbed(cell: Mapping[str, Any], around: float, best: float) -> bool:
    """Whether a cell's spread, or the peak loop's median beside it, tells of other work."""
    return unsteady(cell) or around < CALM * best


def disturbed_note(names: list[str]) -> list[str]:
    """One note that names the disturbed rows; none where there are none."""
    if not names:
        return []
    return [
        f"DISTURBED beside {', '.join(names)}: the peak loop's median or the spread of "
        "our samples shows that something else was using these cores; repeat the run"
    ]


def unsteady_note(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """One note that names the rivals whose own samples spread, row by row; none for calm ones."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for name, cell in row["columns"].items():
            if name not in ("fused", "unfused", "call") and unsteady(cell):
                found.setdefault(name, []).append(row["name"])
    if not found:
        return []
    places = "; ".join(f"{name} on {', '.join(names)}" for name, names in found.items())
    return [f"DISTURBED: p80 is above {SPREAD} p20 for {places}: no ratio to rely on there"]


def _convolution(threads: int, level: str) -> Callable[[], float]:
    """A sampler of the GFLOP/s of a 1x1 convolution, 112 pixels an image by one filter panel."""
    channels, filters, pixels, images, repeats = 512, 32, 112, 8 * threads, 4
    size = core().packed_size(filters, 1, 1, channels, "fprop", "direct", level)
    shapes = (images, 1, pixels, channels), (images, 1, pixels, filters), (size,)
    x, y, packed = (workspace.empty(shape, np.empty(0, np.float32)) for shape in shapes)
    x[...] = 0.5
    core().pack(np.ones((filters, 1, 1, channels), np.float32), packed, "fprop", "direct", level, 1)
    with core().record() as launches:
        for _ in range(repeats):
            window = (1, 1), (1, 1), (0, 0), False
            core().conv_fprop(x, packed, None, y, *window, "direct", level, threads)
    flops = 2 * repeats * x.size * filters

    def sample() -> float:
        return flops / once(partial(launches.run, threads)) / 1e9

    return sample


def copy_rate(threads: int, size: int = 64 << 20) -> float:
    """GB/s, read and written, of ``threads`` copies of ``size`` bytes at once; the best of five."""
    pairs = [(np.ones(size // 8), np.ones(size // 8)) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:

        def copy() -> None:
            list(pool.map(lambda pair: np.copyto(*pair), pairs))

        return 2e-9 * size * threads / min(once(copy) for _ in range(5))
