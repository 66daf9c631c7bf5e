"""What runs here and why not: `explain` for one spec, `doctor` for the installation."""

import importlib.util
import os
import platform
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyinception import backend, config, dispatch, workspace
from pyinception.prepack import Format, packs
from pyinception.spec import Spec
from pyinception.table import ROWS

EXTRAS = {
    "jit": ("numba",),
    "cuda12 or cuda13": ("cupy",),
    "train": ("PIL", "matplotlib", "tensorboardX", "sklearn", "tomli_w"),
    "torch": ("torch",),
    "jax": ("jax",),
    "rivals": ("torch", "openvino"),
    "bench": ("pytest_benchmark",),
}


@dataclass(frozen=True)
class Explanation:
    """The table's rows for one spec, each with the reason why it declines or None."""

    spec: Spec
    target: backend.Target
    rows: tuple[tuple[str, str, str, str | None], ...]  # op, direction, row, reason
    chosen: dict[str, str]  # direction -> row, or why none
    formats: tuple[Format, ...]
    copies: dict[str, int]
    packs: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        keys = "op", "direction", "row", "reason"
        return {
            "spec": repr(self.spec),
            "macs": self.spec.macs,
            "target": vars(self.target),
            "rows": [dict(zip(keys, row, strict=True)) for row in self.rows],
            "chosen": self.chosen,
            "formats": [str(format) for format in self.formats],
            "copies": self.copies,
            "packs": self.packs,
        }

    def __str__(self) -> str:
        lines = [repr(self.spec), f"  multiply-adds {self.spec.macs:,}"]
        direction = None
        for op, way, row, reason in self.rows:
            if way != direction:
                lines.append(f"{op} {way} -> {self.chosen[way]}")
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
    An `Explanation`; ``print`` it, or take ``as_dict()``. It also lists the copies of inputs that
    did not fit and the packings of weights counted since the start.
    """
    target = backend.Target(memory, dtype, config.get("cpu_level"))
    rows: list[tuple[str, str, str, str | None]] = []
    chosen: dict[str, str] = {}
    formats: tuple[Format, ...] = ()
    for op, direction in dispatch.operations(spec):
        for row in ROWS[op, direction]:
            rows.append((op, direction, row.name, row.why_not(spec, target)))
        try:
            plan = dispatch.choose(op, direction, spec, target)
            chosen[direction] = plan.row.name
            formats = formats or plan.formats
        except (backend.BackendError, TypeError) as error:
            chosen[direction] = f"nothing: {error}"
    counts = dict(workspace.copies), dict(packs)
    return Explanation(spec, target, tuple(rows), chosen, formats, *counts)


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
        for name, (value, origin) in self["switches"].items():
            lines.append(f"  switch {name:<10} {value!r} ({origin})")
        for name, missing in self["extras"].items():
            state = "installed" if not missing else f"lacks {', '.join(missing)}"
            lines.append(f"  extra {name:<10} {state}")
        return "\n".join(lines)


def doctor() -> Report:
    """What works here and why not: versions, backends, CPU levels, switches, extras.

    Returns
    -------
    A dictionary of plain data (JSON holds it): ``version python numpy machine cores backends core
    switches extras``; a backend maps to None where it works, else to cause and remedy.
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
        switches=switches,
        extras=missing,
    )
