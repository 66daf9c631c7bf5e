"""pytest-benchmark suites: ``pytest benchmarks/ --benchmark-only``.

One group per shape; fused, unfused, torch and OpenVINO are its members, each checked against
float64 before it is timed and carrying GFLOP/s, share of the FMA peak, error and bytes in
``extra_info``. Save and compare with ``--benchmark-autosave`` and ``--benchmark-compare``. Members
of a group run one after the other here; for competitors in turns use ``pyinception bench``.

Environment: PYINCEPTION_THREADS (default 1), PYINCEPTION_BENCH_BATCH (default 1).
"""

import os

# Before NumPy is imported: its team of threads would compete with the kernels that are timed.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from functools import cache
from pathlib import Path

import pytest

from pyinception import config
from pyinception.bench import ours, problems, rivals, shapes
from pyinception.bench.report import environment
from pyinception.bench.timing import Peak, repetitions

ROUNDS = 15
CONTENDERS = ("fused", "unfused", "torch", "openvino")


def threads() -> int:
    return config.get("threads") or 1


def batch() -> int:
    return int(os.environ.get("PYINCEPTION_BENCH_BATCH", "1"))


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    if file_path.suffix == ".py" and file_path.name.startswith("bench_"):
        return pytest.Module.from_parent(parent, path=file_path)
    return None


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    machine_info["pyinception"] = environment(threads())


@cache
def peak() -> Peak:
    measured = Peak(threads())
    measured.measure()
    return measured


@cache
def problem_of(kind: str, name: str) -> problems.Problem:
    return problems.make(name, getattr(shapes, kind)(name, batch()))


@cache
def prepared(kind: str, name: str) -> ours.Ours:
    with config.using(threads=threads()):
        algorithm, level = config.get("algorithm"), config.get("cpu_level")
        return ours.prepare(problem_of(kind, name), algorithm, level, threads())


@pytest.fixture(params=CONTENDERS)
def contender(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def settings() -> tuple[int, int]:
    """(threads, batch) of this session."""
    return threads(), batch()


@pytest.fixture
def measure(benchmark):
    """Time ``call`` with pytest-benchmark and note what belongs beside the time."""

    def run(group: str, call, macs: int, **beside) -> None:
        benchmark.group = group
        benchmark.extra_info.update(beside)
        iterations = repetitions(call)
        benchmark.pedantic(call, rounds=ROUNDS, iterations=iterations, warmup_rounds=1)
        if benchmark.stats is not None:  # None with --benchmark-disable
            rate = 2e-9 * macs / benchmark.stats.stats.median
            peak().measure(5)
            info = {"gflops": rate, "share": rate / peak().best, "peak_gflops": peak().best}
            benchmark.extra_info.update(info)

    return run


@pytest.fixture
def compete(measure):
    """Run one contender on one named shape: check its result, then time it."""

    def run(kind: str, name: str, contender: str) -> None:
        problem = problem_of(kind, name)
        group = f"{kind} {name} batch {batch()}"
        if contender in ("fused", "unfused"):
            mine = prepared(kind, name)
            variant = mine.variants[contender]
            variant.poison()
            variant.call()
            beside = {"bytes": variant.bytes, "kernel": mine.kernel}
            check_and_time(problem, variant.call, variant.output, group, beside)
            return
        with rivals.opened(threads(), (contender,)) as (found, missing):
            if missing:
                pytest.skip(f"{contender}: {missing[contender]}")
            graph, weights = rivals.graph_of(problem.spec), list(problem.weights)
            opponent = found[0].prepare(graph, problem.x, weights)
            beside = {"first_us": 1e6 * opponent.first, "version": found[0].version}
            check_and_time(problem, opponent.call, opponent.output(), group, beside)

    def check_and_time(problem, call, output, group, beside) -> None:
        error, of_bound = problem.error(output)
        assert of_bound <= 1, f"error {error:.2g} is {of_bound:.3g} times its bound"
        measure(group, call, problem.spec.macs, error=error, **beside)

    return run
