"""Inference: a module traced once for one input shape into a flat list of calls.

Activations share one arena by planned lifetimes. With the compiled core, weights are packed once
and the calls become one list of launches, run by one call; otherwise the noted rows are replayed.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from pyinception import config, workspace
from pyinception.backend import Array, core
from pyinception.border import Border
from pyinception.dispatch import Plan, check
from pyinception.module import Module
from pyinception.prepack import Packed, prepack
from pyinception.spec import Spec
from pyinception.table import SITES
from pyinception.tensor import Tensor, no_grad

_Call = tuple[Any, tuple[Any, ...]]  # a plan or a host function, and its arguments
_AXES = {2: "N C", 4: "N H W C"}
# A batch goes through in groups of samples whose activations stay in the last cache: layer by layer
# over the whole batch, every map of an early layer would travel to memory and back.
GROUP_BYTES = 16 << 20


def trace(net: Module, x: Array) -> tuple[Any, workspace.Recording]:
    """Run ``net`` on ``x`` in evaluation without computing: its outputs and the calls it makes.

    A call is (plan, arguments) or (function of the host, arrays); arrays that the calls hand each
    other are the recording's ``arrays``, or views of them.
    """
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        with no_grad(), workspace.record() as noted:
            return net(Tensor(x)), noted
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
    x = np.empty(input_shape, next(net.parameters()).dtype)
    _, noted = trace(net, x)
    plans = (plan for plan, _ in noted.calls if isinstance(plan, Plan))
    return [(plan.op, plan.direction, plan.spec) for plan in plans]


class Session:
    """A network ready for one input shape: ``session(x)`` gives a fresh array.

    Parameters
    ----------
    net : any module; it is traced in evaluation mode and keeps its own mode.
    input_shape : (N, H, W, C) or (N, C).
    backend, algorithm : as in `config`, fixed when the session is made.

    Notes
    -----
    The session sees later changes of the weights: live arrays are read directly, packed ones are
    packed again when a parameter's version has changed. Folding batch norms is left to the caller.
    One session serves one thread at a time.
    """

    def __init__(
        self,
        net: Module,
        input_shape: tuple[int, ...],
        backend: str | None = None,
        algorithm: str | None = None,
    ) -> None:
        self.net, self.input_shape = net, tuple(input_shape)
        self.switches = {
            "backend": config.get("backend", backend),
            "algorithm": config.get("algorithm", algorithm),
            "cpu_level": config.get("cpu_level"),
        }
        if len(self.input_shape) not in _AXES:
            text = f"input_shape is {self.input_shape}, expected (N, H, W, C) or (N, C)"
            raise ValueError(f"Session: {text}")
        self._build(self._group())

    def _group(self) -> int:
        """The largest divisor of the batch whose activations fit `GROUP_BYTES`."""
        batch = self.input_shape[0]
        if batch <= 1:
            return batch
        x = np.empty((1, *self.input_shape[1:]), self._dtype())
        with config.using(**self.switches):
            result, noted = trace(self.net, x)
        if isinstance(result, Tensor):
            self._plan_memory(noted, result.data)
            most = max(1, GROUP_BYTES // max(self.arena_bytes, 1))
            return max(d for d in range(1, batch + 1) if batch % d == 0 and d <= most)
        return batch

    def _dtype(self) -> Any:
        return next((p.dtype for p in self.net.parameters()), np.dtype(np.float32))

    def _build(self, group: int) -> None:
        self.group = group
        dtype = self._dtype()
        shape = (group, *self.input_shape[1:])
        self._x = workspace.aligned(int(np.prod(shape)) * dtype.itemsize).view(dtype).reshape(shape)
        with config.using(**self.switches):
            result, noted = trace(self.net, self._x)
            if not isinstance(result, Tensor):
                raise TypeError(f"Session: net gives a {type(result).__name__}, expected a Tensor")
            calls = self._plan_memory(noted, result.data)
            self._packed: list[tuple[Array, Packed]] = []
            self._calls = [(call, self._pack(call, arguments)) for call, arguments in calls]
            self._launches = self._record() if self._all_on_core() else None
        self._seen = self._versions()

    def _plan_memory(self, noted: workspace.Recording, result: Array) -> list[_Call]:
        """Move every activation into one arena; afterwards the traced arrays may go."""
        blocks = sorted(noted.arrays, key=_address)
        starts = [_address(block) for block in blocks]

        def block_of(array: Array) -> int | None:
            place = bisect_right(starts, _address(array)) - 1
            inside = place >= 0 and _address(array) < starts[place] + max(blocks[place].nbytes, 1)
            return place if inside else None

        lives: dict[int, tuple[int, int]] = {}
        for when, (_, arguments) in enumerate(noted.calls):
            for array in _arrays(arguments):
                place = block_of(array)
                if place is not None:
                    lives[place] = lives.get(place, (when, when))[0], when
        last = block_of(result)
        if last is not None:
            lives[last] = lives.get(last, (0, 0))[0], len(noted.calls)
        used = sorted(lives)
        sizes = [blocks[place].nbytes for place in used]
        offsets, self.arena_bytes = workspace.plan_lifetimes(sizes, [lives[p] for p in used])
        self.unplanned_bytes = sum(sizes)
        arena = workspace.aligned(self.arena_bytes)
        moved = dict(zip(used, offsets, strict=True))

        def move(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(move(part) for part in value)
            place = block_of(value) if isinstance(value, np.ndarray) else None
            if place is None:
                return value
            offset = moved[place] + _address(value) - starts[place]
            return np.ndarray(value.shape, value.dtype, arena, offset, value.strides)

        self._y = move(result)
        return [(call, move(arguments)) for call, arguments in noted.calls]

    def _all_on_core(self) -> bool:
        calls = [call for call, _ in self._calls]
        return bool(calls) and all(isinstance(c, Plan) and c.row.backend == "cpu" for c in calls)

    def _record(self) -> Any:
        """Append every launch to one list of the core."""
        with core().record() as launches:
            self._replay()
        return launches

    def _replay(self) -> None:
        with config.using(cpu_level=self.switches["cpu_level"]):  # as the weights are packed
            for call, arguments in self._calls:
                if isinstance(call, Plan):
                    call.row.run(call.spec, *arguments)
                else:
                    call(*arguments)

    def _pack(self, plan: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of one call with its weights packed, if its row reads packed ones."""
        if not isinstance(plan, Plan) or plan.row.backend != "cpu":
            return arguments
        parts = list(arguments)
        sites = SITES.get((plan.op, plan.direction), ())
        for site, format in zip(sites, plan.formats, strict=True):
            whole = parts[site[0]]
            weights = whole[site[1]] if len(site) == 2 else whole
            packed = prepack(weights, format)
            self._packed.append((weights, packed))
            if len(site) == 2:
                parts[site[0]] = (*whole[: site[1]], packed, *whole[site[1] + 1 :])
            else:
                parts[site[0]] = packed
        return tuple(parts)

    def _versions(self) -> tuple[list[int], list[int]]:
        parts: list[Any] = [
            *self.net.parameters(),
            *(buffer for _, buffer in self.net.named_buffers()),
        ]
        return [id(part.data) for part in parts], [part.version for part in parts]

    def _refresh(self) -> None:
        """Follow the weights: pack again if they changed, trace again if arrays were replaced."""
        now = self._versions()
        if now == self._seen:
            return
        if now[0] != self._seen[0]:
            self._build(self.group)
            return
        for weights, packed in self._packed:
            prepack(weights, packed.format, out=packed.data)
        self._seen = now

    def __call__(self, x: Any, *, layout: str | None = None) -> Any:
        """The network's result for ``x``, a fresh array of the caller's type.

        ``x`` is an array of ``input_shape`` and the weights' dtype, or with ``layout="NCHW"`` the
        same axes in that order.
        """
        border = Border("Session", "NHWC" if layout is None else layout, x)
        given = border.take("x", x)
        check("Session", "x", given, _AXES[len(self.input_shape)], self.input_shape, like=self._x)
        self._refresh()
        y = np.empty((given.shape[0], *self._y.shape[1:]), self._y.dtype)
        for first in range(0, given.shape[0], max(self.group, 1)):
            self._x[...] = given[first : first + self.group]
            self._run()
            y[first : first + self.group] = self._y
        return border.back(y)

    def steps(self) -> list[tuple[Plan | None, Callable[[], Any]]]:
        """(plan, call) of every op in order; a call runs that op alone, on the session's memory.

        Weights are packed already. What runs in NumPy (a concatenation that copies) has no plan.
        """
        found: list[tuple[Plan | None, Callable[[], Any]]] = []
        for call, arguments in self._calls:
            if not isinstance(call, Plan):
                found.append((None, partial(call, *arguments)))
            elif call.row.backend == "cpu":
                with (
                    config.using(cpu_level=self.switches["cpu_level"]),
                    core().record() as launches,
                ):
                    call.row.run(call.spec, *arguments)
                found.append((call, partial(_walk, launches)))
            else:
                found.append((call, partial(call.row.run, call.spec, *arguments)))
        return found

    def _run(self) -> None:
        if self._launches is not None:
            self._launches.run(config.get("threads"))
            return
        for call, arguments in self._calls:
            if isinstance(call, Plan):
                call.row.run(call.spec, *arguments)
            else:
                call(*arguments)


def _walk(launches: Any) -> None:
    launches.run(config.get("threads"))


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def _arrays(value: Any) -> Iterator[Array]:
    if isinstance(value, tuple):
        for part in value:
            yield from _arrays(part)
    elif isinstance(value, np.ndarray):
        yield value
