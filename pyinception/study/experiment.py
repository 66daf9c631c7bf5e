"""Training the networks of a study from several seeds, and what the figures say.

    mean = sum_s a_s / S,   spread = sqrt(sum_s (a_s - mean)^2 / (S - 1)),   a_s: test accuracy

Two networks differ where no seed of one reaches any seed of the other; else their difference lies
within the spread. Among three seeds each, chance alone parts them so in one case of ten.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any

from pyinception import config, data
from pyinception.bench.report import environment
from pyinception.study import cost
from pyinception.study.networks import Rows, network
from pyinception.study.tables import StudyError, find
from pyinception.train.evaluation import evaluate
from pyinception.train.loop import step
from pyinception.train.progress import Reporter, Silent
from pyinception.train.recipe import Recipe, resolve
from pyinception.train.splits import load_split
from pyinception.train.update import Update

SEEDS = 3
# What all networks of all studies are trained by; the rest of the recipe suits the data.
RECIPE: dict[str, Any] = {
    "data": "shapes",
    "epochs": 6,
    "batch_size": 64,
    "lr": 0.05,
    "clip": 1.0,  # naive modules hand raw maxima on: without it their first steps go astray
    "schedule": "cosine",
    "weight_decay": 5e-4,
    "aux_weight": 0.3,
}
_FIXED = {"average": "none", "precision": "fp32", "bad_images": "stop"}
_NOT_SAID = ("model", "aux", "root", "seed")  # entries that do not tell of a study


@dataclass(frozen=True)
class Outcome:
    """What a study found: plain data, one row a network.

    Attributes
    ----------
    rows : ``network``, ``parameters``, ``multiply_adds``, and where networks were trained
        ``accuracies`` by seed, ``mean`` and ``spread`` (None for one seed), ``seconds``, ``table``.
    sentence : what the figures say, made from them.
    recipe : what all were trained by; empty where nothing was.
    """

    study: str
    claim: str
    rows: list[dict[str, Any]]
    sentence: str
    seeds: int = 0
    recipe: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def run(
    name: str,
    given: dict[str, Any] | None = None,
    *,
    seeds: int | None = None,
    report: Reporter | None = None,
) -> Outcome:
    """Run the study ``name``: train each of its networks from each seed, or count.

    Parameters
    ----------
    name : one of `tables.STUDIES`.
    given : entries of a `Recipe` over the studies' own: data, root, epochs, count, lr, ...
    seeds : 0 ... seeds - 1 are run, 3 by default.
    report : told of progress; silent by default.

    Raises
    ------
    StudyError
        For an unknown study, entries that a study cannot take, or fewer than one seed.
    RecipeError, data.DatasetError
        From the recipe and its data set.
    TrainingError
        If a loss is no longer a number.
    """
    report = report or Silent()
    about = environment(config.get("threads") or len(os.sched_getaffinity(0)))
    study = find(name)
    if not study.variants:
        if given or seeds is not None:
            text = "only counts, it takes no data, seeds or entries of a recipe"
            raise StudyError(f"study: {name} {text}")
        table = cost.rows()
        return Outcome(name, study.claim, table, cost.sentence(table), environment=about)
    number = SEEDS if seeds is None else seeds
    if number < 1:
        raise StudyError(f"study: seeds is {number}, expected at least 1")
    for entry in _NOT_SAID:
        if given and entry in given and entry != "root":
            raise StudyError(f"study: {entry} is given, but the study decides it")
    recipe = resolve(RECIPE | (given or {}))
    for entry, expected in _FIXED.items():
        if (found := getattr(recipe, entry)) != expected:
            raise StudyError(f"study: {entry} is {found!r}, a study knows {expected!r} only")
    train, _ = _splits(recipe)
    shape = recipe.augment().shape(train.shape)
    rows = []
    for variant in study.variants:
        net = network(variant.rows, variant.head, len(train.classes), shape[2], 0)
        row: dict[str, Any] = {
            "network": variant.name,
            "parameters": net.count_parameters(),
            "multiply_adds": cost.multiply_adds(net, shape),
        }
        accuracies, seconds = [], 0.0
        for seed in range(number):
            found, lasted = _trained(variant.rows, variant.head, replace(recipe, seed=seed))
            accuracies.append(found)
            seconds += lasted
            report.line(f"{name}: {variant.name}, seed {seed}: {found:.2%} ({lasted:.0f} s)")
        row |= {"accuracies": accuracies, **_mean_spread(accuracies), "seconds": round(seconds, 1)}
        rows.append(row | {"table": [list(pair) for pair in variant.rows]})
    said = {k: v for k, v in recipe.as_dict().items() if k not in _NOT_SAID}
    return Outcome(name, study.claim, rows, sentence(rows), number, said, about)


@cache
def _splits(recipe: Recipe) -> tuple[data.Dataset, data.Dataset]:
    return load_split(recipe, "train"), load_split(recipe, "test")


@cache  # studies share networks, and a network's result is a function of these
def _trained(rows: Rows, head: str, recipe: Recipe) -> tuple[float, float]:
    """(test accuracy after the last epoch, seconds); batches, chance and steps as in `train`."""
    begun = time.perf_counter()
    train, test = _splits(replace(recipe, seed=0))
    augment, seed = recipe.augment(), recipe.seed
    channels = augment.shape(train.shape)[2]
    net = network(rows, head, len(train.classes), channels, seed).train()
    update = Update(recipe, net, data.steps_per_epoch(len(train), recipe.batch_size))
    for epoch in range(recipe.epochs):
        for batch in data.batches(
            train, recipe.batch_size, seed=seed, epoch=epoch, augment=augment
        ):
            step(net, update, batch, recipe)
    return evaluate(net, test, augment).accuracy, time.perf_counter() - begun


def _mean_spread(values: list[float]) -> dict[str, float | None]:
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "spread": spread}


def verdict(first: list[float], other: list[float]) -> str:
    """How ``other`` stands to ``first``: in words that several seeds allow."""
    if len(first) < 2 or len(other) < 2:
        return "one seed tells no spread"
    if min(other) > max(first):
        return "higher from every seed"
    if max(other) < min(first):
        return "lower from every seed"
    return "within the spread"


def sentence(rows: list[dict[str, Any]]) -> str:
    """Each network beside the first: accuracy, cost, and whether seeds tell them apart."""
    first, *others = rows
    parts = [f"{first['network']}: {first['mean']:.1%}"]
    for row in others:
        times = row["multiply_adds"] / first["multiply_adds"]
        cost_text = "the same cost" if times == 1 else f"{times:.2f} times the multiply-adds"
        points = 100 * (row["mean"] - first["mean"])
        told = verdict(first["accuracies"], row["accuracies"])
        reached = f"{row['mean']:.1%} at {cost_text}"
        parts.append(f"{row['network']}: {reached} ({points:+.1f} points, {told})")
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."
