"""A module run without computing: which calls it makes, and where their maps may lie.

`Session` runs what is traced here; `convert` writes it as ONNX, `study` and `bench` count it.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyinception import workspace
from pyinception.backend import Array
from pyinception.dispatch import Plan
from pyinception.module import Module
from pyinception.prepack import Packed, together
from pyinception.spec import Spec
from pyinception.table import SITES
from pyinception.tensor import Tensor, no_grad
from pyinception.workspace import address_of

Call = tuple[Any, tuple[Any, ...]]  # a plan or a host function, and its arguments


def trace(net: Module, x: Array) -> tuple[Any, workspace.Recording]:
    """Run ``net`` on ``x`` in evaluation without computing: its outputs and the calls it makes.

    A call is (plan, arguments) or (function of the host, arrays); arrays that the calls hand each
    other are the recording's ``arrays``, or views of them. A forward that computes with NumPy by
    itself is refused: its results would stay those of the trace.
    """
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        with no_grad(), workspace.record() as noted:
            return net(Tensor(workspace.traced(x))), noted
    finally:
        for module, training in modes:
            module.training = training


def specs(net: Module, input_shape: tuple[int, ...]) -> list[tuple[str, str, Spec]]:
    """(op, direction, spec) of every call that ``net`` makes in evaluation, nothing computed.

    Examples
    --------
    >>> sum(spec.macs for _, _, spec in specs(googlenet(), (1, 224, 224, 3)))
    1582671872
    """
    x = workspace.empty(input_shape, next(net.parameters()).data)
    _, noted = trace(net, x)
    plans = (plan for plan, _ in noted.calls if isinstance(plan, Plan))
    return [(plan.op, plan.direction, plan.spec) for plan in plans]


@dataclass(frozen=True)
class Planned:
    """A trace whose maps lie in one arena: ``unplanned_bytes`` is what they take each by itself."""

    calls: list[Call]
    result: Array
    arena: Array
    unplanned_bytes: int


def plan_memory(
    noted: workspace.Recording,
    result: Array,
    allocate: Callable[[int], Array],
    view: Callable[..., Array],
) -> Planned:
    """Move every map of a trace into one arena; afterwards the traced arrays may go.

    Parameters
    ----------
    allocate : bytes of memory, by their count.
    view : (memory, offset, shape, dtype, strides) -> an array in that memory.
    """
    blocks = sorted(noted.arrays, key=address_of)
    starts = [address_of(block) for block in blocks]

    def block_of(array: Array) -> int | None:
        place = bisect_right(starts, address_of(array)) - 1
        inside = place >= 0 and address_of(array) < starts[place] + max(blocks[place].nbytes, 1)
        return place if inside else None

    lives: dict[int, tuple[int, int]] = {}
    for when, (_, arguments) in enumerate(noted.calls):
        for array in arrays_of(arguments):
            place = block_of(array)
            if place is not None:
                lives[place] = lives.get(place, (when, when))[0], when
    last = block_of(result)
    if last is not None:
        lives[last] = lives.get(last, (0, 0))[0], len(noted.calls)
    used = sorted(lives)
    sizes = [blocks[place].nbytes for place in used]
    offsets, total = workspace.plan_lifetimes(sizes, [lives[p] for p in used])
    arena = allocate(total)
    moved = dict(zip(used, offsets, strict=True))

    def move(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(move(part) for part in value)
        place = block_of(value) if is_array(value) else None
        if place is None:
            return value.view(np.ndarray) if isinstance(value, workspace.Traced) else value
        offset = moved[place] + address_of(value) - starts[place]
        return view(arena, offset, value.shape, value.dtype, value.strides)

    calls = [(call, move(arguments)) for call, arguments in noted.calls]
    return Planned(calls, move(result), arena, sum(sizes))


def moved(value: Any, places: list[tuple[Array, Array]]) -> Any:
    """Nested tuples with each host array inside the first of a pair at that offset of the second.

    Parameters
    ----------
    places : (old, new) blocks of bytes, of one length.
    """
    if isinstance(value, (tuple, list)):
        return type(value)(moved(part, places) for part in value)
    if isinstance(value, np.ndarray):
        for old, new in places:
            offset = address_of(value) - address_of(old)
            if 0 <= offset < old.nbytes:
                return np.ndarray(value.shape, value.dtype, new, offset, value.strides)
    return value


def is_array(value: Any) -> bool:
    """Whether it is an array of NumPy or in CUDA memory."""
    return isinstance(value, np.ndarray) or hasattr(value, "__cuda_array_interface__")


def arrays_of(value: Any) -> Iterator[Array]:
    """Every array in nested tuples."""
    if isinstance(value, tuple):
        for part in value:
            yield from arrays_of(part)
    elif is_array(value):
        yield value


def pack_weights(calls: list[Call]) -> tuple[list[Call], list[tuple[Array, Packed]]]:
    """The calls with their weights packed where rows read packed ones, in one block of memory.

    Returns
    -------
    The calls, and (weight, packed) of each that was packed, to pack again when it has changed.
    """
    formats = [call.formats if isinstance(call, Plan) else () for call, _ in calls]
    if not any(formats):
        return calls, []
    line = workspace.ALIGNMENT
    sizes = [-(-format.bytes // line) * line for wanted in formats for format in wanted]
    memory = workspace.lasting(sum(sizes))
    packed_calls: list[Call] = []
    made: list[tuple[Array, Packed]] = []
    with together() as pack:
        for (plan, arguments), wanted in zip(calls, formats, strict=True):
            parts = list(arguments)
            for site, format in zip(SITES[plan.op, plan.direction] if wanted else (), wanted):
                whole = parts[site[0]]
                weights = whole[site[1]] if len(site) == 2 else whole
                packed = pack(weights, format, memory[: format.bytes].view(weights.dtype))
                memory = memory[-(-format.bytes // line) * line :]
                made.append((weights, packed))
                if len(site) == 2:
                    parts[site[0]] = (*whole[: site[1]], packed, *whole[site[1] + 1 :])
                else:
                    parts[site[0]] = packed
            packed_calls.append((plan, tuple(parts)))
    return packed_calls, made
