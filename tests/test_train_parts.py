"""The parts of training: recipes, networks, baselines, evaluation, prediction, bars, pictures."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from training import QUICK, train, without_pictures

from pyinception import checkpoint, data
from pyinception.train import evaluation as judging
from pyinception.train import figures, inside, networks, progress
from pyinception.train.baselines import score_baselines
from pyinception.train.recipe import Recipe, RecipeError, read_toml, resolve
from pyinception.train.splits import First, load_split

ONCE = QUICK | {"epochs": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The outcome of a short run, with its last checkpoint on disk."""
    with pytest.MonkeyPatch.context() as patch:
        without_pictures(patch)
        return train(tmp_path_factory.mktemp("runs") / "whole", ONCE)


# ---------------------------------------------------------------- recipes


def test_defaults_suit_data_and_model():
    assert resolve({}).mirror is False
    assert resolve({"data": "shapes"}).mirror is True
    net = resolve({"data": "shapes", "model": "googlenet", "lr": 0.5})
    assert (net.size, net.schedule, net.lr) == (224, "poly", 0.5)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"epoch": 3}, "unknown entry 'epoch'; did you mean 'epochs'"),
        ({"epochs": 0}, "epochs is 0, expected 1"),
        ({"epochs": True}, "epochs is True, expected int"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"momentum": 1.0}, r"momentum is 1.0, expected \[0, 1\)"),
        ({"schedule": "cosinus"}, "did you mean 'cosine'"),
        ({"seed": -1}, "seed is -1"),
        ({"data": 3}, "data is 3, expected str"),
    ],
)
def test_a_bad_entry_is_named(given, message):
    with pytest.raises(RecipeError, match=message):
        resolve(given)


def test_toml_holds_the_whole_recipe(tmp_path):
    recipe = resolve({"data": "shapes", "lr": 0.25, "seed": 7, "mirror": False})
    path = tmp_path / "config.toml"
    path.write_text(recipe.to_toml())
    assert resolve(read_toml(path)) == recipe
    path.write_text("lr = = 3")
    with pytest.raises(RecipeError, match="is not TOML"):
        read_toml(path)


def test_schedules():
    assert [Recipe(lr=1.0, gamma=0.5).lr_at(3)(t) for t in (0, 2, 3, 8)] == [1, 1, 0.5, 0.25]
    cosine = Recipe(lr=2.0, schedule="cosine", epochs=5).lr_at(4)
    assert [cosine(0), cosine(10), cosine(20)] == pytest.approx([2, 1, 0], abs=1e-15)
    poly = Recipe(lr=1.0, schedule="poly", epochs=5).lr_at(4)
    assert [poly(0), poly(15), poly(20)] == [1, 0.5, 0]
    assert Recipe(lr=0.3, schedule="constant").lr_at(1)(99) == 0.3


# ---------------------------------------------------------------- networks and data


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("small_inception", 28),
        ("tiny_inception", 8),
        ("googlenet", 224),
        ("googlenet_cifar", 8),
        ("bn_inception", 64),
        ("inception_v3", 75),
    ],
)
def test_branches_cover_the_output(name, size):
    net = networks.build(name, 10, (size, size, 3), 0, aux=False)
    found = [(m, networks.branches(m)) for m in net.modules() if networks.branches(m)]
    assert found
    for module, parts in found:
        stops = [0, *(channels.stop for _, channels in parts)]
        assert [channels.start for _, channels in parts] == stops[:-1]
        assert stops[-1] == module.out_channels


def test_googlenet_trains_with_its_heads(tmp_path):
    given = {"data": "shapes", "model": "googlenet", "count": 2, "test_count": 2, "epochs": 1}
    outcome = train(tmp_path / "run", given)
    # Three classifiers over eight classes: L + 0.3 (L1 + L2), all near log 8 at the start.
    assert outcome.train_loss == pytest.approx(1.6 * math.log(8), rel=0.5)
    trained = judging.load_trained(tmp_path / "run/checkpoints/last.safetensors")
    moved = dict(trained.net.named_parameters())
    start = dict(networks.build("googlenet", 8, (224, 224, 3), 0).named_parameters())
    for name in ("conv1.weight", "aux1.fc1.weight", "aux2.conv.weight", "fc.bias"):
        assert not np.array_equal(moved[name].data, start[name].data)


def test_first_images_of_a_split():
    recipe = resolve({"data": "digits", "size": 8, "count": 10, "test_count": 500})
    cut, test = load_split(recipe, "train"), load_split(recipe, "test")
    assert isinstance(cut, First) and len(cut) == 10 and len(test) == 500
    complete = data.load("digits", "train", size=8)
    assert np.array_equal(cut.images([3, 9]), complete.images([3, 9]))
    with pytest.raises(IndexError):
        cut.images([10])
    shapes = load_split(resolve({"data": "shapes", "count": 4500}), "train")
    assert len(shapes) == 4500


def test_baselines_on_digits():
    """The published split's own figures: a change of data or classifier shows here."""
    sets = (data.load("digits", split) for split in ("train", "test"))
    scores = {score["name"]: score for score in score_baselines(*sets)}
    assert scores["3-nearest neighbours"]["accuracy"] == 0.968
    assert 0.90 < scores["logistic regression"]["accuracy"] < 0.95
    assert scores["1-nearest neighbours"]["how"] == "pixels 8 x 8"


def test_baselines_use_the_run_s_images():
    recipe = resolve({"data": "shapes", "count": 64, "test_count": 40})
    scores = score_baselines(load_split(recipe, "train"), load_split(recipe, "test"))
    assert [score["train_images"] for score in scores] == [64] * 4
    assert all(0 <= score["accuracy"] <= 0.7 for score in scores)


# ---------------------------------------------------------------- evaluate and predict


def test_evaluation(whole):
    trained = judging.load_trained(Path(whole.folder) / "checkpoints/last.safetensors")
    dataset = load_split(trained.recipe, "test")
    trained.net.train()
    result = judging.evaluate(trained.net, dataset, trained.recipe.augment(), batch_size=7)
    assert trained.net.training
    assert result.accuracy == whole.test_accuracy
    assert result.loss == pytest.approx(whole.test_loss, rel=1e-6)
    counts = result.confusion()
    assert counts.sum() == len(dataset)
    assert np.trace(counts) / len(dataset) == result.accuracy
    assert np.array_equal(counts.sum(axis=1), np.bincount(dataset.labels, minlength=10))
    assert result.by_size() == []


def test_accuracy_by_size():
    shapes = data.load("shapes", "test", count=50)
    right = judging.Evaluation(shapes, shapes.labels.copy(), 0.0, 1.0)
    rows = right.by_size()
    assert sum(row["images"] for row in rows) == 50
    assert all(row["accuracy"] == 1 for row in rows)
    small = shapes.diameters < 9
    wrong = judging.Evaluation(shapes, np.where(small, -1, shapes.labels), 0.0, 1.0).by_size()
    assert [row["accuracy"] for row in wrong] == [0, 1, 1, 1]


def test_prediction_of_files(tmp_path, whole):
    image = pytest.importorskip("PIL.Image", reason="extra `train`")
    trained = judging.load_trained(Path(whole.folder) / "checkpoints/last.safetensors")
    digit = load_split(trained.recipe, "test").images([0])
    grey = np.rint(digit[0, :, :, 0] * 255).astype(np.uint8)
    image.fromarray(grey).save(tmp_path / "a.png")
    image.fromarray(255 - grey).save(tmp_path / "b.png")
    found = judging.predict(trained, [tmp_path / "a.png"])[0]
    assert sum(found.probabilities) == pytest.approx(1)
    assert found.probabilities == sorted(found.probabilities, reverse=True)
    prepared = trained.recipe.augment().without_chance()(digit, np.zeros(1), seed=0, epoch=0)
    logits = trained.net(prepared).data[0].astype(np.float64)
    wanted = np.exp(logits) / np.exp(logits).sum()
    assert found.classes[0] == str(np.argmax(logits))
    assert found.probabilities == pytest.approx(sorted(wanted, reverse=True), abs=2e-3)
    inverted = judging.predict(trained, [tmp_path / "b.png"], invert=True)[0]
    assert inverted.probabilities == pytest.approx(found.probabilities, abs=1e-4)
    (tmp_path / "c.png").write_text("no picture at all")
    with pytest.raises(ValueError, match=r"c\.png: not an image.*d\.png"):
        judging.predict(trained, [tmp_path / x for x in ("a.png", "c.png", "d.png")])


def test_a_foreign_checkpoint_is_refused(tmp_path):
    net = networks.build("tiny_inception", 10, (8, 8, 1), 0)
    net.save(tmp_path / "weights.safetensors")
    with pytest.raises(
        checkpoint.CheckpointError, match=r"no checkpoint of a training run \(it has no recipe\)"
    ):
        judging.load_trained(tmp_path / "weights.safetensors")


# ---------------------------------------------------------------- progress and pictures


def test_clock():
    assert [progress.clock(s) for s in (0.4, 75, 3599.6, 4000)] == [
        "0:00",
        "1:15",
        "1:00:00",
        "1:06:40",
    ]


def test_plain_lines_every_ten_seconds(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    report = progress.reporter(stream)
    report.start("epoch 1/2", 100, done=20)
    for _ in range(7):
        now[0] += 4
        report.advance(10, "loss 1")
    report.stop()
    report.line("done")
    wanted = ["epoch 1/2 50/100 img, 2 img/s, 0:20 left  loss 1"]
    wanted += ["epoch 1/2 80/100 img, 2 img/s, 0:08 left  loss 1", "done"]
    assert stream.getvalue().splitlines() == wanted


def test_a_bar_is_drawn_after_a_second(monkeypatch):
    from rich.console import Console

    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    report = progress.Bar(Console(file=stream, force_terminal=True, width=120))
    report.start("epoch 1/2", 100)
    now[0] = 0.5
    report.advance(10)
    assert stream.getvalue() == ""
    now[0] = 2.0
    report.advance(10, "loss 3")
    report.line("a line")
    report.stop()
    assert all(part in stream.getvalue() for part in ("20/100", "10 img/s", "loss 3", "a line"))


def test_counting_tells_a_reporter(monkeypatch):
    monkeypatch.setattr(progress.time, "monotonic", lambda: 0.0)
    stream = io.StringIO()
    with progress.Counting(progress.Plain(stream), "checking", "file") as tell:
        for done in range(1, 4):
            tell(done, 3)
    assert stream.getvalue() == ""  # took no ten seconds


def test_pictures_of_a_run(tmp_path):
    from PIL import Image

    train(tmp_path / "run", ONCE, with_baselines=True)
    for name in ("curves.png", "filters.png", "features.png"):
        with Image.open(tmp_path / "run" / name) as picture:
            pixels = np.asarray(picture.convert("L"))
        assert pixels.shape[0] > 100 and len(np.unique(pixels)) > 20
    scores = json.loads((tmp_path / "run" / "baselines.json").read_text())
    assert len(scores) == 4


def test_mosaic():
    tiles = np.zeros((3, 2, 2, 3), np.float32)
    tiles[2] = 0.5
    picture = figures.mosaic(tiles, 2)
    assert picture.shape == (7, 7, 3)
    assert (picture[4:6, 1:3] == 0.5).all() and (picture[1:3, 1:3] == 0).all()
    ground = np.float32(figures.GROUND)
    assert (picture[:, 0] == ground).all() and (picture[4:, 4:] == ground).all()


def test_output_of_a_module_inside_a_network():
    net = networks.build("tiny_inception", 10, (8, 8, 1), 0)
    x = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    names = list(inside.branches_of(net))
    assert names == ["inception_a", "inception_b"]
    outputs = inside.outputs_of(net, x, names)
    net.eval()
    y = net.inception_a(net.pool1(net.conv1(x)))
    assert np.array_equal(outputs["inception_a"], y.data)
    assert np.array_equal(outputs["inception_b"], net.inception_b(net.norm_a(y)).data)
    assert all("forward" not in vars(module) for module in net.modules())
