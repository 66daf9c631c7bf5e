"""One update of the weights, as a recipe has it.

    g = min(1, clip / |g|) g,   w = optimiser(w, g),   a = average(a, w)

Its state (momenta, squares, the average) goes into the checkpoint with the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pyinception import checkpoint, optim
from pyinception.backend import Array
from pyinception.module import Module
from pyinception.precision import LossScale
from pyinception.tensor import Tensor
from pyinception.train.recipe import Recipe

_PREFIX, _SCALE = "average/", "scale/"


def optimizer(recipe: Recipe, net: Module, schedule: optim.Schedule) -> optim.Optimizer:
    """The optimiser that the recipe names."""
    shares = {"momentum": recipe.momentum, "weight_decay": recipe.weight_decay}
    if recipe.optimizer in ("sgd", "nesterov"):
        return optim.SGD(net, schedule, nesterov=recipe.optimizer == "nesterov", **shares)
    dialect = "torch" if recipe.optimizer == "rmsprop_torch" else "tensorflow"
    shares |= {"decay": recipe.rmsprop_decay, "eps": recipe.rmsprop_eps}
    return optim.RMSProp(net, schedule, dialect=dialect, **shares)


class Update:
    """Scales the loss, clips gradients, steps the optimiser, keeps the average of the weights.

    Parameters
    ----------
    recipe, net : whose optimiser; whose weights.
    steps_per_epoch : for schedules, and for an average that begins after some epochs.

    Attributes
    ----------
    average : the `optim.Average`, or None where the recipe keeps none.
    before : called by `step` while the gradients are complete and nothing has changed yet.
    scale : the `LossScale` of training in 16 bits, else None.
    """

    before: Callable[[], None] | None = None

    def __init__(self, recipe: Recipe, net: Module, steps_per_epoch: int) -> None:
        self.net, self.limit = net, recipe.clip
        self.optimizer = optimizer(recipe, net, recipe.lr_at(steps_per_epoch))
        self.scale = LossScale.of(recipe.precision)
        self.first = 0  # steps before those that the average is taken over
        self.average: optim.Average | None = None
        if recipe.average == "ema":
            self.average = optim.Average(net, recipe.average_decay)
        elif recipe.average == "tail":
            self.average = optim.Average(net, None)
            self.first = recipe.average_from * steps_per_epoch

    @property
    def iteration(self) -> int:
        """Steps done."""
        return self.optimizer.iteration

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.optimizer.lr

    @property
    def last_lr(self) -> float:
        """The learning rate of the step before."""
        return self.optimizer.schedule(self.iteration - 1)

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss, or of scale times the loss."""
        if self.scale is None:
            loss.backward()
        else:
            self.scale.backward(loss)

    def step(self) -> None:
        """One update of every parameter that has a gradient; none after an overflow."""
        if self.scale is not None and not self.scale.unscale(self.net):
            self.optimizer.skip()
            return
        if self.before is not None:
            self.before()
        if self.limit:
            optim.clip_gradients(self.net, self.limit)
        self.optimizer.step()
        if self.average is not None and self.iteration > self.first:
            self.average.update()

    @contextmanager
    def applied(self) -> Iterator[Module]:
        """Inside the ``with`` block the network holds the average, where there is one yet."""
        if self.average is None or not self.average.count:
            yield self.net
            return
        with self.average.applied() as net:
            yield net

    def state_dict(self) -> dict[str, Array]:
        """That of the optimiser; of the average under "average/", of the scale under "scale/"."""
        state = self.optimizer.state_dict()
        if self.average is not None:
            state |= {_PREFIX + name: a for name, a in self.average.state_dict().items()}
        if self.scale is not None:
            state |= {_SCALE + name: a for name, a in self.scale.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a `state_dict` after every name, shape and dtype has been checked."""
        checkpoint.check_state("Update.load_state_dict", self.state_dict(), state)
        own = {n: a for n, a in state.items() if not n.startswith((_PREFIX, _SCALE))}
        self.optimizer.load_state_dict(own)
        if self.average is not None:
            self.average.load_state_dict(_below(_PREFIX, state))
        if self.scale is not None:
            self.scale.load_state_dict(_below(_SCALE, state))


def weights_to_judge(loaded: checkpoint.Checkpoint) -> Mapping[str, Array]:
    """The average of a checkpoint, where it has one over at least one step; else its weights."""
    found = _below(_PREFIX, loaded.optimizer)
    if found and int(found.pop("count")) > 0:
        return found
    return loaded.model


def _below(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    return {n.removeprefix(prefix): a for n, a in state.items() if n.startswith(prefix)}
