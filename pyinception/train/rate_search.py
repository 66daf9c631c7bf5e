"""A learning rate from one short run: it grows from step to step until the loss does.

    lr(t) = low (high / low)^(t / (steps - 1)),   suggested = lowest / 10

``lowest`` is the rate at which the smoothed loss was lowest: there it is about to grow, and a tenth
of it leaves room for the steps of a whole run. After L. Smith, arXiv 1506.01186, section 3.3, with
an exponential ramp. The network has its weights back afterwards.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from pyinception import data, rng
from pyinception.module import Module
from pyinception.train.figures import COLOURS, new_figure, save_figure
from pyinception.train.loop import TrainingError, step
from pyinception.train.progress import Reporter, Silent
from pyinception.train.recipe import Recipe
from pyinception.train.update import Update

LOW, HIGH, STEPS = 1e-5, 10.0, 100
SMOOTHING = 0.9
FALLEN = 0.9  # of the first loss
WORSE = 4.0  # times the lowest smoothed loss: there is nothing to learn beyond


@dataclass(frozen=True)
class RateSearch:
    """The rates tried, the loss of each step, its running mean; the rate suggested, or None."""

    rates: list[float]
    losses: list[float]
    smooth: list[float]
    lowest: float | None
    suggested: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def find_lr(
    net: Module,
    recipe: Recipe,
    dataset: data.Dataset,
    *,
    low: float = LOW,
    high: float = HIGH,
    steps: int = STEPS,
    report: Reporter | None = None,
) -> RateSearch:
    """Train ``net`` by the recipe at growing rates, and give its weights and buffers back.

    Parameters
    ----------
    dataset : training images, walked as `train` walks them.
    low, high, steps : the first rate, the last one, and how many there are; it ends earlier where
        the loss has grown to four times its lowest.

    Returns
    -------
    RateSearch
        ``lowest`` is the rate of the lowest smoothed loss, ``suggested`` a tenth of it, None where
        the loss did not fall by a tenth.

    Raises
    ------
    ValueError
        Unless 0 < low < high and there are at least 10 steps.
    """
    if not 0 < low < high < math.inf:
        raise ValueError(f"find_lr: low, high are {low}, {high}, expected 0 < low < high")
    if steps < 10:
        raise ValueError(f"find_lr: steps is {steps}, expected at least 10")
    report = report or Silent()
    before = {name: array.copy() for name, array in net.state_dict().items()}
    training, stream = net.training, rng.current()
    update = Update(recipe, net, data.steps_per_epoch(len(dataset), recipe.batch_size))
    update.optimizer.schedule = lambda t: low * (high / low) ** (t / (steps - 1))
    rates: list[float] = []
    losses: list[float] = []
    smooth: list[float] = []
    mean = 0.0
    report.start("finding a learning rate", steps, "step")
    net.train()
    try:
        for batch in _forever(dataset, recipe):
            rate = update.lr
            try:
                with np.errstate(all="ignore"):  # it is to break in the end
                    loss = step(net, update, batch, recipe)[0]
            except TrainingError:
                break
            rates.append(rate)
            losses.append(loss)
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
            smooth.append(mean / (1 - SMOOTHING ** len(rates)))
            report.advance(1, f"lr {rate:.3g}  loss {smooth[-1]:.4f}")
            if len(rates) == steps or smooth[-1] > WORSE * min(smooth):
                break
    finally:
        report.stop()
        net.load_state_dict(before)
        for parameter in net.parameters():
            parameter.grad = None
        net.train(training)
        rng.set_step(stream.step)
    return RateSearch(rates, losses, smooth, *_chosen(rates, smooth))


def _forever(dataset: data.Dataset, recipe: Recipe) -> Any:
    for epoch in count():
        for batch in data.batches(
            dataset,
            recipe.batch_size,
            seed=recipe.seed,
            epoch=epoch,
            augment=recipe.augment(),
            bad=recipe.bad_images,
        ):
            if len(batch.labels):
                yield batch


def _chosen(rates: list[float], smooth: list[float]) -> tuple[float | None, float | None]:
    if not rates:
        return None, None
    lowest = int(np.argmin(smooth))
    fell = smooth[lowest] < FALLEN * smooth[0]
    return rates[lowest], rates[lowest] / 10 if fell else None


def draw_find_lr(path: str | Path, found: RateSearch) -> None:
    """Loss by learning rate, the rate suggested marked; a PNG."""
    figure = new_figure(7, 4)
    axes = figure.subplots()
    axes.plot(found.rates, found.losses, color=COLOURS[0], alpha=0.3, linewidth=1)
    axes.plot(found.rates, found.smooth, color=COLOURS[0], label="loss, smoothed")
    if found.suggested is not None:
        label = f"suggested: {found.suggested:.2g}"
        axes.axvline(found.suggested, color=COLOURS[1], linestyle="--", label=label)
    axes.set_xscale("log")
    if found.smooth:
        axes.set_ylim(0, 1.6 * max(found.smooth[:3]))
    axes.set_xlabel("learning rate")
    axes.set_ylabel("cross entropy (nats)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, Path(path))
