"""Latency and throughput: the same bits, the choice, what is refused, threads that stop or fork."""

from typing import Any

import numpy as np
import pytest
from child import passes
from core_contract import bits

import pyinception as pyi
from pyinception import backend, init, layers, ops, session
from pyinception.module import Module, Sequential
from pyinception.session import Session

core = pytest.importorskip("pyinception._C", reason="the compiled core is not built")
DRAW = np.random.default_rng(4)


def network() -> Module:
    """Winograd of two sizes, direct filters, a stem in staged rows, pools, a module, a linear."""
    net = Sequential(
        stem=layers.Conv2d(3, 24, 7, 2, 3, relu=True),
        norm=layers.Lrn(),
        pool=layers.MaxPool2d(3, 2, ceil_mode=True),
        three=layers.Conv2d(24, 40, 3, 1, 1, relu=True),
        module=layers.Inception(40, 16, 16, 40, 16, 16, 16),
        branch=layers.ReduceConv2d(88, 16, 24),
        mean=layers.GlobalAvgPool(),
        fc=layers.Linear(24, 7),
    )
    return init.initialise(net, seed=3).eval()


def images(count: int) -> np.ndarray:
    return DRAW.standard_normal((count, 29, 27, 3)).astype(np.float32)


def throughput(net: Module, shape: tuple[int, ...], threads: int, **how: Any) -> Session:
    with pyi.using(threads=threads):
        return Session(net, shape, mode="throughput", **how)


@pytest.mark.parametrize("algorithm", ["auto", "direct"])
@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8])
def test_bits_are_those_of_latency_and_of_the_network(batch: int, algorithm: str) -> None:
    net, x = network(), images(batch)
    with pyi.using(algorithm=algorithm):
        expected = bits(net(x).data)
    assert bits(Session(net, x.shape, algorithm=algorithm, mode="latency")(x)) == expected
    for threads in (1, 2, 3):
        made = throughput(net, x.shape, threads, algorithm=algorithm)
        assert made.mode == "throughput"
        assert len(made._slots) == min(threads, batch)
        for called in (1, 2, 5):
            for _, slot_x, slot_y in made._slots:
                slot_x[...] = slot_y[...] = np.nan
            with pyi.using(threads=called):
                assert bits(made(x)) == expected


def test_members_share_nothing_but_weights() -> None:
    made = throughput(network(), (6, 29, 27, 3), 3)
    blocks = [made._x, *(slot_x for _, slot_x, _ in made._slots[1:])]
    blocks += [slot_y for _, _, slot_y in made._slots]
    for i, block in enumerate(blocks):
        assert not any(np.shares_memory(block, other) for other in blocks[:i])
    assert len(made._packed) == len({id(packed) for _, packed in made._packed})


def test_bfloat16_spreads_too() -> None:
    pytest.importorskip("ml_dtypes")
    net = network().store_as("bfloat16")
    x = images(4).astype(backend.dtype_of("bfloat16"))
    expected = Session(net, x.shape, mode="latency")(x)
    assert bits(throughput(net, x.shape, 2)(x)) == bits(expected)


def test_views_and_nchw() -> None:
    net, x = network(), images(4)
    made = throughput(net, x.shape, 2)
    expected = bits(made(x))
    assert bits(made(np.repeat(x, 2, 2)[:, :, ::2])) == expected
    assert bits(made(x.transpose(0, 3, 1, 2).copy(), layout="NCHW")) == expected


def test_later_weights_are_followed() -> None:
    net, x = network(), images(4)
    made = throughput(net, x.shape, 2)
    before = made(x)
    init.initialise(net, seed=4)  # written in place
    assert bits(made(x)) == bits(net(x).data) != bits(before)
    for parameter in net.parameters():
        parameter.data = parameter.data * np.float32(0.5)  # other arrays
    with pyi.using(threads=2):
        assert bits(made(x)) == bits(net(x).data)
    assert made.mode == "throughput"


def test_other_arrays_settle_the_mode_anew() -> None:
    net, x = network(), images(4)
    with pyi.using(threads=2):
        made = Session(net, x.shape)
    assert (made.mode, made.group) == ("throughput", 2)
    for parameter in net.parameters():
        parameter.data = parameter.data.copy()
    with pyi.using(threads=1):
        assert bits(made(x)) == bits(net(x).data)
    assert (made.mode, made.group) == ("latency", 4)


def test_auto_goes_by_batch_and_threads() -> None:
    net = network()

    def spread(threads: int) -> list[int]:
        with pyi.using(threads=threads):
            made = {batch: Session(net, (batch, 29, 27, 3)).mode for batch in range(1, 8)}
        assert set(made.values()) <= {"latency", "throughput"}
        return [batch for batch, mode in made.items() if mode == "throughput"]

    assert session.SPREAD_FROM == 2
    assert spread(1) == []
    assert spread(2) == [4, 6]
    assert spread(3) == [6]


def test_groups_give_the_busiest_member_the_fewest_images(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    found = {n: throughput(net, (n, 29, 27, 3), 2).group for n in (2, 3, 4, 6, 7, 9, 12)}
    assert found == {2: 1, 3: 1, 4: 2, 6: 3, 7: 1, 9: 1, 12: 6}
    monkeypatch.setattr(session, "GROUP_BYTES", 0)
    alone = throughput(net, (12, 29, 27, 3), 2)
    assert alone.group == 1
    monkeypatch.setattr(session, "GROUP_BYTES", 5 * alone.arena_bytes)  # of all members together
    assert throughput(net, (12, 29, 27, 3), 2).group == 2


def test_an_empty_batch() -> None:
    for mode in session.MODES:
        made = Session(network(), (0, 29, 27, 3), mode=mode)
        assert made(np.empty((0, 29, 27, 3), np.float32)).shape == (0, 7)


def test_a_mode_that_cannot_be_had() -> None:
    with pytest.raises(ValueError, match="mode is 'fast', expected one of 'auto', 'latency', 'thr"):
        Session(network(), (2, 29, 27, 3), mode="fast")
    needs = "mode is 'throughput', which needs the CPU kernels for every call, but "
    with pytest.raises(backend.BackendError, match=needs + "a call of this network runs elsewhere"):
        Session(network(), (2, 29, 27, 3), backend="reference", mode="throughput")
    aside = Sequential(conv=layers.Conv2d(3, 4, 3), step=AdaptiveMean())
    for batch in (1, 8):
        with pytest.raises(backend.BackendError, match=needs + "a call"):
            Session(aside, (batch, 8, 8, 3), mode="throughput")
    with pyi.using(threads=2):
        assert Session(aside, (8, 8, 8, 3)).mode == "latency"


class AdaptiveMean(Module):
    """A step that NumPy makes by itself."""

    def forward(self, x: Any) -> Any:
        return ops.AdaptiveAvgPool(3)(x)


def test_the_core_refuses_what_does_not_fit() -> None:
    x, w = images(2), DRAW.standard_normal((5, 3, 3, 3)).astype(np.float32)
    y = np.zeros((2, 27, 25, 5), np.float32)
    where = (3, 3), (1, 1), (0, 0), False, "direct", "", 1

    def slot(images: int) -> Any:
        own_x, own_y = x[:images].copy(), y[:images].copy()
        with core.record() as launches:
            core.conv_fprop(own_x, w, None, own_y, *where)
        return launches, own_x, own_y

    one, two = slot(1), slot(1)
    wrong: list[tuple[Any, type[Exception], str]] = [
        (([], x, y), ValueError, "slot_count is 0"),
        (([one, one], x, y), ValueError, "is being run by another call or slot"),
        (([one, slot(2)], x, y), ValueError, r"x has shape \(2, 29, 27, 3\).* expected 2 times"),
        (([one, two], x[:, ::2], y), ValueError, "x has stride 162 on axis 1"),
        (([one, two], x, y[:1]), ValueError, r"y has shape \(1, 27, 25, 5\)"),
        (([one, two], x.astype(np.float64), y), ValueError, "x has shape .* of 37584 bytes"),
        (([one, two], x[..., :2].copy(), y), ValueError, r"x has shape \(2, 29, 27, 2\)"),
        (([(one[0], one[1][0], one[2]), two], x, y), ValueError, "x has shape"),
    ]
    for arguments, kind, message in wrong:
        with pytest.raises(kind, match="launches_spread: .*" + message):
            core.spread(*arguments, 2)
        assert not y.any()
    expected = np.empty_like(y)
    core.conv_fprop(x, w, None, expected, *where)
    core.spread([one, two], x, y, 2)
    assert bits(y) == bits(expected)  # a refusal leaves the lists free


def test_interrupt_fork_and_two_callers() -> None:
    """Ctrl-C stops every member; afterwards, in a forked child and side by side, bits are right."""
    out = passes(
        """
        def slot(n=1):
            own_x, own_y = x[:n].copy(), np.empty((n, 28, 28, 96), np.float32)
            with core.record() as launches:
                core.conv_fprop(own_x, w, None, own_y, (3, 3), (1, 1), (1, 1), True, "plain", "", 1)
            return launches, own_x, own_y

        slots, y = [slot(), slot()], np.empty((4, 28, 28, 96), np.float32)
        expected = conv(1, algorithm="plain")

        def right(slots=slots):
            y = np.full_like(expected, np.nan)
            core.spread(slots, x, y, 2)
            return np.array_equal(y, expected)

        assert right()
        many = np.repeat(x, 100, 0)
        into = np.empty((400, 28, 28, 96), np.float32)
        wait = interrupted(lambda: core.spread(slots, many, into, 2))
        assert right()
        child = os.fork()
        if child == 0:
            os._exit(0 if right() else 1)
        assert os.waitpid(child, 0)[1] == 0
        wrong = []
        def go():
            own = [slot(), slot()]
            for _ in range(5):
                if not right(own):
                    wrong.append(1)
        threads = [threading.Thread(target=go) for _ in range(3)]
        for t in threads: t.start()
        for t in threads: t.join()
        assert not wrong
        print(wait)
    """
    )
    assert float(out) < 1.0


def test_bench_names_the_modes() -> None:
    from pyinception import bench

    with pytest.raises(ValueError, match="bench: mode is 'fast', expected one of auto, latency"):
        bench.run_net(mode="fast")
