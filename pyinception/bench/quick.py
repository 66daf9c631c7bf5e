"""A minute's benchmark of whatever is here, for one JSON that others can be compared with.

On CUDA: GoogLeNet and three of its modules, bf16 and fp32, sessions replayed as CUDA graphs, timed
by events. Elsewhere: the same by the backend asked for, bf16 where it is emulated, by the host's
clock and in turns with the FMA peak. A sample is the mean of a block of calls. Every result is
judged against the reference in float64 before it is timed; a wrong one has no time.
"""

import importlib.util
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pyinception import backend, config, init, models, session, tracing
from pyinception.backend import Array, BackendError
from pyinception.bench.net import logits_float64
from pyinception.bench.report import Report, environment
from pyinception.bench.timing import (
    BLOCK_SECONDS,
    Peak,
    Timing,
    disturbed,
    disturbed_note,
    once,
)
from pyinception.cuda import machine
from pyinception.layers import Inception
from pyinception.models.googlenet import WIDTHS
from pyinception.module import Module

SECONDS = 45.0  # after which no further row is begun; the last one has a quarter of a minute
MAPS = {"3a": (28, 192), "4a": (14, 480), "5a": (7, 832)}  # side and channels of x
ROUNDS, ROW_SECONDS = 10, 10.0  # samples of a row; of slow calls fewer, but three
LIMITS = {"bf16": 0.05, "fp32": 1e-4}  # of the largest value: a wrong kernel is far beyond
Call = Callable[[], Any]
Clock = Callable[[Call], float]  # seconds of one call


def run_quick(
    progress: Callable[[str], None] | None = None, *, seconds: float = SECONDS, clock: Any = None
) -> Report:
    """Time the rows that fit ``seconds``, most telling ones first.

    Parameters
    ----------
    clock : seconds of one call, in place of the events of CUDA or the host's clock.
    """
    begun = time.perf_counter()
    where = config.get("backend")
    if where == "auto":
        where = "cpu" if _no_cuda() else "cuda"
    if where == "cuda" and (reason := _no_cuda()):
        raise BackendError(f'bench: backend "cuda" cannot run: {reason}')
    measure: Clock = clock or (_by_events if where == "cuda" else once)
    threads = config.get("threads") or backend.core().default_threads()
    peak = None if clock or where == "cuda" else Peak(threads)
    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    for name, precision, batch, make in _rows(where):
        if time.perf_counter() - begun > seconds:
            left_out[f"{name} {precision}"] = f"{seconds:g} seconds were over"
            continue
        if progress is not None:
            progress(f"{name} {precision}")
        since = len(peak.rates) if peak else 0
        cell = _cell(where, precision, make(batch), measure, peak)
        rows.append({"name": f"{name} b{batch}", "columns": {precision: cell}})
        if peak and peak.rates[since:]:
            rows[-1]["peak_gflops"] = float(np.median(peak.rates[since:]))
    about = environment(threads)
    if where == "cuda":
        about |= {"cpu": _device_name(), "level": "cuda"}
    settings = {"backend": where, "seconds": seconds}
    best = peak.best if peak else 0.0
    settings |= {"peak_gflops": best} if best else {}
    places = [
        f"{row['name']} {precision}"
        for row in rows
        for precision, cell in row["columns"].items()
        if disturbed(cell, row.get("peak_gflops", best), best)
    ]
    return Report("quick", rows, about, settings, left_out, disturbed_note(places))


def _no_cuda() -> str | None:
    missing = None if importlib.util.find_spec("cupy") else "CuPy is not installed"
    return backend.why_not("cuda") or missing


def _device_name() -> str:
    driver = machine.driver()
    devices = driver["devices"] if isinstance(driver, dict) else []
    return str(devices[0]["name"]) if devices else "CUDA device"


Made = tuple[Module, Array, Array]  # a network, images, what it should give for the first of them


def _rows(where: str) -> Iterator[tuple[str, str, int, Callable[[int], Made]]]:
    device = where == "cuda"
    small = where == "emulated"  # a rehearsal
    for precision in ("bf16", "fp32") if where in ("cuda", "emulated") else ("fp32",):
        if not small:
            for batch in (32, 1) if device else (1,):
                yield "googlenet", precision, batch, _net
        for name in list(MAPS)[-1:] if small else MAPS:

            def make(batch: int, name: str = name) -> Made:
                return _module(name, batch)

            yield name, precision, 128 if device else 1, make


def _net(batch: int) -> Made:
    net = models.googlenet(aux=False, seed=1).eval()
    x = np.random.default_rng(0).standard_normal((batch, 224, 224, 3)).astype(np.float32)
    return net, x, logits_float64(net, x[:1])


def _module(name: str, batch: int) -> Made:
    side, channels = MAPS[name]
    net = init.initialise(Inception(channels, *WIDTHS[name]), 1).eval()
    x = np.random.default_rng(0).standard_normal((batch, side, side, channels)).astype(np.float32)
    return net, x, logits_float64(net, x[:1])


def _cell(
    where: str, precision: str, made: Made, measure: Clock, peak: Peak | None
) -> dict[str, Any]:
    net, x, truth = made
    with config.using(backend="auto"):  # extents are the same everywhere
        macs = sum(spec.macs for _, _, spec in tracing.specs(net, x.shape))
    storage = {"bf16": "bfloat16", "fp32": "float32"}[precision]
    net.store_as(storage)
    given = x.astype(backend.dtype_of(storage))
    if where == "cuda":
        net.to("cuda")
        given = backend.moved(given, "cuda")
    run = session.Session(net, x.shape, backend=where)
    y = backend.to_host(run(given))[: len(truth)].astype(np.float64)
    error = float(np.abs(y - truth).max() / np.abs(truth).max())
    if not error <= LIMITS[precision]:
        return {"failed": f"error {error:.2g}, expected at most {LIMITS[precision]:g}"}
    timing = _timing(lambda: run(given), measure, peak)
    return {
        "error": error,
        "median_us": 1e6 * timing.median,
        "p20_us": 1e6 * timing.p20,
        "p80_us": 1e6 * timing.p80,
        "samples": timing.count,
        "gflops": 2e-9 * macs / timing.median,
    }


def _timing(call: Call, measure: Clock, peak: Peak | None) -> Timing:
    """Blocks of calls that last about 1 ms, the peak's samples in turns with them."""
    count = max(1, math.ceil(BLOCK_SECONDS / measure(call)))

    def block() -> None:
        for _ in range(count):
            call()

    samples: list[float] = []
    until = time.perf_counter() + ROW_SECONDS
    while len(samples) < ROUNDS and (len(samples) < 3 or time.perf_counter() < until):
        if peak is not None:
            peak()
        samples.append(measure(block) / count)
    return Timing.of(samples)


def _by_events(call: Call) -> float:
    cuda = sys.modules["cupy"].cuda
    start, end = cuda.Event(), cuda.Event()
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(cuda.get_elapsed_time(start, end)) * 1e-3
