"""Sessions on the CUDA kernels: one flat list, captured into a graph, emulated the same list.

The core's list is stood in for on the emulator; the capture itself, call by call of
the CUDA runtime, is test_cuda_graph.py.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cuda_standin import STREAM, Lender, ndarray, standing_in

import pyinception as pyi
from pyinception import backend, emulator, init, optim
from pyinception.backend import BackendError
from pyinception.layers import (
    ConvBatchNorm,
    Dropout,
    GlobalAvgPool,
    Inception,
    Linear,
    Lrn,
    MaxPool2d,
)
from pyinception.models.small_inception import SmallModule
from pyinception.module import Module, Sequential
from pyinception.session import Session
from pyinception.tensor import Tensor

if reason := backend.why_not("emulated"):
    pytest.skip(reason, allow_module_level=True)


def network(seed: int = 1) -> Module:
    """Batch norm, LRN, a module, one with slices of a wider map, pools, dropout, linear."""
    net = Sequential(
        ConvBatchNorm(3, 8, 3), Lrn(), Inception(8, 8, 8, 8, 4, 4, 4), MaxPool2d(3, 2),
        SmallModule(24, 8, 8), GlobalAvgPool(), Dropout(0.4), Linear(16, 5),
    )  # fmt: skip
    return init.initialise(net, seed)


def images(n: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 9, 9, 3)).astype(np.float32)


def eager(net: Module, x: Any) -> np.ndarray:
    with pyi.using(backend="emulated"), emulator.using(checked=False):
        return np.array(net.eval()(x).data)


@pytest.mark.parametrize("checked", [True, False])
def test_emulated_it_has_the_bits_of_the_layers(checked: bool) -> None:
    net = network()
    with emulator.using(checked=checked, order="greedy", seed=2):
        session = Session(net, (2, 9, 9, 3), backend="emulated")
        x = images()
        y = session(x)
        assert type(y) is np.ndarray and len(session._launches) > 10
        np.testing.assert_array_equal(y, eager(net, x))
        np.testing.assert_array_equal(session(images(2, 1)), eager(net, images(2, 1)))
    assert session.arena_bytes < session.unplanned_bytes
    assert not session.captured and session.not_captured == "the weights are in host memory"


def test_emulated_it_follows_the_weights() -> None:
    net = network()
    with emulator.using(checked=False):
        session = Session(net, (2, 9, 9, 3), backend="emulated")
        first = session(images())
        net.load_state_dict(network(2).state_dict())
        second = session(images())
        assert not np.array_equal(first, second)
        np.testing.assert_array_equal(second, eager(net, images()))
        net.astype(np.float32)  # other arrays: it is traced again
        np.testing.assert_array_equal(session(images()), second)


def test_captured_once_and_replayed_on_the_caller_s_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, x = network(), images()
    wanted = eager(net, x)
    with standing_in(monkeypatch, checked=False) as runtime:
        session = Session(net.to("cuda"), (2, 9, 9, 3), dependent_launch=True)
        assert session.captured and session.not_captured is None and not runtime.ran
        (launches,) = runtime.lists
        count = len(launches.plans)
        assert launches.did == [("capture", True, count)]
        y = session(runtime.asarray(x))
        assert type(y) is ndarray
        np.testing.assert_array_equal(y.host, wanted)
        assert launches.did[1:] == [("replay", STREAM)]
        with runtime.on(99):  # another one is current now
            again = session(runtime.asarray(x))
        assert launches.did[2:] == [("replay", 99)] and again is not y
        np.testing.assert_array_equal(again.host, wanted)
        assert len(runtime.ran) == 2 * count  # nothing ran beside the graph

        # Values that change in place are read by the graph where they lie.
        optim.SGD(net, 0.1)
        net.load_state_dict(network(3).state_dict())
        assert not np.array_equal(session(runtime.asarray(x)).host, wanted)
        assert len(runtime.lists) == 1
        # Arrays that were replaced lead to a new graph.
        net.astype(np.float32)
        session(runtime.asarray(x))
        assert len(runtime.lists) == 2 and runtime.lists[1].did[0][0] == "capture"


def test_what_cannot_be_captured_runs_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    net = init.initialise(Sequential(ConvBatchNorm(3, 8, 3), Twice()), 1)
    x = images()
    wanted = eager(net, x)
    with standing_in(monkeypatch, checked=False) as runtime:
        session = Session(net.to("cuda"), (2, 9, 9, 3))
        assert not session.captured and not runtime.lists
        assert session.not_captured == "a step of the network is done by the array library itself"
        np.testing.assert_array_equal(session(runtime.asarray(x)).host, wanted)


def test_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    with standing_in(monkeypatch, checked=False) as runtime:
        session = Session(network().to("cuda"), (2, 9, 9, 3))
        given = runtime.asarray(images())
        with pytest.raises(TypeError, match="x is in host memory, expected cuda memory"):
            session(images())
        with pytest.raises(ValueError, match=r"x has shape \(1, 9, 9, 3\)"):
            session(given[:1])
        other = given[:]
        other.device = type(given.device)(1)
        with pytest.raises(BackendError, match="x is on CUDA device 1, expected 0, where the weig"):
            session(other)
        assert not runtime.ran
        np.testing.assert_array_equal(session(given).host, eager(network(), images()))


def test_on_the_device_of_the_weights_whichever_is_current(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = images()
    wanted = eager(network(), x)
    with standing_in(monkeypatch, checked=False) as runtime:
        first, second = map(runtime.module.cuda.Device, (0, 1))
        net = network().to("cuda:1")
        session = Session(net, (2, 9, 9, 3))
        assert {a.device.id for a in (session._x, session._arena, session._scratch)} == {1}
        with second:
            there = runtime.asarray(x)
        y = session(there)  # 0 is current
        np.testing.assert_array_equal(y.host, wanted)
        assert y.device.id == 1 and runtime.devices == {1}
        with first, pytest.raises(BackendError, match="x is on CUDA device 0, expected 1"):
            session(runtime.asarray(x))
        net.to("cuda:0")
        np.testing.assert_array_equal(session(runtime.asarray(x)).host, wanted)
        assert runtime.devices == {0, 1} and session._arena.device.id == 0


def test_on_the_stream_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything goes there, behind the call before."""
    x = images()
    wanted = eager(network(), x)
    with standing_in(monkeypatch, checked=False) as runtime:
        session, given = Session(network().to("cuda"), (2, 9, 9, 3)), runtime.asarray(x)
        runtime.noted.clear()
        y = session(given, stream=SimpleNamespace(cuda_stream=77))
        np.testing.assert_array_equal(y.host, wanted)
        assert {note[-1] for note in runtime.noted} == {77}
        runtime.noted.clear()
        session(given)
        assert runtime.noted[0] == (STREAM, "waits for", 77)
        assert {note[-1] for note in runtime.noted[1:]} == {STREAM}
        runtime.noted.clear()
        session(given)
        assert not any("waits for" in note for note in runtime.noted)
        lender = Lender(given.host, runtime)  # of another library, which tells no stream
        session(lender, stream=78)
        assert ("exported for", 78) in runtime.noted
        with pytest.raises(ValueError, match="Session: stream is given, expected None for arrays"):
            session(x, stream=77)


@pytest.mark.parametrize(
    "owner", [{"device_id": 1}, {"device": SimpleNamespace(index=1)}], ids=["as CuPy", "as PyTorch"]
)
def test_a_stream_of_another_device(monkeypatch: pytest.MonkeyPatch, owner: dict[str, Any]) -> None:
    with standing_in(monkeypatch, checked=False) as runtime:
        session, given = Session(network().to("cuda"), (2, 9, 9, 3)), runtime.asarray(images())
        stream = SimpleNamespace(cuda_stream=77, **owner)
        text = "Session: stream belongs to CUDA device 1, expected 0 as x does"
        with pytest.raises(BackendError, match=text):
            session(given, stream=stream)
        runtime.stream.device_id = 1  # CuPy's current one
        with pytest.raises(BackendError, match="the current stream belongs to CUDA device 1"):
            session(given)
        assert not runtime.ran and runtime.streams == [STREAM]
        runtime.stream.device_id = 0
        session(given)


def test_no_memory_for_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    with standing_in(monkeypatch, checked=False) as runtime:
        net = network().to("cuda")

        def full(shape: Any, dtype: Any) -> Any:
            raise MemoryError("Out of memory allocating 512 bytes.")

        with monkeypatch.context() as patch:
            patch.setattr(runtime.module, "empty", full)
            with pytest.raises(MemoryError, match=r"no CUDA memory for .* try a smaller batch"):
                Session(net, (2, 9, 9, 3))
        session, given = Session(net, (2, 9, 9, 3)), runtime.asarray(images())
        with monkeypatch.context() as patch:
            patch.setattr(runtime.module, "empty", full)
            with pytest.raises(MemoryError, match="no CUDA memory for 40 bytes"):
                session(given)
        assert not runtime.ran
        np.testing.assert_array_equal(session(given).host, eager(network(), images()))


def test_a_weight_off_16_bytes_is_copied_and_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = init.initialise(Sequential(Linear(8, 4)), 1), np.ones((2, 8), np.float32)
    with standing_in(monkeypatch, checked=False) as runtime:
        net.to("cuda")
        weight = next(net.parameters())
        memory = runtime.asarray(
            np.concatenate([np.zeros(1, np.float32), weight.data.host.ravel()])
        )
        weight.data = ndarray(memory.host[1:].reshape(4, 8))
        session = Session(net, (2, 8))
        first = session(runtime.asarray(x)).host.copy()
        np.testing.assert_allclose(first[0], weight.data.host.sum(axis=1), rtol=1e-5)
        weight.data[...] = 2.0
        weight.version += 1
        np.testing.assert_array_equal(session(runtime.asarray(x)).host, np.full((2, 4), 16.0))
