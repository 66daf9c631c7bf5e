"""Inference: a module traced once for one input shape into a flat list of calls.

Activations share one arena by planned lifetimes. On the CPU weights are packed once and the calls
become one list of launches, run by one call: by all threads, layer after layer (latency), or by
each thread on images of its own (throughput). On CUDA a stem's pools are fused (`fusion`) and the
list is captured into a graph; emulated it is the same list. Where a call is none of these the noted
rows are replayed.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from pyinception import config, extents, workspace
from pyinception.backend import Array, BackendError, core, memory_of
from pyinception.border import Border
from pyinception.dispatch import Plan, check
from pyinception.module import Module
from pyinception.prepack import Packed, together
from pyinception.tensor import Tensor
from pyinception.tracing import Call, is_array, moved, pack_weights, plan_memory, trace
from pyinception.workspace import address_of, dense

if TYPE_CHECKING:
    from pyinception.cuda import launches as cuda

_AXES = {4: "N H W C", 2: "N C"}
# A batch goes through in groups of samples whose activations stay in the last cache: layer by layer
# over the whole batch, every map of an early layer would travel to memory and back.
GROUP_BYTES = 16 << 20
MODES = ("auto", "latency", "throughput")
SPREAD_FROM = 2  # images a thread: of two threads with one each, a slow one holds the other up


class Session:
    """A network ready for one input shape: ``session(x)`` gives a fresh array.

    Parameters
    ----------
    net : any module; it is traced in evaluation mode and keeps its own mode.
    input_shape : (N, H, W, C) or (N, C).
    backend, algorithm : as in `config`, fixed when the session is made.
    mode : "latency", all threads on one group of images, layer by layer; "throughput", every thread
        takes images of its own through the whole network, in an arena of its own; "auto", the
        faster one by the batch and the number of threads. The bits are the same. Throughput needs
        the CPU kernels for every call, and has room for as many threads as there are when the
        session is made.
    dependent_launch : on CUDA, let a kernel be set up while the one before it still runs
        (programmatic dependent launch, sm_90 and later).

    Attributes
    ----------
    mode : "latency" or "throughput".
    captured : whether a call replays a CUDA graph; ``not_captured`` is the reason where it does
        not, else None.

    Notes
    -----
    Where the weights lie the session runs: on CUDA on their device (after ``net.to("cuda:1")`` on
    that), whichever is current, and each call on the stream that it is given, without waiting. It
    owns input buffer, activations and workspace, so ``x`` is copied into place, and a call waits on
    its stream for the call before where that was on another.

    The session sees later changes of the weights: live arrays are read directly, packed ones are
    packed again when a parameter's version has changed (optimisers and ``load`` count it; after
    ``p.data *= 2`` call ``p.changed()``). Folding batch norms is left to the caller.
    One session serves one thread at a time: a second call meanwhile is refused.
    """

    def __init__(
        self,
        net: Module,
        input_shape: tuple[int, ...],
        backend: str | None = None,
        algorithm: str | None = None,
        *,
        mode: str = "auto",
        dependent_launch: bool = False,
    ) -> None:
        if not isinstance(net, Module):
            raise TypeError(f"Session: net is a {type(net).__name__}, expected a Module")
        self.net = net
        self.input_shape = extents.input_shape("Session", input_shape, *_AXES.values())
        self.dependent_launch = dependent_launch
        self.switches = {
            "backend": config.get("backend", backend),
            "algorithm": config.get("algorithm", algorithm),
            "cpu_level": config.get("cpu_level"),
        }
        if mode not in MODES:
            text = f"mode is {mode!r}, expected one of {', '.join(map(repr, MODES))}"
            raise ValueError(f"Session: {text}")
        self._free = Lock()
        self._asked = mode
        with self._device():
            self._on = self._memory()
            self._build(self._group())

    def _device(self) -> Any:
        """The CUDA device of the weights, to be current in a ``with``."""
        first = next((p.data for p in self.net.parameters()), None)
        return nullcontext() if first is None or memory_of(first) == "host" else first.device

    def _turn(self) -> AbstractContextManager[int]:
        return nullcontext(0) if self._on is None else self._on.turn()

    def _memory(self) -> "cuda.Memory | None":
        """Where the session's arrays are to lie; None for the host."""
        first = next((p.data for p in self.net.parameters()), None)
        on_cuda = first is not None and memory_of(first) == "cuda"
        if not on_cuda and self.switches["backend"] != "emulated":
            return None
        from pyinception.cuda import launches as cuda  # slow to import, and the CPU needs none

        return cuda.Runtime(first) if on_cuda else cuda.Emulated()

    def _group(self) -> int:
        """Images that go through at once; settles mode and members.

        The divisor of the batch that gives the busiest member the fewest images, then the largest
        with which the activations of all members fit `GROUP_BYTES`.
        """
        batch, asked = self.input_shape[0], self._asked
        self.mode, self._members = "latency", 1
        if self._on is not None:
            self._refuse(asked, "the weights are not for them")
            return batch
        if batch <= 1 and asked != "throughput":
            return batch
        x = np.empty((1, *self.input_shape[1:]), self._dtype())
        with config.using(**self.switches):
            result, noted = trace(self.net, x)
        if not isinstance(result, Tensor):
            return batch  # refused when it is traced for good
        if not self._all_on(noted.calls, "cpu"):
            self._refuse(asked, "a call of this network runs elsewhere")
        else:
            threads = config.get("threads") or core().default_threads()
            pays = threads > 1 and batch >= SPREAD_FROM * threads and batch % threads == 0
            if asked == "throughput" or (asked == "auto" and pays):
                self.mode, self._members = "throughput", max(1, min(threads, batch))
        self._plan_memory(noted, result.data)
        most = max(1, GROUP_BYTES // max(self.arena_bytes * self._members, 1))
        fitting = [d for d in range(1, min(most, max(batch, 1)) + 1) if batch % d == 0]
        return min(fitting, key=lambda d: (-(-batch // (d * self._members)) * d, -d))

    @staticmethod
    def _refuse(mode: str, why: str) -> None:
        if mode == "throughput":
            text = f"mode is 'throughput', which needs the CPU kernels for every call, but {why}"
            raise BackendError(f"Session: {text}")

    def _dtype(self) -> Any:
        return next((p.dtype for p in self.net.parameters()), np.dtype(np.float32))

    def _build(self, group: int) -> None:
        self.group = group
        dtype = self._dtype()
        shape = (group, *self.input_shape[1:])
        self._x = self._view(self._bytes(int(np.prod(shape)) * dtype.itemsize), 0, shape, dtype)
        self._home = _device_of(self._x)
        with config.using(**self.switches):
            result, noted = trace(self.net, self._x)
            if not isinstance(result, Tensor):
                raise TypeError(f"Session: net gives a {type(result).__name__}, expected a Tensor")
            if self._on is not None:
                from pyinception.fusion import fused  # slow to import, and the CPU needs none

                always = self.switches["algorithm"] == "mma"
                how = self._on.limits, self._on.sm, always
                noted.calls = fused(noted.calls, result.data, *how)
            calls = self._plan_memory(noted, result.data)
            self._packed: list[tuple[Array, Packed]] = []
            self._settled: dict[int, tuple[Array, Array]] = {}  # id -> a weight, where kernels read
            self._launches: Any = None
            self.captured, self.not_captured = False, self._why_not_captured(calls)
            if self._on is not None:
                self._calls = calls
                if self._all_on(calls, "cuda", "emulated"):
                    self._note()
            else:
                self._calls, self._packed = pack_weights(calls)
                self._launches = self._record() if self._all_on(calls, "cpu") else None
                self._slots = [(self._launches, self._x, self._y)]
                self._slots += [self._slot() for _ in range(1, self._members)]
        self._seen = self._versions()

    def _bytes(self, count: int) -> Array:
        return workspace.lasting(count) if self._on is None else self._on.empty(count)

    def _view(
        self, memory: Array, offset: int, shape: tuple[int, ...], dtype: Any, strides: Any = None
    ) -> Array:
        if strides is None:
            strides = tuple(np.dtype(dtype).itemsize * stride for stride in dense(shape))
        if self._on is None:
            return np.ndarray(shape, dtype, memory, offset, strides)
        return self._on.view(memory, offset, shape, dtype, strides)

    def _plan_memory(self, noted: workspace.Recording, result: Array) -> list[Call]:
        planned = plan_memory(noted, result, self._bytes, self._view)
        self._arena, self._y = planned.arena, planned.result
        self.arena_bytes, self.unplanned_bytes = planned.arena.nbytes, planned.unplanned_bytes
        return planned.calls

    @staticmethod
    def _all_on(calls: list[Call], *backends: str) -> bool:
        plans = [call for call, _ in calls]
        return bool(plans) and all(isinstance(c, Plan) and c.row.backend in backends for c in plans)

    def _why_not_captured(self, calls: list[Call]) -> str | None:
        if memory_of(self._x) != "cuda":
            return "the weights are in host memory"
        if not self._all_on(calls, "cuda"):
            return "a step of the network is done by the array library itself"
        return None

    def _note(self) -> None:
        """Every call's launches as one list, over operands that stay where they are."""
        from pyinception.cuda import launches as cuda

        assert self._on is not None
        calls = [(plan, self._settle(arguments)) for plan, arguments in self._calls]
        self._launches, self._scratch = cuda.note_all(calls, self._on)
        if self.not_captured is None:
            self._launches.capture(self.dependent_launch)
            self.captured = True

    def _settle(self, value: Any) -> Any:
        """Arguments with every weight where kernels can read it."""
        if isinstance(value, tuple):
            return tuple(self._settle(part) for part in value)
        if not is_array(value) or self._owns(value):
            return value
        if id(value) not in self._settled:
            assert self._on is not None
            self._settled[id(value)] = value, self._on.settled(value)
        return self._settled[id(value)][1]

    def _record(self, calls: list[Call] | None = None) -> Any:
        """Append every launch to one list of the core; a member of many walks its list alone."""
        threads = 1 if self.mode == "throughput" else None
        with config.using(threads=threads), core().record() as launches:
            self._replay(calls)
        return launches

    def _slot(self) -> tuple[Any, Array, Array]:
        """The launches of another member, and its x and y: the same calls over other memory."""
        places = [(old, self._bytes(old.nbytes)) for old in (self._x.base, self._arena)]
        calls, x, y = (moved(value, places) for value in (self._calls, self._x, self._y))
        return self._record(calls), x, y

    def _replay(self, calls: list[Call] | None = None) -> None:
        with config.using(cpu_level=self.switches["cpu_level"]):  # as the weights are packed
            for call, arguments in self._calls if calls is None else calls:
                if isinstance(call, Plan):
                    call.row.run(call.spec, *arguments)
                else:
                    call(*arguments)

    def _owns(self, array: Array) -> bool:
        """Whether an array is the input buffer or lies in the arena."""
        at = address_of(array)
        places = ((address_of(memory), memory.nbytes) for memory in (self._x, self._arena))
        return any(start <= at < start + count for start, count in places)

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
            self._on = self._memory()
            self._build(self._group())
            return
        if self._packed:
            with together() as pack:
                for weights, packed in self._packed:
                    pack(weights, packed.format, packed.data)
        for weights, settled in self._settled.values():
            if settled is not weights:
                settled[...] = weights
        self._seen = now

    def __call__(self, x: Any, *, layout: str | None = None, stream: Any = None) -> Any:
        """The network's result for ``x``, a fresh array of the caller's type.

        Parameters
        ----------
        x : an array of ``input_shape`` and the weights' dtype, on CUDA on their device; with
            ``layout="NCHW"`` the same axes in that order.
        stream : in CUDA memory, where everything that the call does goes: a handle or an object
            with ``__cuda_stream__``. None: the stream that the library of ``x`` works on now.
        """
        if not self._free.acquire(blocking=False):
            raise RuntimeError("Session: another thread is inside this session; make one a thread")
        try:
            return self._call(x, layout, stream)
        finally:
            self._free.release()

    def _call(self, x: Any, layout: str | None, stream: Any) -> Any:
        with Border("Session", "NHWC" if layout is None else layout, x, stream=stream) as border:
            given = border.take("x", x)
            with self._device(), self._turn() as handle:
                self._refresh()
                axes = _AXES[len(self.input_shape)]
                check("Session", "x", given, axes, self.input_shape, like=self._x)
                if _device_of(given) != self._home:
                    text = f"x is on CUDA device {_device_of(given)}, expected {self._home}"
                    raise BackendError(f"Session: {text}, where the weights are")
                if self._home is not None:
                    from pyinception.cuda.executor import check_place

                    check_place(given)
                y = workspace.empty((given.shape[0], *self._y.shape[1:]), given, self._y.dtype)
                if self.mode == "throughput":
                    given = np.ascontiguousarray(given)
                    core().spread(self._slots, given, y, config.get("threads"))
                    return border.back(y)
                for first in range(0, given.shape[0], max(self.group, 1)):
                    self._x[...] = given[first : first + self.group]
                    self._run(handle)
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

    def _run(self, stream: int = 0) -> None:
        if self._launches is not None:
            if self._on is None:
                self._launches.run(config.get("threads"))
            elif self.captured:
                self._launches.replay(stream)
            else:
                self._launches.run(stream)
            return
        self._replay()


def _walk(launches: Any) -> None:
    launches.run(config.get("threads"))


def _device_of(array: Array) -> int | None:
    """The number of its CUDA device; None in host memory."""
    return None if isinstance(array, np.ndarray) else int(array.device.id)
