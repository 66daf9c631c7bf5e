"""What runs here and why not: `explain` for one spec, `doctor` for the installation."""

import importlib.util
import os
import platform
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyinception import backend, config, dispatch, winograd, workspace
from pyinception.cuda import machine
from pyinception.prepack import Format, packs
from pyinception.spec import BranchSpec, ConvSpec, InceptionSpec, Spec
from pyinception.table import rows as rows_of

EXTRAS = {
    "jit": ("numba",),
    "cuda12 or cuda13": ("cupy",),
    "train": ("PIL", "matplotlib", "tensorboardX", "sklearn", "tomli_w"),
    "torch": ("torch",),
    "jax": ("jax",),
    "onnx": ("onnx",),
    "rivals": ("torch", "openvino", "onnxruntime", "onnx", "threadpoolctl"),
    "bench": ("pytest", "pytest_benchmark", "matplotlib"),
}


@dataclass(frozen=True)
class Time:
    """One forward call as timed (`bench.layer`), beside what the machine allows, microseconds.

    ``expected_us`` is the longer of ``arithmetic_us``, the multiply-adds that the kernel makes at
    the FMA peak, and ``memory_us``, a copy that moves as many bytes; ``bound`` says which it is.
    """

    threads: int
    macs_made: int
    peak_gflops: float
    arithmetic_us: float
    memory_us: float
    measured_us: float
    p20_us: float
    p80_us: float

    @property
    def expected_us(self) -> float:
        return max(self.arithmetic_us, self.memory_us)

    @property
    def bound(self) -> str:
        return "arithmetic" if self.arithmetic_us >= self.memory_us else "memory"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return vars(self) | {"expected_us": self.expected_us, "bound": self.bound}

    def __str__(self) -> str:
        return (
            f"  expected {self.expected_us:,.1f} us, bound by {self.bound}: {self.macs_made:,} "
            f"multiply-adds made take {self.arithmetic_us:,.1f} us at {self.peak_gflops:.0f} "
            f"GFLOP/s, a copy of the bytes {self.memory_us:,.1f} us\n"
            f"  measured {self.measured_us:,.1f} us ({self.p20_us:,.1f} - {self.p80_us:,.1f}), "
            f"{self.threads} thread{'s' * (self.threads > 1)}, weights packed beforehand"
        )


@dataclass(frozen=True)
class Explanation:
    """The table's rows for one spec, each with the reason why it declines or None."""

    spec: Spec
    target: backend.Target
    rows: tuple[tuple[str, str, str, str | None], ...]  # op, direction, row, reason
    chosen: dict[str, str]  # direction -> row, or why none
    kernels: dict[str, str]  # direction -> algorithm of each convolution, and the tile
    formats: tuple[Format, ...]
    copies: dict[str, int]
    packs: dict[str, int]
    time: Time | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        keys = "op", "direction", "row", "reason"
        return {
            "spec": repr(self.spec),
            "macs": self.spec.macs,
            "flops": 2 * self.spec.macs,
            "bytes": self.spec.bytes,
            "target": vars(self.target),
            "rows": [dict(zip(keys, row, strict=True)) for row in self.rows],
            "chosen": self.chosen,
            "kernels": self.kernels,
            "time": None if self.time is None else self.time.as_dict(),
            "formats": [str(format) for format in self.formats],
            "copies": self.copies,
            "packs": self.packs,
        }

    def __str__(self) -> str:
        work, moved = self.spec.macs, self.spec.bytes
        lines = [repr(self.spec), f"  multiply-adds {work:,}, FLOPs {2 * work:,}"]
        lines.append(f"  least bytes {moved:,}, {2 * work / max(moved, 1):.3g} FLOPs a byte")
        if self.time is not None:
            lines.append(str(self.time))
        direction = None
        for op, way, row, reason in self.rows:
            if way != direction:
                lines.append(f"{op} {way} -> {self.chosen[way]}")
                if way in self.kernels:
                    lines.append(f"  kernel: {self.kernels[way]}")
                direction = way
            lines.append(
                f"  {'yes' if reason is None else ' - '}  {row:<14} {reason or ''}".rstrip()
            )
        for format in self.formats:
            lines.append(f"raw weights are packed on each call as {format}")
        for what, counts in (("copied", self.copies), ("packed", self.packs)):
            lines += [f"{what} {count} times since the start: {n}" for n, count in counts.items()]
        return "\n".join(lines)


def explain(spec: Spec, *, dtype: str = "float32", memory: str = "host") -> Explanation:
    """Which row of the table runs ``spec`` in each direction, and why the others decline.

    Parameters
    ----------
    spec : any of `pyinception.spec`.
    dtype, memory : of the arrays: "float32" or "float64", "host" or "cuda".

    Returns
    -------
    An `Explanation`; ``print`` it, or take ``as_dict()``. It also gives kernel and tile, FLOPs and
    least bytes (each array moved once), the copies of inputs that did not fit and the packings of
    weights counted since the start.
    """
    target = backend.Target(memory, dtype, config.get("cpu_level"))
    rows: list[tuple[str, str, str, str | None]] = []
    chosen: dict[str, str] = {}
    kernels: dict[str, str] = {}
    formats: tuple[Format, ...] = ()
    for op, direction in dispatch.operations(spec):
        for row in rows_of(op, direction):
            rows.append((op, direction, row.name, row.why_not(spec, target)))
        try:
            plan = dispatch.choose(op, direction, spec, target)
            chosen[direction] = plan.row.name
            if plan.row.backend == "cpu":
                kernels[direction] = kernel_of(plan)
            formats = formats or plan.formats
        except (backend.BackendError, TypeError) as error:
            chosen[direction] = f"nothing: {error}"
    counts = dict(workspace.copies), dict(packs)
    return Explanation(spec, target, tuple(rows), chosen, kernels, formats, *counts)


def kernel_of(plan: dispatch.Plan) -> str:
    """What a plan of the compiled core runs: the algorithm of each convolution, and the tile."""
    core, asked = backend.core(), plan.row.algorithm
    level = plan.target.level or core.host_level()
    if asked == "plain":
        return f"plain loops, {level}"
    convs = convolutions(plan.spec)
    if not convs:
        return f"{plan.op}, {level}"
    tile = next(row for row in core.kernels() if row["level"] == level)
    if plan.direction == "wgrad":
        way = "Winograd" if takes_winograd(convs[0], asked, level) else "direct"
        return f"{way}, {tile['wgrad_MR']} x {tile['wgrad_NR']} sums, {level}"
    names = [
        f"{conv.R}x{conv.S} {'Winograd' if takes_winograd(conv, asked, level) else 'direct'}"
        for conv in convs
    ]
    return f"{', '.join(names)}; register tile {tile['MR']} x {tile['NR']}, {level}"


def convolutions(spec: Spec) -> list[ConvSpec]:
    """The convolutions of ``spec``, in the order of its weights; none for other ops."""
    if isinstance(spec, ConvSpec):
        return [spec]
    branches = spec.branches if isinstance(spec, InceptionSpec) else (spec,)
    stages = [s for b in branches if isinstance(b, BranchSpec) for s in b.stages]
    return [stage for stage in stages if isinstance(stage, ConvSpec)]


def takes_winograd(conv: ConvSpec, algorithm: str, level: str) -> bool:
    """Whether the core runs ``conv`` by Winograd: the filter's format says, the stride permits."""
    wanted = Format(*conv.w_shape, "fprop", winograd.format_of(conv, algorithm), level)
    return winograd.STRIDES.get(conv.kernel) == conv.stride and wanted.winograd


class Report(dict[str, Any]):
    """A dictionary of plain data whose ``str`` is made for reading."""

    def __str__(self) -> str:
        lines = [f"pyinception {self['version']}, Python {self['python']}, NumPy {self['numpy']}"]
        lines.append(f"{self['machine']}, {self['cores']} usable cores")
        for name, reason in self["backends"].items():
            lines.append(f"  backend {name:<10} {'works' if reason is None else reason}")
        if self["core"]:
            levels = ", ".join(self["core"]["levels"])
            lines.append(f"  CPU level {self['core']['host_level']}, usable: {levels}")
        lines += _cuda_lines(self["cuda"])
        for name, (value, origin) in self["switches"].items():
            lines.append(f"  switch {name:<10} {value!r} ({origin})")
        for name, missing in self["extras"].items():
            state = "installed" if not missing else f"lacks {', '.join(missing)}"
            lines.append(f"  extra {name:<10} {state}")
        return "\n".join(lines)


def _cuda_lines(cuda: dict[str, Any]) -> list[str]:
    driver, toolkit = cuda["driver"], cuda["toolkit"]
    lines = [f"  CUDA driver: {driver}"]
    if isinstance(driver, dict):
        own = f", driver {driver['version']}" if driver["version"] else ""
        lines = [f"  CUDA driver: up to CUDA {driver['cuda']}{own}"]
        lines += [
            f"    device {i}: {d['name']}, sm_{d['sm']}, {d['multiprocessors']} multiprocessors, "
            f"{d['memory_mib']} MiB"
            for i, d in enumerate(driver["devices"])
        ]
    nvcc = f"{toolkit['release']} ({toolkit['nvcc']})" if toolkit else "none (no nvcc)"
    lines.append(f"  CUDA toolkit: {nvcc}")
    built = ", ".join(cuda["architectures"]) or "none: this library was built without them"
    lines.append(f"  CUDA kernels for: {built}")
    for name, places in cuda["libraries"].items():
        lines.append(f"  lib{name}: {'; '.join(places) or 'not found'}")
    lines.append(f"  CuPy: {', '.join(cuda['cupy']) or 'not installed'}")
    return lines + [f"  PROBLEM: {text}" for text in cuda["problems"]]


def doctor() -> Report:
    """What works here and why not: versions, backends, CPU levels, switches, extras.

    Returns
    -------
    A dictionary of plain data (JSON holds it): ``version python numpy machine cores backends core
    cuda switches extras``; a backend maps to None where it works, else to cause and remedy;
    ``cuda`` is what `cuda.machine.look` found.
    """
    from pyinception import __version__

    backends = {name: backend.why_not(name) for name in backend.NAMES if name != "auto"}
    core: dict[str, Any] = {}
    if backends["cpu"] is None:
        module = backend.core()
        core = {"host_level": module.host_level(), "levels": list(module.levels())}
        core |= {"kernels": len(module.kernels()), "file": getattr(module, "__file__", "")}
    switches = {name: (config.get(name), config.origin(name)) for name in config.SWITCHES}
    missing = {
        extra: [name for name in names if importlib.util.find_spec(name) is None]
        for extra, names in EXTRAS.items()
    }
    return Report(
        version=__version__,
        python=platform.python_version(),
        numpy=np.__version__,
        machine=f"{platform.system()} {platform.machine()} ({sys.implementation.name})",
        cores=len(os.sched_getaffinity(0)),
        backends=backends,
        core=core,
        cuda=machine.look(),
        switches=switches,
        extras=missing,
    )
