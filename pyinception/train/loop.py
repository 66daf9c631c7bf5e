"""The training loop: one function to read from top to bottom.

    for each epoch, for each batch:  w = w - sgd(grad loss(net_w(augment(images)), labels))

Everything random is a function of (seed, epoch, index, purpose) and everything else that a step
depends on is in the checkpoint: parameters, buffers, momenta, step, epoch. So a run that was
stopped after any step ends with the bits of one that never was.
"""

from __future__ import annotations

import hashlib
import math
import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pyinception import checkpoint, data, losses, rng
from pyinception.data.dataset import require
from pyinception.module import Module
from pyinception.optim import SGD
from pyinception.tensor import Tensor
from pyinception.train import networks
from pyinception.train.baselines import LARGEST, score_baselines
from pyinception.train.evaluation import evaluate
from pyinception.train.figures import draw_curves, draw_features, draw_filters
from pyinception.train.progress import Reporter, Silent, clock
from pyinception.train.recipe import Recipe, resolve
from pyinception.train.run_folder import RunError, RunFolder
from pyinception.train.splits import load_split
from pyinception.train.stop import Stop

CHECKPOINT_SECONDS = 300.0  # a crash in a long epoch loses no more than this


class TrainingError(RuntimeError):
    """Training cannot go on; the last checkpoint is whole."""


@dataclass
class State:
    """Where a run stands: what the checkpoint holds beside the tensors."""

    epoch: int = 0
    batch: int = 0  # steps done in this epoch
    loss_sum: float = 0.0  # over the images of this epoch
    correct: int = 0
    seen: int = 0
    seconds: float = 0.0  # of this epoch's steps
    best: float = -1.0  # highest test accuracy so far


@dataclass(frozen=True)
class Outcome:
    """What `train` gives back; ``signal`` is the one that stopped it, else 0."""

    folder: str
    epochs: int
    steps: int
    seconds: float
    train_loss: float | None
    test_loss: float | None
    test_accuracy: float | None
    best_test_accuracy: float | None
    weights_sha256: str
    baselines: list[dict[str, Any]]
    signal: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def weights_sha256(net: Module) -> str:
    """SHA-256 over name and bytes of every parameter and buffer, in the order of names."""
    digest = hashlib.sha256()
    for name, array in sorted(net.state_dict().items()):
        digest.update(name.encode() + b"\0")
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def train(
    given: Recipe | Mapping[str, Any],
    folder: str | Path,
    *,
    resume: bool = False,
    stop_after: int = 0,
    with_baselines: bool = True,
    report: Reporter | None = None,
) -> Outcome:
    """Train a network by a recipe, into a run folder.

    Parameters
    ----------
    given : a `Recipe`, or the entries to set; the rest suits data set and model (`resolve`).
    folder : must not exist, or with ``resume`` be a run with this configuration.
    stop_after : leave after this many epochs of the run, as if stopped there; 0 goes to the end.
    with_baselines : also score nearest neighbours and logistic regression (up to 20,000 images).
    report : told of progress; silent by default.

    Returns
    -------
    Outcome

    Raises
    ------
    RunError, RecipeError, data.DatasetError, checkpoint.CheckpointError
        Before anything is written.
    TrainingError
        If the loss is no longer a number.
    OSError
        If a file cannot be written; earlier checkpoints are whole.
    """
    begun = time.perf_counter()
    report = report or Silent()
    needed = {"matplotlib": "curves and pictures", "tomli_w": "a run folder"}
    if with_baselines:
        needed["sklearn"] = "the baselines"
    for module, purpose in needed.items():
        require(module, "train", purpose)
    entries = given.as_dict() if isinstance(given, Recipe) else dict(given)
    run = RunFolder(folder)
    with ExitStack() as stack:
        if resume:
            if not run.path.is_dir():
                raise RunError(f"--resume: there is no run folder {run.path}")
            stack.enter_context(run.locked())
            recipe = run.reopen(entries, resolve)
        else:
            recipe = resolve(entries)
            if run.path.exists():
                run.create(recipe)  # refuses; sooner than the data set is read
        sets = load_split(recipe, "train", report), load_split(recipe, "test", report)
        if sets[0].shape != sets[1].shape:
            raise data.DatasetError(f"train: shapes differ, {sets[0].shape} and {sets[1].shape}")
        net = networks.build(recipe.model, len(sets[0].classes), sets[0].shape, recipe.seed)
        optimizer = SGD(net, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
        optimizer.schedule = recipe.lr_at(data.steps_per_epoch(len(sets[0]), recipe.batch_size))
        state = State()
        if not resume:
            run.create(recipe)
            stack.enter_context(run.locked())
        else:
            state = _restore(run, net, optimizer, sets[0]) if run.last.exists() else state
            run.write_config(recipe)  # with more epochs, perhaps
        run.cut_metrics(optimizer.iteration, state.epoch)
        run.note_environment()
        stack.callback(run.close)
        _introduce(report, run, recipe, net, sets, state)
        scores = run.read_json("baselines.json")
        if scores is None and with_baselines and len(sets[0]) <= LARGEST:
            scores = score_baselines(*sets, report=report)
            run.write_json("baselines.json", scores)
        for score in scores or []:
            report.line(f"{score['name']}: {score['accuracy']:.1%} on test ({score['how']})")
        stop = stack.enter_context(Stop())
        last = min(recipe.epochs, stop_after or recipe.epochs)
        while state.epoch < last and not stop.signal:
            _epoch(run, recipe, net, optimizer, sets, state, stop, report)
        if stop.signal:
            if not run.last.exists():  # it came before the first step
                _save(run, run.last, recipe, net, optimizer, sets[0], state)
            name = signal.Signals(stop.signal).name
            report.line(f"{name}: saved {run.last} after step {optimizer.iteration}")
        return _outcome(run, net, optimizer, state, scores or [], stop.signal, begun)


def _epoch(
    run: RunFolder,
    recipe: Recipe,
    net: Module,
    optimizer: SGD,
    sets: tuple[data.Dataset, data.Dataset],
    state: State,
    stop: Stop,
    report: Reporter,
) -> None:
    """The rest of one epoch; at its end, or where it was stopped, everything is on disk."""
    images, epoch = sets[0], state.epoch
    saved = time.monotonic()
    clocked = time.perf_counter()
    net.train()
    report.start(f"epoch {epoch + 1}/{recipe.epochs}", len(images), done=state.seen)
    try:
        for batch in data.batches(
            images,
            recipe.batch_size,
            seed=recipe.seed,
            epoch=epoch,
            augment=recipe.augment(),
            start=state.batch,
        ):
            waited = time.perf_counter() - clocked
            rate = optimizer.lr
            loss, correct = step(net, optimizer, batch, recipe)
            count = len(batch.labels)
            now = time.perf_counter()
            seconds, clocked = now - clocked, now
            state.batch += 1
            state.loss_sum += loss * count
            state.correct += correct
            state.seen += count
            state.seconds += seconds
            run.add_metrics(
                {
                    "kind": "step",
                    "epoch": epoch,
                    "step": optimizer.iteration,
                    "loss": loss,
                    "accuracy": correct / count,
                    "lr": rate,
                    "images_per_second": round(count / seconds, 2),
                    "data_share": round(waited / seconds, 4),
                }
            )
            mean = state.loss_sum / state.seen
            report.advance(count, f"loss {mean:.4f}  accuracy {state.correct / state.seen:.1%}")
            if stop.signal:
                break
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                saved = time.monotonic()
                _save(run, run.last, recipe, net, optimizer, images, state)
    finally:
        report.stop()
    if stop.signal and state.seen < len(images):  # else the epoch is as good as done
        _save(run, run.last, recipe, net, optimizer, images, state)
        return
    rate = state.seen / state.seconds if state.seconds else 0.0
    scores = evaluate(net, sets[1], recipe.augment(), report=report)
    line = {
        "kind": "epoch",
        "epoch": epoch,
        "step": optimizer.iteration,
        "loss": state.loss_sum / state.seen,
        "accuracy": state.correct / state.seen,
        "test_loss": scores.loss,
        "test_accuracy": scores.accuracy,
        "lr": optimizer.schedule(optimizer.iteration - 1),
        "images_per_second": round(rate, 2),
        "seconds": round(state.seconds, 3),
    }
    run.add_metrics(line)
    report.line(epoch_line(line, recipe.epochs))
    better = scores.accuracy > state.best
    state.__dict__.update(asdict(State(epoch=epoch + 1, best=max(state.best, scores.accuracy))))
    if better:
        _save(run, run.best, recipe, net, optimizer, images, state)
    _save(run, run.last, recipe, net, optimizer, images, state)
    draw_curves(run.path / "curves.png", run.metrics(), run.read_json("baselines.json") or [])
    draw_filters(run.path / "filters.png", net)
    first = np.zeros(1, np.int64)
    image = recipe.augment().without_chance()(sets[1].images(first), first, seed=0, epoch=0)
    draw_features(run.path / "features.png", net, image)


def step(net: Module, optimizer: SGD, batch: data.Batch, recipe: Recipe) -> tuple[float, int]:
    """One update; returns the batch's mean loss before it and the number of right answers."""
    with rng.at(recipe.seed, optimizer.iteration):
        outputs = net(batch.images)
        loss = losses.cross_entropy(outputs, batch.labels, aux_weight=recipe.aux_weight)
        value = loss.item()
        if not math.isfinite(value):
            text = f"loss is {value} at step {optimizer.iteration}: try a lower --lr"
            raise TrainingError(f"train: {text}; the last checkpoint is from before")
        loss.backward()
        optimizer.step()
    logits = outputs if isinstance(outputs, Tensor) else outputs[0]
    return value, int(np.sum(np.argmax(logits.data, axis=1) == batch.labels))


def _save(
    run: RunFolder,
    path: Path,
    recipe: Recipe,
    net: Module,
    optimizer: SGD,
    images: data.Dataset,
    state: State,
) -> None:
    record = {
        "recipe": recipe.as_dict(),
        "classes": images.classes,
        "images": len(images),
        "shape": list(images.shape),
        "state": asdict(state),
        "weights_sha256": weights_sha256(net),
    }
    run.flush()
    checkpoint.save(path, net, optimizer, record)


def _restore(run: RunFolder, net: Module, optimizer: SGD, images: data.Dataset) -> State:
    """Load last.safetensors; a damaged one names the other checkpoint, where that is whole."""
    try:
        record = checkpoint.restore(run.last, net, optimizer)
        then, now = (record["images"], record["classes"]), (len(images), images.classes)
        if then != now:
            text = f"{images.name} had {then[0]} images of {len(then[1])} classes"
            raise RunError(f"--resume: {text}, now {now[0]} of {len(now[1])}, or other names")
        return replace(State(), **record["state"])
    except (checkpoint.CheckpointError, KeyError, TypeError, ValueError) as error:
        hint = ""
        try:
            epoch = checkpoint.load(run.best).record["state"]["epoch"]
            hint = f"; {run.best} (epoch {epoch}) is whole: copy it there to resume from it"
        except (OSError, checkpoint.CheckpointError, KeyError, TypeError):
            pass
        raise checkpoint.CheckpointError(f"--resume: {error}{hint}") from None


def _introduce(
    report: Reporter,
    run: RunFolder,
    recipe: Recipe,
    net: Module,
    sets: tuple[data.Dataset, data.Dataset],
    state: State,
) -> None:
    text = ", ".join(f"{name} {value}" for name, value in recipe.as_dict().items() if value != "")
    report.line(f"run {run.path}: {text}")
    height, width, channels = sets[0].shape
    report.line(
        f"{net.count_parameters():,} parameters; {len(sets[0]):,} images of "
        f"{height} x {width} x {channels} to train on, {len(sets[1]):,} to test"
    )
    if state.epoch or state.batch:
        report.line(f"resumed in epoch {state.epoch + 1}, after {state.batch} of its steps")


def epoch_line(line: Mapping[str, Any], epochs: int) -> str:
    """One epoch's metrics in words."""
    width = len(str(epochs))
    return (
        f"epoch {line['epoch'] + 1:>{width}}/{epochs}  loss {line['loss']:.4f}  "
        f"accuracy {line['accuracy']:.1%}  test loss {line['test_loss']:.4f}  "
        f"test accuracy {line['test_accuracy']:.1%}  lr {line['lr']:.4g}  "
        f"{line['images_per_second']:.0f} img/s  {clock(line['seconds'])}"
    )


def _outcome(
    run: RunFolder,
    net: Module,
    optimizer: SGD,
    state: State,
    scores: list[dict[str, Any]],
    number: int,
    begun: float,
) -> Outcome:
    done = run.metrics()
    latest = done[-1] if done else {}
    return Outcome(
        folder=str(run.path),
        epochs=state.epoch,
        steps=optimizer.iteration,
        seconds=round(time.perf_counter() - begun, 3),
        train_loss=latest.get("loss"),
        test_loss=latest.get("test_loss"),
        test_accuracy=latest.get("test_accuracy"),
        best_test_accuracy=state.best if state.best >= 0 else None,
        weights_sha256=weights_sha256(net),
        baselines=scores,
        signal=number,
    )
