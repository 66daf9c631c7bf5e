"""Training: recipes, the run folder, resume to the bit, stops, faults, baselines, pictures."""

import errno
import io
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="extra `train`")
pytest.importorskip("matplotlib", reason="extra `train`")

import pyinception as pyi
from pyinception import checkpoint, data
from pyinception.train import evaluation as judging
from pyinception.train import figures, loop, networks, progress
from pyinception.train.baselines import score_baselines
from pyinception.train.recipe import Recipe, RecipeError, read_toml, resolve
from pyinception.train.run_folder import RunError, RunFolder, find_run
from pyinception.train.splits import First, load_split

# 5 steps an epoch; tiny_inception has batch norms (buffers) and dropout (the step's stream).
QUICK = {
    "data": "digits",
    "model": "tiny_inception",
    "size": 8,
    "count": 72,
    "test_count": 24,
    "batch_size": 16,
    "epochs": 4,
}


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch):
    """Most tests are about numbers: drawing takes longer than training here."""
    if "pictures" not in request.node.name:
        for name in ("draw_curves", "draw_filters", "draw_features"):
            monkeypatch.setattr(loop, name, lambda *args: None)


def train(folder, given=None, **how):
    how = {"with_baselines": False} | how
    return loop.train(QUICK if given is None else given, folder, **how)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of four epochs that nothing interrupted: its outcome and its losses."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_curves", "draw_filters", "draw_features"):
            patch.setattr(loop, name, lambda *args: None)
        outcome = train(folder)
    return outcome, losses(folder)


def losses(folder):
    """What metrics.jsonl says, without the clock's part."""
    kept = ("kind", "epoch", "step", "loss", "accuracy", "lr", "test_loss", "test_accuracy")
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in kept if key in line} for line in lines]


def contents(folder):
    return {p: p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


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


# ---------------------------------------------------------------- the run folder


def test_run_folder(whole):
    outcome, lines = whole
    folder = Path(outcome.folder)
    recipe = resolve(read_toml(folder / "config.toml"))
    assert recipe == resolve(QUICK)
    environment = json.loads((folder / "env.json").read_text())
    assert len(environment) == 1 and environment[0]["numpy"] == np.__version__
    steps = [line for line in lines if line["kind"] == "step"]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert [line["step"] for line in steps] == list(range(1, 21))
    assert [line["epoch"] for line in epochs] == [0, 1, 2, 3]
    sizes = [16, 16, 16, 16, 8]
    mean = np.average([line["loss"] for line in steps[:5]], weights=sizes)
    assert epochs[0]["loss"] == pytest.approx(mean)
    assert (outcome.epochs, outcome.steps, outcome.signal) == (4, 20, 0)
    assert outcome.test_accuracy == epochs[-1]["test_accuracy"]
    assert outcome.best_test_accuracy == max(line["test_accuracy"] for line in epochs)
    last = judging.load_trained(folder / "checkpoints/last.safetensors")
    assert loop.weights_sha256(last.net) == outcome.weights_sha256
    assert last.record["weights_sha256"] == outcome.weights_sha256
    best = judging.load_trained(folder / "checkpoints/best.safetensors")
    assert best.record["state"]["best"] == outcome.best_test_accuracy


def test_it_learns(tmp_path):
    given = {"data": "digits", "model": "tiny_inception", "size": 8, "epochs": 4, "padding": 0}
    outcome = train(tmp_path / "run", given)
    assert outcome.test_accuracy > 0.6  # chance is 0.1
    assert losses(tmp_path / "run")[0]["loss"] == pytest.approx(math.log(10), rel=0.5)


def test_seed_decides(tmp_path, whole):
    other = train(tmp_path / "other", QUICK | {"seed": 1, "epochs": 1})
    same = train(tmp_path / "same", QUICK | {"epochs": 1})
    assert losses(tmp_path / "same") == whole[1][:6]
    assert other.weights_sha256 != same.weights_sha256
    assert losses(tmp_path / "other")[0] != whole[1][0]


# ---------------------------------------------------------------- resume to the bit


@pytest.mark.parametrize("threads", [1, 2])
def test_resume_after_whole_epochs(tmp_path, whole, threads):
    with pyi.using(threads=3 - threads):
        first = train(tmp_path / "run", stop_after=2)
    assert (first.epochs, first.steps) == (2, 10)
    with pyi.using(threads=threads):
        second = train(tmp_path / "run", {}, resume=True)
    assert second.weights_sha256 == whole[0].weights_sha256 != first.weights_sha256
    assert losses(tmp_path / "run") == whole[1]
    environment = json.loads((tmp_path / "run" / "env.json").read_text())
    assert [entry["switches"]["threads"][0] for entry in environment] == [3 - threads, threads]


def test_resume_to_more_epochs(tmp_path, whole):
    train(tmp_path / "run", QUICK | {"epochs": 1})
    second = train(tmp_path / "run", {"epochs": 4}, resume=True)
    assert second.weights_sha256 == whole[0].weights_sha256
    assert losses(tmp_path / "run") == whole[1]
    assert read_toml(tmp_path / "run" / "config.toml")["epochs"] == 4


@pytest.mark.parametrize("at", [1, 3, 5, 12])
def test_resume_after_a_stop_at_any_step(tmp_path, whole, at, monkeypatch):
    real = loop.step

    def step(net, optimizer, batch, recipe):
        result = real(net, optimizer, batch, recipe)
        if optimizer.iteration == at:
            os.kill(os.getpid(), 2)
        return result

    monkeypatch.setattr(loop, "step", step)
    first = train(tmp_path / "run")
    assert (first.signal, first.steps) == (2, at)
    monkeypatch.setattr(loop, "step", real)
    second = train(tmp_path / "run", {}, resume=True)
    assert second.weights_sha256 == whole[0].weights_sha256
    assert losses(tmp_path / "run") == whole[1]


@pytest.mark.parametrize("at", [1, 8])
def test_resume_after_a_crash(tmp_path, whole, at, monkeypatch):
    """Metrics written after the last checkpoint are dropped, not doubled."""
    real = loop.step

    def step(net, optimizer, batch, recipe):
        if optimizer.iteration == at:
            raise MemoryError
        return real(net, optimizer, batch, recipe)

    monkeypatch.setattr(loop, "step", step)
    with pytest.raises(MemoryError):
        train(tmp_path / "run")
    monkeypatch.setattr(loop, "step", real)
    assert len(losses(tmp_path / "run")) > at - 1
    second = train(tmp_path / "run", {}, resume=True)
    assert second.weights_sha256 == whole[0].weights_sha256
    assert losses(tmp_path / "run") == whole[1]


def test_checkpoints_inside_a_long_epoch(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    real = loop.step

    def step(net, optimizer, batch, recipe):
        if optimizer.iteration == 3:
            raise MemoryError
        return real(net, optimizer, batch, recipe)

    monkeypatch.setattr(loop, "step", step)
    with pytest.raises(MemoryError):
        train(tmp_path / "run")
    saved = checkpoint.load(tmp_path / "run" / "checkpoints" / "last.safetensors").record["state"]
    assert (saved["epoch"], saved["batch"], saved["seen"]) == (0, 3, 48)
    monkeypatch.setattr(loop, "step", real)
    assert train(tmp_path / "run", {}, resume=True).weights_sha256 == whole[0].weights_sha256


def test_resume_of_a_finished_run_changes_no_weight(tmp_path, whole):
    train(tmp_path / "run", QUICK | {"epochs": 1})
    before = (tmp_path / "run/checkpoints/last.safetensors").read_bytes()
    again = train(tmp_path / "run", {}, resume=True)
    assert again.steps == 5
    assert (tmp_path / "run/checkpoints/last.safetensors").read_bytes() == before


# ---------------------------------------------------------------- refusals and faults


def test_an_existing_folder_is_left_alone(tmp_path):
    train(tmp_path / "run", QUICK | {"epochs": 1})
    before = contents(tmp_path)
    with pytest.raises(RunError, match="exists: continue it with --resume"):
        train(tmp_path / "run")
    (tmp_path / "notes").mkdir()
    with pytest.raises(RunError, match="is no run folder"):
        train(tmp_path / "notes")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "first, asked, message",
    [
        ({}, {"lr": 0.5}, "lr is 0.05, asked for 0.5"),
        ({}, {"epochs": 3}, "epochs is 4, asked for 3"),
        ({"schedule": "cosine"}, {"epochs": 9}, "the cosine schedule depends on epochs"),
        ({}, {"data": "shapes", "seed": 2}, "data is 'digits', asked for 'shapes'; seed is 0"),
    ],
)
def test_resume_with_another_configuration(tmp_path, first, asked, message):
    train(tmp_path / "run", QUICK | first, stop_after=1)
    before = contents(tmp_path)
    with pytest.raises(RunError, match=message):
        train(tmp_path / "run", asked, resume=True)
    assert contents(tmp_path) == before


def test_resume_without_a_run(tmp_path):
    with pytest.raises(RunError, match="there is no run folder"):
        train(tmp_path / "run", {}, resume=True)
    (tmp_path / "run").mkdir()
    with pytest.raises(RunError, match="nothing to resume"):
        train(tmp_path / "run", {}, resume=True)


def test_nothing_is_written_before_the_checks(tmp_path):
    for given, message in (
        ({"data": "digitz"}, "unknown data set 'digitz'.*did you mean 'digits'"),
        ({"model": "google"}, "unknown model 'google'.*did you mean 'googlenet'"),
        ({"data": "image_folder", "root": str(tmp_path / "void")}, "is not a folder"),
        ({"data": "cifar10"}, "cifar10 needs root"),
        ({"count": 5000}, "count is 5000, but digits/train has 1297 images"),
        ({"model": "googlenet", "size": 32}, "takes images of 224 x 224"),
    ):
        with pytest.raises((RecipeError, data.DatasetError), match=message):
            train(tmp_path / "run", given)
    (tmp_path / "empty").mkdir()
    with pytest.raises(data.DatasetError, match="is empty"):
        train(tmp_path / "run", {"data": "image_folder", "root": str(tmp_path / "empty")})
    assert not (tmp_path / "run").exists()


def test_a_truncated_checkpoint_is_refused_and_the_other_one_named(tmp_path, whole):
    train(tmp_path / "run", stop_after=1)
    last = tmp_path / "run/checkpoints/last.safetensors"
    last.write_bytes(last.read_bytes()[:-100])
    before = contents(tmp_path)
    with pytest.raises(checkpoint.CheckpointError, match=r"truncated.*best\.safetensors.*is whole"):
        train(tmp_path / "run", {}, resume=True)
    assert contents(tmp_path) == before
    last.write_bytes((tmp_path / "run/checkpoints/best.safetensors").read_bytes())
    assert train(tmp_path / "run", {}, resume=True).weights_sha256 == whole[0].weights_sha256


def test_a_full_disk_loses_nothing(tmp_path, whole, monkeypatch):
    real, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) > 6:  # file and folder of best and last after epoch 1, then in epoch 2
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*safetensors .*ENOSPC") as caught:
        train(tmp_path / "run")
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.setattr(os, "fsync", real)
    assert not list(tmp_path.rglob("*.tmp"))
    assert train(tmp_path / "run", {}, resume=True).weights_sha256 == whole[0].weights_sha256
    assert losses(tmp_path / "run") == whole[1]


def test_a_full_disk_under_the_metrics(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.create(resolve(QUICK))
    (tmp_path / "run" / "metrics.jsonl").symlink_to("/dev/full")
    run.add_metrics({"kind": "step"})
    with pytest.raises(OSError, match=r"cannot write .*metrics\.jsonl.*ENOSPC"):
        run.flush()


def test_two_processes_do_not_share_a_run(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.create(resolve(QUICK))
    with run.locked(), pytest.raises(RunError, match="in use by another process"):
        train(tmp_path / "run", {}, resume=True)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    with pytest.raises(loop.TrainingError, match="lower --lr"), np.errstate(all="ignore"):
        train(tmp_path / "run", QUICK | {"lr": 1e30, "epochs": 3})


def test_find_run(tmp_path):
    with pytest.raises(RunError, match="there are no runs"):
        find_run("a", tmp_path)
    for age, name in enumerate("ab"):
        RunFolder(tmp_path / name).create(resolve(QUICK))
        os.utime(tmp_path / name / "config.toml", (age, age))
    assert find_run("a", tmp_path).path == tmp_path / "a"
    assert find_run(None, tmp_path).path == tmp_path / "b"
    assert find_run(str(tmp_path / "a"), "nowhere").path == tmp_path / "a"
    with pytest.raises(RunError, match="runs there: a, b"):
        find_run("c", tmp_path)


# ---------------------------------------------------------------- networks and data


@pytest.mark.parametrize("name", networks.MODELS)
def test_branches_cover_the_output(name):
    net = networks.build(name, 10, (224, 224, 3), 0)
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
    trained = judging.load_trained(Path(whole[0].folder) / "checkpoints/last.safetensors")
    dataset = load_split(trained.recipe, "test")
    trained.net.train()
    result = judging.evaluate(trained.net, dataset, trained.recipe.augment(), batch_size=7)
    assert trained.net.training
    assert result.accuracy == whole[0].test_accuracy
    assert result.loss == pytest.approx(whole[0].test_loss, rel=1e-6)
    counts = result.confusion()
    assert counts.sum() == len(dataset)
    assert np.trace(counts) / len(dataset) == result.accuracy
    assert np.array_equal(counts.sum(axis=1), np.bincount(dataset.labels, minlength=10))
    assert result.by_size() == []


def test_accuracy_by_size():
    shapes = data.load("shapes", "test", count=50)
    right = judging.Evaluation(shapes, shapes.labels.copy(), 0.0)
    rows = right.by_size()
    assert sum(row["images"] for row in rows) == 50
    assert all(row["accuracy"] == 1 for row in rows)
    small = shapes.diameters < 9
    wrong = judging.Evaluation(shapes, np.where(small, -1, shapes.labels), 0.0).by_size()
    assert [row["accuracy"] for row in wrong] == [0, 1, 1, 1]


def test_prediction_of_files(tmp_path, whole):
    image = pytest.importorskip("PIL.Image", reason="extra `train`")
    trained = judging.load_trained(Path(whole[0].folder) / "checkpoints/last.safetensors")
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
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint of a training run"):
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


def test_counting_tells_a_reporter():
    stream = io.StringIO()
    with progress.Counting(progress.Plain(stream), "checking", "file") as tell:
        for done in range(1, 4):
            tell(done, 3)
    assert stream.getvalue() == ""  # took no ten seconds


def test_pictures_of_a_run(tmp_path):
    from PIL import Image

    train(tmp_path / "run", QUICK | {"epochs": 1}, with_baselines=True)
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
    assert (picture[:, 0] == 1).all() and (picture[4:, 4:] == 1).all()


def test_output_of_a_module_inside_a_network():
    net = networks.build("tiny_inception", 10, (8, 8, 1), 0)
    x = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    name, module = figures.first_module(net)
    assert name == "inception_a"
    y = figures.output_of(net, module, x)
    net.eval()
    wanted = module(net.pool1(net.conv1(x))).data
    assert np.array_equal(y, wanted)
    assert "forward" not in vars(module)
