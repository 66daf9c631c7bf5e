"""What a run works on, and how it gets to disk and back.

    checkpoint = weights, momenta, average | where the run stands | bytes of metrics.jsonl

Everything else that a step depends on is a function of the recipe and of (seed, epoch, index,
purpose), so a state read back continues with the bits of a run that was never stopped.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from pyinception import checkpoint, data
from pyinception.backend import to_host
from pyinception.module import Module
from pyinception.train.recipe import Recipe
from pyinception.train.run_folder import RunError, RunFolder
from pyinception.train.splits import fingerprint
from pyinception.train.update import Update
from pyinception.train.watch import Watch


class TrainingError(RuntimeError):
    """Training cannot go on; the last checkpoint is whole and its weights are finite."""


@dataclass
class State:
    """Where a run stands: what the checkpoint holds beside the tensors."""

    epoch: int = 0
    batch: int = 0  # steps done in this epoch
    loss_sum: float = 0.0  # over the images of this epoch
    correct: int = 0
    seen: int = 0
    seconds: float = 0.0  # of this epoch's steps
    waited: float = 0.0  # of these, for data
    metrics: int = 0  # bytes of metrics.jsonl that belong to it
    best: float = -1.0  # highest test accuracy so far


@dataclass
class Job:
    """What a run works on, together."""

    run: RunFolder
    recipe: Recipe
    net: Module
    update: Update
    sets: tuple[data.Dataset, data.Dataset]
    state: State
    fingerprint: str
    workers: data.Workers | None
    watch: Watch
    saved: int  # the step whose weights are in the last checkpoint

    def kept(self) -> str:
        """What a run that went astray has left, in words."""
        last, best = self.run.last, self.run.best
        if not last.exists():
            return "nothing was saved"
        if self.saved < self.update.iteration:
            return f"{last} is from before"
        before = f", {best} is from before" if best.exists() else ""
        return f"{last} has the very weights that led there{before}"

    def save(self, path: Path) -> None:
        """Write a checkpoint, and before it the metrics that belong to it.

        Raises
        ------
        TrainingError
            If weights or momenta hold inf or NaN: the older checkpoint stays.
        """
        for name, array in (*self.net.state_dict().items(), *self.update.state_dict().items()):
            if not bool(np.isfinite(array).all()):
                text = f"{name} is not finite after step {self.update.iteration}"
                raise TrainingError(f"train: {text}: try a lower --lr")
        self.state.metrics = self.run.sync_metrics()
        images = self.sets[0]
        record = {
            "recipe": self.recipe.portable(self.run.path).as_dict(),
            "classes": images.classes,
            "images": len(images),
            "shape": list(images.shape),
            "data_sha256": self.fingerprint,
            "state": asdict(self.state),
            "weights_sha256": weights_sha256(self.net),
        }
        checkpoint.save(path, self.net, self.update, record)
        self.saved = self.update.iteration


def restore(run: RunFolder, net: Module, update: Update, images: data.Dataset) -> State:
    """Load last.safetensors; a damaged one names the other checkpoint, where that is whole."""
    try:
        record = checkpoint.restore(run.last, net, update)
        then, now = (record["images"], record["classes"]), (len(images), images.classes)
        if then != now:
            text = f"{images.name} had {then[0]} images of {len(then[1])} classes"
            raise RunError(f"--resume: {text}, now {now[0]} of {len(now[1])}, or other names")
        if record["data_sha256"] != fingerprint(images):
            raise RunError(f"--resume: {images.name} holds other images, by labels or file names")
        return replace(State(), **record["state"])
    except (checkpoint.CheckpointError, KeyError, TypeError, ValueError) as error:
        hint = ""
        try:
            epoch = checkpoint.load(run.best).record["state"]["epoch"]
            hint = f"; {run.best} (epoch {epoch}) is whole: copy it there to resume from it"
        except (OSError, checkpoint.CheckpointError, KeyError, TypeError):
            pass
        raise checkpoint.CheckpointError(f"--resume: {error}{hint}") from None


def weights_sha256(net: Module) -> str:
    """SHA-256 over name and bytes of every parameter and buffer, in the order of names."""
    digest = hashlib.sha256()
    for name, array in sorted(net.state_dict().items()):
        digest.update(name.encode() + b"\0")
        digest.update(np.ascontiguousarray(to_host(array)).tobytes())
    return digest.hexdigest()
