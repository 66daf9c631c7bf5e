"""A minute's benchmark of whatever is here, for one JSON that others can be compared with.

On CUDA: GoogLeNet and three of its modules, bf16 and fp32, sessions replayed as CUDA graphs, timed
by events. Elsewhere: the same by the CPU's kernels and the host's clock. Every result is judged
against float64 (modules) or our float32 on the CPU (the net) before it is timed; a wrong one has no
time.
"""

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pyinception import backend, config, init, models, session
from pyinception.backend import Array, BackendError
from pyinception.bench.report import Report, environment
from pyinception.bench.timing import Timing
from pyinception.cuda import machine
from pyinception.layers import Inception
from pyinception.models.googlenet import WIDTHS
from pyinception.module import Module

SECONDS = 45.0  # after which no further row is begun; the last one has a quarter of a minute
MAPS = {"3a": (28, 192), "4a": (14, 480), "5a": (7, 832)}  # side and channels of x
LIMITS = {"bf16": 0.05, "fp32": 1e-4}  # of the largest value: a wrong kernel is far beyond
Clock = Callable[[Callable[[], Any]], float]  # seconds of one call


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
    measure: Clock = clock or (_by_events if where == "cuda" else _by_host)
    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    for name, precision, batch, make in _rows(where):
        if time.perf_counter() - begun > seconds:
            left_out[f"{name} {precision}"] = f"{seconds:g} seconds were over"
            continue
        if progress is not None:
            progress(f"{name} {precision}")
        rows.append({"name": f"{name} b{batch}", "columns": {}})
        rows[-1]["columns"][precision] = _cell(where, precision, make(batch), measure)
    about = environment(config.get("threads"))
    if where == "cuda":
        about |= {"cpu": _device_name(), "level": "cuda"}
    settings = {"backend": where, "seconds": seconds}
    return Report("quick", rows, about, settings, left_out, [])


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
    for precision in ("bf16", "fp32") if where != "cpu" else ("fp32",):
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
    with config.using(backend="cpu"):
        return net, x, np.array(net(x[:1]).data, np.float64)


def _module(name: str, batch: int) -> Made:
    side, channels = MAPS[name]
    net = init.initialise(Inception(channels, *WIDTHS[name]), 1).eval()
    x = np.random.default_rng(0).standard_normal((batch, side, side, channels)).astype(np.float32)
    with config.using(backend="reference"):
        state = {n: p.data for n, p in net.named_parameters()}
        wide = Inception(channels, *WIDTHS[name]).astype(np.float64).eval()
        wide.load_state_dict({n: a.astype(np.float64) for n, a in state.items()})
        return net, x, np.asarray(wide(x[:1].astype(np.float64)).data)


def _cell(where: str, precision: str, made: Made, measure: Clock) -> dict[str, Any]:
    net, x, truth = made
    with config.using(backend="auto"):  # extents are the same everywhere
        macs = sum(spec.macs for _, _, spec in session.specs(net, x.shape))
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
    samples = [measure(lambda: run(given)) for _ in range(12)][2:]
    timing = Timing.of(samples)
    return {
        "error": error,
        "median_us": 1e6 * timing.median,
        "p20_us": 1e6 * timing.p20,
        "p80_us": 1e6 * timing.p80,
        "samples": timing.count,
        "gflops": 2e-9 * macs / timing.median,
    }


def _by_host(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _by_events(call: Callable[[], Any]) -> float:
    cuda = sys.modules["cupy"].cuda
    start, end = cuda.Event(), cuda.Event()
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(cuda.get_elapsed_time(start, end)) * 1e-3
