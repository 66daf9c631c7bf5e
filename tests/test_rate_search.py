"""The search for a learning rate, and metrics as TensorBoard events."""

import math
import time

import numpy as np
import pytest
from PIL import Image
from training import QUICK, metrics, quick, train  # noqa: F401

from pyinception import rng
from pyinception.train import loop, networks, rate_search
from pyinception.train.events import scalars
from pyinception.train.recipe import resolve
from pyinception.train.splits import load_split


def test_a_rate_is_found_and_the_weights_are_as_before(tmp_path):
    recipe = resolve(QUICK | {"clip": 5.0, "average": "ema"})
    net = networks.build("tiny_inception", 10, (8, 8, 1), 0).eval()
    before = {name: array.copy() for name, array in net.state_dict().items()}
    rng.set_step(7)
    dataset = load_split(recipe, "train")
    found = rate_search.find_lr(net, recipe, dataset, steps=60)
    for name, array in net.state_dict().items():
        assert array.tobytes() == before[name].tobytes(), name
    assert not net.training and all(p.grad is None for p in net.parameters())
    assert rng.current().step == 7
    assert len(found.rates) == len(found.losses) == len(found.smooth) <= 60
    ratios = np.diff(np.log(found.rates))
    assert ratios == pytest.approx(math.log(1e6) / 59) and found.rates[0] == 1e-5
    assert found.losses[0] == pytest.approx(found.smooth[0])
    assert found.lowest == found.rates[int(np.argmin(found.smooth))]
    assert found.suggested == pytest.approx(found.lowest / 10)
    assert 1e-3 < found.suggested < 1
    again = rate_search.find_lr(net, recipe, dataset, steps=60)
    assert again == found
    rate_search.draw_find_lr(tmp_path / "lr.png", found)
    with Image.open(tmp_path / "lr.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_a_loss_that_breaks_ends_the_search(monkeypatch):
    recipe = resolve(QUICK)
    net = networks.build("tiny_inception", 10, (8, 8, 1), 0)
    losses = iter([2.0, 1.9, 1.2, 1.0, 9.0, 40.0, 40.0])

    def step(net, update, batch, recipe):
        value = next(losses, None)
        if value is None:
            raise loop.TrainingError
        update.optimizer.iteration += 1
        return value, 0, []

    monkeypatch.setattr(rate_search, "step", step)
    dataset = load_split(recipe, "train")
    found = rate_search.find_lr(net, recipe, dataset, steps=50)
    assert found.losses == [2.0, 1.9, 1.2, 1.0, 9.0, 40.0]  # four times the lowest mean: enough
    losses = iter([2.0, 1.99, 1.98])  # then it is no number any more
    found = rate_search.find_lr(net, recipe, dataset, steps=50)
    assert len(found.rates) == 3 and found.suggested is None
    losses = iter([])
    assert rate_search.find_lr(net, recipe, dataset).lowest is None


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"low": 0.0}, "low, high are 0.0, 10.0, expected 0 < low < high"),
        ({"high": 1e-9}, "expected 0 < low < high"),
        ({"high": math.inf}, "expected 0 < low < high"),
        ({"steps": 3}, "steps is 3, expected at least 10"),
    ],
)
def test_a_search_that_is_refused(how, message):
    with pytest.raises(ValueError, match=message):
        rate_search.find_lr(networks.tiny_inception(), resolve(QUICK), None, **how)


# ---------------------------------------------------------------- TensorBoard


def test_scalars_have_the_names_of_the_metrics():
    line = {
        "kind": "watch", "epoch": 3, "step": 9, "text": "left out", "none": None,
        "heads": [1, 2.5], "layers": {"conv1": {"dead": 0.5}}, "clock": {"conv fprop": 1e-3},
    }  # fmt: skip
    assert dict(scalars(line)) == {
        "heads/0": 1.0, "heads/1": 2.5, "layers/conv1/dead": 0.5, "clock/conv_fprop": 1e-3,
    }  # fmt: skip


def test_events_hold_what_the_metrics_hold(tmp_path, monkeypatch):
    """Read back by the protocol's own parser, a resumed run's files in their order."""
    files = pytest.importorskip("tensorboardX.event_file_writer", reason="extra `train`")
    from tensorboardX.proto.event_pb2 import Event

    now = time.time()
    monkeypatch.setattr(files.time, "time", lambda: now)  # both starts within one second

    plain = train(tmp_path / "plain", watch=2)
    train(tmp_path / "run", stop_after=1, tensorboard=True, watch=2)
    outcome = train(tmp_path / "run", {}, resume=True, tensorboard=True, watch=2)
    assert outcome.weights_sha256 == plain.weights_sha256
    found: dict[tuple[str, int], float] = {}
    paths = sorted((tmp_path / "run").glob("events.out.tfevents.*"))
    assert [path.suffix for path in paths] == [".0", ".5"]
    for path in paths:
        for record in records(path.read_bytes()):
            event = Event.FromString(record)
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    wanted: dict[tuple[str, int], float] = {}
    for line in metrics(tmp_path / "run"):
        for name, number in scalars(line):
            wanted[f"{line['kind']}/{name}", line["step"]] = number
    assert {("step/loss", 10), ("epoch/test_accuracy", 5), ("step/lr", 1)} <= set(wanted)
    assert ("watch/layers/conv1/gradient", 3) in wanted
    assert set(found) == set(wanted)
    assert all(found[key] == pytest.approx(wanted[key], rel=1e-6) for key in wanted)


def records(content: bytes) -> list[bytes]:
    """The payloads of a file of TFRecords: length (8), check (4), payload, check (4)."""
    found, place = [], 0
    while place < len(content):
        length = int.from_bytes(content[place : place + 8], "little")
        found.append(content[place + 12 : place + 12 + length])
        place += 16 + length
    assert place == len(content)
    return found
