"""Checkpoints: whole or not at all, data and nothing else."""

import io
import json
import os
import pickle  # only to make files that must be refused
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyinception import checkpoint, init, layers, optim
from pyinception.checkpoint import CheckpointError
from pyinception.module import Sequential


def network(seed: int = 1) -> Sequential:
    net = Sequential(conv=layers.Conv2d(3, 4, 3), norm=layers.BatchNorm(4), fc=layers.Linear(4, 2))
    init.initialise(net, seed)
    return net


def trained() -> tuple[Sequential, optim.SGD]:
    net = network()
    sgd = optim.SGD(net, 0.1)
    for _ in range(3):
        for parameter in net.parameters():
            parameter.grad = np.ones_like(parameter.data)
        sgd.step()
    return net, sgd


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.suffix == ".tmp"]


def test_round_trip_of_model_optimiser_and_record(tmp_path: Path) -> None:
    net, sgd = trained()
    path = tmp_path / "run.safetensors"
    record = {"epoch": 3, "note": "ä", "loss": [0.5, None]}
    checkpoint.save(path, net, sgd, record)
    other, again = network(seed=9), None
    again = optim.SGD(other, 0.1)
    assert checkpoint.restore(path, other, again) == record
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, other.state_dict()[name])
    for name, array in sgd.state_dict().items():
        np.testing.assert_array_equal(array, again.state_dict()[name])
    assert again.iteration == 3
    assert network(seed=9).load(path) == record  # a model reads a run's checkpoint
    assert leftovers(tmp_path) == []


def test_any_safetensors_reader_can_use_it(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    net = network()
    path = tmp_path / "net.safetensors"
    net.save(path)
    for name, array in load_file(path).items():
        np.testing.assert_array_equal(array, net.state_dict()[name])
    save_file({n: a + 1 for n, a in net.state_dict().items()}, path)
    other = network()
    assert other.load(path) is None
    np.testing.assert_array_equal(other.fc.bias.data, net.fc.bias.data + 1)  # type: ignore[attr-defined]


def test_a_network_just_made_takes_the_arrays_themselves(tmp_path: Path) -> None:
    net, _ = trained()
    path = tmp_path / "run"
    checkpoint.save(path, net.state_dict(), {"v": np.ones(1 << 20, np.float32)})
    fresh = Sequential(
        conv=layers.Conv2d(3, 4, 3), norm=layers.BatchNorm(4), fc=layers.Linear(4, 2)
    )
    zeros = fresh.conv.weight.data  # type: ignore[attr-defined]
    fresh.load(path)
    owners = [array.base for array in fresh.state_dict().values()]
    assert all(array.ctypes.data % 64 == 0 for array in fresh.state_dict().values())
    assert not zeros.any() and all(owner is not None for owner in owners)
    assert sum({id(owner): owner.nbytes for owner in owners}.values()) < 4096  # not the optimiser's
    other = network(seed=2)
    held = other.conv.weight.data  # type: ignore[attr-defined]
    other.load(path)  # whoever holds arrays of a network in use sees the new values
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(fresh.state_dict()[name], array)
        np.testing.assert_array_equal(other.state_dict()[name], array)
    assert held is other.conv.weight.data  # type: ignore[attr-defined]


def _headers() -> dict[str, tuple[Any, int]]:
    """Headers that a reader must refuse, by what is wrong, and the bytes that follow."""
    first = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    second = {"dtype": "I16", "shape": [2, 2], "data_offsets": [8, 16]}
    return {
        "nothing": ({"a": first, "b": second}, 16),
        "nothing, no tensor": ({}, 0),
        "nothing, empty": ({"a": {"dtype": "F32", "shape": [0, 3], "data_offsets": [0, 0]}}, 0),
        "a gap": ({"a": first, "b": second | {"data_offsets": [12, 20]}}, 20),
        "an overlap": ({"a": first, "b": second | {"data_offsets": [4, 12]}}, 12),
        "bytes after it": ({"a": first}, 12),
        "bytes missing": ({"a": first, "b": second}, 12),
        "size": ({"a": first | {"shape": [3]}}, 8),
        "negative": ({"a": first | {"shape": [-1, -2]}}, 8),
        "backwards": ({"a": first | {"data_offsets": [8, 0]}}, 8),
        "fraction": ({"a": first | {"shape": [2.0]}}, 8),
        "truth": ({"a": first | {"shape": [True, 2]}}, 8),
        "dtype": ({"a": first | {"dtype": "F31"}}, 8),
        "no dtype": ({"a": {"shape": [2], "data_offsets": [0, 8]}}, 8),
        "three offsets": ({"a": first | {"data_offsets": [0, 8, 8]}}, 8),
        "no tensor": ({"a": 5}, 0),
        "a list": ([], 0),
        "metadata": ({"__metadata__": {"pyinception": 5}, "a": first}, 8),
    }


@pytest.mark.parametrize("wrong", _headers())
def test_headers_are_read_as_the_library_reads_them(wrong: str, tmp_path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    found, size = _headers()[wrong]
    text = json.dumps(found).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(range(size))
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    if wrong.startswith("nothing"):
        expected = load(content)
        loaded = checkpoint.load(path).model
        assert loaded.keys() == expected.keys()
        for name, array in expected.items():
            assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)
            assert loaded[name].tobytes() == array.tobytes()
        return
    with pytest.raises((SafetensorError, KeyError)):
        load(content)
    with pytest.raises(
        CheckpointError, match=r"net\.safetensors (is (truncated|not)|holds a as F31)"
    ):
        checkpoint.load(path)


def test_a_view_is_saved_as_it_looks(tmp_path: Path) -> None:
    wide = np.arange(24, dtype=np.float32).reshape(4, 6)
    checkpoint.save(tmp_path / "a", {"t": wide[:, ::2].T, "scalar": np.array(5, np.int64)})
    loaded = checkpoint.load(tmp_path / "a").model
    np.testing.assert_array_equal(loaded["t"], wide[:, ::2].T)
    assert (loaded["scalar"].shape, int(loaded["scalar"])) == ((), 5)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    network().save(path)
    content = path.read_bytes()
    for length in range(0, len(content), 37):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"load: .*net\.safetensors is truncated"):
            checkpoint.load(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(CheckpointError, match=r"net\.safetensors"):
        checkpoint.load(path)


def test_every_flipped_data_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    network().save(path)
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    for place in range(start, len(content), 11):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"CRC-32 of .* differs"):
            checkpoint.load(path)


@pytest.mark.parametrize("name", ["a", "b", "c", "optimizer/d"])
def test_a_flipped_bit_of_a_large_file_is_noticed(name: str, tmp_path: Path) -> None:
    """Such a file is read by several threads."""
    path = tmp_path / "net.safetensors"
    one = np.arange(1 << 18, dtype=np.float32)
    checkpoint.save(path, {"a": one, "b": one + 1, "c": one + 2}, {"d": one + 3})
    whole = checkpoint.load(path)
    for i, array in enumerate((*whole.model.values(), *whole.optimizer.values())):
        np.testing.assert_array_equal(array, one + i)
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    offsets = json.loads(content[8:start])[name]["data_offsets"]
    content[start + offsets[1] - 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"net\.safetensors is damaged: CRC-32 of {name} "):
        checkpoint.load(path)


def test_a_damaged_header_never_loads_silently(tmp_path: Path) -> None:
    """A flipped header bit either raises or changes a name or the record, never a number."""
    path = tmp_path / "net.safetensors"
    net = network()
    net.save(path)
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for place in range(0, header, 3):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        try:
            loaded = checkpoint.load(path).model
        except CheckpointError as error:
            assert str(path) in str(error)
            continue
        for name, array in net.state_dict().items():
            if name in loaded and loaded[name].shape == array.shape:
                np.testing.assert_array_equal(loaded[name], array)


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("exploded",)


def zipped() -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    return memory.getvalue()


def saved_npy() -> bytes:
    memory = io.BytesIO()
    np.save(memory, np.ones(3))
    return memory.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Bomb()), "pickle file .* never opened; convert it"),
        (zipped(), "pickle file .* never opened"),
        (saved_npy(), "is not a safetensors file"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "is not a safetensors file"),
        (b"\xff" * 8 + b"{" + b"\0" * 50, "is truncated"),
        ((2).to_bytes(8, "little") + b"[]", "."),
        ((40).to_bytes(8, "little") + b'{"a":' * 8, "."),
    ],
)
def test_foreign_files_are_refused(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    net = network()
    before = {n: a.copy() for n, a in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=rf"(?s)load: .*weights\.pt.*{message}"):
        net.load(path)
    assert not (tmp_path / "exploded").exists()
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_folders_missing_files_and_later_formats(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a regular file"):
        checkpoint.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "none")
    from safetensors.numpy import save_file

    path = tmp_path / "later"
    save_file({"a": np.ones(1)}, path, metadata={"pyinception": json.dumps({"format": 99})})
    with pytest.raises(CheckpointError, match="has format 99"):
        checkpoint.load(path)
    save_file({"a": np.ones(1)}, path, metadata={"pyinception": "{"})
    with pytest.raises(CheckpointError, match="damaged record"):
        checkpoint.load(path)


def test_restore_changes_all_or_nothing(tmp_path: Path) -> None:
    net, sgd = trained()
    path = tmp_path / "run"
    checkpoint.save(path, net, sgd)
    other = Sequential(
        conv=layers.Conv2d(3, 5, 3), norm=layers.BatchNorm(4), fc=layers.Linear(4, 2)
    )
    again = optim.SGD(network(), 0.1)
    message = r"restore: model: conv.weight has shape \(4, 3, 3, 3\), .* expected \(5, 3, 3, 3\)"
    with pytest.raises(ValueError, match=message):
        checkpoint.restore(path, other, again)
    assert again.iteration == 0
    net.save(path)
    fresh = network(seed=5)
    before = fresh.fc.weight.data.copy()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="restore: optimizer: names differ: missing"):
        checkpoint.restore(path, fresh, again)
    np.testing.assert_array_equal(fresh.fc.weight.data, before)  # type: ignore[attr-defined]


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="save: record is not JSON"):
        network().save(tmp_path / "a", record=object())
    with pytest.raises(TypeError, match="save: record is not JSON"):
        network().save(tmp_path / "a", record=float("nan"))
    with pytest.raises(ValueError, match='"optimizer/" is reserved'):
        checkpoint.save(tmp_path / "a", {"optimizer/x": np.ones(1)})
    assert list(tmp_path.iterdir()) == []


def test_a_storage_that_numpy_lacks_is_named(tmp_path: Path) -> None:
    about = {"w": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}
    header = json.dumps(about).encode()
    path = tmp_path / "net.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(12))
    with pytest.raises(CheckpointError, match=r"net\.safetensors holds w as BF16, expected one of"):
        checkpoint.load(path)
