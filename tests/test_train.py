"""Training: the run folder, resume to the bit, stops, refusals and faults."""

import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from training import QUICK, at_step, fail, metrics, quick, train, without_pictures  # noqa: F401

import pyinception as pyi
from pyinception import checkpoint, data
from pyinception.train import evaluation as judging
from pyinception.train import loop
from pyinception.train.progress import Silent
from pyinception.train.recipe import RecipeError, read_toml, resolve
from pyinception.train.run_folder import RunError, RunFolder, find_run

FOUR = QUICK | {"epochs": 4}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of four epochs that nothing interrupted: its outcome and its losses."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        without_pictures(patch)
        outcome = train(folder, FOUR)
    return outcome, losses(folder)


def losses(folder):
    """What metrics.jsonl says, without the clock's part."""
    kept = ("kind", "epoch", "step", "loss", "accuracy", "lr", "test_loss", "test_accuracy")
    return [{key: line[key] for key in kept if key in line} for line in metrics(folder)]


def contents(folder):
    return {p: p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


# ---------------------------------------------------------------- the run folder


def test_run_folder(whole):
    outcome, lines = whole
    folder = Path(outcome.folder)
    recipe = resolve(read_toml(folder / "config.toml"))
    assert recipe == resolve(FOUR)
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
    assert losses(tmp_path / "same") == whole[1][:7]  # 5 steps, a look into the first, an epoch
    assert other.weights_sha256 != same.weights_sha256
    assert losses(tmp_path / "other")[0] != whole[1][0]


# ---------------------------------------------------------------- resume to the bit


@pytest.mark.parametrize("threads", [1, 2])
def test_resume_after_whole_epochs(tmp_path, whole, threads):
    with pyi.using(threads=3 - threads):
        first = train(tmp_path / "run", FOUR, stop_after=2)
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
    at_step(monkeypatch, at - 1, lambda: os.kill(os.getpid(), 2))
    first = train(tmp_path / "run", FOUR)
    assert (first.signal, first.steps) == (2, at)
    second = train(tmp_path / "run", {}, resume=True)
    assert second.weights_sha256 == whole[0].weights_sha256
    assert losses(tmp_path / "run") == whole[1]


@pytest.mark.parametrize("at", [1, 8])
def test_resume_after_a_crash(tmp_path, whole, at, monkeypatch):
    """Metrics written after the last checkpoint are dropped, not doubled."""
    at_step(monkeypatch, at, fail)
    with pytest.raises(MemoryError):
        train(tmp_path / "run", FOUR)
    assert len(losses(tmp_path / "run")) > at - 1
    second = train(tmp_path / "run", {}, resume=True)
    assert second.weights_sha256 == whole[0].weights_sha256
    assert losses(tmp_path / "run") == whole[1]


def test_checkpoints_inside_a_long_epoch(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    at_step(monkeypatch, 3, fail)
    with pytest.raises(MemoryError):
        train(tmp_path / "run", FOUR)
    saved = checkpoint.load(tmp_path / "run" / "checkpoints" / "last.safetensors").record["state"]
    assert (saved["epoch"], saved["batch"], saved["seen"]) == (0, 3, 48)
    assert train(tmp_path / "run", {}, resume=True).weights_sha256 == whole[0].weights_sha256


def test_resume_of_a_finished_run_changes_no_weight(tmp_path):
    told: list[str] = []
    reporter = Silent()
    reporter.line = told.append  # type: ignore[method-assign]
    how = {"with_baselines": True, "report": reporter}
    train(tmp_path / "run", QUICK | {"epochs": 1}, **how)
    assert sum("on test (" in line for line in told) == 4
    before = (tmp_path / "run/checkpoints/last.safetensors").read_bytes()
    told.clear()
    again = train(tmp_path / "run", {}, resume=True, **how)
    assert not any("on test (" in line for line in told) and len(again.baselines) == 4
    assert "the run is finished: 1 of 1 epochs; see --epochs" in told
    assert not any("resumed" in line for line in told)
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
    train(tmp_path / "run", FOUR | first, stop_after=1)
    before = contents(tmp_path)
    with pytest.raises(RunError, match=message):
        train(tmp_path / "run", asked, resume=True)
    assert contents(tmp_path) == before


def test_resume_after_the_data_set_changed(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="extra `train`")
    root = tmp_path / "data"
    for split in ("train", "test"):
        for name in "ab":
            (root / split / name).mkdir(parents=True)
            colour = {"a": "red", "b": "blue"}[name]
            image.new("RGB", (8, 8), colour).save(root / split / name / "0.png")
    given = {"data": "image_folder", "root": str(root), "size": 8, "model": "tiny_inception"}
    train(tmp_path / "run", given | {"epochs": 1})
    image.new("RGB", (8, 8)).save(root / "train" / "a" / "1.png")
    before = contents(tmp_path / "run")
    with pytest.raises(RunError, match="had 2 images of 2 classes, now 3 of 2"):
        train(tmp_path / "run", {"epochs": 2}, resume=True)
    assert contents(tmp_path / "run") == before


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
    train(tmp_path / "run", FOUR, stop_after=1)
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
        if len(calls) > 7:  # metrics, file, folder of best and last in epoch 1, then in epoch 2
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*safetensors .*ENOSPC") as caught:
        train(tmp_path / "run", FOUR)
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


def test_less_than_no_epoch_is_refused(tmp_path):
    with pytest.raises(ValueError, match="train: stop_after is -1, expected at least 0"):
        train(tmp_path / "run", stop_after=-1)
    assert not (tmp_path / "run").exists()
