"""Sessions: the traced network gives the eager bits from one arena, and follows its weights."""

import threading
from typing import Any

import numpy as np
import pytest
from built import BACKENDS, needs_core
from core_contract import bits, standing_in

import pyinception as pyi
from pyinception import init, layers, ops, workspace
from pyinception.backend import core
from pyinception.module import Module, Sequential
from pyinception.prepack import packs
from pyinception.session import Session
from pyinception.tensor import Tensor
from pyinception.tracing import specs

DRAW = np.random.default_rng(8)
SHAPE = (2, 12, 11, 3)


class Small(Module):
    """Every kind of layer that a GoogLeNet has, and a sum and a copy that are not in the table."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = layers.Conv2d(3, 6, 3, 2, 1, relu=True)
        self.norm = layers.Lrn()
        self.pool = layers.MaxPool2d(3, 2, ceil_mode=True)
        self.module = layers.Inception(6, 2, 3, 4, 1, 2, 3)
        self.branch = layers.ReduceConv2d(11, 3, 5)
        self.side = layers.ConvBatchNorm(11, 5, 1)
        self.mean = layers.AvgPool2d(2, 1)
        self.drop = layers.Dropout(0.5)
        self.fc = layers.Linear(2 * 2 * 10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.module(self.pool(self.norm(self.stem(x))))
        left, right = self.branch(x), self.side(x)
        joined = pyi.concat([left + right, layers.Relu()(left * 0.5)])
        return self.fc(self.drop(self.mean(joined)))


def network() -> Small:
    net = Small()
    init.initialise(net, seed=3)
    return net


def inputs() -> np.ndarray:
    return DRAW.standard_normal(SHAPE).astype(np.float32)


def eager(net: Module, x: np.ndarray) -> np.ndarray:
    return net.eval()(x).data


@pytest.mark.parametrize("where", BACKENDS)
def test_session_has_the_eager_bits(where: str) -> None:
    net = network()
    session = Session(net, SHAPE, backend=where)
    assert net.training
    with pyi.using(backend=where):
        for _ in range(3):
            x = inputs()
            assert bits(session(x)) == bits(eager(net, x))


def test_activations_share_an_arena() -> None:
    session = Session(pyi.models.small_inception(), (1, 28, 28, 3), backend="reference")
    assert session.arena_bytes < 0.4 * session.unplanned_bytes


def test_results_are_fresh() -> None:
    session = Session(network(), SHAPE, backend="reference")
    x = inputs()
    first = session(x)
    kept = first.copy()
    second = session(inputs())
    np.testing.assert_array_equal(first, kept)
    assert not np.shares_memory(first, second)
    assert not np.array_equal(first, second)


def test_tracing_computes_nothing() -> None:
    net = network()
    net.fc.bias.data[...] = np.nan
    noted = specs(net, SHAPE)
    assert ("inception", "fprop") in {(op, direction) for op, direction, _ in noted}
    assert ("batch_norm", "inference") in {(op, direction) for op, direction, _ in noted}
    assert np.array_equal(net.side.norm.mean.data, np.zeros(5))
    assert net.training
    assert workspace.recording() is None


@pytest.mark.parametrize("where", BACKENDS)
def test_later_weights_are_followed(where: str) -> None:
    net = network()
    session = Session(net, SHAPE, backend=where)
    x = inputs()
    before = session(x)
    with pyi.using(backend=where):
        init.initialise(net, seed=4)  # written in place
        assert bits(session(x)) == bits(eager(net, x)) != bits(before)
        packed = sum(packs.values())
        session(x)
        assert sum(packs.values()) == packed  # packed again once, not in every call
        net.fc.weight.data = net.fc.weight.data * 2  # another array
        assert bits(session(x)) == bits(eager(net, x))


class Aside(Module):
    """A convolution behind a step that NumPy makes by itself."""

    def __init__(self, step: Any) -> None:
        super().__init__()
        self.conv, self.step = layers.Conv2d(32, 64, 3), step

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self.conv(x))


def test_a_forward_that_computes_in_numpy_is_refused() -> None:
    net = Aside(lambda x: Tensor(np.maximum(x.data, 0)))
    with pytest.raises(TypeError, match=r"forward calls numpy\.maximum on a tensor's array"):
        Session(net, (1, 6, 6, 32))


@needs_core
def test_each_call_runs_at_the_level_whose_weights_were_packed() -> None:
    """A host step keeps the calls from being one list: they run one by one."""
    net = init.initialise(Aside(ops.AdaptiveAvgPool(3)), seed=2)
    x = DRAW.standard_normal((1, 8, 8, 32)).astype(np.float32)
    for level in core().levels():
        with pyi.using(cpu_level=level):
            session, expected = Session(net, x.shape), eager(net, x)
        assert bits(session(x)) == bits(expected)


def test_a_second_thread_is_refused_before_anything_is_written() -> None:
    session = Session(network(), SHAPE, backend="reference")
    x, other = inputs(), inputs()
    expected, replay, refused = session(x), session._replay, []

    def meanwhile() -> None:
        with pytest.raises(RuntimeError, match="Session: another thread is inside this session"):
            session(other)
        refused.append(True)

    def slow() -> None:
        thread = threading.Thread(target=meanwhile)
        thread.start()
        thread.join()
        replay()

    session._replay = slow  # type: ignore[method-assign]
    assert bits(session(x)) == bits(expected)
    assert refused
    session._replay = replay  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="x has shape"):
        session(x[:1])
    assert bits(session(x)) == bits(expected)  # a refusal leaves it open


def test_on_the_core_it_is_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a stand-in for the core: launches recorded once, weights packed once, one run a call."""
    net = Sequential(
        conv=layers.Conv2d(3, 6, 3, 2, 1, relu=True),
        norm=layers.Lrn(),
        module=layers.Inception(6, 2, 3, 4, 1, 2, 3),
        branch=layers.ReduceConv2d(11, 3, 5),
        side=layers.ConvBatchNorm(5, 5, 1),
        mean=layers.GlobalAvgPool(),
        fc=layers.Linear(5, 4),
    )
    init.initialise(net, seed=3)
    x = inputs()
    with pyi.using(backend="reference"):
        expected = eager(net, x)
    with standing_in(monkeypatch) as core:
        session = Session(net, SHAPE)
        recorded = len(core.calls)
        assert recorded == 8  # one per layer, two for conv + norm
        with pyi.using(threads=2):
            assert bits(session(x)) == bits(expected)
            session(x)
        assert session._launches.runs == [2, 2]
        assert len(core.calls) == recorded
        assert len(session._packed) == 1 + 6 + 2 + 1 + 1
        assert len({id(packed.data.base) for _, packed in session._packed}) == 1
        assert all(packed.data.ctypes.data % 64 == 0 for _, packed in session._packed)
        init.initialise(net, seed=5)
        addresses = [packed.data.ctypes.data for _, packed in session._packed]
        changed = session(x)
        assert [packed.data.ctypes.data for _, packed in session._packed] == addresses
        assert len(core.calls) == recorded
    with pyi.using(backend="reference"):
        assert bits(changed) == bits(eager(net, x)) != bits(expected)


def test_nchw_and_views() -> None:
    net = network()
    session = Session(net, SHAPE, backend="reference")
    x = inputs()
    np.testing.assert_array_equal(session(x.transpose(0, 3, 1, 2), layout="NCHW"), session(x))
    np.testing.assert_array_equal(session(np.repeat(x, 2, 3)[..., ::2]), session(x))


def test_refusals() -> None:
    session = Session(network(), SHAPE, backend="reference")
    wrong: list[tuple[Any, type[Exception], str]] = [
        (inputs()[:1], ValueError, r"Session: x has shape \(1, 12, 11, 3\), expected"),
        (inputs().astype(np.float64), TypeError, "Session: x has dtype float64"),
        ([1.0], TypeError, "Session: x is a list"),
    ]
    for x, kind, message in wrong:
        with pytest.raises(kind, match=message):
            session(x)
    with pytest.raises(ValueError, match="input_shape is"):
        Session(network(), (12, 11, 3))
    with pytest.raises(ValueError, match="conv2d: w has shape"):
        Session(network(), (1, 12, 11, 5), backend="reference")
    assert workspace.recording() is None


class Pair(Module):
    """A network of two results, as one with its heads in training is."""

    def forward(self, x: Any) -> Any:
        return x, x


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_a_network_of_two_results_is_refused(mode: str) -> None:
    with pytest.raises(TypeError, match="Session: net gives a tuple, expected a Tensor"):
        Session(Pair(), (2, 12, 11, 3), mode=mode)
    assert workspace.recording() is None


def test_lifetimes_never_overlap() -> None:
    draw = np.random.default_rng(2)
    for _ in range(50):
        count = int(draw.integers(1, 20))
        sizes = [int(s) for s in draw.integers(0, 500, count)]
        first = draw.integers(0, 10, count)
        lives = [
            (int(a), int(a + b)) for a, b in zip(first, draw.integers(0, 5, count), strict=True)
        ]
        offsets, total = workspace.plan_lifetimes(sizes, lives)
        for i in range(count):
            assert offsets[i] % 64 == 0
            assert offsets[i] + sizes[i] <= total
            for j in range(i):
                if lives[i][0] <= lives[j][1] and lives[j][0] <= lives[i][1]:
                    apart = (
                        offsets[i] + sizes[i] <= offsets[j] or offsets[j] + sizes[j] <= offsets[i]
                    )
                    assert apart
        alive = max(
            sum(s for s, (a, b) in zip(sizes, lives, strict=True) if a <= when <= b)
            for when in range(15)
        )
        assert total >= alive


def test_strided_3x3_under_auto() -> None:
    """A filter that Winograd would take at stride 1 is packed for direct at stride 2."""
    net = Sequential(conv=layers.Conv2d(16, 24, 3, 2, 1, relu=True))
    init.initialise(net, seed=3)
    x = DRAW.standard_normal((2, 9, 9, 16)).astype(np.float32)
    session = Session(net, (2, 9, 9, 16), algorithm="auto")
    with pyi.using(algorithm="auto"):
        assert bits(session(x)) == bits(eager(net, x))


@needs_core
def test_plain_kernels_read_filters_themselves() -> None:
    net = Small().eval()
    init.initialise(net, seed=3)
    x = DRAW.standard_normal(SHAPE).astype(np.float32)
    session = Session(net, SHAPE, backend="cpu", algorithm="plain")
    with pyi.using(backend="cpu", algorithm="plain"):
        assert bits(session(x)) == bits(eager(net, x))


def test_x_is_judged_by_the_weights_as_they_are_now() -> None:
    net = Sequential(fc=layers.Linear(5, 3))
    init.initialise(net, seed=3)
    session = Session(net, (2, 5), backend="reference")
    x = DRAW.standard_normal((2, 5))
    session(x.astype(np.float32))
    net.astype(np.float64)
    assert session(x).dtype == np.float64
    with pytest.raises(TypeError, match="float32"):
        session(x.astype(np.float32))


@pytest.mark.parametrize(
    ("net", "shape", "words"),
    [
        (lambda x: x, (1, 8, 8, 3), r"Session: net is a function, expected a Module"),
        (Sequential(), 5, r"Session: input_shape is 5, expected \(N, H, W, C\) or \(N, C\)"),
        (Sequential(), "abcd", "Session: input_shape is 'abcd', expected"),
        (Sequential(), (-1, 8, 8, 3), r"Session: input_shape\[0\] is -1, expected 0 \.\.\. "),
        (Sequential(), (1, 8.0, 8, 3), r"input_shape\[1\] is 8\.0 \(float\), expected an int"),
    ],
)  # fmt: skip
def test_what_is_no_network_or_shape_is_named(net: Any, shape: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        Session(net, shape)
