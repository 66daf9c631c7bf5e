"""Judge a kernel of the caller's own, then set it beside ours: on a GPU, or on the emulator.

On the emulator every access is checked (bounds, races, memory nobody wrote), in an order that runs
warps far ahead of one another; counters stand in for times. On a GPU the two are timed in turns.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pyinception.backend import Array
from pyinception.bench import own_kernel, problems
from pyinception.bench import shapes as catalogue
from pyinception.bench.driver import Driver, DriverError, nvtx_range
from pyinception.bench.executors import DriverExecutor, EmulatedExecutor, Executor
from pyinception.bench.own_kernel import Contender, KernelError
from pyinception.bench.report import Report, environment
from pyinception.emulator.device import EmulatorFault
from pyinception.emulator.ptx import PtxError
from pyinception.spec import BranchSpec

BACKENDS = ("auto", "cuda", "emulated")
DEFAULT = "3a/5x5"  # 12 million multiply-adds: seconds on the emulator
EMULATED_SHARED = 163 << 10  # bytes a block may have, as on sm_80
WARM, SECTOR = 3, 32
# What makes a column fail and not the run; NotImplementedError: a plan declines the shape.
_FAILURES = (EmulatorFault, PtxError, KernelError, DriverError, NotImplementedError)
Progress = Callable[[str], None] | None

_NOTES = {
    "emulator": "wavefronts of shared memory, 32-byte sectors of global memory, PTX instructions "
    "of warps: counted on the emulator, a model without caches and time; least: what the distinct "
    "bytes need; MB: all sectors; model MB: each array moved once",
    "device": "us: on the device between events, the two kernels in turns, L2 warm; model MB: each "
    "array moved once",
}


def run_own_kernel(
    kernel: str,
    names: Iterable[str] | str = "all",
    *,
    shapes: Iterable[str] = (),
    batch: int = 1,
    backend: str = "auto",
    rounds: int = 15,
    progress: Progress = None,
) -> Report:
    """Your kernel for reduce_conv beside ours: errors, counters, and times where a GPU is.

    Parameters
    ----------
    kernel : "FILE.cu:ENTRY"; see `own_kernel` for what it takes and how it is launched.
    names : of `shapes.BRANCHES`; "all" is 3a/5x5 alone here, unless ``shapes`` are given.
    shapes : own shapes "N,H,W,C,Cr,K,R".
    batch : images, for named shapes.
    backend : "cuda", "emulated", or "auto" for a GPU where there is one.
    rounds : samples of each kernel on a GPU, taken in turns.
    progress : told each shape's name before it runs.

    Returns
    -------
    A `Report` of kind "own": a column for the kernel and one for "ours". A column whose result is
    wrong, or which faulted, has ``failed`` instead of figures.

    Raises
    ------
    KernelError, CompileError
        The kernel cannot be run at all.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}")
    for name, value in (("batch", batch), ("rounds", rounds)):
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    specs = [catalogue.own_shape(text) for text in shapes]
    if not specs or names != "all":
        wanted = [DEFAULT] if names == "all" else names
        chosen = catalogue.select(wanted, catalogue.BRANCHES, "run_own_kernel")
        specs = [(name, catalogue.branch(name, batch)) for name in chosen] + specs
    gpu, why = _gpu(backend)
    mine = own_kernel.own(kernel, gpu or EmulatedExecutor())
    contenders = [mine, own_kernel.ours()]
    notes = [_NOTES["device" if gpu else "emulator"], *why, _profile_line(kernel, specs)]
    failure = _small_problems(mine, specs, gpu)
    rows = []
    for name, spec in specs:
        if progress is not None:
            progress(name)
        rows.append(_row(name, spec, contenders, gpu, failure, rounds))
    about = environment(1)
    about["device"] = gpu.name if gpu else "emulator"
    return Report("own", rows, about, {"batch": batch, "kernel": kernel}, {}, notes)


def _gpu(backend: str) -> tuple[DriverExecutor | None, list[str]]:
    if backend == "emulated":
        return None, []
    try:
        return DriverExecutor(Driver()), []
    except DriverError as error:
        if backend == "cuda":
            raise
        return None, [f"no times: {error}"]


def _executor(gpu: DriverExecutor | None, **settings: Any) -> Executor:
    return gpu or EmulatedExecutor(**settings)


def _limit(executor: Executor) -> int:
    if isinstance(executor, DriverExecutor):
        return executor.driver.shared_limit
    return EMULATED_SHARED


def _compute(contender: Contender, spec: BranchSpec, x: Array, w: Any, on: Executor) -> Array:
    """y of one launch, which is waited for."""
    record = own_kernel.place(on, spec, x, list(w))
    on.compile(contender.source, [own_kernel.KERNELS])
    with nvtx_range(contender.name):
        on.launch(*contender.launch(record, _limit(on)))
    return own_kernel.result(on)


def _small_problems(
    mine: Contender, specs: list[tuple[str, BranchSpec]], gpu: DriverExecutor | None
) -> str | None:
    """Integers on a map that no tile divides, in three orders of threads; what went wrong."""
    for R in sorted({own_kernel.stages(spec)[1].R for _, spec in specs}):
        spec = catalogue.reduce_conv(2, 9, 8, 20, 16, 24, R)
        x, weights = own_kernel.integers(spec, R)
        wanted = own_kernel.expected(spec, x, weights)
        for order, seed in (("fair", 0), ("greedy", 1), ("greedy", 2)):
            on = _executor(gpu, order=order, seed=seed)
            try:
                wrong = own_kernel.difference(_compute(mine, spec, x, weights, on), wanted)
            except _FAILURES as error:
                wrong = str(error)
            if wrong:
                return f"integers at 2x9x8x20-16-24-{R}x{R}, {order} order: {wrong}"
            if gpu:
                break
    return None


def _row(
    name: str,
    spec: BranchSpec,
    contenders: list[Contender],
    gpu: DriverExecutor | None,
    failure: str | None,
    rounds: int,
) -> dict[str, Any]:
    problem = problems.make(name, spec)
    whole = own_kernel.integers(spec, 0)
    wanted = own_kernel.expected(spec, *whole)
    columns: dict[str, dict[str, Any]] = {}
    for i, contender in enumerate(contenders):
        cell: dict[str, Any] = {}
        columns[contender.name] = cell
        if i == 0 and failure:
            cell["failed"] = failure
            continue
        try:
            on = _executor(gpu, count=True)
            wrong = own_kernel.difference(_compute(contender, spec, *whole, on), wanted)
            if wrong:
                cell["failed"] = f"integers: {wrong}"
                continue
            if isinstance(on, EmulatedExecutor):
                cell |= _counted(on)
            on = _executor(gpu, order="greedy", seed=3)
            y = _compute(contender, spec, problem.x, problem.weights, on)
            relative, of_bound = problem.error(y)
            wrong = own_kernel.difference(y[problem.checked], problem.expected, problem.bound)
            if wrong:
                cell.clear()
                cell["failed"] = wrong
            else:
                cell |= {"error": relative, "error_of_bound": of_bound}
        except _FAILURES as error:
            cell.clear()
            cell["failed"] = str(error)
    right = [c for c in contenders if "failed" not in columns[c.name]]
    if gpu:
        _race(gpu, right, spec, problem, columns, rounds)
    row = {"name": name, "shape": list(spec.x_shape), "macs": spec.macs, "bytes": spec.bytes}
    return row | {"columns": columns}


def _counted(on: EmulatedExecutor) -> dict[str, int]:
    """What the last launch did, in all."""
    rows, kernel = on.counted()
    shared = [row for row in rows if row.kind.startswith("shared")]
    memory = [row for row in rows if row.kind.startswith("global")]
    return {
        "wavefronts": sum(row.units for row in shared),
        "wavefronts_least": sum(row.ideal for row in shared),
        "sectors": sum(row.units for row in memory),
        "sectors_least": sum(row.ideal for row in memory),
        "bytes": SECTOR * sum(row.units for row in memory),
        "instructions": on.device.instructions(kernel),
    }


def _race(
    gpu: DriverExecutor,
    contenders: list[Contender],
    spec: BranchSpec,
    problem: problems.Problem,
    columns: dict[str, dict[str, Any]],
    rounds: int,
) -> None:
    """Time the kernels in turns, on buffers that are theirs alone; medians into the columns."""
    calls: dict[str, Callable[[], None]] = {}
    record = own_kernel.place(gpu, spec, problem.x, list(problem.weights))
    for contender in contenders:
        gpu.compile(contender.source, [own_kernel.KERNELS], keep=True)
        calls[contender.name] = gpu.prepared(*contender.launch(record, _limit(gpu)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(WARM + rounds):
        for name, call in calls.items():
            with nvtx_range(name):
                seconds = gpu.driver.elapsed(call)
            if turn >= WARM:
                samples[name].append(1e6 * seconds)
    for name, found in samples.items():
        p20, median, p80 = (float(v) for v in np.percentile(found, (20, 50, 80)))
        times = {"median_us": median, "p20_us": p20, "p80_us": p80, "samples": len(found)}
        columns[name] |= times | {"gflops": 2e-3 * spec.macs / median}


def _profile_line(kernel: str, specs: list[tuple[str, BranchSpec]]) -> str:
    """The command that profiles the kernel's first launch at the first shape, by source line."""
    file, _, entry = kernel.rpartition(":")
    first, last = own_kernel.stages(specs[0][1])
    shape = ",".join(str(v) for v in (*first.x_shape, first.K, last.K, last.R))
    command = f"pyinception bench reduce_conv --shape {shape} --kernel {kernel} --backend cuda"
    return (
        f"profile: ncu --set full --import-source yes --source-folders {Path(file).parent} "
        f"-k {entry} -s 1 -c 1 -o {entry} {command}"
    )
