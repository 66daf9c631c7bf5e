"""Data sets, batches and augmentation: counts, bits, and what is refused."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from pyinception import data
from pyinception.data import Augment, DatasetError, batches
from pyinception.data.augment import channel_mean, mirror, random_crop, standardise, subtract_mean
from pyinception.data.cifar import CIFAR10, cifar10
from pyinception.data.dataset import check_indices, require
from pyinception.data.resize import bilinear
from pyinception.data.shapes import Shapes


def numbered(count: int, size: int = 6) -> data.ArrayDataset:
    """Images whose pixels tell their index and place."""
    pixels = np.arange(count * size * size, dtype=np.float32).reshape(count, size, size, 1)
    return data.ArrayDataset("numbered", "train", pixels, np.arange(count) % 3, list("abc"))


# --- batches ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "size"), [(1, 1), (7, 3), (12, 4), (5, 9)])
def test_an_epoch_visits_every_image_once(count: int, size: int) -> None:
    dataset = numbered(count)
    seen = list(batches(dataset, size, seed=1, epoch=0))
    assert len(seen) == data.steps_per_epoch(count, size)
    indices = np.concatenate([batch.indices for batch in seen])
    assert sorted(indices) == list(range(count))
    for batch in seen:
        np.testing.assert_array_equal(batch.images, dataset.images(batch.indices))
        np.testing.assert_array_equal(batch.labels, dataset.labels[batch.indices])
        assert batch.images.dtype == np.float32 and batch.labels.dtype == np.int64


def test_order_depends_on_seed_and_epoch_alone() -> None:
    first = data.epoch_order(200, seed=3, epoch=5)
    data.epoch_order(200, seed=9, epoch=9)
    np.testing.assert_array_equal(first, data.epoch_order(200, seed=3, epoch=5))
    assert (first != data.epoch_order(200, seed=3, epoch=6)).any()
    assert (first != data.epoch_order(200, seed=4, epoch=5)).any()
    assert data.epoch_order(5, seed=3, epoch=5, shuffle=False).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("start", [0, 1, 4, 6])
def test_an_epoch_resumes_at_any_step(start: int) -> None:
    dataset, augment = numbered(23), Augment(padding=2, mirror=True, standardise=True)
    whole = list(batches(dataset, 4, seed=2, epoch=1, augment=augment))
    rest = list(batches(dataset, 4, seed=2, epoch=1, augment=augment, start=start))
    assert [batch.step for batch in rest] == list(range(start, 6))
    for ours, theirs in zip(rest, whole[start:], strict=True):
        assert ours.images.tobytes() == theirs.images.tobytes()


def test_drop_last_and_argument_errors() -> None:
    dataset = numbered(7)
    assert [len(b.labels) for b in batches(dataset, 3, seed=0, epoch=0, drop_last=True)] == [3, 3]
    with pytest.raises(ValueError, match="batch_size is 0, expected 1 "):
        batches(dataset, 0, seed=0, epoch=0)
    with pytest.raises(ValueError, match=r"start is 4, expected a step in \[0, 3\]"):
        batches(dataset, 3, seed=0, epoch=0, start=4)


def test_indices_and_labels_are_checked() -> None:
    with pytest.raises(IndexError, match=r"span \[0, 7\], expected \[0, 7\)"):
        numbered(7).images([0, 7])
    with pytest.raises(IndexError, match=r"span \[-1, 0\]"):
        numbered(7).images([-1, 0])
    with pytest.raises(TypeError, match="float64 of rank 1, expected 1-D integers"):
        numbered(7).images([0.5])
    assert numbered(7).images([]).shape == (0, 6, 6, 1)
    assert check_indices("f", np.array([2], np.uint8), 3).dtype == np.int64
    pixels = np.zeros((3, 2, 2, 1), np.uint8)
    with pytest.raises(DatasetError, match=r"1 labels out of range, the first is 2 at index 1"):
        data.ArrayDataset("x", "train", pixels, [0, 2, 1], ["a", "b"])
    with pytest.raises(DatasetError, match=r"float64 of shape \(3,\)"):
        data.ArrayDataset("x", "train", pixels, [0.0, 1.0, 1.0], ["a", "b"])
    with pytest.raises(DatasetError, match="holds no images"):
        data.ArrayDataset("x", "train", pixels[:0], [], ["a"])


# --- augmentation ----------------------------------------------------------------------------


def test_crop_is_a_window_of_the_padded_image() -> None:
    dataset = numbered(40)
    indices = np.arange(40)
    images = dataset.images(indices)
    out = random_crop(images, indices, padding=2, seed=7, epoch=3)
    seen = set()
    for image, result in zip(images, out, strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge")
        hits = [
            (dy, dx)
            for dy in range(5)
            for dx in range(5)
            if np.array_equal(padded[dy : dy + 6, dx : dx + 6], result)
        ]
        assert len(hits) == 1
        seen.update(hits)
    assert len(seen) > 15


def test_mirror_flips_half_of_the_images_along_w() -> None:
    images = numbered(400).images(np.arange(400))
    out = mirror(images, np.arange(400), seed=0, epoch=0)
    flipped = [np.array_equal(o, i[:, ::-1]) for o, i in zip(out, images, strict=True)]
    kept = [np.array_equal(o, i) for o, i in zip(out, images, strict=True)]
    assert all(a != b for a, b in zip(flipped, kept, strict=True))
    assert 150 < sum(flipped) < 250


def test_augmentation_does_not_depend_on_the_batch() -> None:
    dataset, augment = numbered(30), Augment(padding=3, mirror=True)
    indices = np.arange(30)
    together = augment(dataset.images(indices), indices, seed=5, epoch=2)
    backwards = augment(dataset.images(indices[::-1]), indices[::-1], seed=5, epoch=2)[::-1]
    alone = [augment(dataset.images([i]), np.array([i]), seed=5, epoch=2)[0] for i in indices]
    assert together.tobytes() == backwards.tobytes() == np.stack(alone).tobytes()
    assert (together != augment(dataset.images(indices), indices, seed=5, epoch=3)).any()


def test_shifts_are_uniform_and_independent_of_epoch_and_neighbour() -> None:
    # Pixel (0, 0) of an image that holds its own coordinates tells (dy, dx) of the crop.
    height = width = 16
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1)
    images = np.broadcast_to(grid.astype(np.float32), (500, height, width, 2))
    shifts = []
    for epoch in range(4):
        out = random_crop(np.array(images), np.arange(500), padding=2, seed=1, epoch=epoch)
        shifts.append((out[:, 8, 8] - 8 + 2).astype(int))
    codes = np.stack([s[:, 0] * 5 + s[:, 1] for s in shifts])  # (4, 500) in [0, 25)
    counts = np.bincount(codes.ravel(), minlength=25)
    expected = codes.size / 25
    # 24 degrees of freedom: 1e-4 of the mass lies above 58.6.
    assert ((counts - expected) ** 2 / expected).sum() < 58.6
    for a, b in ((codes[0], codes[1]), (codes[0, :-1], codes[0, 1:])):
        assert (a == b).mean() < 0.1


def test_normalisation_against_float64() -> None:
    images = Shapes("test", count=9).images(np.arange(9))
    wide = images.astype(np.float64)
    mean, deviation = (f(wide, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.std))
    np.testing.assert_allclose(standardise(images), (wide - mean) / deviation, atol=2e-6)
    flat = np.full((1, 4, 4, 3), 0.7, np.float32)
    np.testing.assert_allclose(standardise(flat), 0, atol=1e-6)
    dataset = data.ArrayDataset("x", "train", images, np.zeros(9, int), ["a"])
    np.testing.assert_allclose(channel_mean(dataset, chunk=4), wide.mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(
        subtract_mean(images, (0.5, 0.25, 0.0)), images - np.float32([0.5, 0.25, 0.0])
    )
    with pytest.raises(ValueError, match="mean has 1 values, expected one per channel"):
        subtract_mean(images, (0.5,))


def test_test_images_meet_normalisation_only() -> None:
    augment = Augment(padding=2, mirror=True, standardise=True)
    images, before = numbered(4).images(np.arange(4)), numbered(4).images(np.arange(4))
    plain = augment.without_chance()(images, np.arange(4), seed=0, epoch=0)
    assert plain.tobytes() == standardise(images).tobytes()
    assert images.tobytes() == before.tobytes()


# --- resize, digits --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (5, 13), (1, 1), (32, 3)])
def test_bilinear_against_plain_loops(size: tuple[int, int]) -> None:
    images = np.random.default_rng(0).random((2, 8, 7, 3)).astype(np.float32)
    expected = np.empty((2, *size, 3))
    for i in range(size[0]):
        for j in range(size[1]):
            y = min(max((i + 0.5) * 8 / size[0] - 0.5, 0), 7)
            x = min(max((j + 0.5) * 7 / size[1] - 0.5, 0), 6)
            total = np.zeros((2, 3))
            for h in range(8):
                for w in range(7):
                    weight = max(0, 1 - abs(y - h)) * max(0, 1 - abs(x - w))
                    total += weight * images[:, h, w]
            expected[:, i, j] = total
    np.testing.assert_allclose(bilinear(images, size), expected, atol=1e-6)


def test_bilinear_edge_cases() -> None:
    one = np.full((1, 1, 1, 2), 0.25, np.float32)
    np.testing.assert_array_equal(bilinear(one, (3, 4)), np.full((1, 3, 4, 2), 0.25))
    with pytest.raises(ValueError, match=r"expected \(N, H, W, C\)"):
        bilinear(one[:, :0], (3, 3))
    with pytest.raises(ValueError, match=r"size is \(0, 3\)"):
        bilinear(one, (0, 3))


def test_digits() -> None:
    pytest.importorskip("sklearn", reason="digits ship with scikit-learn (extra train)")
    from pyinception.data.digits import split_indices

    train, test = data.load("digits"), data.load("digits", "test")
    assert (len(train), len(test), train.shape) == (1297, 500, (28, 28, 1))
    assert isinstance(train, data.Dataset) and train.classes == list("0123456789")
    everything = np.concatenate([split_indices("train"), split_indices("test")])
    assert sorted(everything) == list(range(1797))
    assert hashlib.sha256(everything.astype("<i8").tobytes()).hexdigest()[:8] == "67a20cc9"
    raw = data.load("digits", "test", size=8).images([0, 499])
    assert raw.max() <= 1 and np.array_equal(raw * 16, np.rint(raw * 16))
    large = test.images([0, 499])
    np.testing.assert_allclose(large, bilinear(raw, (28, 28)))
    assert np.bincount(test.labels).min() > 40
    with pytest.raises(DatasetError, match="size is 7, expected 8 "):
        data.load("digits", size=7)


# --- cifar10 and load ------------------------------------------------------------------------


@pytest.fixture
def cifar_folder(tmp_path):
    generator = np.random.default_rng(0)
    for number, name in enumerate(CIFAR10.files["train"] + CIFAR10.files["test"]):
        records = generator.integers(0, 256, (4, CIFAR10.record), dtype=np.uint8)
        records[:, 0] = (np.arange(4) + number) % 10
        records.tofile(tmp_path / name)
    return tmp_path


def test_cifar10_layout(cifar_folder) -> None:
    train = cifar10(cifar_folder, records_per_file=4)
    test = cifar10(cifar_folder, "test", records_per_file=4)
    assert (len(train), len(test), train.shape) == (20, 4, (32, 32, 3))
    raw = (cifar_folder / "data_batch_3.bin").read_bytes()
    image = train.images([9])[0]  # second record of the third file
    for channel in range(3):
        for h, w in ((0, 0), (5, 31), (31, 2)):
            byte = raw[CIFAR10.record + 1 + channel * 1024 + h * 32 + w]
            assert image[h, w, channel] == np.float32(byte) / np.float32(255)
    assert train.labels[9] == raw[CIFAR10.record] == 3 and train.classes[3] == "cat"
    nested = cifar_folder / "up" / "cifar-10-batches-bin"
    nested.mkdir(parents=True)
    (cifar_folder / "test_batch.bin").rename(nested / "test_batch.bin")
    assert len(cifar10(cifar_folder / "up", "test", records_per_file=4)) == 4


def test_cifar10_faults_are_named(cifar_folder) -> None:
    with pytest.raises(DatasetError, match=r"data_batch_1.bin has 12,292 bytes, expected 30,730"):
        cifar10(cifar_folder)
    third = cifar_folder / "data_batch_3.bin"
    whole = third.read_bytes()
    third.write_bytes(whole[:-1])
    (cifar_folder / "data_batch_5.bin").unlink()
    with pytest.raises(DatasetError, match=r"_3.bin has 12,291 .* truncated; .*_5.bin is missing"):
        cifar10(cifar_folder, records_per_file=4)
    third.write_bytes(whole + b"\0")
    with pytest.raises(DatasetError, match="too long"):
        cifar10(cifar_folder, records_per_file=4)
    test = cifar_folder / "test_batch.bin"
    broken = bytearray(test.read_bytes())
    broken[2 * CIFAR10.record] = 10
    test.write_bytes(broken)
    with pytest.raises(DatasetError, match=r"test_batch.bin has 1 labels .* is 10 in record 2"):
        cifar10(cifar_folder, "test", records_per_file=4)
    with pytest.raises(DatasetError, match="nowhere is not a folder"):
        cifar10(cifar_folder / "nowhere")
    (cifar_folder / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"no data_batch_1.bin, .*: unpack the binary version"):
        cifar10(cifar_folder / "empty")


def test_load_by_name(tmp_path) -> None:
    shapes = data.load("shapes", "test", count=3, seed=2, size=40)
    assert len(shapes) == 3 and shapes.shape == (40, 40, 3) and isinstance(shapes, data.Dataset)
    for arguments, message in (
        ({"name": "shape"}, r"unknown data set 'shape', expected one of .*did you mean 'shapes'"),
        ({"name": "cifar10"}, "cifar10 needs root"),
        ({"name": "digits", "root": tmp_path}, "digits takes no root"),
        ({"name": "digits", "count": 5}, "digits takes no count"),
        ({"name": "cifar10", "root": tmp_path, "size": 28}, "32 x 32, got size 28"),
        ({"name": "image_folder", "root": tmp_path}, "is empty, expected one sub-folder per class"),
    ):
        with pytest.raises(DatasetError, match=message):
            data.load(**arguments)
    with pytest.raises(ImportError, match=r"reading x needs no_such.*'pyinception\[train\]'"):
        require("no_such.module", "train", "reading x")


def test_sizes_that_are_no_integers_are_named() -> None:
    for name in ("digits", "shapes"):
        with pytest.raises(DatasetError, match=rf"{name}: size is '32' \(str\), expected an int"):
            data.load(name, size="32")
    with pytest.raises(TypeError, match=r"steps_per_epoch: batch_size is 2.5 \(float\), expected"):
        next(batches(data.load("digits"), 2.5, seed=0, epoch=0))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"area": "x"}, r"Augment: area is 'x' \(str\), expected a number"),
        ({"area": 0.0}, r"Augment: area is 0\.0, expected \(0, 1\]"),
        ({"area": 1.5}, r"Augment: area is 1\.5, expected \(0, 1\]"),
        ({"padding": 1.5}, r"Augment: padding is 1.5 \(float\), expected an int"),
        ({"crop": -3}, "Augment: crop is -3, expected 0 "),
        ({"mirror": 2}, "Augment: mirror is 2, expected True or False"),
        ({"scale": 0}, "Augment: scale is 0, expected a number that is not 0"),
        ({"scale": float("nan")}, "Augment: scale is nan, expected"),
        ({"mean": (0.5, float("nan"))}, "Augment: mean is nan, expected"),
        ({"photometric": "yes"}, r"Augment: photometric is 'yes' \(str\), expected a number"),
    ],
)
def test_an_augmentation_that_spoils_images_is_named(how, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        Augment(**how)
