"""The papers' recipes: every file runs, every entry does what it says, everything resumes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL", reason="extra `train`")

from training import QUICK, at_step, fail, metrics, quick, train  # noqa: F401

from pyinception import checkpoint, data, losses, models, optim, rng
from pyinception.cli import main
from pyinception.train import evaluation, loop, networks, papers
from pyinception.train.recipe import Recipe, RecipeError, describe, resolve
from pyinception.train.splits import First
from pyinception.train.update import Update

TINY = QUICK | {"count": 40, "epochs": 3}  # 3 steps an epoch
SMALL = {  # what makes a recipe small enough for a test, and nothing else
    "googlenet-bvlc-quick": {"data": "shapes", "count": 3},
    "googlenet-paper": {"data": "shapes", "count": 3},
    "inception-v3": {"data": "shapes", "size": 75, "aux": False, "count": 4},
    "bn-inception-x5": {"data": "shapes", "size": 64, "count": 4},
    "small-inception-cifar10": {"data": "shapes", "count": 4},
    "small-inception-digits": {"count": 4},
}


def tensors(path: Path) -> dict[str, bytes]:
    loaded = checkpoint.load(path)
    whole = {**loaded.model, **{f"optimizer/{name}": a for name, a in loaded.optimizer.items()}}
    return {name: array.tobytes() for name, array in whole.items()}


# ---------------------------------------------------------------- the files


def test_files_are_the_ones_tested():
    assert papers.names() == sorted(SMALL)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_every_entry_has_its_source(name):
    text = (papers.FOLDER / f"{name}.toml").read_text()
    entries = [line for line in text.splitlines() if re.match(r"\w+ = ", line)]
    assert len(entries) == len(papers.read(name))
    if name != "small-inception-digits":  # whose head says that all is ours
        bare = [line for line in entries if "#" not in line]
        plain = r"(data|padding|standardise|optimizer|schedule|model) = "
        assert all(re.match(plain, line) for line in bare), bare


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_recipe_trains(name):
    """Two steps of the whole recipe: loss finite, every weight moved, the average kept."""
    given = papers.read(name) | SMALL[name] | {"batch_size": 2}
    recipe = resolve(given)
    assert all(getattr(recipe, entry) == value or entry == "mean" for entry, value in given.items())
    images = data.load(recipe.data, "train", size=recipe.size or None)
    shape = recipe.augment().shape(images.shape)
    net = networks.build(recipe.model, len(images.classes), shape, recipe.seed, aux=recipe.aux)
    update = Update(recipe, net.train(), 2)
    before = {name: p.data.copy() for name, p in net.named_parameters()}
    found = data.batches(images, 2, seed=0, epoch=0, augment=recipe.augment())
    for _, batch in zip(range(2), found):
        assert batch.images.shape == (2, *shape)
        loss = loop.step(net, update, batch, recipe)[0]
        assert np.isfinite(loss)
    still = [name for name, p in net.named_parameters() if np.array_equal(p.data, before[name])]
    # A gamma is 1 at first, and a small step of it may round away.
    assert [name for name in still if not name.endswith("gamma")] == []
    assert (update.average is None) == (recipe.average == "none")


def test_cifar_from_its_own_format(tmp_path, monkeypatch, capsys):
    """The command, on files as CIFAR-10's binary version has them."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for file in [f"data_batch_{n}.bin" for n in range(1, 6)] + ["test_batch.bin"]:
        records = draw.integers(0, 256, (10_000, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(10_000) % 10
        (folder / file).write_bytes(records.tobytes())
    names = "airplane automobile bird cat deer dog frog horse ship truck".split()
    (folder / "batches.meta.txt").write_text("\n".join(names) + "\n")
    monkeypatch.chdir(tmp_path)
    line = "train --recipe small-inception-cifar10 --root cifar-10-batches-bin --no-baselines"
    small = "--count 24 --test-count 8 --batch-size 8 --epochs 2 --json"
    assert main.run([*line.split(), *small.split(), "--stop-after", "1"]) == 0
    assert main.run([*line.split(), *small.split(), "--resume"]) == 0
    first, second = re.findall(r"^\{.*?^\}", capsys.readouterr().out, re.M | re.S)
    assert json.loads(first)["steps"] == 3 and json.loads(second)["steps"] == 6
    trained = evaluation.load_trained(
        tmp_path / "runs/small-inception-cifar10-seed0/checkpoints/last.safetensors"
    )
    assert trained.classes == names and trained.shape == (32, 32, 3)
    assert (trained.recipe.crop, trained.recipe.gamma, trained.recipe.lr) == (28, 0.95, 0.1)


def test_the_command_tells_of_recipes(capsys):
    assert main.run(["train", "--recipe", "list"]) == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^{name} +\w", text, re.M) for name in papers.names())
    assert main.run(["train", "--recipe", "inception-v4"]) == 1
    assert "did you mean 'inception-v3'" in capsys.readouterr().err


# ---------------------------------------------------------------- entries


def test_a_run_is_the_loop_written_out(tmp_path):
    """Clipping, smoothing, RMSProp and the average: the bits of a loop that calls each by hand."""
    given = TINY | {"optimizer": "rmsprop", "lr": 0.02, "clip": 0.5, "label_smoothing": 0.2}
    given |= {"average": "ema", "average_decay": 0.6, "schedule": "exponential", "every": 0.5}
    train(tmp_path / "run", given)
    recipe = resolve(given)
    images = data.load("digits", "train", size=8)
    net = networks.build("tiny_inception", 10, (8, 8, 1), 0).train()
    schedule = optim.exponential(0.02, recipe.gamma, 2)  # half of 3 steps, rounded to even
    optimizer = optim.RMSProp(net, schedule, weight_decay=recipe.weight_decay)
    average = optim.Average(net, 0.6)
    first = First(images, 40)
    for epoch in range(3):
        for batch in data.batches(first, 16, seed=0, epoch=epoch, augment=recipe.augment()):
            with rng.at(0, optimizer.iteration):
                loss = losses.cross_entropy(net(batch.images), batch.labels, label_smoothing=0.2)
                loss.backward()
                assert optim.clip_gradients(net, 0.5) > 0.5
                optimizer.step()
            average.update()
    saved = checkpoint.load(tmp_path / "run/checkpoints/last.safetensors")
    for name, array in net.state_dict().items():
        assert np.array_equal(saved.model[name], array), name
        assert np.array_equal(saved.optimizer[f"average/{name}"], average.average[name]), name
    assert saved.optimizer["average/count"] == 9


@pytest.mark.parametrize(
    "more",
    [
        {"optimizer": "nesterov", "average": "ema", "average_decay": 0.9, "clip": 1.0},
        {"optimizer": "rmsprop_torch", "lr": 0.001, "rmsprop_eps": 0.01, "label_smoothing": 0.1},
        {
            "optimizer": "rmsprop",
            "average": "tail",
            "average_from": 1,
            "crop": 6,
            "photometric": 1.0,
        },
        {"crop_area": 0.3, "interpolation": "random", "photometric": 1.0, "schedule": "cosine"},
    ],
    ids=["nesterov", "rmsprop_torch", "rmsprop", "sampled"],
)
def test_resume_to_the_bit(tmp_path, monkeypatch, more):
    given = TINY | more
    whole = train(tmp_path / "whole", given)
    at_step(monkeypatch, 5, fail)
    with pytest.raises(MemoryError):
        train(tmp_path / "run", given, checkpoint_steps=1)
    again = train(tmp_path / "run", {}, resume=True)
    assert again.weights_sha256 == whole.weights_sha256
    last = "checkpoints/last.safetensors"
    assert tensors(tmp_path / "run" / last) == tensors(tmp_path / "whole" / last)
    plain = train(tmp_path / "plain", TINY)
    assert plain.weights_sha256 != whole.weights_sha256


@pytest.mark.parametrize("more", [{"average": "ema"}, {"average": "tail", "average_from": 2}])
def test_the_average_is_what_is_judged(tmp_path, more):
    train(tmp_path / "run", TINY | more)
    lines = metrics(tmp_path / "run")
    epochs = [line for line in lines if line["kind"] == "epoch"]
    last = tmp_path / "run/checkpoints/last.safetensors"
    saved, trained = checkpoint.load(last), evaluation.load_trained(last)
    for name, array in trained.net.state_dict().items():
        assert np.array_equal(array, saved.optimizer[f"average/{name}"])
    assert any(not np.array_equal(saved.model[n], a) for n, a in trained.net.state_dict().items())
    test = loop.load_split(trained.recipe, "test")
    found = evaluation.evaluate(trained.net, test, trained.recipe.augment(), batch_size=16)
    assert found.loss == epochs[-1]["test_loss"]
    assert saved.optimizer["average/count"] == (9 if "average_from" not in more else 3)


def test_a_tail_that_has_not_begun_judges_the_weights(tmp_path):
    train(tmp_path / "run", TINY | {"average": "tail", "average_from": 2}, stop_after=1)
    last = tmp_path / "run/checkpoints/last.safetensors"
    saved, trained = checkpoint.load(last), evaluation.load_trained(last)
    assert saved.optimizer["average/count"] == 0
    assert all(np.array_equal(saved.model[n], a) for n, a in trained.net.state_dict().items())


def test_schedules_of_the_papers():
    eight = Recipe(lr=1.0, gamma=0.96, every=8.0, epochs=20).lr_at(10)
    assert [eight(0), eight(79), eight(80), eight(160)] == [1, 1, 0.96, 0.96**2]
    two = Recipe(lr=0.045, gamma=0.94, every=2.0, schedule="exponential").lr_at(10)
    assert [two(0), two(10), two(20)] == pytest.approx([0.045, 0.045 * 0.94**0.5, 0.045 * 0.94])
    third = Recipe(lr=1.0, gamma=0.5, every=1 / 3).lr_at(9)
    assert [third(2), third(3), third(9)] == [1, 0.5, 0.125]
    assert Recipe(lr=1.0, schedule="poly", power=2.0, epochs=2).lr_at(5)(5) == 0.25


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optimizer": "rmsporp"}, "optimizer is 'rmsporp'.*did you mean 'rmsprop'"),
        ({"average": "polyak"}, "average is 'polyak', expected none, ema, tail"),
        ({"average": "tail", "average_from": 8}, "average_from is 8, expected less than epochs, 8"),
        ({"label_smoothing": 1.0}, r"label_smoothing is 1.0, expected \[0, 1\)"),
        ({"every": 0.0}, "every is 0.0, expected more than 0"),
        ({"photometric": 1.5}, "photometric is 1.5, expected 0 ... 1"),
        ({"interpolation": "random"}, "interpolation is 'random', but without crop_area below 1"),
    ],
)
def test_entries_that_are_refused(given, message):
    with pytest.raises(RecipeError, match=message):
        resolve(given)


def test_every_entry_is_described():
    about = describe()
    assert [line["name"] for line in about] == list(Recipe().as_dict())
    for line in about:
        assert len(line["about"]) > 5 and line["default"] == Recipe().as_dict()[line["name"]]
    options = subprocess.run(
        [sys.executable, "-m", "pyinception.cli.main", "train", "--help-config"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = options.stdout.splitlines()
    assert [row.split()[0] for row in rows[1:]] == [line["name"] for line in about]
    assert any("0.0005" in row and "of weights only" in row for row in rows)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batchsize": 3}, "unknown entry 'batchsize'; did you mean 'batch_size'"),
        ({"crop_area": 0.0}, r"crop_area is 0.0, expected \(0, 1\]"),
        ({"mean": [0.5, "x", 0.5]}, r"mean is .*, expected list of numbers"),
        ({"mean": 0.5}, "mean is 0.5, expected list of numbers"),
        ({"mean": [float("nan")]}, "expected list of numbers"),
        ({"bad_images": "skp"}, "bad_images is 'skp', expected stop, skip; did you mean 'skip'"),
        ({"data": "mnist:/x", "root": "/y"}, "names a folder, and root '/y'"),
    ],
)
def test_entries_of_data_that_are_refused(given, message):
    with pytest.raises(RecipeError, match=message):
        resolve(given)


def test_a_crop_larger_than_the_image_leaves_nothing(tmp_path):
    with pytest.raises(RecipeError, match="crop is 9, digits has 8 x 8 pixels"):
        train(tmp_path / "run", TINY | {"crop": 9})
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- networks by name


def test_every_network_has_a_name_here():
    functions = {name for name in models.__all__ if name.islower()}
    assert set(networks.MODELS) == functions | {"tiny_inception"}


def test_images_that_a_network_cannot_take():
    with pytest.raises(RecipeError, match=r"inception_v3 takes no images of 75 x 75; without aux"):
        networks.build("inception_v3", 4, (75, 75, 3), 0)
    with pytest.raises(RecipeError, match=r"network_in_network takes no images of 32 x 32 \("):
        networks.build("network_in_network", 4, (32, 32, 3), 0)


def test_the_probe_leaves_no_trace():
    net = networks.build("googlenet_bn", 4, (32, 32, 3), 7)
    fresh = models.googlenet_bn(4, seed=7)
    assert net.training == fresh.training
    assert all(np.array_equal(net.state_dict()[n], a) for n, a in fresh.state_dict().items())
