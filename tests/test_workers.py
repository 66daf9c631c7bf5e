"""Worker processes: the same bits for any number, faults by name, nothing left behind."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from pyinception import data
from pyinception.data import Augment, DatasetError, WorkerError, Workers, batches
from pyinception.data.augment import sampled_box
from pyinception.data.decode import Request

Image = pytest.importorskip("PIL.Image", reason="image files need Pillow (extra train)")

CHANCE = Augment(padding=1, mirror=True, mean=(0.5, 0.4, 0.3), area=0.08)
PAPER = Augment(crop=13, mirror=True, area=0.08, interpolation="random", photometric=1, scale=2)
CAFFE = Augment(crop=14, mirror=True, scale=255)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine JPEGs of three classes, each of another size."""
    root = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    for n in range(18):
        path = root / ("train" if n < 9 else "test") / "abc"[n % 3] / f"{n}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (20 + n, 40 - n, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, quality=90)
    return root


def pictures(folder: Path, **options) -> data.Pictures:
    found = data.load("image_folder", root=folder, size=16, **{"check": False} | options)
    assert isinstance(found, data.Pictures)
    return found


def walk(dataset: data.Dataset, workers: Workers | None, augment: Augment = CHANCE, **how) -> list:
    """SHA-256 of every batch of two epochs."""
    digests = []
    for epoch in range(2):
        for batch in batches(
            dataset, 4, seed=3, epoch=epoch, augment=augment, workers=workers, **how
        ):
            content = batch.images.tobytes() + batch.labels.tobytes() + batch.indices.tobytes()
            digests.append((batch.step, batch.images.shape, hashlib.sha256(content).hexdigest()))
    return digests


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(
    "augment",
    [CHANCE, PAPER, CAFFE, Augment(standardise=True)],
    ids=["sampled", "paper", "caffe", "fixed"],
)
def test_the_same_bits_for_any_number_of_workers(folder, count: int, augment: Augment) -> None:
    dataset = pictures(folder)
    alone = walk(dataset, None, augment)
    shape = augment.shape((16, 16, 3))
    assert [found for _, found, _ in alone] == [(4, *shape), (4, *shape), (1, *shape)] * 2
    assert len({digest for _, _, digest in alone}) == 6
    with Workers(count) as workers:
        assert walk(dataset, workers, augment) == alone
        assert len(workers.pids) == count
        assert walk(dataset, workers, augment, start=2) == alone[2::3]
    assert walk(pictures(folder, check=True), None, augment) == alone  # checked and in memory


def test_a_walk_left_early_does_not_spoil_the_next(folder) -> None:
    dataset = pictures(folder)
    alone = walk(dataset, None)
    with Workers(2) as workers:
        first = next(iter(batches(dataset, 4, seed=9, epoch=0, augment=CHANCE, workers=workers)))
        assert first.step == 0
        assert walk(dataset, workers) == alone
        one = batches(dataset, 4, seed=9, epoch=0, workers=workers)
        next(one)
        other = batches(dataset, 4, seed=9, epoch=0, workers=workers)
        next(other)
        with pytest.raises(RuntimeError, match="another walk began"):
            list(one)
        # A larger batch needs more memory, and gets it.
        (batch,) = batches(dataset, 9, seed=3, epoch=0, augment=CHANCE, workers=workers)
        assert batch.images.shape == (9, 16, 16, 3)


def test_sets_in_memory_need_no_worker(folder) -> None:
    shapes = data.load("shapes", count=9)
    with Workers(1) as workers:
        assert walk(shapes, workers, Augment(mirror=True)) == walk(
            shapes, None, Augment(mirror=True)
        )
        walk(pictures(folder, check=True), workers, Augment(mirror=True))
        assert workers.pids == []
        with pytest.raises(ValueError, match="workers run an Augment, got augment"):
            batches(
                pictures(folder), 2, seed=0, epoch=0, workers=workers, augment=lambda x, i, **k: x
            )
    for count in (0, 101):
        with pytest.raises(ValueError, match=f"count is {count}, expected 1 ... 100"):
            Workers(count)


def test_sampled_crops_of_a_set_in_memory() -> None:
    shapes = data.load("shapes", count=4)
    (plain,) = batches(shapes, 4, seed=0, epoch=0, shuffle=False)
    (batch,) = batches(shapes, 4, seed=0, epoch=0, shuffle=False, augment=Augment(area=0.2))
    assert batch.images.shape == plain.images.shape and (batch.images != plain.images).any()
    alone = [
        next(
            iter(
                batches(
                    shapes, 1, seed=0, epoch=0, shuffle=False, augment=Augment(area=0.2), start=n
                )
            )
        )
        for n in range(4)
    ]
    assert np.concatenate([one.images for one in alone]).tobytes() == batch.images.tobytes()


# --- sampled boxes ----------------------------------------------------------------------------


def test_boxes_have_their_share_and_aspect_and_lie_inside() -> None:
    shares, aspects, centres = [], [], []
    for index in range(3000):
        width, height = 300 + index % 7, 280
        box = sampled_box(width, height, area=0.08, seed=1, epoch=2, index=index)
        assert box is not None
        left, top, right, bottom = box
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        shares.append((right - left) * (bottom - top) / (width * height))
        aspects.append((right - left) / (bottom - top))
        centres.append(left / (width - (right - left)))
    assert 0.08 <= min(shares) < 0.09 and 0.9 < max(shares) <= 1
    assert 0.75 - 1e-9 <= min(aspects) < 0.76 and 1.32 < max(aspects) <= 4 / 3 + 1e-9
    # Boxes near the whole area do not fit at every aspect, so the mean is below 0.54.
    assert 0.46 < np.mean(shares) < 0.54
    assert abs(np.mean(np.log(aspects))) < 0.02 and abs(np.mean(centres) - 0.5) < 0.02


def test_boxes_depend_on_seed_epoch_and_index_alone() -> None:
    def box(**changed: int):
        return sampled_box(90, 60, area=0.1, **{"seed": 1, "epoch": 2, "index": 3} | changed)

    assert box() == box()
    assert len({box(), box(seed=2), box(epoch=3), box(index=4)}) == 4
    assert sampled_box(2000, 10, area=1.0, seed=0, epoch=0, index=0) is None  # nothing fits


# --- faults -----------------------------------------------------------------------------------


@pytest.fixture
def damaged(folder, tmp_path) -> Path:
    for path in sorted(folder.rglob("*.jpg")):
        copy = tmp_path / "data" / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (tmp_path / "data/train/b/4.jpg").write_bytes(b"no picture")
    return tmp_path / "data"


@pytest.mark.parametrize("count", [0, 2])
def test_bad_pictures_stop_or_are_left_out(damaged, folder, count: int) -> None:
    dataset, whole = pictures(damaged), pictures(folder)
    bad = [dataset.where(n) for n in range(9)].index("train/b/4.jpg")
    workers = Workers(count) if count else None
    how = {"seed": 3, "epoch": 0, "augment": CHANCE, "workers": workers}
    with pytest.raises(DatasetError, match=r"train/b/4.jpg: not an image in one of JPEG"):
        list(batches(dataset, 4, **how))
    found = list(batches(dataset, 4, bad="skip", **how))
    named = [text for batch in found for text in batch.skipped]
    assert len(named) == 1 and named[0].startswith("train/b/4.jpg: not an image in one of")
    seen = np.concatenate([batch.indices for batch in found])
    assert sorted([*seen, bad]) == list(range(9))
    for batch, complete in zip(found, batches(whole, 4, **how), strict=True):
        kept = complete.indices != bad
        assert batch.images.tobytes() == complete.images[kept].tobytes()
        assert batch.labels.tobytes() == complete.labels[kept].tobytes()
    ones = list(batches(dataset, 1, bad="skip", **how))  # nothing is left of one of them
    assert sorted(len(batch.labels) for batch in ones) == [0, *[1] * 8]
    assert [batch.skipped for batch in ones if not len(batch.labels)] == [tuple(named)]
    with pytest.raises(ValueError, match="bad is 'ignore', expected one of stop, skip"):
        batches(dataset, 4, seed=0, epoch=0, bad="ignore")
    if workers is not None:
        workers.close()


def test_a_checked_set_leaves_bad_pictures_out(damaged) -> None:
    with pytest.raises(DatasetError, match=r"1 of 9 files in .*\n  train/b/4.jpg: not an image"):
        pictures(damaged, check=True)
    dataset = pictures(damaged, check=True, bad="skip")
    assert len(dataset) == 8 and dataset.skipped[0].startswith("train/b/4.jpg: ")
    assert "train/b/4.jpg" not in [dataset.where(n) for n in range(8)]
    lazy = pictures(damaged, check=True, bad="skip", cache_bytes=0)
    assert lazy.images(np.arange(8)).tobytes() == dataset.images(np.arange(8)).tobytes()
    assert lazy.labels.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]


def slow_picture(folder: Path) -> Path:
    """A picture that a worker is sure to be reading: a pipe that nobody writes to."""
    path = folder / "train/b/4.jpg"
    path.unlink()
    os.mkfifo(path)
    return path


def test_a_killed_worker_is_named_with_what_it_was_reading(damaged, monkeypatch) -> None:
    dataset = pictures(damaged)
    index = [dataset.where(n) for n in range(9)].index("train/b/4.jpg")
    pipe = slow_picture(damaged)
    with Workers(2) as workers:
        found = batches(dataset, 3, seed=0, epoch=0, shuffle=False, workers=workers)
        next(found)  # started: batch 1, with the pipe, is the second process's
        pid = workers.pids[1]
        writer = os.open(pipe, os.O_WRONLY)  # returns when the worker has opened the other end
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerError) as caught:
            list(found)
        os.close(writer)
        text = str(caught.value)
        assert f"process {pid} was killed by SIGKILL (exit code -9)" in text
        assert text.endswith(f"while reading train/b/4.jpg (image {index})")
        assert workers.pids == []


def test_a_worker_that_fails_is_named(folder, monkeypatch, capfd) -> None:
    with Workers(1) as workers:
        monkeypatch.setattr(Request, "to_json", lambda self: b"no json\n")
        with pytest.raises(WorkerError, match=r"ended with exit code 1 before it read a picture"):
            list(batches(pictures(folder), 4, seed=0, epoch=0, workers=workers))
    assert "JSONDecodeError" in capfd.readouterr().err


PARENT = """
import os, signal, sys, time
from pyinception import data
signal.signal(signal.SIGINT, signal.default_int_handler)
dataset = data.load("image_folder", root=sys.argv[1], size=16, check=False)
with data.Workers(2) as workers:
    walk = data.batches(dataset, 2, seed=0, epoch=0, workers=workers)
    next(walk)
    print(*workers.pids, flush=True)
    while True:
        time.sleep(0.1)
"""


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie that nobody waits for has)."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_orphan_and_no_memory_is_left(folder, number: int) -> None:
    before = set(os.listdir("/dev/shm"))
    command = [sys.executable, "-c", textwrap.dedent(PARENT), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2 and not any(map(gone, pids))
        parent.send_signal(number)
        parent.communicate()
    while not all(map(gone, pids)):  # what never ends, ends by the time limit of a test
        time.sleep(0.05)
    assert not {name for name in set(os.listdir("/dev/shm")) - before if "pyinception" in name}


def test_ctrl_c_reaches_the_parent_alone(folder) -> None:
    """The terminal's signal goes to a whole process group: workers stand in groups of their own."""
    with Workers(2) as workers:
        next(iter(batches(pictures(folder), 2, seed=0, epoch=0, workers=workers)))
        assert os.getpgid(0) not in {os.getpgid(pid) for pid in workers.pids}


def test_a_count_that_is_no_integer_is_named() -> None:
    with pytest.raises(TypeError, match=r"Workers: count is '2' \(str\), expected an int"):
        Workers("2")  # type: ignore[arg-type]
