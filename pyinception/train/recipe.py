"""A recipe says everything that decides the bits of a training run, and nothing else.

    weights = train(recipe),   lr(t) = schedule(lr, epochs, t)

Thread counts, progress bars and folders are not in it: they change no bit. A recipe is written to
the run folder as TOML and read back when the run is resumed.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pyinception import optim
from pyinception.data import Augment
from pyinception.data.dataset import require

SCHEDULES = ("decay", "cosine", "poly", "constant")
# A run of 5 epochs that is taken up again to reach 10 equals a run of 10 where the learning rate
# of a step does not depend on how many steps follow.
ENDLESS = ("decay", "constant")
POLY_POWER = 0.5  # of Caffe's quick_solver.prototxt for GoogLeNet


class RecipeError(ValueError):
    """A recipe's entry is unknown, out of range or does not fit another one."""


@dataclass(frozen=True)
class Recipe:
    """One training run; `resolve` fills in what is not given.

    Attributes
    ----------
    data, root, size : data set, its folder, rows and columns of an image (0: the data set's own).
    count, test_count : images of the two splits to use, the first ones; 0 uses all.
    model : a name of `networks.MODELS`.
    epochs, batch_size : passes over the training images, images a step.
    lr, schedule, gamma : learning rate of step 0 and how it falls. "decay" is lr gamma^epoch;
        "cosine" and "poly" reach 0 after ``epochs``; "constant" stays.
    momentum, weight_decay : of `optim.SGD`.
    aux_weight : weight of each auxiliary classifier's loss.
    padding, mirror, standardise : augmentation, see `data.Augment`.
    seed : of weights, order, augmentation and dropout.
    """

    data: str = "digits"
    root: str = ""
    size: int = 0
    count: int = 0
    test_count: int = 0
    model: str = "small_inception"
    epochs: int = 8
    batch_size: int = 64
    lr: float = 0.1
    schedule: str = "decay"
    gamma: float = 0.7
    momentum: float = 0.9
    weight_decay: float = 5e-4
    aux_weight: float = 0.3
    padding: int = 2
    mirror: bool = False
    standardise: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_kind(field.name, str(field.type), getattr(self, field.name))
        bounds: tuple[tuple[str, float, float], ...] = (
            ("size", 0, 4096),
            ("count", 0, math.inf),
            ("test_count", 0, math.inf),
            ("epochs", 1, 10**6),
            ("batch_size", 1, 2**20),
            ("lr", 0, math.inf),
            ("gamma", 0, 1),
            ("weight_decay", 0, math.inf),
            ("aux_weight", 0, math.inf),
            ("padding", 0, 64),
            ("seed", 0, 2**63 - 1),  # what TOML can hold
        )
        for name, low, high in bounds:
            value = getattr(self, name)
            if not (low <= value <= high and math.isfinite(value)):
                raise RecipeError(f"recipe: {name} is {value}, expected {_range(low, high)}")
        if not 0 <= self.momentum < 1:
            raise RecipeError(f"recipe: momentum is {self.momentum}, expected [0, 1)")
        if self.schedule not in SCHEDULES:
            hint = _did_you_mean(self.schedule, SCHEDULES)
            names = ", ".join(SCHEDULES)
            raise RecipeError(f"recipe: schedule is {self.schedule!r}, expected {names}{hint}")

    def augment(self) -> Augment:
        """The augmentation of the training images; ``.without_chance()`` is for the others."""
        return Augment(self.padding, self.mirror, None, self.standardise)

    def lr_at(self, steps_per_epoch: int) -> optim.Schedule:
        """lr as a function of the step, counted from the start of the run."""
        total = self.epochs * steps_per_epoch
        if self.schedule == "decay":
            return optim.step(self.lr, self.gamma, steps_per_epoch)
        if self.schedule == "poly":
            return optim.poly(self.lr, POLY_POWER, total)
        if self.schedule == "cosine":
            return lambda t: self.lr * (1 + math.cos(math.pi * min(t / total, 1))) / 2
        return lambda _: self.lr

    def differences(self, other: Recipe) -> dict[str, tuple[Any, Any]]:
        """Name -> (value here, value there) of every entry that differs."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    def as_dict(self) -> dict[str, Any]:
        """Plain data for TOML and JSON."""
        return dataclasses.asdict(self)

    def to_toml(self) -> str:
        """The recipe as a TOML document; needs tomli-w (extra ``train``)."""
        return str(require("tomli_w", "train", "a run folder").dumps(self.as_dict()))


def resolve(given: Mapping[str, Any]) -> Recipe:
    """The recipe with what was given, and for the rest what suits its data set and model.

    Raises
    ------
    RecipeError
        For an entry that no recipe has, or a value out of its range.
    """
    names = [field.name for field in fields(Recipe)]
    for name in given:
        if name not in names:
            hint = _did_you_mean(name, names)
            raise RecipeError(f"recipe: unknown entry {name!r}{hint}")
    recipe = Recipe(**given)
    defaults: dict[str, Any] = {"mirror": recipe.data not in ("digits",)}
    if recipe.data != "digits":
        defaults |= {"epochs": 5, "gamma": 0.55}
    if recipe.model == "googlenet":
        # quick_solver.prototxt of bvlc_googlenet; 224 is what its last pool is made for.
        defaults |= {"size": 224, "lr": 0.01, "schedule": "poly", "weight_decay": 2e-4}
        defaults |= {"batch_size": 32, "padding": 8}
    if recipe.model == "tiny_inception":
        defaults |= {"lr": 0.05, "gamma": 0.8}
    return dataclasses.replace(recipe, **{k: v for k, v in defaults.items() if k not in given})


def read_toml(path: str | Path) -> dict[str, Any]:
    """The entries of a recipe file, not yet checked.

    Raises
    ------
    RecipeError
        If the file is no TOML; OSError if it cannot be read.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe: {path} is not TOML: {error}") from None


def _check_kind(name: str, kind: str, value: Any) -> None:
    allowed = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}[kind]
    wrong_bool = isinstance(value, bool) and kind != "bool"
    if wrong_bool or not isinstance(value, allowed):
        raise RecipeError(f"recipe: {name} is {value!r}, expected {kind}")


def _range(low: float, high: float) -> str:
    return f"at least {low:g}" if math.isinf(high) else f"{low:g} ... {high:g}"


def _did_you_mean(word: str, names: Any) -> str:
    close = difflib.get_close_matches(str(word), list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
