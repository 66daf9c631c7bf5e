"""A recipe says everything that decides the bits of a training run, and nothing else.

    weights = train(recipe),   lr(t) = schedule(lr, epochs, t)

Thread counts, progress bars and folders are not in it: they change no bit. A recipe is written to
the run folder as TOML and read back when the run is resumed.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pyinception import optim
from pyinception.data import FIXED, Augment
from pyinception.data.augment import INTERPOLATIONS
from pyinception.data.dataset import require
from pyinception.data.find import find
from pyinception.data.pictures import BAD
from pyinception.precision import PRECISIONS

OPTIMIZERS = ("sgd", "nesterov", "rmsprop", "rmsprop_torch")
AVERAGES = ("none", "ema", "tail")
SCHEDULES = ("decay", "exponential", "cosine", "poly", "constant")
# A run of 5 epochs that is taken up again to reach 10 equals a run of 10 where the learning rate
# of a step does not depend on how many steps follow.
ENDLESS = ("decay", "exponential", "constant")
# What suits a network: its paper's image size, and a solver where the general one does not do.
_LARGE = {"batch_size": 32, "padding": 8}
_V3 = {"size": 299, "optimizer": "rmsprop", "lr": 0.045, "gamma": 0.94, "every": 2.0}
_V3 |= {"clip": 2.0, "label_smoothing": 0.1, "aux_weight": 0.4, "weight_decay": 4e-5, **_LARGE}
MODEL_DEFAULTS: dict[str, dict[str, Any]] = {
    # quick_solver.prototxt of bvlc_googlenet
    "googlenet": {"size": 224, "lr": 0.01, "schedule": "poly", "weight_decay": 2e-4, **_LARGE},
    "googlenet_bn": {"size": 224, "lr": 0.045, "weight_decay": 4e-5, **_LARGE},
    "bn_inception": {"size": 224, "lr": 0.0075, "weight_decay": 4e-5, **_LARGE},
    "inception_v2": _V3,
    "inception_v3": _V3,
    "inception_v4": _V3,
    "inception_resnet_v2": _V3,
    "xception": {
        "size": 299,
        "lr": 0.045,
        "gamma": 0.94,
        "every": 2.0,
        "weight_decay": 1e-5,
        **_LARGE,
    },
    "network_in_network": {"size": 224, "lr": 0.01, **_LARGE},
    "googlenet_cifar": {"size": 32, "padding": 4, "batch_size": 128, "schedule": "cosine"},
    "tiny_inception": {"lr": 0.05, "gamma": 0.8},
}


class RecipeError(ValueError):
    """A recipe's entry is unknown, out of range or does not fit another one."""


def _entry(default: Any, about: str) -> Any:
    return field(default=default, metadata={"about": about})


@dataclass(frozen=True)
class Recipe:
    """One training run; `resolve` fills in what is not given, `describe` tells of every entry.

    ``root`` is a path of this process; in a run folder it stands relative to that folder.
    """

    data: str = _entry("digits", "data set: a name, KIND:PATH, or a folder that tells its kind")
    root: str = _entry("", "folder of a data set on disk (PATH of data)")
    size: int = _entry(0, "rows and columns of an image; 0 is the data set's own")
    crop: int = _entry(
        0, "rows and columns cut from it, at random in training, else in the centre; 0 is all"
    )
    count: int = _entry(
        0,
        "training images to use, the first ones (of files every class alike); 0 is all",
    )
    test_count: int = _entry(
        0, "test images to use, the first ones (of files every class alike); 0 is all"
    )
    bad_images: str = _entry("stop", "a picture that cannot be read: stop, or skip and name it")
    model: str = _entry(
        "small_inception",
        "network: one of pyinception.models, tiny_inception, or rows of your own (models.md)",
    )
    aux: bool = _entry(True, "build the auxiliary classifiers, where the network has some")
    epochs: int = _entry(8, "passes over the training images")
    batch_size: int = _entry(64, "images a step")
    lr: float = _entry(0.1, "learning rate of the first step")
    schedule: str = _entry(
        "decay",
        "how lr falls: decay is lr gamma^floor(epoch / every), exponential the same without steps, "
        "poly lr (1 - t)^power and cosine lr (1 + cos(pi t)) / 2 with t from 0 to 1 over all "
        "epochs, constant stays",
    )
    gamma: float = _entry(0.7, "decay, exponential: factor on lr")
    every: float = _entry(1.0, "decay, exponential: epochs from one factor to the next")
    power: float = _entry(0.5, "poly: the exponent")
    optimizer: str = _entry(
        "sgd",
        "sgd or nesterov (both with momentum), rmsprop as TensorFlow has it, rmsprop_torch",
    )
    momentum: float = _entry(0.9, "of the optimizer")
    rmsprop_decay: float = _entry(0.9, "rmsprop: share of the old mean of squares")
    rmsprop_eps: float = _entry(1.0, "rmsprop: what is added below the root, in torch beside it")
    weight_decay: float = _entry(5e-4, "added to the gradient, of weights only")
    clip: float = _entry(0.0, "largest norm of all gradients together; 0 clips none")
    label_smoothing: float = _entry(0.0, "share of the target that all classes get alike")
    aux_weight: float = _entry(0.3, "weight of each auxiliary classifier's loss")
    average: str = _entry(
        "none",
        "weights to judge with: none is the last, ema a moving average, tail the mean of all steps "
        "from an epoch on",
    )
    average_decay: float = _entry(0.9999, "ema: share of the old average in each step")
    average_from: int = _entry(0, "tail: epochs before the mean begins")
    crop_area: float = _entry(
        1.0,
        "smallest share of a picture in a sampled crop (aspect 3/4 to 4/3; GoogLeNet has 0.08); "
        "1 takes the largest centred box",
    )
    interpolation: str = _entry(
        "bilinear",
        "how sampled crops are scaled: bilinear, area, nearest, cubic, or random, each as likely",
    )
    padding: int = _entry(2, "random shift, up to this many pixels")
    mirror: bool = _entry(False, "mirror half of the images")
    photometric: float = _entry(
        0.0,
        "strength of random brightness, contrast, saturation and hue; 0 is none, 1 as published",
    )
    mean: tuple[float, ...] = _entry((), "subtract this from the channels of pixels in [0, 1]")
    scale: float = _entry(1.0, "factor on the pixels after that")
    standardise: bool = _entry(True, "normalise each image to mean 0 and deviation 1")
    precision: str = _entry(
        "fp32",
        "how filters and maps are stored: fp32, bf16 or fp16 (with a dynamic loss scale); 16 bits "
        'need backend "cuda" or "emulated"',
    )
    seed: int = _entry(0, "of weights, order, augmentation and dropout")

    def __post_init__(self) -> None:
        if isinstance(self.mean, list):  # as TOML and JSON have it
            object.__setattr__(self, "mean", tuple(self.mean))
        if isinstance(self.model, str) and "\n" in self.model:  # rows: one line from here on
            rows = (" ".join(line.split()) for line in self.model.splitlines())
            object.__setattr__(self, "model", "; ".join(filter(None, rows)))
        for entry in fields(self):
            _check_kind(entry.name, str(entry.type), getattr(self, entry.name))
        bounds: tuple[tuple[str, float, float], ...] = (
            ("size", 0, 4096),
            ("crop", 0, 4096),
            ("count", 0, math.inf),
            ("test_count", 0, math.inf),
            ("epochs", 1, 10**6),
            ("batch_size", 1, 2**20),
            ("lr", 0, math.inf),
            ("gamma", 0, 1),
            ("power", 0, 100),
            ("rmsprop_eps", 0, math.inf),
            ("weight_decay", 0, math.inf),
            ("clip", 0, math.inf),
            ("aux_weight", 0, math.inf),
            ("average_from", 0, 10**6),
            ("padding", 0, 64),
            ("photometric", 0, 1),
            ("seed", 0, 2**63 - 1),  # what TOML can hold
        )
        for name, low, high in bounds:
            value = getattr(self, name)
            if not (low <= value <= high and math.isfinite(value)):
                raise RecipeError(f"recipe: {name} is {value}, expected {_range(low, high)}")
        for name in ("momentum", "rmsprop_decay", "label_smoothing", "average_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise RecipeError(f"recipe: {name} is {getattr(self, name)}, expected [0, 1)")
        for name in ("every", "scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise RecipeError(f"recipe: {name} is {getattr(self, name)}, expected more than 0")
        if not 0 < self.crop_area <= 1:
            raise RecipeError(f"recipe: crop_area is {self.crop_area}, expected (0, 1]")
        words = {
            "schedule": SCHEDULES,
            "bad_images": BAD,
            "optimizer": OPTIMIZERS,
            "average": AVERAGES,
            "precision": tuple(PRECISIONS),
            "interpolation": INTERPOLATIONS,
        }
        for name, choices in words.items():
            value = getattr(self, name)
            if value not in choices:
                hint, names = _did_you_mean(value, choices), ", ".join(choices)
                raise RecipeError(f"recipe: {name} is {value!r}, expected {names}{hint}")
        if self.interpolation != "bilinear" and self.crop_area == 1:
            text = f"interpolation is {self.interpolation!r}, but without crop_area below 1"
            raise RecipeError(f"recipe: {text} no crop is scaled")
        if self.average == "tail" and self.average_from >= self.epochs:
            text = f"average_from is {self.average_from}, expected less than epochs, {self.epochs}"
            raise RecipeError(f"recipe: {text}")

    def augment(self) -> Augment:
        """The augmentation of the training images; ``.without_chance()`` is for the others."""
        return Augment(
            padding=self.padding,
            mirror=self.mirror,
            mean=self.mean or None,
            standardise=self.standardise,
            area=self.crop_area,
            interpolation=self.interpolation,
            crop=self.crop,
            photometric=self.photometric,
            scale=self.scale,
        )

    def lr_at(self, steps_per_epoch: int) -> optim.Schedule:
        """lr as a function of the step, counted from the start of the run."""
        total = self.epochs * steps_per_epoch
        size = max(1, round(self.every * steps_per_epoch))
        if self.schedule == "decay":
            return optim.step(self.lr, self.gamma, size)
        if self.schedule == "exponential":
            return optim.exponential(self.lr, self.gamma, size)
        if self.schedule == "poly":
            return optim.poly(self.lr, self.power, total)
        if self.schedule == "cosine":
            return optim.cosine(self.lr, total)
        return lambda _: self.lr

    def differences(self, other: Recipe) -> dict[str, tuple[Any, Any]]:
        """Name -> (value here, value there) of every entry that differs."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    def as_dict(self) -> dict[str, Any]:
        """Plain data for TOML and JSON."""
        return {**dataclasses.asdict(self), "mean": list(self.mean)}

    def to_toml(self) -> str:
        """The recipe as a TOML document; needs tomli-w (extra ``train``)."""
        return str(require("tomli_w", "train", "a run folder").dumps(self.as_dict()))

    def portable(self, folder: Path) -> Recipe:
        """The recipe as it stands in a run's `folder`: ``root`` relative to that."""
        if not self.root:
            return self
        # Real paths: ".." of a link leads elsewhere than it reads.
        root = os.path.relpath(os.path.realpath(self.root), os.path.realpath(folder))
        return dataclasses.replace(self, root=root)

    def located(self, folder: Path) -> Recipe:
        """What `portable` made of a recipe, back to a path that leads somewhere from here."""
        if not self.root:
            return self
        root = os.path.normpath(os.path.join(os.path.realpath(folder), self.root))
        return dataclasses.replace(self, root=root)


def resolve(given: Mapping[str, Any]) -> Recipe:
    """The recipe with what was given, and for the rest what suits its data set and model.

    Raises
    ------
    RecipeError
        For an entry that no recipe has (the nearest name is suggested), or a value out of its
        range.
    data.DatasetError
        If ``data`` is no data set.
    """
    names = [entry.name for entry in fields(Recipe)]
    for name in given:
        if name not in names:
            hint = _did_you_mean(name, names)
            raise RecipeError(f"recipe: unknown entry {name!r}{hint}")
    recipe = Recipe(**given)
    kind, root = find(recipe.data)
    if root and recipe.root:
        raise RecipeError(f"recipe: data {recipe.data!r} names a folder, and root {recipe.root!r}")
    recipe = dataclasses.replace(recipe, data=kind, root=root or recipe.root)
    defaults: dict[str, Any] = {"mirror": recipe.data not in ("digits", "mnist")}
    if recipe.data != "digits":
        defaults |= {"epochs": 5, "gamma": 0.55}
    own = MODEL_DEFAULTS.get(recipe.model, {})
    if recipe.data in FIXED or recipe.crop:  # the images, or what is cut from them, have a size
        own = {name: value for name, value in own.items() if name != "size"}
    defaults |= own
    return dataclasses.replace(recipe, **{k: v for k, v in defaults.items() if k not in given})


def describe() -> list[dict[str, Any]]:
    """Name, type, default and meaning of every entry, in order; what `resolve` may change too."""
    return [
        {
            "name": entry.name,
            "type": _kind(str(entry.type)),
            "default": list(entry.default) if entry.default == () else entry.default,
            "about": entry.metadata["about"],
        }
        for entry in fields(Recipe)
    ]


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


def _kind(annotation: str) -> str:
    return "list of numbers" if annotation.startswith("tuple") else annotation


def _check_kind(name: str, annotation: str, value: Any) -> None:
    if annotation.startswith("tuple"):
        right = isinstance(value, tuple) and all(map(_is_number, value))
    elif annotation == "float":
        right = _is_number(value)
    else:
        right = type(value).__name__ == annotation
    if not right:
        raise RecipeError(f"recipe: {name} is {value!r}, expected {_kind(annotation)}")


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max  # integers have no end, and NaN is not


def _range(low: float, high: float) -> str:
    return f"at least {low:g}" if math.isinf(high) else f"{low:g} ... {high:g}"


def _did_you_mean(word: str, names: Any) -> str:
    close = difflib.get_close_matches(str(word), list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
