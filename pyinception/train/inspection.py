"""What a trained network makes of single pictures: answers, filters, the maps of every branch.

rms(y) = sqrt(mean y^2),   dead(y) = share of channels that are nowhere positive
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from pyinception.train import inside, page, views
from pyinception.train.evaluation import Prediction, Trained, judge_images, read_images
from pyinception.train.figures import strongest
from pyinception.train.inside import Floats
from pyinception.train.run_folder import write_whole

TOP = 5


@dataclass(frozen=True)
class Branch:
    """One branch's output for one picture; ``channels`` are the strongest, strongest first."""

    module: str
    branch: str
    rms: float
    dead: float
    channels: list[int]


@dataclass(frozen=True)
class Look:
    """One picture: what it was taken for, and what every branch made of it."""

    prediction: Prediction
    branches: list[Branch]
    image: Floats

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON: the `TOP` classes and the branches."""
        best = zip(self.prediction.classes, self.prediction.probabilities, strict=True)
        return {
            "image": self.prediction.path,
            "classes": [{"class": name, "probability": p} for name, p in list(best)[:TOP]],
            "branches": [asdict(branch) for branch in self.branches],
        }


def look(trained: Trained, paths: Sequence[str | Path], *, invert: bool = False) -> list[Look]:
    """Judge image files and keep what the branches gave; errors as of `evaluation.predict`."""
    images = read_images(trained, paths, invert=invert)
    found = []
    modules = inside.branches_of(trained.net)
    for prediction, image in zip(judge_images(trained, paths, images), images, strict=True):
        outputs = inside.outputs_of(trained.net, image[None], modules)
        branches = []
        for name, rows in modules.items():
            for label, channels in rows:
                y = outputs[name][:1, :, :, channels]
                order = [channels.start + int(k) for k in strongest(y[0])]
                branches.append(Branch(name, label, inside.rms(y), inside.dead(y), order))
        found.append(Look(prediction, branches, image))
    return found


def write_look(trained: Trained, looks: Sequence[Look], path: str | Path) -> Path:
    """Write what `look` found as one self-contained page; returns its path."""
    parts = [f"<h1>{escape(trained.recipe.model)} on {escape(trained.recipe.data)}</h1>"]
    filters = page.grid(views.filters(trained.net), kind="wide")
    parts.append(page.section("First layer", "What it looks for in the pixels.", filters))
    for each in looks:
        best = each.as_dict()["classes"]
        rows = [[escape(row["class"]), f"{row['probability']:.1%}"] for row in best]
        answers = page.card("most likely", page.table(["class", "probability"], rows, right=(1,)))
        maps = views.feature_maps(trained.net, each.image[None], beside=answers)
        told = f"Taken for {best[0]['class']}, with {best[0]['probability']:.1%}."
        parts.append(page.section(Path(each.prediction.path).name, told, maps))
    target = Path(path)
    write_whole(target, page.page("a look inside", "".join(parts)))
    return target
