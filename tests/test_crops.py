"""Crops to test with: geometry against a table, averages against float64 by hand, the command."""

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("PIL", reason="extra `train`")

from PIL import Image
from training import one_thread, train, without_pictures  # noqa: F401

from pyinception import convert, data, models
from pyinception.cli import main
from pyinception.data.crops import Crop, crops, cut
from pyinception.train import evaluation, loop, multicrop
from pyinception.train.progress import Silent

# (height, width) -> for each scale: rows, columns, (top, left) of the three squares. Crops of 224.
LANDSCAPE, PORTRAIT, SQUARE = (300, 400), (500, 250), (100, 100)
SQUARES = {
    LANDSCAPE: [
        (256, 341, [(0, 0), (0, 42), (0, 85)]),
        (288, 384, [(0, 0), (0, 48), (0, 96)]),
        (320, 427, [(0, 0), (0, 53), (0, 107)]),
        (352, 469, [(0, 0), (0, 58), (0, 117)]),
    ],
    PORTRAIT: [
        (512, 256, [(0, 0), (128, 0), (256, 0)]),
        (576, 288, [(0, 0), (144, 0), (288, 0)]),
        (640, 320, [(0, 0), (160, 0), (320, 0)]),
        (704, 352, [(0, 0), (176, 0), (352, 0)]),
    ],
    SQUARE: [
        (256, 256, [(0, 0), (0, 0), (0, 0)]),
        (288, 288, [(0, 0), (0, 0), (0, 0)]),
        (320, 320, [(0, 0), (0, 0), (0, 0)]),
        (352, 352, [(0, 0), (0, 0), (0, 0)]),
    ],
}
# In a square of each side: (top, left, side) of corners, centre, whole.
INSIDE = {
    256: [(0, 0, 224), (0, 32, 224), (32, 0, 224), (32, 32, 224), (16, 16, 224), (0, 0, 256)],
    288: [(0, 0, 224), (0, 64, 224), (64, 0, 224), (64, 64, 224), (32, 32, 224), (0, 0, 288)],
    320: [(0, 0, 224), (0, 96, 224), (96, 0, 224), (96, 96, 224), (48, 48, 224), (0, 0, 320)],
    352: [(0, 0, 224), (0, 128, 224), (128, 0, 224), (128, 128, 224), (64, 64, 224), (0, 0, 352)],
}


@pytest.mark.parametrize("extent", SQUARES)
def test_144_crops(extent):
    expected = [
        Crop(rows, columns, top + y, left + x, side, flip)
        for rows, columns, squares in SQUARES[extent]
        for top, left in squares
        for y, x, side in INSIDE[min(rows, columns)]
        for flip in (False, True)
    ]
    assert len(expected) == 144
    assert crops(*extent, 224, 144) == expected


def test_ten_crops_and_one():
    found = crops(*LANDSCAPE, 224, 10)
    places = [(0, 42), (0, 74), (32, 42), (32, 74), (16, 58)]
    assert found == [Crop(256, 341, y, x, 224, flip) for y, x in places for flip in (False, True)]
    assert crops(*LANDSCAPE, 224, 1) == [Crop(256, 341, 16, 58, 224, False)]
    assert crops(*PORTRAIT, 224, 1) == [Crop(512, 256, 144, 16, 224, False)]
    assert crops(*SQUARE, 224, 1) == [Crop(256, 256, 16, 16, 224, False)]


@pytest.mark.parametrize("size", [8, 28, 32, 75, 224, 299])
@pytest.mark.parametrize("extent", [(1, 1), (1, 9), (37, 20), (600, 601)])
def test_crops_of_any_size_lie_inside(size, extent):
    assert [min(c.height, c.width) for c in crops(*extent, 28, 144)[::36]] == [32, 36, 40, 44]
    for count in (1, 10, 144):
        found = crops(*extent, size, count)
        assert len(found) == count
        for crop in found:
            assert size <= crop.side and crop.top >= 0 and crop.left >= 0
            assert crop.top + crop.side <= crop.height and crop.left + crop.side <= crop.width


def test_what_is_refused():
    with pytest.raises(ValueError, match="count is 12, expected 1, 10 or 144"):
        crops(5, 5, 4, 12)
    with pytest.raises(ValueError, match="height is 0, expected 1 "):
        crops(0, 5, 4, 10)


@pytest.mark.parametrize("channels", [1, 3])
def test_cut_is_the_geometry(channels):
    """A picture that is not scaled at all: crops are its own pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 45, channels), dtype=np.uint8)
    out = cut(pixels, 28, 10)
    assert np.array_equal(out[0], pixels[0:28, 6:34])
    assert np.array_equal(out[1], pixels[0:28, 6:34][:, ::-1])
    assert np.array_equal(out[6], pixels[4:32, 10:38])
    many = cut(pixels, 28, 144)
    assert many.shape == (144, 28, 28, channels)
    assert np.array_equal(many[12 + 8], pixels[2:30, 8:36])  # second square, centre
    whole = Image.fromarray(np.squeeze(pixels[:, 13:45])).resize(
        (28, 28), Image.Resampling.BILINEAR
    )
    assert np.array_equal(many[34], np.asarray(whole).reshape(28, 28, channels))
    assert np.array_equal(many[35], many[34][:, ::-1])


# ---------------------------------------------------------------- networks

GIVEN = {
    "data": "shapes",
    "model": "tiny_inception",
    "size": 24,
    "crop": 14,
    "count": 32,
    "test_count": 12,
    "batch_size": 16,
    "epochs": 1,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two short runs of other seeds and preprocessing."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYINCEPTION_THREADS", "1")
        without_pictures(patch)
        train(folder / "a", GIVEN)
        more = {"seed": 1, "standardise": False, "mean": [0.5, 0.4, 0.3], "scale": 2.0}
        train(folder / "b", GIVEN | more | {"average": "ema"})
    return folder


def last(folder, name):
    return folder / name / "checkpoints/last.safetensors"


@pytest.mark.parametrize("count", [1, 10, 144])
def test_the_verdict_is_the_mean_in_float64(runs, count):
    members = [multicrop.read_member(last(runs, name)) for name in "ab"]
    dataset = loop.load_split(evaluation.load_trained(last(runs, "a")).recipe, "test")
    found = multicrop.evaluate_crops(members, dataset, count)
    odds = np.zeros((len(dataset), len(dataset.classes)))
    for name in "ab":
        trained = evaluation.load_trained(last(runs, name))
        for n in range(len(dataset)):
            views = cut(dataset.read(n)[0], 14, count)
            for view in views:
                x = view[None].astype(np.float32) / np.float32(255)
                augment = trained.recipe.augment().without_chance()
                logits = trained.net(augment(x, [0], seed=0, epoch=0)).data[0].astype(np.float64)
                p = np.exp(logits) / np.exp(logits).sum()
                odds[n] += p / count / 2
    labels = dataset.labels
    assert np.array_equal(found.predictions, odds.argmax(axis=1))
    assert found.loss == pytest.approx(-np.log(odds[np.arange(12), labels]).mean(), rel=1e-12)
    rank = (odds > odds[np.arange(12), labels][:, None]).sum(axis=1)
    assert found.top5 == np.mean(rank < 5) and found.accuracy == np.mean(rank < 1)
    direct = multicrop.class_probabilities(members, [dataset.read(3)[0]], count)
    np.testing.assert_allclose(direct[0], odds[3], rtol=1e-12)


def test_a_network_that_has_diverged_is_no_unreadable_picture(runs):
    member = multicrop.read_member(last(runs, "a"))
    dataset = loop.load_split(member.recipe, "test")
    dict(member.net.named_parameters())["fc.bias"].data[0] = np.nan
    diverged = pytest.raises(FloatingPointError, match="network's result is not finite, it has div")
    with diverged:
        multicrop.evaluate_crops([member], dataset, 1)
    with diverged:
        evaluation.evaluate(member.net, dataset, member.recipe.augment())
    trained = evaluation.load_trained(last(runs, "a"))
    with diverged:
        evaluation.judge_images(replace(trained, net=member.net), [""], dataset.images([0]))


def test_top_five_without_crops(runs):
    trained = evaluation.load_trained(last(runs, "a"))
    dataset = loop.load_split(trained.recipe, "test")
    augment = trained.recipe.augment()
    found = evaluation.evaluate(trained.net, dataset, augment, batch_size=5)
    x = augment.without_chance()(dataset.images(np.arange(12)), np.arange(12), seed=0, epoch=0)
    logits = trained.net(x).data
    rank = (logits > logits[np.arange(12), dataset.labels][:, None]).sum(axis=1)
    assert found.top5 == np.mean(rank < 5) and 0 < found.top5 < 1


def test_a_converted_network_on_pictures(tmp_path, monkeypatch, capsys):
    """A file of `convert` and folders of pictures, one of which cannot be read."""
    draw = np.random.default_rng(3)
    for n in range(6):
        path = tmp_path / "pictures" / ("train" if n < 3 else "test") / "ab"[n % 2] / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (40 + n, 50, 3), dtype=np.uint8)).save(path)
    how = convert.Preprocessing(scale=1, mean=(104, 117, 123), std=(60,) * 3, resize=48, crop=32)
    how = convert.Preprocessing(**{**vars(how), "channels": "BGR"})
    net = models.googlenet_bn(2, aux=False, seed=5).eval()
    found = convert.Converted(net, "googlenet_bn", how, {})
    found.save(tmp_path / "net.safetensors")
    member = multicrop.read_member(tmp_path / "net.safetensors")
    test = data.load("image_folder", "test", root=tmp_path / "pictures", size=32)
    result = multicrop.evaluate_crops([member], test, 10)
    odds = []
    for n in range(3):
        views = cut(test.read(n)[0], 32, 10)[..., ::-1].astype(np.float32)
        x = (views - np.array([104, 117, 123], np.float32)) / np.float32(60)
        logits = net(x).data.astype(np.float64)
        odds.append((np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).mean(axis=0))
    loss = -np.log(np.array(odds)[np.arange(3), test.labels]).mean()
    assert result.loss == pytest.approx(loss, rel=1e-12)
    line = ["evaluate", str(tmp_path / "net.safetensors"), "--crops", "10", "--json"]
    assert main.run(line) == 1 and "names no data set, give --data" in capsys.readouterr().err
    assert main.run([*line, "--data", str(tmp_path / "pictures")]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(loss, rel=1e-12)
    path = tmp_path / "pictures/test/b/3.png"
    path.write_bytes(path.read_bytes()[:60])
    fresh = data.load("image_folder", "test", root=tmp_path / "pictures", size=32, check=False)
    with pytest.raises(data.DatasetError, match=r"3\.png"):
        multicrop.evaluate_crops([member], fresh, 1)
    skipped = multicrop.evaluate_crops([member], fresh, 1, bad="skip")
    assert np.sum(skipped.predictions < 0) == 1 and np.isfinite(skipped.loss)
    Image.fromarray(np.zeros((1, 90_000, 3), np.uint8)).save(path)  # whole, but a thread
    with pytest.raises(data.DatasetError, match=r"3\.png: a picture of 1 x 90000 scaled to 37 x"):
        multicrop.evaluate_crops([member], fresh, 10)
    told: list[str] = []
    silent = Silent()
    silent.line = told.append  # type: ignore[method-assign]
    skipped = multicrop.evaluate_crops([member], fresh, 10, bad="skip", report=silent)
    assert np.sum(skipped.predictions < 0) == 1 and "3.png: a picture of 1 x 90000" in told[0]


def test_other_classes_are_refused(runs):
    member = multicrop.read_member(last(runs, "a"))
    with pytest.raises(ValueError, match="knows 8 classes, digits has other ones"):
        multicrop.evaluate_crops([member], data.load("digits", "test", size=8), 1)
    with pytest.raises(ValueError, match="members is empty, expected at least one network"):
        multicrop.evaluate_crops([], data.load("shapes", "test"), 1)
    with pytest.raises(ValueError, match="evaluate_crops: count is 2, expected 1, 10 or 144"):
        multicrop.evaluate_crops([member], data.load("shapes", "test"), 2)


# ---------------------------------------------------------------- the command


def test_the_command(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    where = ["--runs", str(runs)]
    picture = tmp_path / "confusion.png"
    line = ["evaluate", "--crops", "10", "--ensemble", "a", "b", *where, "--json"]
    assert main.run([*line, "--confusion", str(picture)]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["crops"], value["networks"], value["images"]) == (10, 2, 12)
    assert set(value["accuracy_by_class"]) and 0 <= value["accuracy"] <= value["top5"] <= 1
    assert Image.open(picture).size[0] > 300
    assert main.run(["evaluate", "a", *where]) == 0
    told = capsys.readouterr().out
    assert "top 5" in told and "crop" not in told  # as in training
    assert main.run(["evaluate", "--ensemble", "a", "b", *where]) == 0
    assert ", 1 crop, 2 networks" in capsys.readouterr().out  # and it says so
    assert main.run(["evaluate", "a", "b", *where]) == 1
    assert "2 runs are given, add --ensemble" in capsys.readouterr().err
    assert main.run(["evaluate", "a", "--crops", "7", *where]) == 1
    assert "1, 10 or 144" in capsys.readouterr().err


def test_a_picture_too_thin_to_be_scaled() -> None:
    with pytest.raises(ValueError, match=r"a picture of 2 x 90000 scaled to 256 x 11520000, the"):
        cut(np.zeros((2, 90_000, 3), np.uint8), 224, 1)


@pytest.mark.parametrize("size", ["8", 8.5])
def test_an_extent_that_is_no_integer_is_named(size):
    with pytest.raises(TypeError, match=rf"crops: size is {size!r} \(\w+\), expected an int"):
        crops(5, 5, size, 10)
