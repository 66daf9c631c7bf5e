"""Calls of a trace that one CUDA kernel makes together: what stands around a stem's pools.

    conv -> max_pool -> lrn     conv -> lrn -> max_pool     conv_lrn_pool, where its plan takes it
            max_pool -> lrn             lrn -> max_pool     lrn_pool

The maps between are read by nobody else and are never made. The bits are those of the calls one by
one. For inference: backward would need the maps.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from pyinception.backend import Array
from pyinception.cuda import executor, records_stem, runs
from pyinception.dispatch import Plan
from pyinception.spec import BranchSpec
from pyinception.table import Row
from pyinception.tracing import Call, arrays_of
from pyinception.workspace import address_of

CHAINS = {
    ("conv", "max_pool", "lrn"): ("conv_lrn_pool", "mma"),
    ("conv", "lrn", "max_pool"): ("conv_lrn_pool", "mma"),
    ("max_pool", "lrn"): ("lrn_pool", "direct"),
    ("lrn", "max_pool"): ("lrn_pool", "direct"),
}


def fused(
    calls: Sequence[Call], result: Array, device: tuple[int, int], sm: int, always: bool = False
) -> list[Call]:
    """``calls`` with every chain that a kernel takes as one.

    Parameters
    ----------
    result : what the network gives; it is made whatever else reads it.
    device, sm : shared memory and multiprocessors of the device, its compute capability.
    always : also where the plan of the one kernel expects several to end first.
    """
    found: list[Call] = []
    at = 0
    while at < len(calls):
        for length in (3, 2, 1):
            chain = calls[at : at + length]
            call = _one(chain, calls, result, executor.Dry(device, sm), always)
            if call is not None:
                found.append(call)
                at += len(chain)
                break
    return found


def _one(
    chain: Sequence[Call], calls: Sequence[Call], result: Array, dry: executor.Dry, always: bool
) -> Call | None:
    """The one call that makes ``chain``; None where there is none."""
    if len(chain) == 1:
        return chain[0]
    plans = [plan for plan, _ in chain]
    if not all(isinstance(plan, Plan) and plan.row.backend in _START for plan in plans):
        return None
    kernel = CHAINS.get(tuple(plan.op for plan in plans))
    if kernel is None or not _linked(chain, calls, result):
        return None
    op, rung = kernel
    plan, (*inputs, _) = plans[0], chain[0][1][: 4 if plans[0].op == "conv" else 2]
    arguments = (*inputs, chain[-1][1][1])
    stages = tuple(plan.spec for plan in plans)
    try:
        if op == "lrn_pool":
            records_stem.lrn_pool(dry, stages, *arguments)
        elif plan.row.algorithm != rung or not _whole_units(arguments[-1]):
            return None
        else:
            records_stem.conv_lrn_pool(dry, stages, *arguments, always=always)
    except executor.Declined:
        return None
    key, start = (op, "fprop"), _START[plan.row.backend]
    row = Row(*key, f"{plan.row.backend}/{rung}", plan.row.backend, rung, _takes, start(rung, key))
    spec = BranchSpec(stages, plan.spec.function)
    return Plan(*key, spec, plan.target, row, ()), arguments


_START = {"cuda": runs.runtime, "emulated": runs.emulated}


def _takes(spec: Any, target: Any) -> None:
    """It was asked before the row was made."""


def _linked(chain: Sequence[Call], calls: Sequence[Call], result: Array) -> bool:
    """Whether each call reads what the one before wrote, and nobody else does."""
    for (_, before), (plan, after) in pairwise(chain):
        y, x = before[3 if len(before) == 4 else 1], after[0]
        same = (address_of(y), y.shape, y.strides) == (address_of(x), x.shape, x.strides)
        if not same or (plan.op == "max_pool" and after[2] is not None):
            return False
        users = sum(any(_overlap(y, a) for a in arrays_of(arguments)) for _, arguments in calls)
        if users != 2 or _overlap(y, result):
            return False
    return True


def _overlap(a: Array, b: Array) -> bool:
    """Whether the spans of two arrays meet, be it between their elements."""
    return address_of(a) < address_of(b) + _span(b) and address_of(b) < address_of(a) + _span(a)


def _span(array: Array) -> int:
    axes = zip(array.shape, array.strides, strict=True)
    return int(array.dtype.itemsize + sum((n - 1) * stride for n, stride in axes))


def _whole_units(y: Array) -> bool:
    """Whether a tensor-core kernel can write the slice that the last of the chain was to write."""
    return executor.suits(address_of(y), executor.strides_of(y), y, 16 // int(y.dtype.itemsize))
