"""The training loop: one function to read from top to bottom.

    for each epoch, for each batch:  w = update(w, grad loss(net_w(augment(images)), labels))

Everything random is a function of (seed, epoch, index, purpose) and everything else that a step
depends on is in the checkpoint: parameters, buffers, momenta, averages, step, epoch. So a run that
was stopped after any step ends with the bits of one that never was.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyinception import data, losses, rng
from pyinception.cuda import machine
from pyinception.data.dataset import require
from pyinception.module import Module
from pyinception.tensor import Tensor, no_grad
from pyinception.train import networks, notes
from pyinception.train.baselines import score_baselines
from pyinception.train.evaluation import evaluate
from pyinception.train.events import Events
from pyinception.train.figures import draw_curves, draw_features, draw_filters
from pyinception.train.job import Job, State, TrainingError, restore, weights_sha256
from pyinception.train.progress import Reporter, Silent, clock
from pyinception.train.recipe import Recipe, resolve
from pyinception.train.report import write_report
from pyinception.train.run_folder import RunError, RunFolder
from pyinception.train.splits import check_sets, example, fingerprint, fit_in_memory, load_split
from pyinception.train.stop import Stop
from pyinception.train.update import Update
from pyinception.train.watch import EVERY, Watch, measured_peak

CHECKPOINT_SECONDS = 300.0  # a crash in a long epoch loses no more than this


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


def train(
    given: Recipe | Mapping[str, Any],
    folder: str | Path,
    *,
    resume: bool = False,
    stop_after: int = 0,
    checkpoint_steps: int = 0,
    workers: int = 0,
    watch: int = EVERY,
    with_baselines: bool = True,
    with_report: bool = True,
    tensorboard: bool = False,
    report: Reporter | None = None,
) -> Outcome:
    """Train a network by a recipe, into a run folder.

    Parameters
    ----------
    given : a `Recipe`, or the entries to set; the rest suits data set and model (`resolve`).
    folder : must not exist, or with ``resume`` be a run with this configuration.
    stop_after : leave after this many epochs of the run, as if stopped there; 0 goes to the end.
    checkpoint_steps : save after every so many steps as well, and so lose no more to a crash; 0
        saves every five minutes. An epoch's end always saves.
    workers : processes that decode pictures ahead, see `data.Workers`; changes no bit.
    watch : look into the first of every so many steps (`Watch`); 0 into none. Changes no bit.
    with_baselines : also score nearest neighbours and logistic regression, where the images fit in
        memory.
    with_report : write report.html at the end, also where the run is stopped.
    tensorboard : also write the metrics as TensorBoard events.
    report : told of progress; silent by default.

    Returns
    -------
    Outcome

    Raises
    ------
    RunError, RecipeError, data.DatasetError, checkpoint.CheckpointError
        Before anything is written.
    TrainingError
        If the loss, a gradient to clip, or a weight to save is no longer a number.
    OSError
        If a file cannot be written; earlier checkpoints are whole.
    """
    begun = time.perf_counter()
    report = report or Silent()
    needed = {"matplotlib": "curves and pictures", "tomli_w": "a run folder"}
    needed |= {"PIL": "a report"} if with_report else {}
    needed |= {"tensorboardX": "TensorBoard events"} if tensorboard else {}
    if with_baselines:
        needed["sklearn"] = "the baselines"
    for module, purpose in needed.items():
        require(module, "train", purpose)
    least = {"checkpoint_steps": checkpoint_steps, "watch": watch, "stop_after": stop_after}
    for name, value in least.items():
        if value < 0:
            raise ValueError(f"train: {name} is {value}, expected at least 0")
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
            run.check_new()  # sooner than the data set is read
        if resume and recipe.root and not Path(recipe.root).exists():
            text = f"the data of {run.path} are no longer at {recipe.root}"
            raise RunError(f"--resume: {text}: give their place with --root")
        sets = load_split(recipe, "train", report), load_split(recipe, "test", report)
        check_sets(recipe, sets, workers)
        shape = recipe.augment().shape(sets[0].shape)
        net = networks.build(recipe.model, len(sets[0].classes), shape, recipe.seed, aux=recipe.aux)
        networks.store(net, recipe.precision)
        update = Update(recipe, net, data.steps_per_epoch(len(sets[0]), recipe.batch_size))
        state = State()
        if not resume:
            run.create(recipe)
            stack.enter_context(run.locked())
        else:
            state = restore(run, net, update, sets[0]) if run.last.exists() else state
            run.write_config(recipe)  # with more epochs, perhaps, or data at another place
            run.tidy()
        run.cut_metrics(state.metrics)
        peak = measured_peak() if watch else None
        run.note_environment({"peak_gflops": round(peak.best, 1)} if peak else {})
        stack.callback(run.close)
        if tensorboard:
            events = Events(run.path, update.iteration)
            stack.callback(events.close)
            run.listeners.append(events.add)
        _introduce(report, run, recipe, net, sets, state)
        scores = run.read_json("baselines.json")
        if scores is None and with_baselines and fit_in_memory(sets):
            scores = score_baselines(*sets, report=report)
            run.write_json("baselines.json", scores)
            for score in scores:
                report.line(f"{score['name']}: {score['accuracy']:.1%} on test ({score['how']})")
        pool = stack.enter_context(data.Workers(workers)) if workers else None
        watcher = Watch(net, watch, peak)
        about = fingerprint(sets[0]), pool, watcher, update.iteration
        job = Job(run, recipe, net, update, sets, state, *about)
        stop = stack.enter_context(Stop())
        last = min(recipe.epochs, stop_after or recipe.epochs)
        try:
            while state.epoch < last and not stop.signal:
                _epoch(job, checkpoint_steps, stop, report)
        except TrainingError as error:
            text = f"{error}, in a new run (--resume repeats these steps); {job.kept()}"
            raise TrainingError(text) from None
        if stop.signal:
            if not run.last.exists():  # it came before the first step
                job.save(run.last)
            name = signal.Signals(stop.signal).name
            report.line(f"{name}: saved {run.last} after step {update.iteration}")
        if with_report and update.iteration:
            write_report(run, test=sets[1])
        return _outcome(run, net, update, state, scores or [], stop.signal, begun)


def _epoch(job: Job, checkpoint_steps: int, stop: Stop, report: Reporter) -> None:
    """The rest of one epoch; at its end, or where it was stopped, everything is on disk."""
    run, recipe, net, update, state = job.run, job.recipe, job.net, job.update, job.state
    watch = job.watch
    images, epoch = job.sets[0], state.epoch
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
            bad=recipe.bad_images,
            workers=job.workers,
        ):
            waited = time.perf_counter() - clocked
            rate = update.lr
            count = len(batch.labels)
            loss, correct, heads = 0.0, 0, list[float]()
            if count:
                with watch.step(update, count):
                    loss, correct, heads = step(net, update, batch, recipe)
            now = time.perf_counter()
            seconds, clocked = now - clocked, now
            state.batch += 1
            state.loss_sum += loss * count
            state.correct += correct
            state.seen += count
            state.seconds += seconds
            state.waited += waited
            where = {"epoch": epoch, "step": update.iteration}
            for text in batch.skipped:
                report.line(f"left out: {text}")
                run.add_metrics({"kind": "skipped", **where, "picture": text})
            if not count:  # not one picture could be read: no step
                report.advance(len(batch.skipped))
                continue
            line = {
                "kind": "step",
                **where,
                "loss": loss,
                **({"heads": heads} if heads else {}),
                "accuracy": correct / count,
                "lr": rate,
                "images_per_second": round(count / seconds, 2),
                "roofline": watch.roofline(count, seconds),
                "data_share": round(waited / seconds, 4),
                **notes.scale_metrics(update),
            }
            run.add_metrics(line)
            seen = watch.line(waited)
            if seen is not None:
                run.add_metrics({"kind": "watch", **where, **seen})
            report.advance(count, notes.step(line, state, update, net))
            if stop.signal:
                break
            due = checkpoint_steps and state.batch % checkpoint_steps == 0
            if due or time.monotonic() - saved > CHECKPOINT_SECONDS:
                saved = time.monotonic()
                job.save(run.last)
    finally:
        report.stop()
    if stop.signal and state.batch < data.steps_per_epoch(len(images), recipe.batch_size):
        job.save(run.last)
        return
    if not state.seen:
        raise data.DatasetError(f"{images.name}: not one picture of an epoch could be read")
    job.save(run.last)  # the epoch's steps are safe however long the evaluation takes
    rate = state.seen / state.seconds if state.seconds else 0.0
    try:
        with update.applied():
            scores = evaluate(
                net,
                job.sets[1],
                recipe.augment(),
                batch_size=recipe.batch_size,
                bad=recipe.bad_images,
                workers=job.workers,
                report=report,
            )
    except FloatingPointError as error:
        raise TrainingError(f"train: after epoch {epoch + 1} {error}: try a lower --lr") from error
    if not math.isfinite(scores.loss):
        text = f"loss on test is {scores.loss} after epoch {epoch + 1}: try a lower --lr"
        raise TrainingError(f"train: {text}")
    line = {
        "kind": "epoch",
        "epoch": epoch,
        "step": update.iteration,
        "loss": state.loss_sum / state.seen,
        "accuracy": state.correct / state.seen,
        "test_loss": scores.loss,
        "test_accuracy": scores.accuracy,
        "lr": update.last_lr,
        "images_per_second": round(rate, 2),
        "roofline": watch.roofline(state.seen, state.seconds),
        "seconds": round(state.seconds, 3),
        "data_share": round(state.waited / state.seconds, 4) if state.seconds else 0.0,
        **notes.scale_metrics(update),
        **(machine.memory(next(net.parameters()).data) or {}),
    }
    run.add_metrics(line)
    run.write_json("judged.json", {"epoch": epoch, "step": update.iteration, **scores.judged()})
    report.line(epoch_line(line, recipe.epochs) + notes.scale(update))
    better = scores.accuracy > state.best
    state.__dict__.update(asdict(State(epoch=epoch + 1, best=max(state.best, scores.accuracy))))
    if better:
        job.save(run.best)
    job.save(run.last)
    draw_curves(run.path / "curves.png", run.metrics(), run.read_json("baselines.json") or [])
    draw_filters(run.path / "filters.png", net)
    draw_features(run.path / "features.png", net, example(job.sets[1], recipe))


def step(
    net: Module, update: Update, batch: data.Batch, recipe: Recipe
) -> tuple[float, int, list[float]]:
    """One update; returns the batch's mean loss before it, the number of right answers, and the
    mean loss of every head where there are several."""
    with rng.at(recipe.seed, update.iteration):
        outputs = net(networks.placed(net, batch.images))
        loss = losses.cross_entropy(
            outputs,
            batch.labels,
            aux_weight=recipe.aux_weight,
            label_smoothing=recipe.label_smoothing,
        )
        value = loss.item()
        if not math.isfinite(value):
            text = f"loss is {value} at step {update.iteration}: try a lower --lr"
            raise TrainingError(f"train: {text}")
        update.backward(loss)
        try:
            update.step()
        except FloatingPointError as error:
            raise TrainingError(f"train: step {update.iteration}: {error}") from error
    parts = (outputs,) if isinstance(outputs, Tensor) else outputs
    right = int(np.sum(np.argmax(networks.scores_of(parts[0]), axis=1) == batch.labels))
    if len(parts) == 1:
        return value, right, []
    with no_grad():
        smooth = {"label_smoothing": recipe.label_smoothing}
        heads = [losses.cross_entropy(part, batch.labels, **smooth).item() for part in parts]
    return value, right, heads


def _introduce(
    report: Reporter,
    run: RunFolder,
    recipe: Recipe,
    net: Module,
    sets: tuple[data.Dataset, data.Dataset],
    state: State,
) -> None:
    entries = recipe.as_dict().items()
    text = ", ".join(f"{name} {value}" for name, value in entries if value not in ("", []))
    report.line(f"run {run.path}: {text}")
    height, width, channels = recipe.augment().shape(sets[0].shape)
    report.line(
        f"{net.count_parameters():,} parameters; {len(sets[0]):,} images of "
        f"{height} x {width} x {channels} to train on, {len(sets[1]):,} to test"
    )
    if state.epoch >= recipe.epochs:
        report.line(f"the run is finished: {state.epoch} of {recipe.epochs} epochs; see --epochs")
    elif state.epoch or state.batch:
        report.line(f"resumed in epoch {state.epoch + 1}, after {state.batch} of its steps")


def epoch_line(line: Mapping[str, Any], epochs: int) -> str:
    """One epoch's metrics in words."""
    width = len(str(epochs))
    share = line["roofline"]
    roofline = "" if share is None else f"roofline {share:.0%}  "
    return (
        f"epoch {line['epoch'] + 1:>{width}}/{epochs}  loss {line['loss']:.4f}  "
        f"accuracy {line['accuracy']:.1%}  test loss {line['test_loss']:.4f}  "
        f"test accuracy {line['test_accuracy']:.1%}  lr {line['lr']:.4g}  "
        f"{line['images_per_second']:.0f} img/s  {roofline}data {line['data_share']:.0%}  "
        f"{clock(line['seconds'])}"
    )


def _outcome(
    run: RunFolder,
    net: Module,
    update: Update,
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
        steps=update.iteration,
        seconds=round(time.perf_counter() - begun, 3),
        train_loss=latest.get("loss"),
        test_loss=latest.get("test_loss"),
        test_accuracy=latest.get("test_accuracy"),
        best_test_accuracy=state.best if state.best >= 0 else None,
        weights_sha256=weights_sha256(net),
        baselines=scores,
        signal=number,
    )
