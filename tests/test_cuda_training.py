"""Training over arrays of another module than NumPy: the loop, its files and its pictures.

A stand-in for CuPy, as strict as that is, over the emulator's memory. Kernels, records and plans
are those of backend "emulated", so every bit must be: weights, momenta, averages, metrics.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_standin import ndarray, standing_in

import pyinception as pyi
from pyinception import backend, emulator, losses, optim, rng, train
from pyinception.cli import main
from pyinception.layers import ConvBatchNorm, Linear, fold_batch_norms
from pyinception.module import Sequential
from pyinception.tensor import Parameter
from pyinception.train import notes

if reason := backend.why_not("emulated"):
    pytest.skip(reason, allow_module_level=True)

RECIPE: dict[str, Any] = {
    "data": "digits", "model": "tiny_inception", "size": 8, "padding": 0, "count": 24,
    "test_count": 8, "batch_size": 8, "epochs": 2, "average": "ema", "clip": 2.0,
    "label_smoothing": 0.1,
}  # fmt: skip


def run(folder: Path, name: str, **more: Any) -> Any:
    how = {"with_baselines": False, "watch": 0} | more  # kernels are clocked on the CPU alone
    with pyi.using(backend=name), emulator.using(checked=False):
        return train.train(RECIPE, folder, **how)


def metrics(folder: Path) -> list[str]:
    """Lines of metrics.jsonl without what the clock and the device's memory say."""
    clocks = ["images_per_second", "data_share", "seconds"]
    clocks += ["pool_bytes", "free_bytes", "device_bytes"]
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [json.dumps({k: v for k, v in line.items() if k not in clocks}) for line in lines]


def test_a_run_has_the_bits_of_the_emulated_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = run(tmp_path / "emulated", "emulated")
    with standing_in(monkeypatch, checked=False) as runtime:
        run(tmp_path / "cuda", "cuda", stop_after=1)
        half = len(runtime.ran)
        got = run(tmp_path / "cuda", "cuda", resume=True)
        assert half > 50 and len(runtime.ran) > half  # every step ran on the kernels
    assert got.weights_sha256 == wanted.weights_sha256 and got.steps == wanted.steps == 6
    assert metrics(tmp_path / "cuda") == metrics(tmp_path / "emulated")
    epochs = map(json.loads, (tmp_path / "cuda" / "metrics.jsonl").read_text().splitlines())
    assert [line["free_bytes"] for line in epochs if line["kind"] == "epoch"] == [60 << 30] * 2
    files = {p.name for p in (tmp_path / "cuda").rglob("*") if p.is_file()}
    assert {"curves.png", "filters.png", "features.png", "last.safetensors"} <= files


def test_the_command_line_names_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = "train --data digits --model tiny_inception --size 8 --padding 0 --count 8 --epochs 1 "
    line += "--test-count 8 --batch-size 8 --no-baselines --watch 0 --no-report --name it --device "
    with standing_in(monkeypatch, checked=False) as runtime, emulator.using(checked=False):
        assert main.run([*line.split(), "2"]) == 1
        assert (
            "train: there is no CUDA device 2, expected a number below 2" in capsys.readouterr()[1]
        )
        assert not runtime.ran and not (tmp_path / "runs").exists()
        assert main.run([*line.split(), "1"]) == 0
        assert runtime.devices == {1}
    (epoch,) = (line for line in metrics(tmp_path / "runs" / "it") if '"epoch"' in line[:20])
    assert "test_accuracy" in epoch


def test_a_network_moves_with_gradients_and_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Sequential(ConvBatchNorm(4, 8, 3), Linear(8 * 16, 3)).train()
    pyi.init.initialise(net, 1)
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 4)).astype(np.float32)
    labels = np.array([0, 2])

    def step() -> dict[str, np.ndarray]:
        memory = backend.memory_of(next(net.parameters()).data)
        with rng.at(1, 0):
            loss = losses.cross_entropy(net(backend.moved(x, memory)), labels)
        loss.backward()
        return {name: backend.to_host(p.grad) for name, p in net.named_parameters()}

    with pyi.using(backend="emulated"):
        wanted = step()
        state = {name: array.copy() for name, array in net.state_dict().items()}
    with standing_in(monkeypatch, checked=False) as runtime:
        assert notes.memory(net) == ""
        assert net.to("cuda") is net and net.to("cuda") is net
        assert notes.memory(net) == "  GPU 20.0 of 80 GiB, 3.0 ours"
        arrays = [*net.state_dict().values(), *(p.grad for p in net.parameters())]
        assert all(type(array) is ndarray for array in arrays)
        for parameter in net.parameters():
            parameter.grad = None
        got = step()
        assert runtime.ran and got.keys() == wanted.keys()
        for name, gradient in got.items():
            np.testing.assert_array_equal(gradient, wanted[name])
        folded = fold_batch_norms(net)
        assert all(type(p.data) is ndarray for p in folded.parameters())
        net.load_state_dict(state)
        sgd = optim.SGD(net, 0.1)
        assert all(type(array) is ndarray for array in sgd.state.values())
        net.to("host")
        for name, array in net.state_dict().items():
            assert type(array) is np.ndarray
            np.testing.assert_array_equal(array, state[name])
        with pytest.raises(ValueError, match=r"0.conv.weight is in host memory, its state in cuda"):
            sgd.step()
        with pytest.raises(TypeError, match="w is in host memory, expected cuda memory"):
            net(runtime.asarray(x))


def test_every_optimiser_updates_where_the_weights_are(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    w, g = (draw.standard_normal((3, 5)).astype(np.float32) for _ in range(2))
    kinds: list[Any] = [
        lambda net: optim.SGD(net, 0.1, weight_decay=0.01, nesterov=True),
        lambda net: optim.RMSProp(net, 0.1, weight_decay=0.01),
        lambda net: optim.RMSProp(net, 0.1, dialect="torch"),
    ]

    def updated(make: Any, memory: str) -> np.ndarray:
        net = Sequential(Linear(5, 3))
        weight: Parameter = net.children().__next__()[1].weight
        weight.data[...] = w
        optimizer, average = make(net.to(memory)), optim.Average(net)
        for _ in range(2):
            weight.grad = backend.moved(g.copy(), memory)
            optim.clip_gradients(net, 1.0)
            optimizer.step()
            average.update()
        with average.applied():
            return backend.to_host(weight.data).copy()

    for make in kinds:
        wanted = updated(make, "host")
        assert not np.array_equal(wanted, w)
        with standing_in(monkeypatch):
            np.testing.assert_array_equal(updated(make, "cuda"), wanted)


def test_where_nothing_can_be_moved() -> None:
    net = Sequential(Linear(2, 2))
    with pytest.raises(ValueError, match=r"memory is .gpu., expected"):
        net.to("gpu")
    if backend.why_not("cuda") is not None:
        with pytest.raises(pyi.BackendError, match="nothing can be put into CUDA memory"):
            net.to("cuda")
