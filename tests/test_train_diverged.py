"""Numbers that are none: in a loss, a gradient, a weight or a test; what is told, what is saved."""

import dataclasses
import math

import numpy as np
import pytest
from training import QUICK, metrics, quick, train  # noqa: F401

from pyinception import checkpoint
from pyinception.train import evaluation as judging
from pyinception.train import loop
from pyinception.train.update import Update


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    diverges = QUICK | {"lr": 1e30, "epochs": 3}
    told = "lower --lr, in a new run .*; nothing was saved"
    with pytest.raises(loop.TrainingError, match=told), np.errstate(all="ignore"):
        train(tmp_path / "run", diverges)
    told = "lower --lr, in a new run .*last.safetensors has the very weights that led there$"
    with pytest.raises(loop.TrainingError, match=told), np.errstate(all="ignore"):
        train(tmp_path / "other", diverges, checkpoint_steps=1)  # finite, but 1e30
    with pytest.raises(loop.TrainingError, match=told), np.errstate(all="ignore"):
        train(tmp_path / "other", {}, resume=True)


@pytest.mark.parametrize("ruined", ["weight", "momentum"])
def test_ruined_weights_are_not_saved(tmp_path, monkeypatch, ruined):
    """The checkpoint of step 2 stays; the message names no remedy that cannot work."""
    real = loop.step

    def step(net, update, batch, recipe):
        found = real(net, update, batch, recipe)
        if update.iteration == 3:
            name, parameter = next(net.named_parameters())
            array = parameter.data if ruined == "weight" else update.optimizer.state[name]
            array.flat[0] = np.inf
        return found

    monkeypatch.setattr(loop, "step", step)
    told = r"not finite after step 3: try a lower --lr, in a new run .*last\.safetensors is from be"
    with pytest.raises(loop.TrainingError, match=told), np.errstate(all="ignore"):
        train(tmp_path / "run", checkpoint_steps=1)
    saved = checkpoint.load(tmp_path / "run/checkpoints/last.safetensors")
    assert saved.record["state"]["batch"] == 2
    assert all(np.isfinite(array).all() for array in saved.model.values())


def test_an_infinite_gradient_is_told_and_moves_nothing(tmp_path, monkeypatch):
    real, nets = Update.backward, []

    def backward(update, loss):
        real(update, loss)
        if update.iteration == 1:
            next(update.net.parameters()).grad.flat[0] = np.inf
            nets.append((update.net, {n: a.copy() for n, a in update.net.state_dict().items()}))

    monkeypatch.setattr(Update, "backward", backward)
    told = r"step 1: clip_gradients: the gradient of .* is not finite: try .* in a new run"
    with pytest.raises(loop.TrainingError, match=told):
        train(tmp_path / "run", QUICK | {"clip": 1.0})
    ((net, before),) = nets
    assert all(np.array_equal(array, before[n]) for n, array in net.state_dict().items())


def test_a_test_loss_that_is_no_number_ends_the_run_and_spoils_no_file(tmp_path, monkeypatch):
    scores = judging.evaluate

    def lost(*given, **how):
        return dataclasses.replace(scores(*given, **how), loss=math.nan)

    monkeypatch.setattr(loop, "evaluate", lost)
    with pytest.raises(loop.TrainingError, match="loss on test is nan after epoch 1"):
        train(tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert lines and all("NaN" not in line for line in lines)

    def ruined(net, *given, **how):
        next(net.parameters()).data.flat[0] = np.nan
        return scores(net, *given, **how)

    monkeypatch.setattr(loop, "evaluate", ruined)
    told = "after epoch 1 the network's result is not finite, it has diverged: try a lower"
    with pytest.raises(loop.TrainingError, match=told):
        train(tmp_path / "other")
