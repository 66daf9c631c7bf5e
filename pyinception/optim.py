"""Stochastic gradient descent as Caffe runs it, and schedules that are functions of the step."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pyinception import checkpoint, rng
from pyinception.backend import Array, array_module
from pyinception.module import Module

Schedule = Callable[[int], float]


def step(base: float = 0.01, gamma: float = 0.96, size: int = 320_000) -> Schedule:
    """lr(t) = base gamma^floor(t / size): "step" of Caffe's bvlc_googlenet/solver.prototxt."""
    return lambda t: base * gamma ** (t // size)


def poly(base: float = 0.01, power: float = 0.5, last: int = 2_400_000) -> Schedule:
    """lr(t) = base (1 - t / last)^power, 0 from ``last`` on: quick_solver.prototxt."""
    return lambda t: base * max(0.0, 1 - t / last) ** power


class SGD:
    """v = mu v + lr lr_mult (g + wd decay_mult w); w = w - v, per parameter, in its dtype.

    Parameters
    ----------
    net : whose parameters to train; their ``lr_mult`` and ``decay_mult`` are Caffe's multipliers.
    lr : a number, or a function of the step such as `step(...)` or `poly(...)`.
    momentum, weight_decay : mu and wd.

    Attributes
    ----------
    iteration : steps done; the schedule is asked for this number before each step.

    Notes
    -----
    A parameter whose ``grad`` is None is left alone. Each step moves dropout's step (`rng`) on, so
    that a plain loop drops other units every time, also after a resume.
    """

    def __init__(
        self,
        net: Module,
        lr: float | Schedule = 0.01,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        for name, value in (("momentum", momentum), ("weight_decay", weight_decay)):
            if not 0 <= value < (1 if name == "momentum" else np.inf):
                raise ValueError(f"SGD: {name} is {value}, expected at least 0 (momentum below 1)")
        self.parameters = dict(net.named_parameters())
        self.schedule: Schedule = lr if callable(lr) else (lambda _: float(lr))
        self.momentum, self.weight_decay = momentum, weight_decay
        self.iteration = 0
        self.velocity: dict[str, Array] = {
            name: array_module(p.data).zeros_like(p.data) for name, p in self.parameters.items()
        }

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.schedule(self.iteration)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def step(self) -> None:
        """One update of every parameter that has a gradient, which is then forgotten."""
        rate = self.lr
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            w, v = parameter.data, self.velocity[name]
            number = w.dtype.type
            v *= number(self.momentum)
            update = parameter.grad
            decay = self.weight_decay * parameter.decay_mult
            if decay:
                update = update + number(decay) * w
            v += number(rate * parameter.lr_mult) * update
            w -= v
            parameter.version += 1
        self.zero_grad()
        self.iteration += 1
        rng.set_step(self.iteration)

    def state_dict(self) -> dict[str, Array]:
        """Momentum by parameter name, and the iteration: all that a resume needs."""
        return {**self.velocity, "iteration": np.array(self.iteration, np.int64)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a `state_dict` after every name, shape and dtype has been checked."""
        checkpoint.check_state("SGD.load_state_dict", self.state_dict(), state)
        for name, velocity in self.velocity.items():
            velocity[...] = state[name]
        self.iteration = int(state["iteration"])
        rng.set_step(self.iteration)
