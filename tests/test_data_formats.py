"""Data sets on disk: what each format holds, and that damage is named, never read."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from picture_files import encoded, sample, write_tar

from pyinception import data
from pyinception.data import DatasetError
from pyinception.data.cifar import CIFAR100, cifar100
from pyinception.data.find import find
from pyinception.data.imagenet import ImageNet
from pyinception.data.mnist import mnist
from pyinception.data.tar_shards import TarShards

# --- mnist ------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(np.uint8).tobytes()


@pytest.fixture
def mnist_folder(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for stem, count in (("train", 6), ("t10k", 3)):
        pixels = draw.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (tmp_path / f"{stem}-images-idx3-ubyte").write_bytes(idx(pixels))
        (tmp_path / f"{stem}-labels-idx1-ubyte").write_bytes(idx(np.arange(count) % 10))
    return tmp_path


def test_mnist_plain_and_gzipped(mnist_folder: Path) -> None:
    plain = mnist(mnist_folder)
    assert (len(plain), plain.shape, plain.labels.tolist()) == (6, (28, 28, 1), list(range(6)))
    raw = (mnist_folder / "train-images-idx3-ubyte").read_bytes()[16:]
    assert plain.images([2])[0, 5, 7, 0] == np.float32(raw[2 * 784 + 5 * 28 + 7]) / np.float32(255)
    image, label = plain.read(2)
    assert (image.dtype, image[5, 7, 0], label) == (np.uint8, raw[2 * 784 + 5 * 28 + 7], 2)
    for path in sorted(mnist_folder.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = data.load("mnist", root=mnist_folder)
    assert packed.images(np.arange(6)).tobytes() == plain.images(np.arange(6)).tobytes()
    assert len(data.load("mnist", "test", root=mnist_folder)) == 3


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_faults_name_the_file(mnist_folder: Path, packed: bool) -> None:
    images = mnist_folder / "train-images-idx3-ubyte"
    whole = images.read_bytes()

    def fails(content: bytes, message: str) -> None:
        images.write_bytes(gzip.compress(content) if packed else content)
        with pytest.raises(DatasetError, match=f"train-images-idx3-ubyte.*{message}"):
            mnist(mnist_folder)

    fails(whole[:-1], "4,703 bytes after its head, expected 4,704.*truncated")
    fails(whole + b"\0", "too long")
    fails(b"\0\0\x0d\3" + whole[4:], r"no idx file of bytes: begins with b'\\x00\\x00\\r\\x03'")
    fails(whole[:7], "no idx file")
    fails(whole[:4] + b"\xff" * 12, "says shape")
    fails(whole[:4] + np.array((5, 28, 28), ">u4").tobytes() + whole[16 : 16 + 5 * 784], "5 images")
    if packed:
        images.write_bytes(gzip.compress(whole)[:-20])
        with pytest.raises(DatasetError, match=r"train-images.* is truncated or damaged"):
            mnist(mnist_folder)
    images.write_bytes(whole)
    labels = mnist_folder / "train-labels-idx1-ubyte"
    labels.write_bytes(idx(np.array([0, 1, 12, 3, 4, 10])))
    with pytest.raises(DatasetError, match=r"labels-idx1.* has 2 labels .* is 12 at index 2"):
        mnist(mnist_folder)
    labels.unlink()
    with pytest.raises(DatasetError, match="no train-labels-idx1-ubyte or"):
        mnist(mnist_folder)


# --- cifar100 ---------------------------------------------------------------------------------


def test_cifar100(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    records = draw.integers(0, 256, (5, CIFAR100.record), dtype=np.uint8)
    records[:, 0], records[:, 1] = np.arange(5), 20 * np.arange(5)
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    records.tofile(folder / "train.bin")
    with pytest.raises(DatasetError, match=r"fine_label_names.txt is missing"):
        cifar100(tmp_path, records_per_file=5)
    (folder / "fine_label_names.txt").write_text("\n".join(f"name{k}" for k in range(100)) + "\n")
    found = cifar100(tmp_path, records_per_file=5)
    assert found.labels.tolist() == [0, 20, 40, 60, 80] and found.classes[20] == "name20"
    assert found.read(3)[0][4, 9].tolist() == [
        records[3, 2 + c * 1024 + 4 * 32 + 9] for c in range(3)
    ]
    for column, value, message in (
        (1, 100, r"is 100 in record 2, expected \[0, 100\)"),
        (0, 20, "20"),
    ):
        wrong = records.copy()
        wrong[2, column] = value
        wrong.tofile(folder / "train.bin")
        with pytest.raises(DatasetError, match=rf"train.bin has 1 labels .*{message}"):
            cifar100(tmp_path, records_per_file=5)
    with pytest.raises(DatasetError, match="has 15,370 bytes, expected 153,700,000"):
        cifar100(tmp_path)


# --- imagenet ---------------------------------------------------------------------------------

SYNSETS = {"n02012849": "crane", "n03126707": "crane, machine", "n01440764": "tench, Tinca tinca"}


@pytest.fixture
def imagenet_folder(tmp_path: Path) -> Path:
    lines = [f"{synset} {words}" for synset, words in SYNSETS.items()]
    (tmp_path / "LOC_synset_mapping.txt").write_text("\n".join(lines) + "\n")
    for k, synset in enumerate(SYNSETS):
        (tmp_path / "train" / synset).mkdir(parents=True)
        for n in range(2):
            path = tmp_path / "train" / synset / f"{synset}_{n}.JPEG"
            path.write_bytes(encoded((80 * k, n, 0)))
    (tmp_path / "val").mkdir()
    names = [f"ILSVRC2012_val_{n:08d}" for n in range(1, 4)]
    for n, name in enumerate(names):
        (tmp_path / "val" / f"{name}.JPEG").write_bytes(encoded((0, 0, 50 * n)))
    (tmp_path / "val.txt").write_text(f"{names[2]}.JPEG 1\n{names[0]}.JPEG 2\n{names[1]}.JPEG 0\n")
    return tmp_path


def test_imagenet_labels_follow_the_mapping(imagenet_folder: Path) -> None:
    train = ImageNet(imagenet_folder, size=(8, 8))
    # Not sorted by synset, and a word that occurs twice stays two classes.
    assert train.classes == ["n02012849 crane", "n03126707 crane", "n01440764 tench"]
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert train.read(3)[0].shape == (10, 12, 3) and train.read(3)[0][0, 0].tolist() == [80, 1, 0]
    test = data.load("imagenet", "test", root=imagenet_folder)
    assert test.labels.tolist() == [2, 0, 1] and test.shape == (224, 224, 3)
    assert np.unique(test.images([2])).tolist() == [0, np.float32(100) / np.float32(255)]
    (imagenet_folder / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\nILSVRC2012_val_00000002,n02012849 1 2 3 4 n02012849 5 6 7 8 \n"
        "ILSVRC2012_val_00000001,n01440764 1 2 3 4\nILSVRC2012_val_00000003,n03126707 1 2 3 4\n"
    )
    (imagenet_folder / "val.txt").unlink()
    assert ImageNet(imagenet_folder, "test").labels.tolist() == [2, 0, 1]
    inner = imagenet_folder / "ILSVRC" / "Data" / "CLS-LOC"
    inner.mkdir(parents=True)
    (imagenet_folder / "train").rename(inner / "train")
    (imagenet_folder / "val").rename(inner / "val")
    assert ImageNet(imagenet_folder).labels.tolist() == train.labels.tolist()
    for synset in SYNSETS:
        (inner / "val" / synset).mkdir()
        (inner / "val" / synset / "a.JPEG").write_bytes(encoded((1, 1, 1)))
    assert ImageNet(imagenet_folder, "test").labels.tolist() == [0, 1, 2]


def test_imagenet_faults_are_named(imagenet_folder: Path) -> None:
    labels, mapping = imagenet_folder / "val.txt", imagenet_folder / "LOC_synset_mapping.txt"
    whole = labels.read_text()

    def fails(message: str, split: str = "test") -> None:
        with pytest.raises(DatasetError, match=message):
            ImageNet(imagenet_folder, split)

    for line, message in (
        ("ILSVRC2012_val_00000004.JPEG 0", "holds no image that .*val.txt lists: .*0004.JPEG"),
        ("ILSVRC2012_val_00000001.JPEG 0", "line 4 names ILSVRC2012_val_00000001.JPEG again"),
        ("a.JPEG 3", "line 4 is 'a.JPEG 3': no label of the 3 synsets"),
        ("a.JPEG -1", "no label of the 3 synsets"),
        ("17", "no label of the 3 synsets"),
    ):
        labels.write_text(whole + line + "\n")
        fails(message)
    labels.write_text(whole[: whole.rindex("ILSV")])
    fails("holds an image that .*val.txt does not list: ILSVRC2012_val_00000002.JPEG")
    labels.unlink()
    fails("no LOC_val_solution.csv or val.txt to tell the labels")
    (imagenet_folder / "train" / "n99999999").mkdir()
    fails("a folder that the mapping does not name: n99999999", "train")
    (imagenet_folder / "train" / "n99999999").rmdir()
    with mapping.open("a") as file:
        file.write("n07777777 nothing\n")
    fails("no folder of the synset n07777777", "train")
    mapping.write_text("n02012849 crane\nn02012849 crane\n")
    fails("line 2 names n02012849 again", "train")
    mapping.write_text("crane\n")
    fails("line 1 is 'crane', expected 'n01440764 tench", "train")
    mapping.write_bytes(b"\xff\xfe\0")
    fails("is no text", "train")
    mapping.unlink()
    fails("LOC_synset_mapping.txt is missing", "train")


# --- finding them -----------------------------------------------------------------------------


def test_a_folder_tells_what_it_holds(mnist_folder: Path, tmp_path: Path, monkeypatch) -> None:
    assert find(str(mnist_folder)) == ("mnist", str(mnist_folder))
    for name, files in (
        ("cifar10", ["test_batch.bin"]),
        ("cifar10", ["cifar-10-batches-bin/data_batch_1.bin"]),
        ("cifar100", ["train.bin", "fine_label_names.txt"]),
        ("imagenet", ["LOC_synset_mapping.txt", "train/n01440764/a.JPEG"]),
        ("tar", ["train-0.tar"]),
        ("tar", ["train/0.tar", "val/0.tar"]),
        ("image_folder", ["cats/a.jpg"]),
        ("mnist", ["t10k-images-idx3-ubyte.gz"]),
    ):
        root = tmp_path / f"{name}{len(list(tmp_path.iterdir()))}"
        for file in files:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_bytes(b"")
        assert find(str(root)) == (name, str(root))
    assert find("digits") == ("digits", "")
    assert find("tar:/some/where") == ("tar", "/some/where")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert find("digits") == ("digits", "")  # a name wins over a folder


def test_what_cannot_be_found(tmp_path: Path) -> None:
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "data_batch_1").write_bytes(b"")
    (tmp_path / "void").mkdir()
    for text, message in (
        ("mnits:/x", "unknown data set 'mnits', .*did you mean 'mnist'"),
        ("digits:/x", "digits takes no folder, got '/x'"),
        ("digit", "did you mean 'digits'"),
        (str(tmp_path / "nowhere"), "nowhere is not a folder"),
        (
            str(tmp_path / "void"),
            "void holds no data set: no test_batch.bin, .*folders of pictures",
        ),
        (str(tmp_path / "python"), "python version, a pickle, which is never opened"),
    ):
        with pytest.raises(DatasetError, match=message):
            find(text)
    with pytest.raises(DatasetError, match="a pickle, which is never opened"):
        data.load("cifar10", root=tmp_path / "python")
    with pytest.raises(DatasetError, match="mnist takes no check"):
        data.load("mnist", root=tmp_path, check=True)


def test_every_set_has_one_interface(mnist_folder: Path, imagenet_folder: Path) -> None:
    write_tar(imagenet_folder / "tar" / "train.tar", sample(0, 1))
    write_tar(imagenet_folder / "tar" / "test.tar", sample(0, 1))
    sets = [
        data.load("shapes", count=3),
        mnist(mnist_folder),
        ImageNet(imagenet_folder, size=(5, 5)),
        TarShards(imagenet_folder / "tar"),
        data.load("image_folder", root=imagenet_folder / "train", check=False),
    ]
    for found in sets:
        assert isinstance(found, data.Dataset)
        image, label = found.read(len(found) - 1)
        assert image.dtype == np.uint8 and image.ndim == 3 and label == found.labels[-1]
        images = found.images([0])
        assert images.shape == (1, *found.shape) and 0 <= images.min() and images.max() <= 1
        with pytest.raises(IndexError):
            found.read(len(found))
        with pytest.raises(IndexError):
            found.read(-1)
