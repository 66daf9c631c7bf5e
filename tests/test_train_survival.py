"""Runs that survive: pictures, other places, damage, full disks, and where a run may be cut."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL", reason="extra `train`")

from PIL import Image
from training import QUICK, at_step, fail, metrics, quick, train  # noqa: F401

import pyinception as pyi
from pyinception import checkpoint, data
from pyinception.train import evaluation as judging
from pyinception.train import loop
from pyinception.train.recipe import RecipeError, read_toml, resolve
from pyinception.train.run_folder import RunError, RunFolder

DIGITS = QUICK | {"count": 40, "test_count": 16}  # 3 steps an epoch
# 4 steps an epoch, sampled crops and shifts.
PICTURES = {
    "data": "image_folder",
    "size": 8,
    "model": "tiny_inception",
    "batch_size": 4,
    "epochs": 2,
    "crop_area": 0.3,
    "padding": 1,
    "mean": [0.5, 0.4, 0.3],
}


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Thirteen pictures to train on and six to test, of two classes."""
    draw = np.random.default_rng(1)
    for n in range(19):
        path = tmp_path / "data" / ("train" if n < 13 else "test") / "ab"[n % 2] / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (14 + n % 3, 12, 3), dtype=np.uint8) // (1 + n % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tmp_path / "data"


def lines(folder: Path) -> list[dict]:
    clock = ("seconds", "images_per_second", "data_share", "roofline", "clock")
    return [{k: v for k, v in line.items() if k not in clock} for line in metrics(folder)]


# ---------------------------------------------------------------- any step, any worker, any place


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (1, 2)])
def test_resume_with_other_workers_and_threads(tmp_path, pictures, monkeypatch, before, after):
    given = PICTURES | {"root": str(pictures)}
    whole = train(tmp_path / "whole", given)
    at_step(monkeypatch, 5, lambda: os.kill(os.getpid(), 2))
    first = train(tmp_path / "run", given, workers=before)
    assert (first.signal, first.steps) == (2, 6)
    with pyi.using(threads=2):
        second = train(tmp_path / "run", {}, resume=True, workers=after)
    assert second.weights_sha256 == whole.weights_sha256
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


@pytest.mark.parametrize("every", [1, 2, 3])
def test_no_more_than_the_steps_since_the_checkpoint_are_lost(tmp_path, monkeypatch, every):
    whole = train(tmp_path / "whole", DIGITS)
    at_step(monkeypatch, 2, fail)
    with pytest.raises(MemoryError):
        train(tmp_path / "run", DIGITS, checkpoint_steps=every)
    last = tmp_path / "run/checkpoints/last.safetensors"
    assert last.exists() == (every <= 2)
    if last.exists():
        state = checkpoint.load(last).record["state"]
        assert state["batch"] == 2 // every * every
        # The metrics on disk when it was saved are whole lines, one for each step.
        content = (tmp_path / "run/metrics.jsonl").read_bytes()[: state["metrics"]]
        assert content.endswith(b"\n")
        assert content.count(b'{"kind": "step"') == state["batch"]
    again = train(tmp_path / "run", {}, resume=True)
    assert again.weights_sha256 == whole.weights_sha256
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")
    with pytest.raises(ValueError, match="checkpoint_steps is -1"):
        train(tmp_path / "other", DIGITS, checkpoint_steps=-1)
    assert not (tmp_path / "other").exists()


def test_a_run_folder_and_its_data_move(tmp_path, pictures, monkeypatch):
    given = PICTURES | {"root": str(pictures)}
    whole = train(tmp_path / "whole", given)
    train(tmp_path / "runs" / "run", given, stop_after=1)
    for path in (tmp_path / "runs").rglob("*"):
        if path.is_file():
            assert str(tmp_path).encode() not in path.read_bytes(), path
    # Together: the way from one to the other is the same.
    (tmp_path / "new").mkdir()
    (tmp_path / "runs").rename(tmp_path / "new" / "runs")
    shutil.copytree(pictures, tmp_path / "new" / "data")
    pictures.rename(tmp_path / "hidden")
    shutil.copytree(tmp_path / "new" / "runs" / "run", tmp_path / "elsewhere" / "deep" / "run")
    monkeypatch.chdir("/")
    moved = train(tmp_path / "new" / "runs" / "run", {}, resume=True)
    assert moved.weights_sha256 == whole.weights_sha256
    # The run alone: the data's place has to be told.
    alone = tmp_path / "elsewhere" / "deep" / "run"
    with pytest.raises(RunError, match=r"are no longer at .*give their place with --root"):
        train(alone, {}, resume=True)
    told = train(alone, {"data": f"image_folder:{tmp_path / 'hidden'}"}, resume=True)
    assert told.weights_sha256 == whole.weights_sha256
    assert lines(alone) == lines(tmp_path / "whole")
    # From now on it knows, and so does whoever judges its checkpoint.
    found = judging.load_trained(alone / "checkpoints" / "last.safetensors").recipe
    assert Path(found.root) == tmp_path / "hidden"


def test_other_pictures_under_the_same_names_of_classes_are_refused(tmp_path, pictures):
    train(tmp_path / "run", PICTURES | {"root": str(pictures)}, stop_after=1)
    (pictures / "train/a/0.png").rename(pictures / "train/a/00.png")
    with pytest.raises(RunError, match="holds other images, by labels or file names"):
        train(tmp_path / "run", {}, resume=True)


# ---------------------------------------------------------------- pictures that cannot be read


def shards_of(pictures: Path, shards: Path, bad: list[str]) -> Path:
    """The pictures as tar files; those named ``bad`` are none."""
    shards.mkdir()
    for split in ("train", "test"):
        with tarfile.open(shards / f"{split}.tar", "w") as archive:
            for path in sorted((pictures / split).rglob("*.png")):
                content = b"not a picture" if path.name in bad else path.read_bytes()
                label = b"%d" % "ab".index(path.parent.name)
                for name, part in ((path.name, content), (f"{path.stem}.cls", label)):
                    member = tarfile.TarInfo(name)
                    member.size = len(part)
                    archive.addfile(member, io.BytesIO(part))
    return shards


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_pictures_are_named_and_not_trained_on(tmp_path, pictures, workers):
    shards = shards_of(pictures, tmp_path / "shards", bad=["4.png", "14.png"])
    given = {**PICTURES, "data": f"tar:{shards}"}
    with pytest.raises(data.DatasetError, match=r"tar: train.tar: 4: not an image"):
        train(tmp_path / "stops", given, workers=workers)
    outcome = train(tmp_path / "run", given | {"bad_images": "skip"}, workers=workers)
    assert outcome.steps == 8
    found = lines(tmp_path / "run")
    named = [line for line in found if line["kind"] == "skipped"]
    assert [line["epoch"] for line in named] == [0, 1]
    assert all(line["picture"].startswith("train.tar: 4: not an image") for line in named)
    trained = judging.load_trained(tmp_path / "run/checkpoints/last.safetensors")
    test = data.load("tar", "test", root=shards, size=8)
    result = judging.evaluate(trained.net, test, trained.recipe.augment(), bad="skip")
    assert result.as_dict()["unread"] == 1 and result.confusion().sum() == len(test) - 1
    assert result.accuracy == outcome.test_accuracy <= 1 - 1 / len(test)
    ones = given | {"bad_images": "skip", "batch_size": 1, "epochs": 1}  # a batch of none
    alone = train(tmp_path / "ones", ones, workers=workers)
    assert alone.steps == len(data.load("tar", "train", root=shards, size=8)) - 1


@pytest.mark.parametrize(
    "split, told",
    [("train", "not one picture of an epoch could be read"), ("test", "not one picture could be")],
)
def test_a_split_without_one_whole_picture_is_an_error(tmp_path, pictures, split, told):
    bad = [path.name for path in (pictures / split).rglob("*.png")]
    shards = shards_of(pictures, tmp_path / "shards", bad)
    given = {**PICTURES, "data": f"tar:{shards}", "bad_images": "skip", "epochs": 1}
    with pytest.raises(data.DatasetError, match=told):
        train(tmp_path / "run", given)


def test_workers_need_files_of_pictures(tmp_path):
    with pytest.raises(ValueError, match="workers is 1, but digits lies in memory"):
        train(tmp_path / "run", DIGITS, workers=1)
    with pytest.raises(RecipeError, match="mean has 3 values, digits 1 channels"):
        train(tmp_path / "run", DIGITS | {"mean": [0.1, 0.2, 0.3]})
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- full disks, unfinished folders


LIMITED = """
import resource, sys
from pyinception.train import loop
for name in ("draw_curves", "draw_filters", "draw_features", "write_report"):
    setattr(loop, name, lambda *given, **how: None)
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # SIGXFSZ is ignored: write() fails
loop.train({}, sys.argv[1], resume=True, checkpoint_steps=1, with_baselines=False)
"""


def test_a_write_that_fails_midway_loses_nothing(tmp_path):
    """A real quota: write() stores a part of the checkpoint, then refuses."""
    whole = train(tmp_path / "whole", DIGITS)
    train(tmp_path / "run", DIGITS, stop_after=1)
    last = tmp_path / "run/checkpoints/last.safetensors"
    before = last.read_bytes()
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "run"), str(len(before) - 4096)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and last.read_bytes() == before
    message = done.stderr.strip().splitlines()[-1]
    assert "cannot write" in message and "last.safetensors" in message and "EFBIG" in message
    assert not list(tmp_path.rglob("*.tmp"))
    assert train(tmp_path / "run", {}, resume=True).weights_sha256 == whole.weights_sha256
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_disk_that_fills_midway_through_a_checkpoint(tmp_path, monkeypatch, share):
    whole = train(tmp_path / "whole", DIGITS)
    real = os.fdopen

    class Full:
        """A file on a disk with room for a part of what is written."""

        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, content):
            self.file.write(content[: int(share * len(content))])
            self.file.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    at_step(
        monkeypatch,
        4,
        lambda: monkeypatch.setattr(checkpoint.os, "fdopen", lambda *a: Full(real(*a))),
    )
    with pytest.raises(OSError, match=r"cannot write .*safetensors .*ENOSPC"):
        train(tmp_path / "run", DIGITS, checkpoint_steps=1)
    monkeypatch.setattr(checkpoint.os, "fdopen", real)
    state = checkpoint.load(tmp_path / "run/checkpoints/last.safetensors").record["state"]
    assert (state["epoch"], state["batch"]) == (1, 1)  # step 5 was under way
    assert not list(tmp_path.rglob("*.tmp"))
    assert train(tmp_path / "run", {}, resume=True).weights_sha256 == whole.weights_sha256
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_a_folder_whose_making_was_killed_is_taken_over(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    (run.path / ".config.toml.abc.tmp").write_bytes(b"data = ")
    with pytest.raises(RunError, match=r"holds no config.toml: nothing to resume"):
        train(tmp_path / "run", {}, resume=True)
    assert train(tmp_path / "run", DIGITS | {"epochs": 1}).steps == 3
    (run.path / ".metrics.jsonl.abc.tmp").write_bytes(b"")
    (run.checkpoints / ".last.safetensors.abc.tmp").write_bytes(b"half")
    train(tmp_path / "run", {"epochs": 2}, resume=True)
    assert not list(tmp_path.rglob("*.tmp"))
    (tmp_path / "notes" / "checkpoints").mkdir(parents=True)
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(RunError, match="exists and is no run folder"):
        train(tmp_path / "notes", DIGITS)


def test_metrics_are_cut_to_the_checkpoint(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.create(resolve(DIGITS))
    assert run.sync_metrics() == 0
    run.cut_metrics(0)
    for step in range(3):
        run.add_metrics({"kind": "step", "step": step})
    length = run.sync_metrics()
    run.add_metrics({"kind": "step", "step": 3})
    run.close()
    content = run.metrics_path.read_bytes()
    run.cut_metrics(length)
    assert run.metrics_path.read_bytes() == content[:length]
    run.metrics_path.write_bytes(content[: length - 4])  # shorter than it should be
    run.cut_metrics(length)
    assert [line["step"] for line in run.metrics("step")] == [0, 1]
    assert run.metrics_path.read_bytes().endswith(b"\n")


# ---------------------------------------------------------------- configuration


def test_data_says_kind_and_place(tmp_path, pictures):
    found = resolve({"data": str(pictures)})
    assert (found.data, found.root, found.mirror) == ("image_folder", str(pictures), True)
    assert resolve({"data": f"tar:{pictures}"}).data == "tar"
    assert resolve({"data": "mnist", "root": "x"}).mirror is False
    stored = found.portable(tmp_path / "runs" / "a")
    assert stored.root == "../../data" and stored.located(tmp_path / "runs" / "a") == found
    (tmp_path / "config.toml").write_text(resolve(PICTURES | {"root": "x"}).to_toml())
    assert resolve(read_toml(tmp_path / "config.toml")).mean == (0.5, 0.4, 0.3)


# ---------------------------------------------------------------- cut between training and judging


def test_an_epochs_steps_are_safe_before_it_is_judged(tmp_path, monkeypatch):
    """kill -9 while the test images are looked at: the resumed run has the bits of a whole one."""

    def killed(*args, **how):
        raise KeyboardInterrupt

    train(tmp_path / "whole", DIGITS)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "cut", DIGITS)
    record = checkpoint.load(tmp_path / "cut/checkpoints/last.safetensors").record
    assert record["state"]["batch"] == 3 and record["state"]["epoch"] == 0
    train(tmp_path / "cut", DIGITS, resume=True)
    states = [
        checkpoint.load(tmp_path / name / "checkpoints/last.safetensors").model
        for name in ("whole", "cut")
    ]
    assert states[0].keys() == states[1].keys()
    assert all(states[0][name].tobytes() == states[1][name].tobytes() for name in states[0])


def test_a_machine_without_memory_costs_no_picture(tmp_path, pictures, monkeypatch):
    def out_of_memory(*args):
        raise MemoryError

    path = next((pictures / "train").rglob("*.png"))
    monkeypatch.setattr(data.picture, "_fit", out_of_memory)
    with pytest.raises(MemoryError):
        data.picture.read_picture(path, (8, 8))
    monkeypatch.setattr(
        data.picture, "_fit", lambda *args: (_ for _ in ()).throw(OSError(errno.EMFILE, "files"))
    )
    with pytest.raises(OSError, match="files"):
        data.picture.read_picture(path, (8, 8))
