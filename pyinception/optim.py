"""Gradient descent as the papers ran it, schedules as functions of the step, weight averages."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import cos, isfinite, pi, sqrt
from typing import Any

import numpy as np

from pyinception import checkpoint, config, rng
from pyinception.backend import Array, array_module, beside, core, memory_of, to_host, why_not
from pyinception.cuda import steps
from pyinception.extents import real
from pyinception.module import Module
from pyinception.tensor import Parameter

Schedule = Callable[[int], float]


def step(base: float = 0.01, gamma: float = 0.96, size: int = 320_000) -> Schedule:
    """lr(t) = base gamma^floor(t / size): "step" of Caffe's bvlc_googlenet/solver.prototxt."""
    _check_schedule("step", base=base, gamma=gamma, size=size)
    return lambda t: base * gamma ** (t // size)


def poly(base: float = 0.01, power: float = 0.5, last: int = 2_400_000) -> Schedule:
    """lr(t) = base (1 - t / last)^power, 0 from ``last`` on: quick_solver.prototxt."""
    _check_schedule("poly", base=base, power=power, last=last)
    return lambda t: base * max(0.0, 1 - t / last) ** power


def exponential(base: float = 0.045, gamma: float = 0.94, size: int = 80_072) -> Schedule:
    """lr(t) = base gamma^(t / size), without steps; Inception-v3's 0.94 every two epochs is `step`
    or this (TensorFlow's ``staircase`` on or off)."""
    _check_schedule("exponential", base=base, gamma=gamma, size=size)
    return lambda t: base * gamma ** (t / size)


def cosine(base: float = 0.1, last: int = 78_200) -> Schedule:
    """lr(t) = base (1 + cos(pi t / last)) / 2, 0 from ``last`` on."""
    _check_schedule("cosine", base=base, last=last)
    return lambda t: base * (1 + cos(pi * min(t, last) / last)) / 2


def _check_schedule(kind: str, **numbers: float) -> None:
    for name, value in numbers.items():
        real(kind, name, value, 1 if name in ("size", "last") else 0)


def clip_gradients(net: Module, limit: float) -> float:
    """g = g min(1, limit / |g|), |g| the norm of all gradients together; returns |g|.

    The norm is summed in float64, parameter by parameter. Inception-v3 was trained with limit 2.

    Raises
    ------
    FloatingPointError
        A gradient holds inf or NaN, which no factor brings within the limit; nothing has changed.
    """
    real("clip_gradients", "limit", limit)
    if not limit > 0:
        raise ValueError(f"clip_gradients: limit is {limit}, expected more than 0")
    found = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    squares = {
        name: float(np.square(to_host(gradient), dtype=np.float64).sum())
        for name, gradient in found.items()
    }
    norm = sqrt(sum(squares.values()))
    if not isfinite(norm):
        name = next((name for name, square in squares.items() if not isfinite(square)), "all")
        text = f"the gradient of {name} is not finite: try a lower learning rate"
        raise FloatingPointError(f"clip_gradients: {text}")
    if norm > limit:
        for gradient in found.values():
            gradient *= gradient.dtype.type(limit / norm)
    return norm


class Optimizer:
    """What all optimisers share: parameters by name, a schedule, one or more arrays of state each.

    Attributes
    ----------
    iteration : steps done; the schedule is asked for this number before each step.

    Notes
    -----
    A parameter whose ``grad`` is None is left alone. Each step moves dropout's step (`rng`) on, so
    that a plain loop drops other units every time, also after a resume.
    """

    slots: tuple[str, ...] = ("",)  # suffixes of the state's names, one array a parameter each

    def __init__(self, net: Module, lr: float | Schedule, **shares: float) -> None:
        kind = type(self).__name__
        if not callable(lr):
            real(kind, "lr", lr)
        for name, value in shares.items():
            real(kind, name, value, below=1 if name in ("momentum", "decay") else np.inf)
        self.parameters = dict(net.named_parameters())
        self.schedule: Schedule = lr if callable(lr) else (lambda _: float(lr))
        self.iteration = 0
        self.state: dict[str, Array] = {
            name + slot: array_module(p.data).zeros_like(p.values)
            for slot in self.slots
            for name, p in self.parameters.items()
        }

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.schedule(self.iteration)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def update(self, name: str, w: Array, g: Array, rate: float) -> None:
        """Move ``w`` in place; ``g`` has its weight decay, ``rate`` its multiplier."""
        raise NotImplementedError(f"{type(self).__name__}.update")

    def fused(self, name: str, parameter: Parameter, rate: float, decay: float) -> bool:
        """Whether one kernel did the whole update, with the bits of `update`."""
        return False

    weight_decay = 0.0

    def step(self) -> None:
        """One update of every parameter that has a gradient, which is then forgotten."""
        rate = self.lr
        self._check_memory()
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            w, g = parameter.values, parameter.grad
            decay = self.weight_decay * parameter.decay_mult
            if self.fused(name, parameter, rate * parameter.lr_mult, decay):
                continue
            if decay:
                g = g + w.dtype.type(decay) * w
            self.update(name, w, g, rate * parameter.lr_mult)
            parameter.changed()
        self.skip()

    def skip(self) -> None:
        """Forget all gradients and count a step that has moved nothing."""
        self.zero_grad()
        self.iteration += 1
        rng.set_step(self.iteration)

    def _check_memory(self) -> None:
        """The network may have been moved since: nothing is half updated then."""
        for name, array in self.state.items():
            parameter = self.parameters.get(name)
            if parameter is not None and type(array) is not type(parameter.data):
                kind, now = type(self).__name__, memory_of(parameter.data)
                text = f"{name} is in {now} memory, its state in {memory_of(array)} memory"
                raise ValueError(f"{kind}.step: {text}; move the network before its optimiser")

    def state_dict(self) -> dict[str, Array]:
        """State by parameter name, and the iteration: all that a resume needs."""
        return {**self.state, "iteration": np.array(self.iteration, np.int64)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a `state_dict` after every name, shape and dtype has been checked."""
        kind = type(self).__name__
        checkpoint.check_state(f"{kind}.load_state_dict", self.state_dict(), state)
        real(f"{kind}.load_state_dict", "iteration", int(state["iteration"]))
        for name, array in self.state.items():
            array[...] = beside(state[name], array)
        self.iteration = int(state["iteration"])
        rng.set_step(self.iteration)


class SGD(Optimizer):
    """v = mu v + lr lr_mult (g + wd decay_mult w); w = w - v, per parameter, in its dtype.

    With ``nesterov`` w = w - (mu v + lr lr_mult g'), the step from where v is about to lead.

    Parameters
    ----------
    net : whose parameters to train; their ``lr_mult`` and ``decay_mult`` are Caffe's multipliers.
    lr : a number, or a function of the step such as `step(...)` or `poly(...)`.
    momentum, weight_decay : mu and wd.
    """

    def __init__(
        self,
        net: Module,
        lr: float | Schedule = 0.01,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(net, lr, momentum=momentum, weight_decay=weight_decay)
        self.momentum, self.weight_decay, self.nesterov = momentum, weight_decay, nesterov

    def fused(self, name: str, parameter: Parameter, rate: float, decay: float) -> bool:
        w, copy = parameter.values, None if parameter.master is None else parameter.data
        if self.nesterov or w.dtype != np.float32:
            return False
        v, g = self.state[name], parameter.grad
        how = {"rate": rate, "momentum": self.momentum, "decay": decay}
        if memory_of(w) == "cuda" or (copy is not None and steps.serves(w)):
            steps.sgd(w, v, g, copy, **how)
        elif copy is None and _core_serves(w, v, g):
            switches = config.values()
            flat = [a.reshape(-1) for a in (w, v, g) if a is not None]
            core(switches).sgd(*flat, **how, level=switches.cpu_level, threads=switches.threads)
        else:
            return False
        parameter.version += 1
        return True

    def update(self, name: str, w: Array, g: Array, rate: float) -> None:
        v, number = self.state[name], w.dtype.type
        v *= number(self.momentum)
        move = number(rate) * g
        v += move
        w -= number(self.momentum) * v + move if self.nesterov else v


def _core_serves(*arrays: Any) -> bool:
    """Whether the compiled core may write these arrays in place."""
    if config.get("backend") not in ("auto", "cpu") or why_not("cpu") is not None:
        return False
    return all(
        isinstance(a, np.ndarray) and a.dtype == np.float32 and a.flags.c_contiguous for a in arrays
    )


class RMSProp(Optimizer):
    """s = decay s + (1 - decay) g^2;  m = mu m + lr g / root(s);  w = w - m.

    Two dialects differ in more than the last digit where eps is large, as Inception-v3's 1.0:
    ``"tensorflow"`` root = sqrt(s + eps), s begins at 1, lr is inside m; ``"torch"`` root =
    sqrt(s) + eps, s begins at 0, and lr multiplies m instead: w = w - lr m.

    Parameters
    ----------
    decay, momentum, eps : 0.9, 0.9, 1.0 trained Inception-v3 (lr 0.045).
    weight_decay : added to g, times the parameter's ``decay_mult``.
    """

    slots = ("", ".square")

    def __init__(
        self,
        net: Module,
        lr: float | Schedule = 0.045,
        *,
        decay: float = 0.9,
        momentum: float = 0.9,
        eps: float = 1.0,
        weight_decay: float = 0.0,
        dialect: str = "tensorflow",
    ) -> None:
        if dialect not in ("tensorflow", "torch"):
            text = f'dialect is {dialect!r}, expected "tensorflow" or "torch"'
            raise ValueError(f"RMSProp: {text}")
        super().__init__(
            net, lr, decay=decay, momentum=momentum, eps=eps, weight_decay=weight_decay
        )
        self.decay, self.momentum, self.eps = decay, momentum, eps
        self.weight_decay, self.dialect = weight_decay, dialect
        if dialect == "tensorflow":
            for name in self.parameters:
                self.state[f"{name}.square"][...] = 1

    def update(self, name: str, w: Array, g: Array, rate: float) -> None:
        m, s, number = self.state[name], self.state[f"{name}.square"], w.dtype.type
        s *= number(self.decay)
        s += number(1 - self.decay) * (g * g)
        m *= number(self.momentum)
        if self.dialect == "tensorflow":
            m += number(rate) * g / array_module(w).sqrt(s + number(self.eps))
            w -= m
        else:
            m += g / (array_module(w).sqrt(s) + number(self.eps))
            w -= number(rate) * m


class Average:
    """A running average of parameters and buffers, to evaluate with.

    ``decay`` None: the plain mean of all states since the first `update` (Polyak and Ruppert; start
    it for the tail of a training). Else a = d a + (1 - d) w, d = min(decay, (1 + t) / (10 + t))
    after t updates: TensorFlow's moving average with a step counter.
    """

    def __init__(self, net: Module, decay: float | None = 0.9999) -> None:
        if decay is not None:
            real("Average", "decay", decay, below=1)
        self.net, self.decay, self.count = net, decay, 0
        self.average = {name: array.copy() for name, array in net.state_dict().items()}

    def update(self) -> None:
        """Take the network's state in, after each step of the optimiser."""
        t = self.count
        if self.decay is None:
            share = 1 / (t + 1)
        else:
            share = 1 - min(self.decay, (1 + t) / (10 + t))
        for name, array in self.net.state_dict().items():
            mean = self.average[name]
            mean += array.dtype.type(share) * (array - mean)
        self.count += 1

    @contextmanager
    def applied(self) -> Iterator[Module]:
        """Inside the ``with`` block the network holds the average; afterwards its own state."""
        own = {name: array.copy() for name, array in self.net.state_dict().items()}
        self.net.load_state_dict(self.average)
        try:
            yield self.net
        finally:
            self.net.load_state_dict(own)

    def state_dict(self) -> dict[str, Array]:
        """The average by name, and the count of updates."""
        return {**self.average, "count": np.array(self.count, np.int64)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a `state_dict` after every name, shape and dtype has been checked."""
        checkpoint.check_state("Average.load_state_dict", self.state_dict(), state)
        for name, array in self.average.items():
            array[...] = beside(state[name], array)
        self.count = int(state["count"])
