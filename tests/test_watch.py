"""Live statistics: they change no bit, and say what a step was like."""

import math

import numpy as np
import pytest
from built import needs_core
from training import QUICK, metrics, quick, train  # noqa: F401

import pyinception as pyi
from pyinception import data, losses, workspace
from pyinception.backend import why_not
from pyinception.layers import Conv2d
from pyinception.module import Sequential
from pyinception.train import inside, loop, networks
from pyinception.train import watch as watching
from pyinception.train.recipe import resolve
from pyinception.train.update import Update


class Constant:
    """A peak that needs no machine."""

    def __init__(self, best):
        self.best, self.samples = best, 0

    def __call__(self):
        self.samples += 1


def update_of(net, **entries):
    return Update(resolve({"data": "digits", **entries}), net, 5)


def one_step(net, watch, shape=(3, 8, 8, 1), **entries):
    """One update with ``watch`` around it; the batch, and what the watch wrote."""
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    batch = data.Batch(0, np.arange(len(images)), images, np.arange(len(images)) % 3)
    update = update_of(net, **entries)
    net.train()
    with watch.step(update, len(images)):
        loop.step(net, update, batch, resolve({"data": "digits", **entries}))
    return batch, watch.line(0.25)


@pytest.mark.parametrize("entries", [{}, {"clip": 1.0, "average": "ema", "optimizer": "rmsprop"}])
def test_the_statistics_change_no_bit(tmp_path, entries):
    given = QUICK | entries
    runs = {}
    for every in (0, 1, 3):
        outcome = train(tmp_path / f"{every}", given, watch=every)
        runs[every] = outcome.weights_sha256
        steps = [line["step"] for line in metrics(tmp_path / f"{every}", "watch")]
        assert steps == ([] if not every else list(range(1, 11, every)))
    assert len(set(runs.values())) == 1
    losses_of = [
        [(line["loss"], line["accuracy"]) for line in metrics(tmp_path / name, "step")]
        for name in ("0", "1")
    ]
    assert losses_of[0] == losses_of[1] and len(losses_of[0]) == 10
    with pytest.raises(ValueError, match="watch is -1, expected at least 0"):
        train(tmp_path / "other", given, watch=-1)
    assert not (tmp_path / "other").exists()


@needs_core
def test_a_line_says_what_the_step_was_like(monkeypatch):
    """Against the same numbers taken from the network by hand."""
    net = networks.build("tiny_inception", 10, (8, 8, 1), 0)
    twin = networks.build("tiny_inception", 10, (8, 8, 1), 0)
    net.inception_a.reduce3x3.bias.data[:4] = -1e3  # four channels that are dead for certain
    twin.inception_a.reduce3x3.bias.data[:4] = -1e3
    watch = watching.Watch(net, 1, peak=Constant(100.0))
    batch, line = one_step(net, watch)
    twin.train()
    outputs = {}
    with inside.listening(twin, ["inception_a", "norm_a", "conv1"], outputs.__setitem__):
        with pyi.rng.at(0, 0):
            loss = losses.cross_entropy(twin(batch.images), batch.labels)
    y = outputs["inception_a"].data.astype(np.float64)
    loss.backward()
    wanted = math.sqrt(np.mean(y[..., :16] ** 2))
    assert line["branches"]["inception_a"]["1x1"] == pytest.approx(wanted, rel=1e-4)
    wanted = math.sqrt(np.mean(y[..., 16:48] ** 2))
    assert line["branches"]["inception_a"]["1x1 - 3x3"] == pytest.approx(wanted, rel=1e-4)
    assert list(line["branches"]) == ["inception_a", "inception_b"]
    named = dict(inside.weights(twin))
    assert set(named) == {name for name, row in line["layers"].items() if "gradient" in row}
    for name, weight in named.items():
        row = line["layers"][name]
        exact = np.linalg.norm(weight.grad.astype(np.float64))
        assert row["gradient"] == pytest.approx(exact, rel=1e-4) and exact > 0
        assert row["weight"] == pytest.approx(np.linalg.norm(weight.data), rel=1e-4)
    dead = {name: row["dead"] for name, row in line["layers"].items() if "dead" in row}
    assert set(named) - set(dead) == {"fc"}
    assert dead["inception_a.reduce3x3"] >= 4 / 16
    by_hand = np.mean(outputs["conv1"].data.max(axis=(0, 1, 2)) <= 0)
    assert dead["conv1"] == pytest.approx(by_hand, abs=1e-4)
    by_hand = np.mean(y[..., 16:48].max(axis=(0, 1, 2)) <= 0)
    assert dead["inception_a.conv3x3"] == pytest.approx(by_hand, abs=1e-4)
    clock = line["clock"]
    parts = sum(clock["kernels"].values()) + clock["update"] + clock["rest"] + clock["data"]
    assert parts == pytest.approx(clock["seconds"], rel=1e-2) and clock["data"] == 0.25
    assert {"inception fprop", "inception backward", "conv wgrad"} <= set(clock["kernels"])


@needs_core
def test_the_share_of_the_roofline():
    """One convolution: forward and the gradient of its filter, none of its input."""
    net = Sequential(Conv2d(4, 8, 3, padding=1), Conv2d(8, 3, 8))
    pyi.init.initialise(net, 0)
    net.forward = lambda x: pyi.ops.flatten(Sequential.forward(net, x))
    watch = watching.Watch(net, 1, peak=Constant(2.0))
    assert watch.roofline(2, 1.0) is None  # not counted yet
    _, line = one_step(net, watch, (2, 8, 8, 4))
    first, last = 2 * 8 * 8 * 8 * 9 * 4, 2 * 3 * 64 * 8  # multiply-adds forward
    assert line["clock"]["flops"] == 2 * (2 * first + 3 * last)
    share = line["clock"]["flops"] / 2 * 7 / 0.5 / 2e9
    assert watch.roofline(7, 0.5) == pytest.approx(share, abs=1e-4)
    assert (line["clock"]["peak_gflops"], watch.peak.samples) == (2.0, 1)
    assert watching.Watch(net, 1).roofline(2, 1.0) is None


def test_a_peak_is_measured_where_a_cpu_kernel_runs():
    with pyi.using(backend="reference"):
        assert watching.measured_peak() is None
    if why_not("cpu") is None:
        assert 1 < watching.measured_peak().best < 2000


def test_dead_channels():
    y = np.zeros((2, 3, 3, 4), np.float32)
    y[1, 2, 0, 1] = 1e-30
    y[..., 2] = np.nan
    y[..., 3] = -1
    assert inside.dead(y) == 0.75
    assert inside.dead(y[:0]) == 0
    assert inside.dead(np.eye(3, dtype=np.float32)) == 0
    assert inside.rms(np.full((2, 3, 5), -2.0, np.float32)[:, ::2]) == 2


def test_heads_have_their_own_losses():
    body = networks.build("tiny_inception", 10, (8, 8, 1), 0)
    net = Sequential(body=body)
    net.forward = lambda x: (body(x), body(x) * 2.0, body(x) * 0.5)
    images = np.random.default_rng(0).standard_normal((4, 8, 8, 1), np.float32)
    batch = data.Batch(0, np.arange(4), images, np.array([1, 2, 3, 1]))
    recipe = resolve({"data": "digits", "aux_weight": 0.25, "label_smoothing": 0.1})
    loss, right, heads = loop.step(net.train(), update_of(net), batch, recipe)
    assert len(set(heads)) == 3 and 0 <= right <= 4
    assert loss == pytest.approx(heads[0] + 0.25 * (heads[1] + heads[2]), rel=1e-6)
    assert loop.step(body.train(), update_of(body), batch, recipe)[2] == []


def test_a_watched_step_keeps_no_array(monkeypatch):
    seen = []
    monkeypatch.setattr(watching._Clock, "__init__", _spied(watching._Clock.__init__, seen))
    net = networks.build("tiny_inception", 10, (8, 8, 1), 0)
    one_step(net, watching.Watch(net, 1))
    assert len(seen) == 1 and seen[0].arrays == [] and seen[0].calls == []
    assert workspace.recording() is None


def _spied(real, seen):
    def init(self, *given):
        real(self, *given)
        seen.append(self)

    return init


@pytest.mark.parametrize("name", ["small_inception", "inception_v3", "googlenet"])
def test_layers_of_networks_have_names(name):
    sizes = {"small_inception": 28, "inception_v3": 75, "googlenet": 224}
    net = networks.build(name, 10, (sizes[name],) * 2 + (3,), 0, aux=False)
    found = dict(inside.weights(net))
    many = [p for p in net.parameters() if len(p.shape) > 1]
    assert len(found) == len(many) and not any(".conv.weight" in layer for layer in found)


@pytest.mark.parametrize("row", ["act relu", "sum x + 3x3 8 linear", "half res 0.1 3x3 8"])
def test_sums_and_bare_relus_are_looked_into_too(tmp_path, row):
    entries = QUICK | {"model": f"stem 3x3 8; {row}; last 1x1 8", "epochs": 1}
    train(tmp_path / "run", entries, watch=1)
    kinds = [line["kind"] for line in metrics(tmp_path / "run")]
    assert kinds.count("watch") == kinds.count("step") == 5
