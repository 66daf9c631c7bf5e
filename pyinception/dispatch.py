"""From what is asked (a spec) to how it runs (a plan): the first row that does not decline.

Asking for a backend that is not there raises; only ``backend="auto"`` falls back, and says so once.
An ``algorithm=`` argument is binding; the switch of that name is a wish, applied where it can be.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from pyinception import config, workspace
from pyinception.backend import (
    BFLOAT16,
    HOST,
    NARROW,
    Array,
    BackendError,
    Target,
    beside,
    memory_of,
    why_not,
    wide,
)
from pyinception.prepack import Format, Packed
from pyinception.spec import (
    AddScaledSpec,
    BatchNormSpec,
    BranchSpec,
    ConvSpec,
    DepthwiseConvSpec,
    DropoutSpec,
    InceptionSpec,
    LinearSpec,
    LrnSpec,
    PoolSpec,
    SoftmaxCrossEntropySpec,
    Spec,
)
from pyinception.table import HOST_ROWS, SITES, Row, formats
from pyinception.table import rows as rows_of

__all__ = ["Array", "Known", "Plan", "beside", "check", "choose", "launch", "operations", "wide"]


@dataclass(frozen=True)
class Plan:
    """How one (op, direction, spec) runs on one target, and which rows declined before."""

    op: str
    direction: str
    spec: Spec
    target: Target
    row: Row
    declined: tuple[tuple[str, str], ...]

    @cached_property
    def formats(self) -> tuple[Format, ...]:
        """The packed format of every weight that this plan takes; empty for unpacked rows."""
        if self.row.backend != "cpu" or self.row.algorithm == "plain":
            return ()
        key = self.op, self.direction
        return formats(key, self.spec, self.row.algorithm, self.target)

    @property
    def format(self) -> Format | None:
        """The packed format of the first weight, None where the row takes unpacked weights."""
        return self.formats[0] if self.formats else None


_MOST_PLANS = 4096  # a server that sees ever new shapes must not grow without end
_plans: dict[tuple[Any, ...], Plan] = {}
known_calls: dict[bytes | None, "Known"] = {}  # calls seen before, by their looks (`known`)
_said: set[str] = set()


def clear() -> None:
    """Forget all plans and messages (after a backend appeared or went away)."""
    _plans.clear()
    known_calls.clear()
    _said.clear()


class Known:
    """A call that passed its checks: its spec, and the plans that its launches found so far."""

    def __init__(self, spec: Any, backend: str | None, algorithm: str | None = None) -> None:
        self.spec, self.backend, self.algorithm = spec, backend, algorithm
        self.plans: dict[tuple[str, str], Plan] = {}
        self.how = {"known": self}  # for `launch`


def choose(
    op: str,
    direction: str,
    spec: Spec,
    target: Target,
    *,
    backend: str | None = None,
    algorithm: str | None = None,
) -> Plan:
    """The plan for ``spec``: the first row of the table that takes it. Cached.

    Raises
    ------
    BackendError
        If a backend or algorithm asked for cannot run it: cause and remedy in the message.
    TypeError
        If float64 arrays are given and the backend is not "reference".
    """
    switches = config.values()
    name = switches.backend if backend is None else config.get("backend", backend)
    wish = switches.algorithm if algorithm is None else config.get("algorithm", algorithm)
    binding = algorithm not in (None, "auto")
    key = (op, direction, spec, target, name, wish, binding)
    plan = _plans.get(key)
    if plan is None:
        if len(_plans) >= _MOST_PLANS:
            _plans.clear()
        plan = _plans[key] = _choose(op, direction, spec, target, name, wish, binding)
    if name == "auto" and plan.row.backend == "reference":
        _say_once(plan)
    return plan


def _choose(
    op: str, direction: str, spec: Spec, target: Target, name: str, wish: str, binding: bool
) -> Plan:
    function = getattr(spec, "function", op)
    if name in HOST and target.memory != "host":
        text = f'backend "{name}" takes NumPy arrays, these are in CUDA memory'
        raise BackendError(f'{function}: {text}; CuPy arrays run on backend "cuda"')
    if name == "cuda" and target.memory == "host":
        text = "these are NumPy arrays; move them with cupy.asarray"
        raise BackendError(f'{function}: backend "cuda" takes CUDA arrays, {text}')
    if target.dtype == "float64" and name != "reference":
        text = 'expected float32 (float64 runs with backend="reference" only)'
        raise TypeError(f"{function}: arrays have dtype float64, {text}")
    if target.memory == "host" and not _stored_on_host(op, direction, target.dtype, name):
        text = f'has dtype {target.dtype}, expected float32 (16 bits run on backend="emulated" or '
        raise TypeError(f'{function}: x {text}"cuda")')
    if name != "auto" and (reason := why_not(name)):
        raise BackendError(f'{function}: backend "{name}" cannot run: {reason}')
    on_host = target.memory == "host" and name != "emulated"
    every = HOST_ROWS[op, direction] if on_host else rows_of(op, direction)
    rows = [row for row in every if name in ("auto", row.backend)]
    if name == "auto":  # kernels of another machine run only where they are asked for
        rows = [row for row in rows if row.backend != "emulated"]
    if wish != "tf32":  # never less than the precision of the arrays, unless it is asked for
        rows = [row for row in rows if row.algorithm != "tf32"]
    wished = [row for row in rows if wish in ("auto", row.algorithm)]
    declined: list[tuple[str, str]] = []
    for row in wished if binding else wished + [row for row in rows if row not in wished]:
        reason = row.why_not(spec, target)
        if reason is None:
            return Plan(op, direction, spec, target, row, tuple(declined))
        declined.append((row.name, reason))
    reasons = "; ".join(f"{row}: {reason}" for row, reason in declined) or "the table has no row"
    asked = f'backend "{name}", algorithm "{wish}"'
    raise BackendError(f"{function}: nothing runs {op} {direction} on {asked} ({reasons})")


def _stored_on_host(op: str, direction: str, dtype: str, name: str) -> bool:
    """Whether this dtype of maps is no reason to refuse NumPy arrays."""
    if dtype not in NARROW or name == "emulated":
        return True
    return name != "reference" and dtype == "bfloat16" and (op, direction) in BFLOAT16


def _say_once(plan: Plan) -> None:
    reason = plan.declined[0][1] if plan.declined else "no faster row"
    if reason not in _said:
        _said.add(reason)
        text = f"{plan.op} {plan.direction} runs on the NumPy reference, which is slow: {reason}"
        config.report("warning", text)


def target_of(array: Array) -> Target:
    """The target that ``array`` implies: its memory, its dtype, the ``cpu_level`` switch."""
    return _target(memory_of(array), array.dtype, config.values().cpu_level)


@cache
def _target(memory: str, dtype: Any, level: str) -> Target:
    return Target(memory, np.dtype(dtype).name, level)  # the name takes NumPy microseconds


def launch(
    op: str, direction: str, spec: Spec, *arguments: Any, known: Known | None = None
) -> None:
    """Run one row on ``arguments`` (inputs, then outputs), or note it while a module is traced.

    The plan is found once for a ``known`` call: whose looks, options and switches were the same.
    """
    plan = None if known is None else known.plans.get((op, direction))
    if plan is None:
        how = {} if known is None else {"backend": known.backend, "algorithm": known.algorithm}
        plan = choose(op, direction, spec, target_of(arguments[0]), **how)
        if packed := _packed((op, direction), arguments):
            plan = _reading(plan, packed, **how)
        if known is not None:
            known.plans[op, direction] = plan
    noted = workspace.recording()
    if noted is None:
        plan.row.run(spec, *arguments)
    else:
        noted.call(plan, arguments)


def _packed(key: tuple[str, str], arguments: tuple[Any, ...]) -> list[tuple[int | None, Packed]]:
    """Every packed weight among a run's arguments, with its place in `SITES` (None: in none)."""
    sites = SITES.get(key, ())
    found: list[tuple[int | None, Packed]] = []
    for at, argument in enumerate(arguments):
        parts = enumerate(argument) if isinstance(argument, tuple) else ((None, argument),)
        for inside, part in parts:
            if isinstance(part, Packed):
                site = (at,) if inside is None else (at, inside)
                found.append((sites.index(site) if site in sites else None, part))
    return found


def _reading(
    plan: Plan,
    packed: list[tuple[int | None, Packed]],
    backend: str | None = None,
    algorithm: str | None = None,
) -> Plan:
    """``plan`` if it reads these weights, else the one of their algorithm; BackendError if none."""
    reason = _unread(plan, packed)
    if reason and algorithm in (None, "auto"):  # a switch is a wish, which packed weights outrank
        how = {"backend": backend, "algorithm": packed[0][1].format.algorithm}
        plan = choose(plan.op, plan.direction, plan.spec, plan.target, **how)
        reason = _unread(plan, packed)
    if reason:
        raise BackendError(f"{getattr(plan.spec, 'function', plan.op)}: {reason}")
    return plan


def _unread(plan: Plan, packed: list[tuple[int | None, Packed]]) -> str | None:
    """Why ``plan`` cannot read these packed weights."""
    for place, weights in packed:
        if not plan.formats or place is None:
            return f"{plan.row.name} takes unpacked weights, not {weights.format}"
        wanted = plan.formats[place]
        if not weights.format.reads_like(wanted):
            return f"weights are packed as {weights.format}, expected {wanted}"
    return None


def check(
    function: str,
    argument: str,
    array: Any,
    letters: str,
    shape: tuple[int, ...] | None = None,
    like: Array | None = None,
    dtype: Any = None,
) -> None:
    """Raise unless ``array`` is an array of the right dtype, rank and shape, in that order.

    Parameters
    ----------
    letters : the axes, such as "K R S C", for the message and the rank.
    shape : the extents wanted; None checks the rank alone.
    like : an array whose memory and dtype this one must share; None wants a floating type of a
        backend: float32 or float64, 16 bits for the CUDA kernels.
    dtype : the dtype wanted where it is not that of ``like``.
    """
    where = f"{function}: {argument}"
    if not isinstance(array, Packed):
        try:
            memory = memory_of(array)
        except TypeError:
            kind = type(array).__name__
            text = "expected an array of NumPy or CuPy"
            raise TypeError(f"{where} is a {kind}, {text}") from None
        if like is not None and memory != memory_of(like):
            raise TypeError(f"{where} is in {memory} memory, expected {memory_of(like)} memory")
    wanted = like.dtype if dtype is None and like is not None else dtype
    if wanted is None:
        known = array.dtype.name in ("float32", "float64", *NARROW)
        if not known or not array.dtype.isnative:
            raise TypeError(f"{where} has dtype {array.dtype}, expected float32")
    elif array.dtype != wanted:
        hint = ", as the first array has" if wanted == np.float64 else ""
        text = f"has dtype {array.dtype}, expected {np.dtype(wanted)}{hint}"
        raise TypeError(f"{where} {text}")
    axes = ", ".join(letters.split())
    actual = tuple(array.shape)
    if shape is None and len(actual) != len(letters.split()):
        raise ValueError(f"{where} has shape {actual}, expected ({axes})")
    if shape is not None and actual != shape:
        raise ValueError(f"{where} has shape {actual}, expected ({axes}) = {shape}")


def operations(spec: Spec) -> Iterator[tuple[str, str]]:
    """The (op, direction) pairs that serve ``spec``."""
    names: dict[type, str] = {
        ConvSpec: "conv",
        DepthwiseConvSpec: "depthwise_conv",
        AddScaledSpec: "add_scaled",
        LrnSpec: "lrn",
        LinearSpec: "linear",
        BatchNormSpec: "batch_norm",
        DropoutSpec: "dropout",
        SoftmaxCrossEntropySpec: "softmax_cross_entropy",
        BranchSpec: "reduce_conv",
        InceptionSpec: "inception",
    }
    name = f"{spec.kind}_pool" if isinstance(spec, PoolSpec) else names[type(spec)]
    return (key for key in HOST_ROWS if key[0] == name)
